package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

// supportCommands are those of §9.7.
func (a *App) supportCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "run", Usage: "run a special command of SAFEBIN in the environment of skfs; also written: -r COMMAND", ArgsUsage: "COMMAND [ARG]...",
		SkipFlagParsing: true,
		Action:          a.special,
	}}
}

// special runs a command with the variables that scripts have. Its exit code is
// ours.
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
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && find(a.dataCommands(), args[0]) != nil {
			// Commands about replicated directories may be called as special ones.
			app := a.library()
			return app.RunContext(c.Context, normalise(app.Commands, append([]string{a.name}, args...)))
		}
	}
	cmd := exec.CommandContext(c.Context, file, args[1:]...)
	cmd.Env = a.moduleEnv(os.Getenv("SAFEMODULE"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, a.out, a.err
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return cli.Exit("", exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("special command: %w", err)
	}
	return nil
}
