package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha/process"
)

// specials are the special commands of §14.4 and §13.9.4 that are part of this
// program. Links of these names in SAFEBIN lead to it, so that scripts can call them
// directly. Their arguments are not read by the library: they belong to the command.
func (a *App) specials() map[string]func(ctx context.Context, args []string) error {
	return map[string]func(context.Context, []string) error{
		"processtree":      a.processtree,
		"boundcmd":         a.boundcmd,
		"gencron":          a.gencron,
		"errdpoll_running": a.errdpollRunning,
	}
}

// special runs a command with the variables that scripts have.
func (a *App) special(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return usage("-r: which command?")
	}
	file := args[0]
	if !filepath.IsAbs(file) {
		file = filepath.Join(a.paths.SafeBin(), file)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			if run := a.specials()[args[0]]; run != nil {
				return run(c.Context, args[1:])
			}
			if find(a.dataCommands(), args[0]) != nil || args[0] == "vip_if_ctrl" {
				// Commands about replicated directories and filters may be called as special ones.
				app := a.library()
				return app.RunContext(c.Context, normalise(app.Commands, append([]string{a.name}, args...)))
			}
		}
	}
	// The command takes the place of this process: its end is ours, and so are the
	// signals that are sent to us.
	err := unix.Exec(file, append([]string{file}, args[1:]...), a.moduleEnv(os.Getenv("SAFEMODULE")))
	return fmt.Errorf("special command %s: %w", file, err)
}

const processtreeUsage = `processtree: expected one of
  list all                  all processes
  list NAME                 those whose command is called so, as a tree
  kill NAME                 …and kill them
  list|kill NAME|all REGEX  those whose command line, the command's name included, matches too`

// processtree lists processes and kills them (§14.4.2.3), with SIGKILL. It neither
// lists itself nor kills who called it.
func (a *App) processtree(_ context.Context, args []string) error {
	if len(args) < 2 || len(args) > 3 || args[0] != "list" && args[0] != "kill" || args[0] == "kill" && args[1] == "all" && len(args) == 2 {
		return usage("%s", processtreeUsage)
	}
	var f process.Filter
	if args[1] != "all" {
		f.Name = args[1]
	}
	if len(args) == 3 {
		var err error
		if f.ArgRegex, err = regexp.CompilePOSIX(args[2]); err != nil {
			return usage("processtree: regular expression %q: %v", args[2], err)
		}
	}
	all, err := process.List()
	if err != nil {
		return err
	}
	var some []process.Process
	for _, p := range f.Select(all) {
		if p.PID != os.Getpid() {
			some = append(some, p)
		}
	}
	if args[1] == "all" {
		for _, p := range some {
			a.printf("%v\n", p)
		}
	} else {
		for _, b := range process.Tree(some) {
			a.printf("%*s%v\n", 2*b.Depth, "", b.Process)
		}
	}
	if args[0] == "list" {
		return nil
	}
	return killAll(some, all, unix.SIGKILL)
}

// Exit codes of boundcmd besides those of the command, as the guide and timeout(1)
// have them.
const (
	exitLate       = 2 // the time was over
	exitNotBounded = 125
	exitNotRun     = 126
	exitNotFound   = 127
	exitSignal     = 128 // and the number of the signal that ended the command
)

// boundcmd runs a command for a limited time (§14.4.2.2). When it is over, the command
// is killed with its process group.
func (a *App) boundcmd(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return cli.Exit("boundcmd: expected a number of seconds and a command", exitNotBounded)
	}
	seconds, err := strconv.ParseUint(args[0], 10, 31)
	if err != nil || seconds == 0 {
		return cli.Exit(fmt.Sprintf("boundcmd %s: expected a number of seconds", args[0]), exitNotBounded)
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, a.out, a.err
	// Who kills this process kills the command: the kernel does it when the thread that
	// started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		code := exitNotRun
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			code = exitNotFound
		}
		return cli.Exit(fmt.Sprintf("boundcmd: %v", err), code)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	late := time.NewTimer(time.Duration(seconds) * time.Second)
	defer late.Stop()
	code := exitLate
	select {
	case err := <-ended:
		return commandEnd(err)
	case <-late.C:
	case <-ctx.Done():
		code = exitInterrupted
	}
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return err
	}
	<-ended
	return cli.Exit("", code)
}

// commandEnd turns the end of a command into ours.
func commandEnd(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return cli.Exit("", exitSignal+int(ws.Signal()))
	}
	return cli.Exit("", exit.ExitCode())
}

// errdpollRunning writes all processes to SAFEVAR/errdpoll_reserrd, to find the name
// and the arguments that an <errd> is to look for (§13.9.4).
func (a *App) errdpollRunning(_ context.Context, args []string) error {
	if len(args) > 0 {
		return usage("errdpoll_running takes no argument %q", args[0])
	}
	all, err := process.List()
	if err != nil {
		return err
	}
	var text []byte
	for _, p := range all {
		text = fmt.Appendf(text, "%v\n", p)
	}
	return os.WriteFile(filepath.Join(a.paths.SafeVar, "errdpoll_reserrd"), text, 0o644)
}
