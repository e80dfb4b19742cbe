package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/web"
)

// set gives a resource a value (§13.18.4).
func (a *App) set() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "give a resource of the module a value: what custom checkers and scripts do; rfs.syncat up: synchronize now",
		Flags: []cli.Flag{flagM(), flagBy(),
			&cli.StringFlag{Name: "r", Usage: "the `RESOURCE`, as class.name"},
			&cli.StringFlag{Name: "v", Usage: "its `VALUE`: up, down, init, or another word"},
			&cli.BoolFlag{Name: "n", Usage: "neither log nor history note it"},
			&cli.BoolFlag{Name: "l", Usage: "the history notes it even if the value is the same"}},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			if err := noArgs(c); err != nil {
				return err
			}
			if !c.IsSet("r") || !c.IsSet("v") {
				return usage("set: expected -r RESOURCE -v VALUE")
			}
			args := []string{c.String("r"), c.String("v")}
			switch {
			case c.Bool("n") && c.Bool("l"):
				return usage("set: expected -n or -l, not both")
			case c.Bool("n"):
				args = append(args, "nolog")
			case c.Bool("l"):
				args = append(args, "log")
			}
			return a.client.Do(c.Context, am, web.Command{Name: "set", Args: args, Identity: c.String("i")})
		},
	}
}
