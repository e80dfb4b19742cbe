package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
)

// logged are the commands that change the node or a module: they go to the log of
// commands (§10.9). What scripts and checkers say many times a minute (set, printi) does
// not.
var logged = []string{
	"start", "stop", "forcestop", "restart", "stopstart", "stopwait", "swap", "prim", "primforce", "second", "secondforce",
	"rfssync", "repair", "failover", "checker", "shutdown", "boot", "config", "deconfig",
	"errd suspend", "errd resume", "errd enable", "errd disable",
	"module install", "module uninstall", "module genkey", "module delkey",
	"cluster config", "cluster deconfig", "cluster genkey", "cluster delkey",
	"splitbrain restore", "splitbrain purge", "webserver", "clean",
}

// audited makes an action that is logged with its beginning and its end. A log that
// cannot be written is no reason not to stop a module.
func (a *App) audited(full string, action cli.ActionFunc) cli.ActionFunc {
	if action == nil || !slices.Contains(logged, full) {
		return action
	}
	return func(c *cli.Context) error {
		if _, err := os.Stat(a.paths.SafeVar); err != nil {
			return action(c)
		}
		l, err := ha.OpenCommandLog(a.paths.CommandLog())
		if err != nil {
			a.warn([]string{"this command is not logged: " + err.Error()})
			return action(c)
		}
		defer l.Close()
		ctx := context.WithoutCancel(c.Context) // who interrupts a command is interested in its end
		add := func(e ha.CommandEntry) {
			if e.Time, e.PID = time.Now(), os.Getpid(); err == nil {
				if err = l.Add(ctx, e); err != nil {
					a.warn([]string{"this command is not logged: " + err.Error()})
				}
			}
		}
		text := full
		for _, f := range c.FlagNames() {
			text += fmt.Sprintf(" -%s %v", f, c.Value(f))
		}
		add(ha.CommandEntry{Type: "safekit", Module: c.String("m"), Text: strings.Join(append([]string{text}, c.Args().Slice()...), " ")})
		result := action(c)
		add(ha.CommandEntry{End: true, Text: strconv.Itoa(exitCode(result))})
		return result
	}
}

// exitCode is what the program will end with.
func exitCode(err error) int {
	var code cli.ExitCoder
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return code.ExitCode()
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

func (a *App) cmdlog() *cli.Command {
	return &cli.Command{
		Name: "cmdlog", Usage: "show the log of the commands that were run on this node",
		Description: "With -m those of a module and those of no module.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "m", Usage: "the module `AM`"}, flagJSON(),
			&cli.IntFlag{Name: "s", Value: 300, Usage: "the last `NB` entries"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Int("s") < 0 {
				return usage("-s %d: expected the number of entries", c.Int("s"))
			}
			if _, err := os.Stat(a.paths.CommandLog()); errors.Is(err, os.ErrNotExist) {
				return nil // none was run yet
			}
			l, err := ha.OpenCommandLog(a.paths.CommandLog())
			if err != nil {
				return err
			}
			defer l.Close()
			all, err := l.Tail(c.Context, c.Int("s"), c.String("m"))
			if err != nil {
				return err
			}
			for _, e := range all {
				if c.Bool("json") {
					err = a.printJSON(e)
				} else {
					_, err = fmt.Fprintln(a.out, e)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}
