package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/ha/errd"
	"github.com/skfs/skfs/ha/process"
	"github.com/skfs/skfs/web"
)

// errdCommands are those about the processes of an application (§13.9.4).
func (a *App) errdCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "errd", Usage: "the detection of dead processes (<errd>)",
			Subcommands: []*cli.Command{
				a.errdClass("enable", "monitor the processes of a class"),
				a.errdClass("disable", "do not monitor them any more"),
				a.errdSwitch("suspend", "monitor no process of the module, to stop its application by hand"),
				a.errdSwitch("resume", "monitor them again"),
				{Name: "list", Usage: "list what is monitored; all of it is in SAFEVAR/modules/AM/errdlist", Flags: []cli.Flag{flagM(), flagJSON()}, Action: a.errdList},
			},
		},
		{
			Name: "kill", Usage: "kill processes by name, or list them", ArgsUsage: " ",
			Flags: []cli.Flag{
				flagM(),
				&cli.StringFlag{Name: "name", Usage: "the `NAME` of the command"},
				&cli.StringFlag{Name: "argregex", Usage: "a regular `EXPRESSION` that the command line, the command's name included, matches"},
				&cli.StringFlag{Name: "level", Usage: "test: list only; terminate or 9: SIGKILL; 15: SIGTERM"},
			},
			Action: a.kill,
		},
	}
}

func (a *App) errdClass(name, text string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, ArgsUsage: "CLASS", Flags: []cli.Flag{flagM(), flagBy()},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			if c.NArg() != 1 {
				return usage("errd %s: which class? The one of <proc class=\"…\">", name)
			}
			return a.client.Do(c.Context, am, web.Command{Name: "errd", Args: []string{name, c.Args().First()}, Identity: c.String("i")})
		},
	}
}

func (a *App) errdSwitch(name, text string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, Flags: []cli.Flag{flagM(), flagBy()},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			return a.client.Do(c.Context, am, web.Command{Name: "errd", Args: []string{name}, Identity: c.String("i")})
		},
	}
}

// listedProcesses is how many processes of a <proc> the list shows; the file has all.
const listedProcesses = 5

func (a *App) errdList(c *cli.Context) error {
	am, err := onlyModule(c)
	if err != nil {
		return err
	}
	d, err := a.client.Errd(c.Context, am)
	if err != nil {
		return err
	}
	own, err := a.ownProcesses(c, am)
	if err != nil {
		return err
	}
	var file bytes.Buffer
	writeErrdList(&file, d, own, -1)
	if err := os.WriteFile(filepath.Join(a.paths.UserVar(am), "errdlist"), file.Bytes(), 0o644); err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(d)
	}
	var list bytes.Buffer
	writeErrdList(&list, d, own, listedProcesses)
	_, err = a.out.Write(list.Bytes())
	return err
}

// writeErrdList shows what is monitored, at most limit processes of each; -1: all.
func writeErrdList(out *bytes.Buffer, d ha.Detection, own []process.Process, limit int) {
	if d.Suspended {
		fmt.Fprintln(out, "The detection is suspended (errd suspend)")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Class\tName\tService\tAction\tAtleast\tAtmax\tState\tProcesses")
	for _, f := range d.Procs {
		service := "no"
		if f.Service {
			service = "yes"
		}
		count := "-"
		if f.Count >= 0 {
			count = fmt.Sprint(f.Count)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", f.Class, f.Name, service, f.Action, f.AtLeast, f.AtMax, errdState(f), count)
	}
	w.Flush() // to memory
	show := func(title string, ps []process.Process) {
		if len(ps) > 0 {
			fmt.Fprintf(out, "\n%s\n", title)
		}
		for i, p := range ps {
			if i == limit {
				fmt.Fprintf(out, "  … and %d more\n", len(ps)-limit)
				break
			}
			fmt.Fprintf(out, "  %v\n", p)
		}
	}
	for _, f := range d.Procs {
		show("proc "+f.Name, f.Running)
	}
	show("skfs", own)
}

func errdState(f errd.Found) string {
	switch {
	case !f.Enabled:
		return "disabled"
	case f.Up:
		return "up"
	case f.Count < 0:
		return "unknown"
	}
	return "down"
}

// ownProcesses are the daemon, and the replica of the module. The daemon finds out by
// itself when that ends.
func (a *App) ownProcesses(c *cli.Context, am string) ([]process.Process, error) {
	n, err := a.client.Node(c.Context)
	if err != nil {
		return nil, err
	}
	all, err := process.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p process.Process) bool {
		if p.PID == n.PID {
			return false
		}
		if len(p.Args) < 4 || p.Args[1] != "replica" || p.Args[2] != "-m" || p.Args[3] != am {
			return true
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		return err != nil || !slices.Contains(strings.Split(string(env), "\x00"), "SAFEVAR="+a.paths.SafeVar)
	}), nil
}

// killLevels are the signals of kill -level; 0: none.
var killLevels = map[string]unix.Signal{"test": 0, "terminate": unix.SIGKILL, "9": unix.SIGKILL, "15": unix.SIGTERM}

func (a *App) kill(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	sig, ok := killLevels[c.String("level")]
	switch {
	case c.String("name") == "":
		return usage("kill: expected -name, the name of a command")
	case !ok:
		return usage("kill -level=%q: expected test, terminate, 9 or 15", c.String("level"))
	}
	f := process.Filter{Name: c.String("name")}
	var err error
	if c.IsSet("argregex") {
		if f.ArgRegex, err = regexp.CompilePOSIX(c.String("argregex")); err != nil {
			return usage("kill -argregex: %v", err)
		}
	}
	all, err := process.List()
	if err != nil {
		return err
	}
	some := f.Select(all)
	for _, p := range some {
		a.printf("%v\n", p)
	}
	return killAll(some, all, sig)
}

// killAll sends a signal to processes, but neither to this one nor to those that it
// descends from; 0 sends none.
func killAll(some, all []process.Process, sig unix.Signal) error {
	if sig == 0 {
		return nil
	}
	spared := process.Ancestors(all, os.Getpid())
	var errs []error
	for _, p := range some {
		if slices.Contains(spared, p.PID) {
			continue
		}
		if err := p.Signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", p.PID, err))
		}
	}
	return errors.Join(errs...)
}
