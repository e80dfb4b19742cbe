package cli

import "github.com/urfave/cli/v2"

// supportCommands are those of §9.7.
func (a *App) supportCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "run", Usage: "run a special command of SAFEBIN in the environment of skfs; also written: -r COMMAND", ArgsUsage: "COMMAND [ARG]...",
		SkipFlagParsing: true,
		Action:          a.special,
	}}
}
