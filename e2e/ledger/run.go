package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

// Roles are the helper processes of the ledger, for lab.Main.
func Roles() map[string]lab.Role {
	return map[string]lab.Role{serveRole: Serve, driveRole: Drive, checkRole: checkHere, checkPostgresRole: checkPostgresHere}
}

const (
	serveRole = "ledger-serve"
	driveRole = "ledger-drive"
	checkRole = "ledger-check"

	checkPostgresRole = "ledger-check-postgres"
)

// Scripts returns the commands of start_prim and stop_prim of a module whose
// application is Serve, run by the program self, with a store of a kind in dir.
func Scripts(self []string, kind, dir string) (start, stop string) {
	start = "GOTRACEBACK=all " + lab.RoleShell(self, serveRole, kind, dir) +
		" </dev/null >>\"$SAFEUSERVAR/ledger.log\" 2>&1 &\necho $! >/run/ledger.pid"
	return start, `[ -f /run/ledger.pid ] || exit 0
pid=$(cat /run/ledger.pid)
if [ "$1" = force ]; then kill -9 "$pid"; else kill "$pid"; fi
while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
rm -f /run/ledger.pid`
}

// Load is a Drive that runs on a host.
type Load struct {
	drive *lab.Started
	out   *bufio.Reader
	pipe  *os.File
}

// StartLoad starts a driver on a host and returns after its first acknowledged
// entry.
func StartLoad(ctx context.Context, h *lab.Host, spec DriveSpec) (*Load, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := h.RoleCommand(context.WithoutCancel(ctx), driveRole, spec.Args()...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	drive, err := h.Start(cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	l := &Load{drive: drive, pipe: r, out: bufio.NewReader(r)}
	heard := make(chan error, 1)
	go func() {
		line, err := l.out.ReadString('\n')
		if err == nil && line != "ready\n" {
			err = fmt.Errorf("the driver said %q", line)
		}
		heard <- err
	}()
	select {
	case err = <-heard:
	case <-ctx.Done():
		err = fmt.Errorf("nothing is acknowledged: %w", ctx.Err())
	}
	if err != nil {
		unix.Kill(drive.PID(), unix.SIGKILL)
		drive.Wait()
		r.Close()
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

// Stop ends the load and returns what it saw.
func (l *Load) Stop() (Summary, error) {
	defer l.pipe.Close()
	var s Summary
	if err := unix.Kill(l.drive.PID(), unix.SIGTERM); err != nil {
		return s, fmt.Errorf("ledger: stop: %w", err)
	}
	if err := json.NewDecoder(l.out).Decode(&s); err != nil {
		return s, fmt.Errorf("ledger: summary: %w", err)
	}
	if err := l.drive.Wait(); err != nil {
		return s, fmt.Errorf("ledger: driver: %w", err)
	}
	return s, nil
}

// CheckOn runs Check on a host, where dir is.
func CheckOn(ctx context.Context, h *lab.Host, kind, dir, notes string) (Verdict, error) {
	var v Verdict
	out, err := h.RunCommand(h.RoleCommand(ctx, checkRole, kind, dir, notes))
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(out), &v)
}

// CheckPostgresOn runs CheckPostgres on a host.
func CheckPostgresOn(ctx context.Context, h *lab.Host, addr, notes string) (Verdict, error) {
	var v Verdict
	out, err := h.RunCommand(h.RoleCommand(ctx, checkPostgresRole, addr, notes))
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(out), &v)
}

func checkPostgresHere(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("ledger: %d arguments, expected address and notes", len(args))
	}
	v, err := CheckPostgres(args[0], args[1])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

func checkHere(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("ledger: %d arguments, expected kind, directory and notes", len(args))
	}
	v, err := Check(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}
