package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// processID names a process beyond the reuse of its number.
type processID struct {
	PID   int
	Start uint64 // clock ticks after boot
}

func identify(pid int) (processID, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return processID{}, err
	}
	st, err := p.Stat()
	if err != nil {
		return processID{}, err
	}
	return processID{PID: pid, Start: st.Starttime}, nil
}

// kill kills the process, if it is still the same, and waits for its end.
func (id processID) kill() error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor is open, so the number cannot pass to another process
	// between this look and the signal.
	now, err := identify(id.PID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now != id {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", id.PID, err)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Process is a process of a host.
type Process struct {
	PID  int      // on the machine
	Args []string // its command line
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// Kill sends SIGKILL.
func (p Process) Kill() error { return unix.Kill(p.PID, unix.SIGKILL) }

// Processes returns the living processes of the host except its PID 1.
func (h *Host) Processes() ([]Process, error) {
	in, err := h.life()
	if err != nil {
		return nil, err
	}
	all, err := in.processes()
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", h.name, err)
	}
	return all, nil
}

func (in *incarnation) processes() ([]Process, error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", in.holder.Process.Pid))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == in.holder.Process.Pid {
			continue
		}
		// Errors mean that it ended while we looked.
		if its, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err != nil || its != ns {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue
		}
		args := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
		found = append(found, Process{PID: pid, Args: args})
	}
	return found, nil
}

// Pause stops every process of the host, as if the machine hung.
func (h *Host) Pause() error {
	in, err := h.life()
	if err != nil {
		return err
	}
	if err := in.pause(); err != nil {
		return fmt.Errorf("lab: pause %s: %w", h.name, err)
	}
	return nil
}

func (in *incarnation) pause() error {
	stopped := map[int]bool{}
	for {
		all, err := in.processes()
		if err != nil {
			return err
		}
		fresh := false
		for _, p := range all {
			if stopped[p.PID] {
				continue
			}
			if err := unix.Kill(p.PID, unix.SIGSTOP); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			stopped[p.PID], fresh = true, true
		}
		if !fresh { // nobody was left to fork another
			return nil
		}
	}
}

// Resume lets a paused host go on.
func (h *Host) Resume() error {
	all, err := h.Processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := unix.Kill(p.PID, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("lab: resume %s: %w", h.name, err)
		}
	}
	return nil
}

// Mount is one mount of a host.
type Mount struct {
	Path string
	FS   string // the type
}

// Mounts returns what is mounted in the host.
func (h *Host) Mounts() ([]Mount, error) {
	in, err := h.life()
	if err != nil {
		return nil, err
	}
	return readMounts(fmt.Sprintf("/proc/%d/mountinfo", in.holder.Process.Pid))
}

func readMounts(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lab: mounts: %w", err)
	}
	defer f.Close()
	var mounts []Mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /root /point opts [optional…] - type source superopts
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			return nil, fmt.Errorf("lab: %s: unexpected line %q", path, lines.Text())
		}
		mounts = append(mounts, Mount{Path: unescapeOctal(fields[4]), FS: kind[0]})
	}
	return mounts, lines.Err()
}

// unescapeOctal undoes the \ooo that mountinfo writes for blanks and backslashes.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
