package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha/process"
)

// runner runs the scripts of one module so that they outlive the daemon (R1).
// A script is a child of a small shell that leads a session of its own and
// leaves the exit status in a file:
//
//	SAFEVAR/modules/AM/run/<key>          exit code, there once the script ended
//	SAFEVAR/modules/AM/run/<key>.started  the shell began
//
// The key is the number of a task of the automaton, or names a handler of errd. The
// path of the first file is an argument of the shell, by which a daemon that was
// started again finds it among the processes.
type runner struct {
	dir      string // SAFEVAR/modules/AM/run
	bin      string // SAFEUSERBIN
	cwd      string // SAFEUSERVAR
	userlog  string // "": output is dropped
	env      []string
	hostname string // that the script sees; "": the host's
}

const runnerName = "skfs-script"

const runnerScript = `: >"$1.started" || exit 125
status=$1
shift
"$@"
code=$?
echo "$code" >"$status"`

// errKilled ends a script that took too long or was in the way of a forcestop.
var errKilled = errors.New("was killed")

// script is a script to run.
type script struct {
	key     string
	name    string // in SAFEUSERBIN, or an absolute path
	args    []string
	timeout time.Duration   // 0: none
	kill    <-chan struct{} // closed: end it now
	fresh   bool            // no earlier daemon can have begun it
}

// taskKey is the key of a task's script.
func taskKey(id uint64) string { return strconv.FormatUint(id, 10) }

func (r *runner) path(key string) string { return filepath.Join(r.dir, key) }

// file is the path of a script.
func (r *runner) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(r.bin, name)
}

// exists says whether the module has this script.
func (r *runner) exists(name string) bool {
	st, err := os.Stat(r.file(name))
	return err == nil && st.Mode().IsRegular()
}

// run runs a script to its end, or waits for the one that an earlier daemon
// started under the same key. When ctx ends it returns ctx.Err() and leaves the
// script running.
func (r *runner) run(ctx context.Context, s script, started func()) (exit int, err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return -1, err
	}
	status := r.path(s.key)
	pid := 0
	if !s.fresh {
		var err error
		if pid, err = r.find(status); err != nil {
			return -1, err
		}
	}
	if pid == 0 {
		if exit, ok := readExit(status); ok {
			return exit, nil
		}
		if _, err := os.Stat(status + ".started"); err == nil {
			return -1, fmt.Errorf("%w while the daemon was away, or the host was restarted", errKilled)
		}
		r.sweep(s.key)
		if pid, err = r.spawn(s, status); err != nil {
			return -1, err
		}
		started()
	}
	killed, err := r.wait(ctx, pid, s)
	if err != nil {
		return -1, err
	}
	exit, ok := readExit(status)
	switch {
	case killed != "":
		return -1, fmt.Errorf("%w: %s", errKilled, killed)
	case !ok:
		return -1, fmt.Errorf("%w by someone else", errKilled)
	}
	return exit, nil
}

// spawn starts the shell of a script and leaves it to reap.
func (r *runner) spawn(s script, status string) (pid int, err error) {
	out, err := r.output(s)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", runnerScript, runnerName, status, r.file(s.name)}, s.args...)...)
	cmd.Env, cmd.Dir = r.env, r.cwd
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startWithHostname(cmd, r.hostname); err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release() // wait reaps it
}

// wait waits until process pid, the shell of s, has ended.
func (r *runner) wait(ctx context.Context, pid int, s script) (killed string, err error) {
	vigil, err := process.WatchPID(pid)
	if err == unix.ESRCH {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("wait for process %d: %w", pid, err)
	}
	defer vigil.Close()
	ended := make(chan error, 1)
	go func() { ended <- vigil.Wait() }()
	var late <-chan time.Time
	if s.timeout > 0 {
		t := time.NewTimer(s.timeout)
		defer t.Stop()
		late = t.C
	}
	kill := s.kill
	for {
		select {
		case err := <-ended:
			var ws unix.WaitStatus
			unix.Wait4(pid, &ws, unix.WNOHANG, nil) // reaps it if it is ours
			return killed, err
		case <-ctx.Done():
			vigil.Close()
			<-ended
			return "", ctx.Err()
		case <-late:
			killed = fmt.Sprintf("it took longer than %v", s.timeout)
			late = nil
		case <-kill:
			killed = "forcestop"
			kill = nil
		}
		// The shell leads the session: what the script started and did not
		// take out of it ends too.
		if err := unix.Kill(-pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return killed, fmt.Errorf("kill process group %d: %w", pid, err)
		}
	}
}

// find returns the shell that was given this status path, 0 if none runs.
func (r *runner) find(status string) (int, error) {
	all, err := process.List()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if len(p.Args) >= 6 && p.Args[3] == runnerName && p.Args[4] == status && p.Session == p.PID {
			return p.PID, nil
		}
	}
	return 0, nil
}

// readExit reads a status file.
func readExit(path string) (int, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return -1, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return n, err == nil
}

// sweep removes what earlier scripts of tasks left. At most one of them runs.
func (r *runner) sweep(except string) {
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	for _, f := range files {
		key, _, _ := strings.Cut(f.Name(), ".")
		if _, err := strconv.ParseUint(key, 10, 64); err == nil && key != except {
			os.Remove(filepath.Join(r.dir, f.Name())) // next time, if not now
		}
	}
}

// begun says that a script of this key was started, and its end not taken note of.
func (r *runner) begun(key string) bool {
	_, err := os.Stat(r.path(key) + ".started")
	return err == nil
}

// forget removes what a script left, after its end was taken note of; first what says
// that it has begun.
func (r *runner) forget(key string) error {
	var errs []error
	for _, suffix := range []string{".started", ""} {
		errs = append(errs, ignoreMissing(os.Remove(r.path(key)+suffix)))
	}
	return errors.Join(errs...)
}
