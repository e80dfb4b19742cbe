package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runner runs the scripts of one module so that they outlive the daemon (R1).
// A script is a child of a small shell that leads a session of its own and
// leaves the exit status in a file:
//
//	SAFEVAR/modules/AM/run/<task>          exit code, there once the script ended
//	SAFEVAR/modules/AM/run/<task>.started  the shell began
//
// The path of the first is an argument of the shell, by which a daemon that was
// started again finds it among the processes.
type runner struct {
	dir     string // SAFEVAR/modules/AM/run
	bin     string // SAFEUSERBIN
	cwd     string // SAFEUSERVAR
	userlog string // "": output is dropped
	env     []string
}

const runnerName = "skfs-script"

const runnerScript = `: >"$1.started" || exit 125
status=$1
shift
"$@"
code=$?
echo "$code" >"$status.new" && mv "$status.new" "$status"`

// errKilled ends a script that took too long or was in the way of a forcestop.
var errKilled = errors.New("was killed")

// script is a script to run.
type script struct {
	id      uint64
	name    string
	args    []string
	timeout time.Duration   // 0: none
	kill    <-chan struct{} // closed: end it now
}

func (r *runner) path(id uint64) string { return filepath.Join(r.dir, strconv.FormatUint(id, 10)) }

// exists says whether the module has this script.
func (r *runner) exists(name string) bool {
	st, err := os.Stat(filepath.Join(r.bin, name))
	return err == nil && st.Mode().IsRegular()
}

// run runs a script to its end, or waits for the one that an earlier daemon
// started under the same id. When ctx ends it returns ctx.Err() and leaves the
// script running.
func (r *runner) run(ctx context.Context, s script, started func()) (exit int, err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return -1, err
	}
	status := r.path(s.id)
	pid, err := r.find(status)
	if err != nil {
		return -1, err
	}
	if pid == 0 {
		if exit, ok := readExit(status); ok {
			return exit, nil
		}
		if _, err := os.Stat(status + ".started"); err == nil {
			return -1, fmt.Errorf("%w while the daemon was away, or the host was restarted", errKilled)
		}
		r.sweep(s.id)
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
	cmd := exec.Command("/bin/sh", append([]string{"-c", runnerScript, runnerName, status, filepath.Join(r.bin, s.name)}, s.args...)...)
	cmd.Env, cmd.Dir = r.env, r.cwd
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release() // waitPID reaps it
}

// output opens userlog.ulog and notes what is about to run.
func (r *runner) output(s script) (*os.File, error) {
	if r.userlog == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	f, err := os.OpenFile(r.userlog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "---- %s %s %s\n", time.Now().Format("2006-01-02 15:04:05.000000"), s.name, strings.Join(s.args, " ")); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// wait waits until process pid, the shell of s, has ended.
func (r *runner) wait(ctx context.Context, pid int, s script) (killed string, err error) {
	ended := make(chan error, 1)
	stop := make(chan struct{})
	go func() { ended <- waitPID(pid, stop) }()
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
			return killed, err
		case <-ctx.Done():
			close(stop)
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

// waitPID waits until a process has ended, child of this process or not, or until
// stop is closed.
func waitPID(pid int, stop <-chan struct{}) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	defer unix.Close(wake)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-stop:
			unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail: the counter is 0
		case <-done:
		}
	}()
	defer func() { close(done); <-watched }()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
		if fds[0].Revents != 0 {
			var ws unix.WaitStatus
			unix.Wait4(pid, &ws, unix.WNOHANG, nil) // reaps it if it is ours
			return nil
		}
		if fds[1].Revents != 0 {
			return nil
		}
	}
}

// find returns the shell that was given this status path, 0 if none runs.
func (r *runner) find(status string) (int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if err != nil {
			continue // it ended
		}
		args := strings.Split(string(line), "\x00")
		if len(args) < 6 || args[3] != runnerName || args[4] != status {
			continue
		}
		if st, err := procStat(pid); err == nil && st.session == p.Name() && st.state != "Z" {
			return pid, nil
		}
	}
	return 0, nil
}

// procStatus is what is needed of /proc/<pid>/stat.
type procStatus struct{ state, session, start string }

func procStat(pid int) (procStatus, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStatus{}, err
	}
	// The second field, in parentheses, may hold anything.
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(f) < 20 {
		return procStatus{}, fmt.Errorf("/proc/%d/stat has %d fields after the name, 20 expected", pid, len(f))
	}
	return procStatus{state: f[0], session: f[3], start: f[19]}, nil
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

// sweep removes what earlier scripts left.
func (r *runner) sweep(except uint64) {
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if id, _, _ := strings.Cut(f.Name(), "."); id != strconv.FormatUint(except, 10) {
			os.Remove(filepath.Join(r.dir, f.Name())) // next time, if not now
		}
	}
}

// truncateLog empties userlog.ulog when it has reached its limit (§13.7.3).
func (r *runner) truncateLog(limit int64) error {
	if r.userlog == "" || limit <= 0 {
		return nil
	}
	st, err := os.Stat(r.userlog)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() < limit {
		return nil
	}
	if err == nil {
		err = os.Truncate(r.userlog, 0)
	}
	return err
}
