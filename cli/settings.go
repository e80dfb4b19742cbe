package cli

import (
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/web"
)

// Commands that change how a started module is watched (§9.4), and those of the loop
// counter, which are for scripts (§13.9.4, §14.4).

// setting is a command with one of these words as its argument.
func (a *App) setting(name, text string, words ...string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, ArgsUsage: strings.Join(words, "|"), Flags: []cli.Flag{flagM(), flagBy()},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			if c.NArg() != 1 {
				return usage("%s: expected %s", name, strings.Join(words, " or "))
			}
			return a.client.Do(c.Context, am, web.Command{Name: name, Args: c.Args().Slice(), Identity: c.String("i")})
		},
	}
}

// stopwait is what rules do with wait().
func (a *App) stopwait() *cli.Command {
	c := a.control("stopwait", "stop the application and wait until no failover rule says wait (for checkers)")
	do := c.Action
	c.Action = func(c *cli.Context) error {
		if !c.IsSet("i") {
			return usage("stopwait: expected -i NAME: it is a command of detectors")
		}
		return do(c)
	}
	return c
}

// checkloop says whether one more automatic restart would stop the module.
func (a *App) checkloop() *cli.Command {
	return &cli.Command{
		Name: "checkloop", Usage: "exit code 1: one more automatic restart stops the module", Flags: []cli.Flag{flagM()},
		Action: func(c *cli.Context) error { return a.loop(c, ha.LoopCount.Reached) },
	}
}

// incloop counts one more.
func (a *App) incloop() *cli.Command {
	c := a.control("incloop", "count one more automatic restart; exit code 1: it is one too many")
	do := c.Action
	c.Action = func(c *cli.Context) error {
		if err := do(c); err != nil {
			return err
		}
		return a.loop(c, ha.LoopCount.Exceeded)
	}
	return c
}

// loop turns the loop counter into an exit code.
func (a *App) loop(c *cli.Context, over func(ha.LoopCount, time.Time) bool) error {
	am, err := onlyModule(c)
	if err != nil {
		return err
	}
	m, err := a.client.Module(c.Context, am)
	if err != nil {
		return err
	}
	if over(m.State.Loop, time.Now()) {
		return cli.Exit("", 1)
	}
	return nil
}
