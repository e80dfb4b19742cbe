package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/ha/messages"
	"github.com/skfs/skfs/web"
)

// monitorCommands are those of §9.5.
func (a *App) monitorCommands() []*cli.Command {
	return []*cli.Command{a.level(), a.state(), a.history(), a.rules(), a.log(), a.logview(), a.logsave(), a.explain(), a.cmdlog(), a.print("printi", ha.LevelInfo), a.print("printe", ha.LevelEvent)}
}

func (a *App) level() *cli.Command {
	return &cli.Command{
		Name: "level", Usage: "show the version of skfs, or of the application of a module",
		Flags: []cli.Flag{flagM(), flagJSON()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			am := c.String("m")
			if am != "" {
				if _, err := a.paths.ModuleID(am); err != nil {
					return err
				}
			}
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			kernel := unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
			if c.Bool("json") {
				return a.printJSON(map[string]string{"Host": host, "OS": kernel, "Version": Version})
			}
			product := "skfs"
			if a.name == "safekit" {
				product = "SafeKit"
			}
			a.printf("Host : %s\nOS : %s\n%s : %s\nLicense : none needed\n", host, kernel, product, Version)
			if am == "" {
				return nil
			}
			return a.moduleScript(c, am, "level")
		},
	}
}

// moduleScript runs a script of the module that the guide calls from a command
// (§14.1.2), if the module's active configuration has it.
func (a *App) moduleScript(c *cli.Context, am, name string) error {
	if err := conf.CheckName(am); err != nil {
		return usage("-m: %v", err)
	}
	return a.runScript(c, am, filepath.Join(a.paths.UserBin(am), name))
}

func (a *App) runScript(c *cli.Context, am, file string) error {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	cmd := exec.CommandContext(c.Context, file)
	cmd.Env, cmd.Stdout, cmd.Stderr = a.moduleEnv(am), a.out, a.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("script %s of module %s: %w", filepath.Base(file), am, err)
	}
	return nil
}

func (a *App) state() *cli.Command {
	return &cli.Command{
		Name: "state", Usage: "show the state of all modules, or of one",
		Flags: []cli.Flag{
			flagM(), flagJSON(),
			&cli.BoolFlag{Name: "v", Usage: "also the module's resources"},
			&cli.BoolFlag{Name: "lq", Usage: "the state only, also as exit code: STOP 0, WAIT 1, ALONE or UP 2, PRIM 3, SECOND 4"},
			&cli.BoolFlag{Name: "watch", Usage: "go on, and show each change"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Bool("lq") {
				return a.stateLq(c)
			}
			if c.String("m") == "" {
				if c.Bool("watch") || c.Bool("v") {
					_, err := module(c)
					return err
				}
				ms, err := a.client.Modules(c.Context)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return a.printJSON(ms)
				}
				return a.printStates(ms)
			}
			am, err := module(c)
			if err != nil {
				return err
			}
			m, err := a.client.Module(c.Context, am)
			if err != nil {
				return err
			}
			if c.Bool("watch") {
				return a.watchState(c, am)
			}
			if c.Bool("json") {
				return a.printJSON(m)
			}
			if err := a.printStates([]web.Module{m}); err != nil {
				return err
			}
			if !c.Bool("v") || !m.Configured {
				return nil
			}
			if err := a.printResources(m.State); err != nil {
				return err
			}
			return a.moduleScript(c, am, "state")
		},
	}
}

// lqCodes are the exit codes of state -lq (§9.5).
var lqCodes = map[ha.Role]int{ha.RoleStop: 0, ha.RoleWait: 1, ha.RoleAlone: 2, ha.RoleUp: 2, ha.RolePrim: 3, ha.RoleSecond: 4}

func (a *App) stateLq(c *cli.Context) error {
	am, err := module(c)
	if err != nil {
		return err
	}
	m, err := a.client.Module(c.Context, am)
	if err == nil && !m.Configured {
		err = fmt.Errorf("module %s is not configured", am)
	}
	code, known := lqCodes[m.State.Role]
	if err == nil && !known {
		err = fmt.Errorf("module %s is in no state", am)
	}
	if err != nil {
		a.exit(err)
		return cli.Exit("", exitNoLq)
	}
	a.printf("%v\n", m.State.Role)
	if code == 0 {
		return nil
	}
	return cli.Exit("", code)
}

func stateText(r ha.Role, c ha.Colour) string { return fmt.Sprintf("%v (%v)", r, c) }

// details is what a state has besides its name.
func details(s ha.ModuleState) string {
	var d []string
	if s.Degraded {
		d = append(d, "degraded")
	}
	if s.Busy != "" {
		d = append(d, s.Busy)
	}
	if p := s.Progress; p.BytesDone+p.BytesLeft+p.FilesDone+p.FilesLeft > 0 {
		d = append(d, "synchronising: "+progressText(p))
	}
	if s.Why != "" {
		d = append(d, s.Why)
	}
	if len(d) == 0 {
		return ""
	}
	return "  " + strings.Join(d, "; ")
}

// byteText shows a size to people.
func byteText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

func (a *App) printStates(ms []web.Module) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Module\tState\tSince\tRemote\tRemote state")
	for _, m := range ms {
		if !m.Configured {
			text := "not configured"
			if m.Problem != "" {
				text = "cannot run"
			}
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\n", m.Name, text)
			continue
		}
		s := m.State
		since := "-"
		if !s.Since.IsZero() {
			since = s.Since.Local().Format("2006-01-02 15:04:05")
		}
		peer, remote := "-", "-"
		if s.Peer != "" {
			peer, remote = s.Peer, stateText(s.Remote, s.RemoteCol)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, stateText(s.Role, s.Colour), since, peer, remote)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range ms {
		d := strings.TrimSpace(details(m.State))
		if m.Problem != "" {
			d = m.Problem
		}
		if d != "" {
			a.printf("%s: %s\n", m.Name, d)
		}
	}
	return nil
}

// printResources shows the module's resources here, and those that the other node
// has told, as remote.NAME.
func (a *App) printResources(s ha.ModuleState) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nResource\tState\tDate\tSet by")
	show := func(prefix string, all []ha.Resource) {
		for _, r := range all {
			fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", prefix, r.Name, r.Value, r.Since.Local().Format("2006-01-02 15:04:05"), r.By)
		}
	}
	show("", s.Resources)
	show("remote.", s.RemoteResources)
	return w.Flush()
}

// Flags of the commands that show the log.

func logFlags(def int) []cli.Flag {
	return []cli.Flag{
		flagM(),
		&cli.IntFlag{Name: "s", Value: def, Usage: "the last `NB` messages"},
		&cli.BoolFlag{Name: "I", Usage: "also I(nformation) messages"},
		&cli.BoolFlag{Name: "A", Usage: "all messages, also debug ones"},
		&cli.StringFlag{Name: "l", Usage: "`LANGUAGE`: en(glish) or fr(ench)", DefaultText: "as LANG says"},
	}
}

// logLine shows lines of the log in the language that was asked for.
func logLine(c *cli.Context) (func(ha.Line) string, error) {
	language := messages.FromEnv(os.Getenv)
	if l := c.String("l"); l != "" {
		var err error
		if language, err = messages.ParseLanguage(l); err != nil {
			return nil, usage("-l %s: expected en or fr", l)
		}
	}
	return func(l ha.Line) string {
		l.Text = messages.Translate(l.Text, language)
		return l.String()
	}, nil
}

func logLevel(c *cli.Context) (ha.Level, error) {
	switch {
	case c.Bool("A"):
		return ha.LevelDebug, nil
	case c.Bool("I"):
		return ha.LevelInfo, nil
	}
	return ha.LevelEvent, nil
}

// showLog prints lines of the log.
func (a *App) showLog(c *cli.Context, follow bool) error {
	am, err := onlyModule(c)
	if err != nil {
		return err
	}
	level, err := logLevel(c)
	if err != nil {
		return err
	}
	show, err := logLine(c)
	if err != nil {
		return err
	}
	if c.Int("s") < 0 {
		return usage("-s %d: expected the number of messages", c.Int("s"))
	}
	return a.client.Log(c.Context, am, c.Int("s"), level, follow, func(l ha.Line) error {
		if c.Bool("json") {
			return a.printJSON(l)
		}
		_, err := fmt.Fprintln(a.out, show(l))
		return err
	})
}

func (a *App) log() *cli.Command {
	return &cli.Command{
		Name: "log", Usage: "show the last messages of the module's log",
		Flags:  append(logFlags(300), flagJSON()),
		Action: func(c *cli.Context) error { return a.showLog(c, false) },
	}
}

func (a *App) logview() *cli.Command {
	return &cli.Command{
		Name: "logview", Usage: "show the module's log as it is written",
		Flags:  append(logFlags(20), flagJSON()),
		Action: func(c *cli.Context) error { return a.showLog(c, true) },
	}
}

func (a *App) logsave() *cli.Command {
	return &cli.Command{
		Name: "logsave", Usage: "save the module's log", ArgsUsage: "/absolute/path",
		Flags: logFlags(math.MaxInt32),
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			level, err := logLevel(c)
			if err != nil {
				return err
			}
			show, err := logLine(c)
			if err != nil {
				return err
			}
			dest := c.Args().First()
			if c.NArg() != 1 || !filepath.IsAbs(dest) {
				return usage("logsave: expected the absolute path of the file to write")
			}
			if _, err := a.client.Module(c.Context, am); err != nil { // before the file is emptied
				return err
			}
			f, err := os.Create(dest)
			if err != nil {
				return err
			}
			err = a.client.Log(c.Context, am, c.Int("s"), level, false, func(l ha.Line) error {
				_, err := fmt.Fprintln(f, show(l))
				return err
			})
			return errors.Join(err, f.Close())
		},
	}
}

func (a *App) print(name string, level ha.Level) *cli.Command {
	return &cli.Command{
		Name: name, Usage: fmt.Sprintf("write a message of level %v to the module's log", level), ArgsUsage: `"message"`,
		Flags: []cli.Flag{flagM()},
		Action: func(c *cli.Context) error {
			am, err := module(c)
			if err != nil {
				return err
			}
			if !c.Args().Present() {
				return usage("%s: which message?", name)
			}
			return a.client.WriteLog(c.Context, am, web.Message{Level: level, Source: "user", Text: strings.Join(c.Args().Slice(), " ")})
		},
	}
}
