package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ID names a process beyond the reuse of its number.
type ID struct {
	PID   int
	Start uint64 // clock ticks after boot
}

// Process is what is known of one.
type Process struct {
	ID
	Parent  int
	Session int
	Name    string   // as the kernel has it: at most NameMax bytes
	Args    []string // empty: a thread of the kernel
	dead    bool     // a zombie: it has ended, and waits for its parent to see so
}

// NameMax is how many bytes of a name the kernel keeps (TASK_COMM_LEN - 1).
const NameMax = 15

// CommandLine is the arguments, the program's name among them, as ps shows them.
func (p Process) CommandLine() string {
	if len(p.Args) == 0 {
		return "[" + p.Name + "]"
	}
	return strings.Join(p.Args, " ")
}

func (p Process) String() string {
	return fmt.Sprintf("%d %s %s (parent=%d)", p.PID, p.Name, p.CommandLine(), p.Parent)
}

// List returns the processes that run, by number.
func List() ([]Process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := Read(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Process) int { return a.PID - b.PID })
	return all, nil
}

// Read reads one process. The error is os.ErrNotExist or ESRCH if it does not run.
func Read(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return Process{}, fmt.Errorf("%s/stat: %w", dir, err)
	}
	if p.dead {
		return Process{}, fmt.Errorf("process %d has ended: %w", pid, os.ErrNotExist)
	}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return Process{}, err
	}
	if line = bytes.TrimRight(line, "\x00"); len(line) > 0 {
		p.Args = strings.Split(string(line), "\x00")
	}
	return p, nil
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)).
func parseStat(stat []byte) (Process, error) {
	// The second field, in parentheses, may hold anything, parentheses too.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return Process{}, fmt.Errorf("expected a name in parentheses, not %q", stat)
	}
	const (
		state = iota
		parent
		_
		session
		threads = 17
		start   = 19
	)
	f := strings.Fields(string(stat[end+1:]))
	if len(f) <= start {
		return Process{}, fmt.Errorf("%d fields after the name, %d expected", len(f), start+1)
	}
	p := Process{Name: string(stat[open+1 : end])}
	var errs [5]error
	var n int
	p.PID, errs[0] = strconv.Atoi(strings.TrimSpace(string(stat[:open])))
	p.Parent, errs[1] = strconv.Atoi(f[parent])
	p.Session, errs[2] = strconv.Atoi(f[session])
	p.Start, errs[3] = strconv.ParseUint(f[start], 10, 64)
	n, errs[4] = strconv.Atoi(f[threads])
	// Where only the first thread has ended the process lives on.
	p.dead = f[state] == "X" || f[state] == "Z" && n <= 1
	return p, errors.Join(errs[:]...)
}

// Open returns a pidfd of the process, which becomes readable when it ends. ESRCH: it
// has ended.
func (id ID) Open() (int, error) {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return -1, err
	}
	// The descriptor is open, so the number cannot pass to another between this look
	// and what is done with the descriptor.
	if now, err := Read(id.PID); err != nil || now.ID != id {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// Signal sends a signal to exactly this process. ESRCH: it has ended.
func (id ID) Signal(s unix.Signal) error {
	fd, err := id.Open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, s, nil, 0)
}
