package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/ha/rules"
)

// rules are commands about failover rules (§13.18).
func (a *App) rules() *cli.Command {
	return &cli.Command{
		Name: "rules", Usage: "failover rules: check them, see why they act, try them on the past",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "check the rules of a file, or those that \"config\" would take for the module", ArgsUsage: "[FILE]",
				Flags:  []cli.Flag{flagM(), flagJSON()},
				Action: a.rulesCheck,
			},
			{
				Name: "explain", Usage: "show each rule, what it looks at, and why it applies or not",
				Flags:  []cli.Flag{flagM(), flagJSON()},
				Action: a.rulesExplain,
			},
			{
				Name: "dry-run", Usage: "show which rule would have acted when, on the recorded history of the resources", ArgsUsage: "[FILE]",
				Flags: []cli.Flag{flagM(), flagJSON(),
					&cli.StringFlag{Name: "since", Usage: "show actions from this `TIME` on: a date as for secondforce -d, or a duration such as 2h"}},
				Action: a.rulesDryRun,
			},
		},
	}
}

// failoverOf reads the rules that a command names: those of FILE (a userconfig.xml, or
// a text of rules, which extend the product's), else of the module: active or as it
// stands under SAFE/modules.
func (a *App) failoverOf(c *cli.Context, active bool) (conf.Failover, string, error) {
	if c.NArg() > 1 {
		return conf.Failover{}, "", usage("%s: expected one file", c.Command.FullName())
	}
	if file := c.Args().First(); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return conf.Failover{}, "", err
		}
		if strings.HasPrefix(strings.TrimSpace(string(data)), "<") {
			cluster, err := conf.ReadCluster(a.paths.ClusterFile())
			if err != nil {
				return conf.Failover{}, "", err
			}
			m, err := conf.ReadUserConfig(file, cluster)
			if err != nil {
				return conf.Failover{}, "", err
			}
			return m.Rules, file, nil
		}
		f, err := conf.ParseRules(file, string(data))
		return f, file, err
	}
	am, err := module(c)
	if err != nil {
		return conf.Failover{}, "", err
	}
	cluster, err := conf.ReadCluster(a.paths.ClusterFile())
	if err != nil {
		return conf.Failover{}, "", err
	}
	if active {
		m, err := a.paths.Active(am, cluster)
		if err != nil {
			return conf.Failover{}, "", err
		}
		return m.Module.Rules, "module " + am, nil
	}
	m, err := a.paths.Check(am, cluster)
	if err != nil {
		return conf.Failover{}, "", err
	}
	return m.Rules, "module " + am, nil
}

func (a *App) rulesCheck(c *cli.Context) error {
	f, name, err := a.failoverOf(c, false)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		texts := make([]string, len(f.Rules))
		for i, r := range f.Rules {
			texts[i] = r.String()
		}
		return a.printJSON(map[string]any{"Rules": texts, "Period": f.Period.String(), "HandleTime": f.HandleTime.String()})
	}
	a.printf("%s: period %v, handle_time %v\n", name, f.Period, f.HandleTime)
	for _, r := range f.Rules {
		if r.Product {
			a.printf("  %v (product)\n", r)
		} else {
			a.printf("  %v\n", r)
		}
	}
	return nil
}

func (a *App) rulesExplain(c *cli.Context) error {
	am, err := onlyModule(c)
	if err != nil {
		return err
	}
	v, err := a.client.Rules(c.Context, am)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(v)
	}
	a.printf("Failover rules of module %s: period %v, handle_time %v, cluster() is %s\n", am, v.Period, v.HandleTime, v.Cluster)
	if !v.Running {
		a.printf("The module is stopped: no rule acts.\n")
	}
	if v.Held != "" {
		a.printf("The module is kept in WAIT by %s.\n", v.Held)
	}
	for _, r := range v.Rules {
		by := ""
		if r.Product {
			by = " (product)"
		}
		a.printf("\n%s%s\n  %s", r.Text, by, r.Truth)
		if r.Effect != "" {
			a.printf(": %s", r.Effect)
		}
		a.printf("\n")
		for _, f := range r.Compared {
			a.printf("    %s %s%s\n", f.Text, f.Truth, readingsText(f.Values, f.Note))
		}
	}
	for i, r := range v.Inner {
		if i == 0 {
			a.printf("\nDecided by the automaton itself:\n")
		}
		applies := "does not apply"
		if r.Applies {
			applies = "applies"
		}
		a.printf("  %s %s: %s\n", r.Label, applies, r.Meaning)
	}
	return nil
}

func readingsText(values []rules.Reading, note string) string {
	var s []string
	for _, v := range values {
		s = append(s, v.Name+" is "+v.Value)
	}
	if note != "" {
		s = append(s, note)
	}
	if len(s) == 0 {
		return ""
	}
	return ": " + strings.Join(s, ", ")
}

// sinceTime reads a time of the past.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	t, err := parseDate(text)
	if err != nil {
		return t, usage("--since %s: expected a duration such as 2h, or a date: YYYY-MM-DD[Z] or \"YYYY-MM-DD hh:mm:ss[Z]\"", text)
	}
	return t, nil
}

func (a *App) rulesDryRun(c *cli.Context) error {
	am, err := module(c)
	if err != nil {
		return err
	}
	since, err := sinceTime(c.String("since"), time.Now())
	if err != nil {
		return err
	}
	f, name, err := a.failoverOf(c, true)
	if err != nil {
		return err
	}
	var history []ha.Change
	if err := a.client.History(c.Context, am, "", time.Time{}, func(h ha.Change) error {
		history = append(history, h)
		return nil
	}); err != nil {
		return err
	}
	if len(history) == 0 {
		return errors.New("the history of module " + am + " is empty")
	}
	n := 0
	for _, x := range ha.DryRun(f, history) {
		if x.Time.Before(since) {
			continue
		}
		n++
		if c.Bool("json") {
			if err := a.printJSON(x); err != nil {
				return err
			}
			continue
		}
		text := fmt.Sprintf("%s  %s from rule %s", timeText(x.Time), x.Action, x.Rule)
		if len(x.Cause) > 0 {
			text += strings.Replace(readingsText(x.Cause, ""), ":", " because", 1)
		}
		a.printf("%s\n", text)
	}
	if n == 0 && !c.Bool("json") {
		from := history[0].Time
		if since.After(from) {
			from = since
		}
		a.printf("No rule of %s would have acted since %s\n", name, timeText(from))
	}
	return nil
}

func timeText(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }
