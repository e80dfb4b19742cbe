package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/web"
)

// Version is that of skfs.
const Version = "0.1.0"

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells have it for SIGINT
	exitNoLq        = 255 // state -lq got no answer: 0 to 4 are states
)

// App is one call of the program.
type App struct {
	out, err io.Writer
	paths    conf.Paths
	client   *web.Client
	name     string // as the program was called: skfs or safekit
}

// Main runs the command line argv, whose first word is the name of the program,
// and returns the exit code. The end of ctx, a signal to end, ends what goes on
// for a time: the daemon, a replica, a wait. It takes SAFE, SAFEVAR and SAFEMODULE from the
// environment of the process.
func Main(ctx context.Context, argv []string, out, errw io.Writer) int {
	a := &App{out: out, err: errw, paths: conf.FromEnv(), name: "skfs"}
	if len(argv) > 0 {
		a.name = filepath.Base(argv[0])
	}
	a.client = web.NewClient(a.paths)
	defer a.client.Close()
	if run := a.specials()[a.name]; run != nil { // by a link in SAFEBIN
		return a.exit(run(ctx, argv[1:]))
	}
	app := a.library()
	err := app.RunContext(ctx, normalise(app.Commands, argv))
	return a.exit(err)
}

// exit reports an error and gives the exit code it stands for.
func (a *App) exit(err error) int {
	var code cli.ExitCoder
	switch {
	case err == nil, errors.Is(err, context.Canceled): // who interrupts knows it
	case errors.As(err, &code):
		if text := err.Error(); text != "" {
			fmt.Fprintln(a.err, "Error: "+text)
		}
	case errors.Is(err, web.ErrNoDaemon):
		fmt.Fprintf(a.err, "Error: the skfs daemon is not running, or SAFEVAR=%s is not its own: start it with \"systemctl start skfs\" or \"skfs daemon\"\n", a.paths.SafeVar)
	default:
		fmt.Fprintln(a.err, "Error: "+err.Error())
	}
	return exitCode(err)
}

// usage is the error of a command line that is wrong.
func usage(format string, args ...any) error {
	return cli.Exit(fmt.Sprintf(format, args...), exitUsage)
}

// library describes the program to urfave/cli.
func (a *App) library() *cli.App {
	app := &cli.App{
		Name:            a.name,
		Usage:           "high availability with synchronous replication of directories",
		Version:         Version,
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          a.out,
		ErrWriter:       a.err,
		ExitErrHandler:  func(*cli.Context, error) {}, // Main does it
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "p", Usage: "print where skfs is installed, as variables of the shell"},
		},
		Commands: a.commands(),
	}
	app.Action = func(c *cli.Context) error {
		switch {
		case c.Args().Present():
			return unknownCommand(c.Args().First(), app.Commands)
		case c.Bool("p"):
			return a.printPaths()
		}
		return cli.ShowAppHelp(c)
	}
	app.OnUsageError = func(c *cli.Context, err error, _ bool) error { return unknownFlag(err, "", app.Flags) }
	a.prepare("", app.Commands)
	return app
}

func (a *App) commands() []*cli.Command {
	var all []*cli.Command
	for _, group := range []struct {
		title    string
		commands []*cli.Command
	}{
		{"control a module", a.controlCommands()},
		{"processes of the application", a.errdCommands()},
		{"replicated directories", a.dataCommands()},
		{"look at modules", a.monitorCommands()},
		{"farms", []*cli.Command{a.lb(), a.vipIfCtrl()}},
		{"configure", a.configCommands()},
		{"support", a.supportCommands()},
		{"processes", a.processCommands()},
	} {
		for _, c := range group.commands {
			c.Category = group.title
			all = append(all, c)
		}
	}
	return all
}

// prepare completes every command: errors that suggest, and a group of commands
// that is called without one of them.
func (a *App) prepare(path string, commands []*cli.Command) {
	for _, c := range commands {
		full := strings.TrimSpace(path + " " + c.Name)
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return unknownFlag(err, full, c.Flags) }
		if len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = func(ctx *cli.Context) error {
				if ctx.Args().Present() {
					return unknownCommand(full+" "+ctx.Args().First(), c.Subcommands)
				}
				return usage("%s needs a command: %s", full, strings.Join(names(c.Subcommands), ", "))
			}
		}
		c.Action = a.audited(full, c.Action)
		a.prepare(full, c.Subcommands)
	}
}

// later are commands of the guide that this version does not have.
var later = []string{"snapshot", "dump", "clean", "webserver", "safeagent", "update", "module genkey", "module delkey"}

func unknownCommand(got string, commands []*cli.Command) error {
	word := got[strings.LastIndex(got, " ")+1:]
	for _, l := range later {
		if got == l {
			return usage("command %s is not supported by this version", got)
		}
	}
	if n := conf.Nearest(word, names(commands)); n != "" {
		return usage("unknown command %s; did you mean %s%s?", got, got[:len(got)-len(word)], n)
	}
	return usage("unknown command %s; it is one of %s", got, strings.Join(names(commands), ", "))
}

// unknownFlag improves what the flag package says.
func unknownFlag(err error, command string, flags []cli.Flag) error {
	where := ""
	if command != "" {
		where = " of " + command
	}
	bad, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if !ok {
		return usage("%s%s", err, where)
	}
	name := strings.TrimLeft(bad, "-")
	if name == "H" || name == "E" || name == "G" {
		return usage("flag -%s (distributed commands) is not supported by this version", name)
	}
	var known []string
	for _, f := range flags {
		known = append(known, f.Names()...)
	}
	if n := conf.Nearest(name, known); n != "" && len(name) > 1 {
		return usage("unknown flag %s%s; did you mean -%s?", bad, where, n)
	}
	if len(known) == 0 {
		return usage("unknown flag %s%s, which has no flags", bad, where)
	}
	return usage("unknown flag %s%s; it is one of -%s", bad, where, strings.Join(known, ", -"))
}

func names(commands []*cli.Command) []string {
	var s []string
	for _, c := range commands {
		if !c.Hidden {
			s = append(s, c.Name)
		}
	}
	return s
}

// Flags that several commands have.

func flagM() cli.Flag {
	return &cli.StringFlag{Name: "m", Usage: "the module `AM`", EnvVars: []string{"SAFEMODULE"}}
}

func flagBy() cli.Flag {
	return &cli.StringFlag{Name: "i", Usage: "`NAME` of the detector or script that asks: the command is logged as its, and counted (maxloop)"}
}

func flagJSON() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "output for programs"} }

// module returns the module that the command is for.
func module(c *cli.Context) (string, error) {
	am := c.String("m")
	if am == "" {
		return "", usage("%s: which module? Name it with -m AM or SAFEMODULE", c.Command.FullName())
	}
	if err := conf.CheckName(am); err != nil {
		return "", usage("-m: %v", err)
	}
	return am, nil
}

// noArgs refuses arguments.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usage("%s takes no argument %q", c.Command.FullName(), c.Args().First())
	}
	return nil
}

// onlyModule is the module of a command that takes nothing else but flags.
func onlyModule(c *cli.Context) (string, error) {
	am, err := module(c)
	if err != nil {
		return "", err
	}
	return am, noArgs(c)
}

// printJSON writes v, one value a line.
func (a *App) printJSON(v any) error { return json.NewEncoder(a.out).Encode(v) }

func (a *App) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

func (a *App) printPaths() error {
	for _, v := range a.paths.ScriptEnv("") {
		a.printf("%s\n", v)
	}
	return nil
}

// moduleEnv is the environment of scripts and special commands of a module (§14.3); am
// may be "". The variables of <user> are those of the active configuration.
func (a *App) moduleEnv(am string) []string {
	env := append(os.Environ(), a.paths.ScriptEnv(am)...)
	if am == "" {
		return env
	}
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return env
	}
	if active, err := a.paths.Active(am, cluster); err == nil && active.Module.User != nil {
		for _, v := range active.Module.User.Vars {
			env = append(env, v.Name+"="+v.Value)
		}
	}
	return env
}
