package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/web"
)

// controlCommands are those of §9.4.
func (a *App) controlCommands() []*cli.Command {
	return []*cli.Command{
		a.control("start", "start the module"),
		a.wait("waitstart", "wait for the end of the start", startEnded),
		a.control("stop", "stop the module"),
		a.wait("waitstop", "wait for the end of the stop", stopEnded),
		a.waitState(),
		a.control("restart", "stop and start the application only: no failover"),
		a.control("swap", "exchange primary and secondary", "nosync"),
		a.control("stopstart", "stop the module, then start it: a primary fails over"),
		a.control("prim", "start as primary, even if the data may not be up to date"),
		a.control("primforce", "start as primary, even if the data is inconsistent"),
		a.control("second", "start as secondary", "fullsync"),
		a.set(),
		a.control("forcestop", "stop the module even if something of it hangs"),
		a.stopwait(),
		a.setting("failover", "whether the second takes over by itself (mirror modules)", "on", "off"),
		a.setting("checker", "switch the checkers of the module on or off", "on", "off"),
		a.incloop(),
		a.control("resetloop", "count automatic restarts from 0 again"),
		a.checkloop(),
	}
}

// control is a command that goes to the module as it is.
func (a *App) control(name, text string, args ...string) *cli.Command {
	argsUsage := ""
	if len(args) > 0 {
		argsUsage = "[" + strings.Join(args, "|") + "]"
	}
	return &cli.Command{
		Name: name, Usage: text, ArgsUsage: argsUsage,
		Flags: []cli.Flag{flagM(), flagBy()},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			for _, arg := range c.Args().Slice() {
				if len(args) == 0 {
					return noArgs(c)
				}
				if !slices.Contains(args, arg) {
					return usage("%s %s: expected %s", name, arg, strings.Join(args, " or "))
				}
			}
			return a.client.Do(c.Context, am, web.Command{Name: name, Args: c.Args().Slice(), Identity: c.String("i")})
		},
	}
}

// errDone ends a watch.
var errDone = errors.New("done")

// awaitState watches module am until ended says so, and returns its state then.
func (a *App) awaitState(ctx context.Context, am string, limit time.Duration, ended func(ha.ModuleState) bool) (ha.ModuleState, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	var last ha.ModuleState
	err := a.client.Watch(ctx, am, func(s ha.ModuleState) error {
		if last = s; ended(s) {
			return errDone
		}
		return nil
	})
	switch {
	case errors.Is(err, errDone):
		return last, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return last, fmt.Errorf("module %s is still %s after %v", am, stateText(last.Role, last.Colour), limit)
	case err == nil && ctx.Err() == nil:
		return last, errors.New("the daemon ended while it was waited for")
	case err == nil:
		return last, ctx.Err()
	}
	return last, err
}

func flagTimeout() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Usage: "give up after this `TIME`, such as 90s (default: never)"}
}

// startEnded: the module is where its start has led. STOP (red) is an end too: it
// could not start, or was not started.
func startEnded(s ha.ModuleState) (ended, ok bool) {
	return s.Colour != ha.Magenta, s.Colour == ha.Green
}

func stopEnded(s ha.ModuleState) (ended, ok bool) {
	stopped := s.Role == ha.RoleStop && s.Colour == ha.Red
	return stopped, stopped
}

func (a *App) wait(name, text string, until func(ha.ModuleState) (ended, ok bool)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text,
		Flags: []cli.Flag{flagM(), flagTimeout()},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			s, err := a.awaitState(c.Context, am, c.Duration("timeout"), func(s ha.ModuleState) bool { ended, _ := until(s); return ended })
			if err != nil {
				return err
			}
			if _, ok := until(s); !ok {
				return fmt.Errorf("module %s is %s%s", am, stateText(s.Role, s.Colour), because(s.Why))
			}
			return nil
		},
	}
}

// rolesOf are the states that a module of a mode can be in (§5.2, §6.2).
var rolesOf = map[conf.Mode][]ha.Role{
	conf.Mirror: {ha.RoleStop, ha.RoleWait, ha.RoleAlone, ha.RolePrim, ha.RoleSecond},
	conf.Farm:   {ha.RoleStop, ha.RoleWait, ha.RoleUp},
	conf.Light:  {ha.RoleStop, ha.RoleWait, ha.RoleUp},
}

func (a *App) waitState() *cli.Command {
	return &cli.Command{
		Name: "waitstate", Usage: "wait until the module is stable in a state", ArgsUsage: "STOP|WAIT|ALONE|UP|PRIM|SECOND",
		Flags: []cli.Flag{flagM(), flagTimeout(), flagJSON()},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			if c.NArg() != 1 {
				return usage("waitstate: which state? One of STOP, WAIT, ALONE, UP, PRIM, SECOND")
			}
			want, err := ha.ParseRole(strings.ToUpper(c.Args().First()))
			if err != nil {
				return usage("waitstate: %v", err)
			}
			m, err := a.client.Module(c.Context, am)
			if err != nil {
				return err
			}
			if can := rolesOf[m.State.Mode]; m.Configured && !slices.Contains(can, want) {
				return usage("waitstate: %s is a %s module: it is never %v; expected one of %v", am, m.State.Mode, want, can)
			}
			s, err := a.awaitState(c.Context, am, c.Duration("timeout"), func(s ha.ModuleState) bool {
				return s.Role == want && (s.Colour == ha.Red || s.Colour == ha.Green)
			})
			if err == nil && c.Bool("json") {
				return a.printJSON(s)
			}
			return err
		},
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
