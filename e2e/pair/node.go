package pair

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

// Node is a host with skfs, and one module on it. Hosts of a cluster have a Node for
// each of their modules.
type Node struct {
	*lab.Host
	skfs    string
	dir     string // on the machine, for what the host writes outside of its disks
	peer    *Node  // nil in a farm
	all     []*Node
	am      string // the module
	install string // see Options.Install

	*life
}

// life is the daemon of a host.
type life struct {
	mu     sync.Mutex
	daemon *lab.Started
}

// Peer is the other node.
func (n *Node) Peer() *Node { return n.peer }

// StartDaemon starts the daemon and returns when it says that it is ready.
func (n *Node) StartDaemon(ctx context.Context) error {
	if n.install != "" {
		return n.installUnits(ctx)
	}
	notify := filepath.Join(n.dir, "notify.sock")
	os.Remove(notify)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("daemon of %s: %w", n.Name(), err)
	}
	defer ready.Close()
	out, err := os.OpenFile(n.daemonLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("daemon of %s: %w", n.Name(), err)
	}
	defer out.Close()
	cmd := n.Command(context.WithoutCancel(ctx), n.skfs, "daemon", "--node", n.Name())
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify)
	cmd.Stdout, cmd.Stderr = out, out
	daemon, err := n.Start(cmd)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.daemon = daemon
	n.mu.Unlock()
	// Whatever ends the wait closes the socket, which ends the read.
	heard := make(chan error, 1)
	go func() {
		buf := make([]byte, 512)
		for {
			k, err := ready.Read(buf)
			if err != nil || slices.Contains(strings.Split(string(buf[:k]), "\n"), "READY=1") {
				heard <- err
				return
			}
		}
	}()
	select {
	case err = <-heard:
	case <-daemon.Done():
		err = fmt.Errorf("it ended: %w", daemon.Wait())
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("daemon of %s: %w\n%s", n.Name(), err, n.logs())
	}
	return nil
}

// Upgrade ends the daemon in order, and starts the one of another binary, which is what
// the host calls from now on.
func (n *Node) Upgrade(ctx context.Context, skfs string) error {
	n.mu.Lock()
	daemon := n.daemon
	n.skfs = skfs
	n.mu.Unlock()
	if daemon != nil {
		if err := unix.Kill(daemon.PID(), unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the daemon of %s: %w", n.Name(), err)
		}
		select {
		case <-daemon.Done():
		case <-ctx.Done():
			return fmt.Errorf("the daemon of %s does not end: %w", n.Name(), ctx.Err())
		}
	}
	return n.StartDaemon(ctx)
}

func (n *Node) daemonLog() string { return filepath.Join(n.dir, "daemon.log") }

// KillDaemon kills the daemon, and nothing else, with SIGKILL.
func (n *Node) KillDaemon() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.daemon == nil {
		return fmt.Errorf("%s has no daemon", n.Name())
	}
	if err := (lab.Process{PID: n.daemon.PID()}).Kill(); err != nil {
		return fmt.Errorf("kill the daemon of %s: %w", n.Name(), err)
	}
	n.daemon.Wait() // that it was killed is no news
	n.daemon = nil
	return nil
}

// HasDaemon says whether a daemon that StartDaemon started lives.
func (n *Node) HasDaemon() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.daemon == nil {
		return false
	}
	select {
	case <-n.daemon.Done():
		return false
	default:
		return true
	}
}

// Leftovers names the processes of the host that are not its daemon, and its
// FUSE mounts: what a stopped module must not have.
func (n *Node) Leftovers() ([]string, error) {
	var left []string
	all, err := n.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if len(p.Args) < 2 || !strings.HasPrefix(filepath.Base(p.Args[0]), "skfs") || p.Args[1] != "daemon" {
			left = append(left, p.String())
		}
	}
	mounts, err := n.Mounts()
	for _, m := range mounts {
		if strings.HasPrefix(m.FS, "fuse") {
			left = append(left, "mount on "+m.Path)
		}
	}
	return left, err
}

// Replicas returns the replica processes of the module on the host.
func (n *Node) Replicas() ([]lab.Process, error) {
	all, err := n.Processes()
	return slices.DeleteFunc(all, func(p lab.Process) bool {
		// One that an earlier binary started has that one's name: see Upgrade.
		return len(p.Args) < 2 || !strings.HasPrefix(filepath.Base(p.Args[0]), "skfs") || p.Args[1] != "replica" || !slices.Contains(p.Args, n.am)
	}), err
}

// Skfs runs a command of skfs on the host and returns its output.
func (n *Node) Skfs(ctx context.Context, args ...string) (string, error) {
	return n.Run(ctx, n.skfs, args...)
}

// Do runs a command for the module.
func (n *Node) Do(ctx context.Context, command ...string) error {
	_, err := n.Skfs(ctx, append(command, "-m", n.am)...)
	return err
}

// State is what the host says of the module, and of the other host.
type State struct {
	State    string // "PRIM green"
	Remote   string
	Epoch    uint64
	Degraded bool
	Why      string // why it waits
}

// State asks the host for the module's state.
func (n *Node) State(ctx context.Context) (State, error) {
	out, err := n.Skfs(ctx, "state", "-m", n.am, "--json")
	if err != nil {
		return State{}, err
	}
	var m struct {
		State struct {
			Role, Colour, Remote, RemoteCol, Why string
			Epoch                                uint64
			Degraded                             bool
		}
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return State{}, fmt.Errorf("state of %s: %w in %q", n.Name(), err, out)
	}
	s := m.State
	return State{State: s.Role + " " + s.Colour, Remote: s.Remote + " " + s.RemoteCol, Epoch: s.Epoch, Degraded: s.Degraded, Why: s.Why}, nil
}

// Await waits until the module is stable (red or green) in a state.
func (n *Node) Await(ctx context.Context, role string) error {
	if _, err := n.Skfs(ctx, "waitstate", "-m", n.am, role); err != nil {
		return fmt.Errorf("%s does not become %s: %w\n%s", n.Name(), role, err, n.bothLogs())
	}
	return nil
}

// Mark is a place in the module's log.
type Mark int

// Mark returns the present end of the module's log.
func (n *Node) Mark(ctx context.Context) (Mark, error) {
	lines, err := n.log(ctx)
	return Mark(len(lines)), err
}

// allLines is more than a log of a test has.
const allLines = "1000000"

func (n *Node) log(ctx context.Context) ([]string, error) {
	out, err := n.Skfs(ctx, "log", "-m", n.am, "-I", "-l", "en", "-s", allLines)
	if err != nil {
		return nil, err
	}
	if out == "" {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n"), nil
}

// Lines are those of the module's log.
func (n *Node) Lines(ctx context.Context) ([]string, error) { return n.log(ctx) }

// text is the message of a line "| date | source | level | message".
func text(line string) string {
	parts := strings.SplitN(line, " | ", 4)
	return parts[len(parts)-1]
}

// AwaitLog waits until the module's log has, after mark, messages that contain
// these texts in this order.
func (n *Node) AwaitLog(ctx context.Context, after Mark, want ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	viewing, stop := context.WithCancel(ctx)
	cmd := n.Command(viewing, n.skfs, "logview", "-m", n.am, "-I", "-l", "en", "-s", allLines)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.Cancel = func() error { return errors.Join(cmd.Process.Kill(), r.SetReadDeadline(time.Now())) }
	view, err := n.Start(cmd)
	w.Close()
	if err != nil {
		stop()
		return err
	}
	defer view.Wait()
	defer stop()
	at, missing := Mark(0), want
	lines := bufio.NewReader(r)
	for len(missing) > 0 {
		line, err := lines.ReadString('\n')
		if err != nil {
			if err == io.EOF || ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("the log of %s does not get %q (of %q): %w\n%s", n.Name(), missing[0], want, err, n.bothLogs())
		}
		if at++; at > after && strings.Contains(text(line), missing[0]) {
			missing = missing[1:]
		}
	}
	return nil
}

// Absent says that the log has no message with the text after mark.
func (n *Node) Absent(ctx context.Context, after Mark, unwanted string) error {
	lines, err := n.log(ctx)
	if err != nil {
		return err
	}
	for i, line := range lines {
		if Mark(i) >= after && strings.Contains(text(line), unwanted) {
			return fmt.Errorf("the log of %s has %q\n%s", n.Name(), line, n.bothLogs())
		}
	}
	return nil
}

// Count says how many messages after mark contain the text.
func (n *Node) Count(ctx context.Context, after Mark, wanted string) (int, error) {
	lines, err := n.log(ctx)
	count := 0
	for i, line := range lines {
		if Mark(i) >= after && strings.Contains(text(line), wanted) {
			count++
		}
	}
	return count, err
}

// Logged returns the first message after mark that contains the text.
func (n *Node) Logged(ctx context.Context, after Mark, wanted string) (string, error) {
	lines, err := n.log(ctx)
	if err != nil {
		return "", err
	}
	for i, line := range lines {
		if Mark(i) >= after && strings.Contains(text(line), wanted) {
			return text(line), nil
		}
	}
	return "", fmt.Errorf("the log of %s has no %q", n.Name(), wanted)
}

// LoggedSince returns the messages that the module's log got after a moment. A
// power cut can take the last lines of a log with it, and with them the meaning of
// a Mark.
func (n *Node) LoggedSince(ctx context.Context, since time.Time) ([]string, error) {
	lines, err := n.log(ctx)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, "| ")
		date, _, _ := strings.Cut(rest, " |")
		at, err := time.ParseInLocation("2006-01-02 15:04:05.000000", date, time.Local)
		if err == nil && at.After(since) {
			texts = append(texts, text(line))
		}
	}
	return texts, nil
}

func (n *Node) bothLogs() string {
	var b strings.Builder
	for _, o := range n.all {
		b.WriteString(o.logs())
	}
	return b.String()
}

// logs returns the end of every log of the host, read from its disks, so that it
// does not matter what still runs.
func (n *Node) logs() string {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	var b strings.Builder
	if out, err := n.Skfs(ctx, "state", "-v", "-m", n.am); err != nil {
		fmt.Fprintf(&b, "== %s: state: %v\n", n.Name(), err)
	} else {
		fmt.Fprintf(&b, "== %s: state\n%s\n", n.Name(), out)
	}
	if out, err := n.Skfs(ctx, "log", "-m", n.am, "-I", "-s", "80"); err != nil {
		fmt.Fprintf(&b, "== %s: log: %v\n", n.Name(), err)
	} else {
		fmt.Fprintf(&b, "== %s: log\n%s\n", n.Name(), out)
	}
	files := map[string]string{"daemon.log": n.daemonLog()}
	if vars, err := n.Backing(SafeVar); err == nil {
		for _, name := range []string{"replica.log", "userlog.ulog"} {
			files[name] = filepath.Join(vars, "modules", n.am, name)
		}
	}
	for _, name := range []string{"daemon.log", "replica.log", "userlog.ulog"} {
		data, err := os.ReadFile(files[name])
		if err != nil {
			continue
		}
		const tail = 6000
		if name == "daemon.log" && n.install != "" {
			continue
		}
		fmt.Fprintf(&b, "== %s: %s\n%s\n", n.Name(), name, data[max(0, len(data)-tail):])
	}
	if n.install != "" {
		b.WriteString(n.journal(ctx))
	}
	return b.String()
}

// Crashes returns what the processes of skfs on this host printed of panics and
// data races, in whichever of its lives.
func (n *Node) Crashes() (string, error) {
	vars, err := n.Backing(SafeVar)
	if err != nil {
		return "", err
	}
	var found strings.Builder
	for _, file := range []string{n.daemonLog(), filepath.Join(vars, "modules", n.am, "replica.log")} {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, sign := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if _, after, ok := strings.Cut(string(data), sign); ok {
				fmt.Fprintf(&found, "%s of %s:\n%s%s\n", filepath.Base(file), n.Name(), sign, after[:min(len(after), 8000)])
			}
		}
	}
	return found.String(), nil
}

// BootNode switches the host on and starts its daemon.
func (n *Node) BootNode(ctx context.Context) error {
	if err := n.Boot(); err != nil {
		return err
	}
	return n.StartDaemon(ctx)
}
