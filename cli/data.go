package cli

import (
	"errors"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/web"
)

// dataCommands are those about replicated directories (§13.6.4).
func (a *App) dataCommands() []*cli.Command {
	return []*cli.Command{a.secondforce(), a.rfssync(), a.rfsdiff(), a.rfsverify(), a.repair(), a.splitbrain()}
}

// secondforce starts as secondary and copies what was changed since a date
// (§13.6.4.8).
func (a *App) secondforce() *cli.Command {
	return &cli.Command{
		Name: "secondforce", Usage: "start as secondary; copy only files changed since a date, trust the others",
		Flags: []cli.Flag{flagM(), flagBy(), &cli.StringFlag{Name: "d", Usage: "the `DATE`: YYYY-MM-DD[Z], \"YYYY-MM-DD hh:mm:ss[Z]\" or YYYY-MM-DDThh:mm:ss[Z]; Z: UTC, else local time"}},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			if !c.IsSet("d") {
				return usage("secondforce: since when? Give the date with -d")
			}
			t, err := parseDate(c.String("d"))
			if err != nil {
				return err
			}
			return a.client.Do(c.Context, am, web.Command{Name: "secondforce", Args: []string{t.UTC().Format(time.RFC3339)}, Identity: c.String("i")})
		},
	}
}

// dateForms are those of the guide. What ends with Z is UTC.
var dateForms = []string{time.DateOnly, time.DateTime, "2006-01-02T15:04:05"}

func parseDate(s string) (time.Time, error) {
	text, zone := s, time.Local
	if t, utc := strings.CutSuffix(s, "Z"); utc {
		text, zone = t, time.UTC
	}
	for _, form := range dateForms {
		if t, err := time.ParseInLocation(form, text, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("-d %s: expected YYYY-MM-DD[Z], \"YYYY-MM-DD hh:mm:ss[Z]\" or YYYY-MM-DDThh:mm:ss[Z]", s)
}

// rfssync sets or shows what the next synchronisation copies (§13.6.4.9).
func (a *App) rfssync() *cli.Command {
	return &cli.Command{
		Name: "rfssync", Usage: "set or show what the next synchronization copies", ArgsUsage: "[full | external prim|second UID]",
		Flags: []cli.Flag{flagM(), flagBy(), flagJSON(),
			&cli.StringFlag{Name: "d", Usage: "with `ROLE` prim or second, then UID: for procedures that disable the detection of changes before the start; they are found here, so nothing is disabled"}},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			args := c.Args().Slice()
			if c.IsSet("d") {
				args = append([]string{"-d", c.String("d")}, args...)
			}
			if len(args) == 0 {
				return a.showSync(c, am)
			}
			return a.client.Do(c.Context, am, web.Command{Name: "rfssync", Args: args, Identity: c.String("i")})
		},
	}
}

// showSync prints the policy, which the module's resources hold.
func (a *App) showSync(c *cli.Context, am string) error {
	m, err := a.client.Module(c.Context, am)
	if err != nil {
		return err
	}
	policy := map[string]string{}
	for _, name := range []string{"usersetting.rfssyncmode", "usersetting.rfssyncrole", "usersetting.rfssyncuid", "rfs.rfssync"} {
		v, ok := resource(m.State, name)
		if !ok {
			return errors.New("rfssync: module " + am + " replicates nothing")
		}
		policy[name] = v
	}
	if c.Bool("json") {
		return a.printJSON(policy)
	}
	text := policy["usersetting.rfssyncmode"]
	if text == "external" {
		text += " " + policy["usersetting.rfssyncrole"] + " " + policy["usersetting.rfssyncuid"]
	}
	if policy["rfs.rfssync"] != "up" {
		text += " (cannot be applied yet)"
	}
	a.printf("Synchronization policy of module %s: %s\n", am, text)
	return nil
}

func resource(s ha.ModuleState, name string) (string, bool) {
	for _, r := range s.Resources {
		if r.Name == name {
			return r.Value, true
		}
	}
	return "", false
}
