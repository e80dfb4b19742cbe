package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
)

// program runs the program of a custom checker (§13.15), which gives its resource
// its values itself, with the command set. Its arguments are the module, the
// resource, and those of the configuration.
//
// Env.Run/RESOURCE names the process group while it runs, so that the next daemon
// can end one that a killed daemon has left:
//
//	skfs checker 1
//	<process group> <start time of its leader, clock ticks since boot> <boot id>
type program struct {
	conf conf.Checker
	env  Env
}

const (
	stopGrace = time.Second      // between SIGTERM and SIGKILL
	againMin  = time.Second      // before a program that ended is started again,
	againMax  = 60 * time.Second // doubled each time
	steady    = time.Minute      // after which it is no longer doubled
)

func (p *program) Run(ctx context.Context, tell func(Result)) {
	wait := againMin
	for ctx.Err() == nil {
		from := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(from) >= steady {
			wait = againMin
		}
		tell(Result{Err: fmt.Errorf("%s %w; it is started again in %v", p.conf.Exec, err, wait)})
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, againMax)
	}
}

// once runs the program until it ends or ctx does, and says how it ended.
func (p *program) once(ctx context.Context) error {
	path := p.conf.Exec
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.env.Dir, path)
	}
	cmd := exec.Command(path, append([]string{p.env.Name, p.conf.Resource()}, p.conf.Args...)...)
	cmd.Dir, cmd.Env = p.env.Var, append(os.Environ(), p.env.Vars...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.env.Log != "" {
		out, err := os.OpenFile(p.env.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
		if err != nil {
			return fmt.Errorf("cannot be started: %w", err)
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot be started: %w", err)
	}
	group := cmd.Process.Pid
	if err := p.note(group); err != nil {
		kill(group, unix.SIGKILL)
		cmd.Wait()
		return fmt.Errorf("cannot be started: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process, which is not reaped yet: its number stays its own
		for unix.Waitid(unix.P_PID, group, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		kill(group, unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopGrace):
		}
	}
	kill(group, unix.SIGKILL) // with all that it started
	<-ended
	cmd.Wait()          // how it ended is in ProcessState
	os.Remove(p.file()) // a leftover is recognised as such
	switch st := cmd.ProcessState; {
	case st.Exited():
		return fmt.Errorf("ended with exit code %d", st.ExitCode())
	default:
		return fmt.Errorf("was ended by %v", st.Sys().(syscall.WaitStatus).Signal())
	}
}

// kill sends a signal to a process group; one that has gone needs none.
func kill(group int, s unix.Signal) { unix.Kill(-group, s) }

func (p *program) file() string {
	return filepath.Join(p.env.Run, strings.ReplaceAll(p.conf.Resource(), "/", "%"))
}

const programHeader = "skfs checker 1\n"

// note writes who runs.
func (p *program) note(group int) error {
	id, err := identity(group)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.env.Run, 0o700); err != nil {
		return err
	}
	return os.WriteFile(p.file(), []byte(programHeader+id), 0o600)
}

// Sweep ends the programs that a daemon which was killed has left in dir, which is an
// Env.Run: what they find out is told to nobody.
func Sweep(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, endLeft(filepath.Join(dir, f.Name())))
	}
	return errors.Join(errs...)
}

func endLeft(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, ok := strings.CutPrefix(string(data), programHeader)
	var group int
	if _, err := fmt.Sscan(text, &group); !ok || err != nil || group <= 1 {
		return errors.Join(fmt.Errorf("%s is damaged: the program of a checker that it named may still run", file), os.Remove(file))
	}
	if now, err := identity(group); err == nil && now == text {
		kill(group, unix.SIGKILL)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// identity names a process beyond the life of its number.
func identity(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field, in parentheses, may hold anything; the 22nd is the start time.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields after the name, 20 expected", pid, len(f))
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %s %s", pid, f[19], boot), nil
}
