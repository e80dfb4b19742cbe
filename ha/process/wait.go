package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Vigil waits for the end of a process, a child of this one or not.
type Vigil struct {
	pidfd *os.File
	conn  syscall.RawConn
}

// Watch begins to wait for the end of the process. ESRCH: it has ended.
func (id ID) Watch() (*Vigil, error) {
	fd, err := id.Open()
	if err != nil {
		return nil, err
	}
	return newVigil(id.PID, fd)
}

// WatchPID is ID.Watch for a number that cannot have passed to another process: a
// child that was not reaped yet, or one whose identity is checked afterwards.
func WatchPID(pid int) (*Vigil, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	return newVigil(pid, fd)
}

func newVigil(pid, fd int) (*Vigil, error) {
	// A descriptor that does not block is watched by the runtime: no thread waits.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	v := &Vigil{pidfd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid))}
	var err error
	if v.conn, err = v.pidfd.SyscallConn(); err != nil {
		v.pidfd.Close()
		return nil, err
	}
	return v, nil
}

// Wait returns nil when the process has ended, an error after Close.
func (v *Vigil) Wait() error {
	var wrong error
	err := v.conn.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if err != unix.EINTR { // comes even to who does not wait
				wrong = err
				return n > 0 || err != nil
			}
		}
	})
	return errors.Join(err, wrong)
}

// Close ends a Wait that goes on.
func (v *Vigil) Close() error { return v.pidfd.Close() }
