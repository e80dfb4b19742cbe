package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Started is a command that was started in a host.
type Started struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the command has ended
	err  error         // of cmd.Wait; valid after done
}

// Done is closed when the command has ended.
func (s *Started) Done() <-chan struct{} { return s.done }

// Wait waits for the command's end and returns what exec.Cmd.Wait says of it.
func (s *Started) Wait() error {
	<-s.done
	return s.err
}

// PID is the command's process number on the machine.
func (s *Started) PID() int { return s.cmd.Process.Pid }

// Start starts cmd, made by Command, in the host. The lab waits for the command
// itself, because a process that nobody waits for would hold up the end of its
// host; so the caller must not, and cannot use cmd's own pipes.
func (h *Host) Start(cmd *exec.Cmd) (*Started, error) {
	in, err := h.life()
	if err != nil {
		return nil, err
	}
	// A new process takes the namespaces of the thread that forks it.
	err = onLostThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // joining a mount namespace wants its own root and cwd
			return fmt.Errorf("unshare: %w", err)
		}
		const all = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET
		if err := unix.Setns(in.pidfd, all); err != nil {
			return fmt.Errorf("enter: %w", err)
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("lab: start %s in %s: %w", cmd.Path, h.name, err)
	}
	s := &Started{cmd: cmd, done: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// onLostThread calls do on a thread that ends afterwards, so that it may enter
// other namespaces and no other goroutine ever runs in them. It is never the
// process's first thread: Go cannot end that one, and keeps it for ever in the
// namespaces, and with them what is mounted there.
func onLostThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onLostThread(do) // this one is taken meanwhile
			return
		}
		done <- do() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// outputGrace is how long Run waits for the output of background processes that
// a command left behind with its output open.
const outputGrace = 2 * time.Second

// Run runs a command in the host and returns what it printed on both outputs.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.RunCommand(h.Command(ctx, name, args...))
}

// RunCommand runs a command made by Command or RoleCommand and returns what it
// printed on both outputs.
func (h *Host) RunCommand(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = outputGrace
	s, err := h.Start(cmd)
	if err != nil {
		return "", err
	}
	err = s.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // it succeeded, its background keeps the output
		err = nil
	}
	if err != nil {
		return out.String(), fmt.Errorf("lab: %s on %s: %w: %s", cmd, h.name, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}
