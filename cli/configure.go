package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/packaging"
	"github.com/skfs/skfs/web"
)

// configCommands are those of §9.3 and §9.6.
func (a *App) configCommands() []*cli.Command {
	onModule := func(name, text string, action func(*cli.Context, string) error, flags ...cli.Flag) *cli.Command {
		return &cli.Command{Name: name, Usage: text, Flags: append([]cli.Flag{flagM()}, flags...), Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			return action(c, am)
		}}
	}
	return []*cli.Command{
		onModule("config", "apply the configuration in SAFE/modules/AM", a.config),
		onModule("confcheck", "check the configuration in SAFE/modules/AM without applying it", a.confcheck),
		onModule("confinfo", "compare the active configuration with the one in SAFE/modules/AM", a.confinfo, flagJSON()),
		onModule("deconfig", "take the active configuration away", a.deconfig),
		{Name: "module", Usage: "install and remove modules", Subcommands: a.moduleCommands()},
		{Name: "cluster", Usage: "configure the cluster", Subcommands: a.clusterCommands()},
	}
}

// viaDaemon lets the daemon change a configuration; when none runs, direct does
// it and keeps a daemon from starting meanwhile.
func (a *App) viaDaemon(ask, direct func() error) error {
	err := ask()
	if !errors.Is(err, web.ErrNoDaemon) {
		return err
	}
	unlock, err := lockDaemon(a.paths)
	if err != nil {
		return err
	}
	defer unlock()
	return direct()
}

// quiet refuses to touch the configuration of a module that runs on without its
// daemon.
func (a *App) quiet(am string) error {
	running, err := ha.LeftRunning(a.paths, am)
	if err != nil {
		return fmt.Errorf("%w; start the daemon first", err)
	}
	if running {
		return fmt.Errorf("module %s is running but the daemon is not: start the daemon first", am)
	}
	return nil
}

// allQuiet is quiet for every module.
func (a *App) allQuiet() error {
	ms, err := a.paths.Installed()
	if err != nil {
		return err
	}
	for _, m := range ms {
		if err := a.quiet(m.Name); err != nil {
			return err
		}
	}
	return nil
}

// stopped refuses a command that is for stopped modules before anything of it is done.
func (a *App) stopped(c *cli.Context, am string) error {
	m, err := a.client.Module(c.Context, am)
	switch {
	case errors.Is(err, web.ErrNoDaemon):
		return a.quiet(am)
	case err != nil:
		return err
	case m.Configured && m.State.Role != ha.RoleStop:
		return fmt.Errorf("refused: module %s is %s: stop it first", am, stateText(m.State.Role, m.State.Colour))
	}
	return nil
}

func (a *App) config(c *cli.Context, am string) error {
	var done web.Configured
	err := a.viaDaemon(func() (err error) {
		done, err = a.client.Configure(c.Context, am)
		return err
	}, func() error {
		if err := a.quiet(am); err != nil {
			return err
		}
		cluster, err := a.paths.LoadCluster()
		if err != nil {
			return err
		}
		active, err := a.paths.Apply(am, cluster, time.Now(), nil)
		if err != nil {
			return err
		}
		for _, w := range active.Module.Warnings {
			done.Warnings = append(done.Warnings, w.String())
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.warn(done.Warnings)
	a.warnMissing(am)
	if err := a.moduleScript(c, am, "config"); err != nil {
		return fmt.Errorf("the configuration is applied, but %w", err)
	}
	a.printf("Module %s is configured\n", am)
	return nil
}

func (a *App) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(a.err, "Warning: "+w)
	}
}

// warnMissing names the replicated directories that are not there yet.
func (a *App) warnMissing(am string) {
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return
	}
	active, err := a.paths.Active(am, cluster)
	if err != nil || active.Module.RFS == nil {
		return
	}
	for _, d := range active.Module.RFS.Replicated {
		if st, err := os.Stat(d.Dir); err != nil || !st.IsDir() {
			a.warn([]string{fmt.Sprintf("replicated directory %s is not there: make it before the module is started", d.Dir)})
		}
	}
}

func (a *App) confcheck(c *cli.Context, am string) error {
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return err
	}
	m, err := a.paths.Check(am, cluster)
	if err != nil {
		return err
	}
	for _, w := range m.Warnings {
		a.warn([]string{w.String()})
	}
	// The script that belongs to what is checked, not to what is active.
	if err := a.runScript(c, am, filepath.Join(a.paths.ModuleDir(am), "bin/confcheck")); err != nil {
		return err
	}
	a.printf("The configuration of module %s is correct\n", am)
	return nil
}

func (a *App) confinfo(c *cli.Context, am string) error {
	i, err := a.paths.Info(am)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(i)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Configuration\tSignature\tDate")
	if i.Active != "" {
		fmt.Fprintf(w, "active\t%s\t%d\n", i.Active, i.ActiveDate.Unix())
	} else {
		fmt.Fprintln(w, "active\tnone\t0")
	}
	fmt.Fprintf(w, "current\t%s\t%d\n", i.Current, i.CurrentDate.Unix())
	return w.Flush()
}

func (a *App) deconfig(c *cli.Context, am string) error {
	if _, err := a.paths.ModuleID(am); err != nil {
		return err
	}
	if err := a.stopped(c, am); err != nil {
		return err
	}
	if err := a.moduleScript(c, am, "deconfig"); err != nil {
		return err
	}
	return a.viaDaemon(func() error { return a.client.Deconfigure(c.Context, am) }, func() error {
		if err := a.quiet(am); err != nil {
			return err
		}
		return a.paths.Deconfigure(am)
	})
}

func (a *App) moduleCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "install", Usage: "install a .safe package", ArgsUsage: "[AM.safe]",
			Description: "The package is a file, or the name of one in SAFE/Application_Modules; without it, AM.safe there.",
			Flags: []cli.Flag{
				flagM(),
				&cli.IntFlag{Name: "M", Usage: "the module's `ID`, which gives its ports: the same on all its nodes"},
				&cli.BoolFlag{Name: "r", Usage: "replace the module if it is installed"},
			},
			Action: a.install,
		},
		{
			Name: "uninstall", Usage: "remove a module",
			Flags: []cli.Flag{flagM()},
			Action: func(c *cli.Context) error {
				am, err := onlyModule(c)
				if err != nil {
					return err
				}
				if _, err := a.paths.ModuleID(am); err != nil {
					return err
				}
				if err := a.stopped(c, am); err != nil {
					return err
				}
				if err := a.moduleScript(c, am, "deconfig"); err != nil {
					return err
				}
				return a.viaDaemon(func() error { return a.client.Uninstall(c.Context, am) }, func() error {
					if err := a.quiet(am); err != nil {
						return err
					}
					return a.paths.Uninstall(am)
				})
			},
		},
		{
			Name: "list", Usage: "list the installed modules",
			Flags:  []cli.Flag{flagJSON()},
			Action: func(c *cli.Context) error { return a.list(c, func(m conf.Installed) string { return m.Name }) },
		},
		{
			Name: "listid", Usage: "list the installed modules with their ids",
			Flags: []cli.Flag{flagJSON()},
			Action: func(c *cli.Context) error {
				return a.list(c, func(m conf.Installed) string { return fmt.Sprintf("%s %d", m.Name, m.ID) })
			},
		},
		{
			Name: "package", Usage: "make a .safe package of a module", ArgsUsage: "/absolute/path.safe",
			Flags: []cli.Flag{flagM()},
			Action: func(c *cli.Context) error {
				am, err := module(c)
				if err != nil {
					return err
				}
				if c.NArg() != 1 || !filepath.IsAbs(c.Args().First()) {
					return usage("module package: expected the absolute path of the package to write")
				}
				return a.paths.Package(am, c.Args().First())
			},
		},
		{
			Name: "getports", Usage: "list the ports that a module uses between servers",
			Flags: []cli.Flag{
				flagM(), flagJSON(),
				&cli.StringFlag{Name: "i", Usage: "instead of a module: the `ID` that one has or will have"},
			},
			Action: a.getports,
		},
	}
}

func (a *App) install(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage("module install: one package at a time")
	}
	am, file := c.String("m"), c.Args().First()
	if am == "" && file != "" {
		am = strings.TrimSuffix(filepath.Base(file), ".safe")
	}
	if am == "" {
		_, err := module(c)
		return err
	}
	if c.IsSet("M") && (c.Int("M") < 1 || c.Int("M") > conf.MaxID) {
		return usage("-M %d: expected a module id from 1 to %d", c.Int("M"), conf.MaxID)
	}
	if file == "" {
		file = am + ".safe"
	}
	if err := packaging.WriteTemplates(a.paths.Templates()); err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil && !strings.Contains(file, "/") {
		file = filepath.Join(a.paths.Templates(), file)
	}
	id, err := a.paths.Install(am, file, conf.InstallOptions{ID: c.Int("M"), Replace: c.Bool("r")})
	if errors.Is(err, conf.ErrInstalled) {
		return fmt.Errorf("%w: use -r to replace it", err)
	}
	if err != nil {
		return err
	}
	a.printf("Module %s is installed with id %d in %s\n", am, id, a.paths.ModuleDir(am))
	return nil
}

func (a *App) list(c *cli.Context, line func(conf.Installed) string) error {
	if err := noArgs(c); err != nil {
		return err
	}
	ms, err := a.paths.Installed()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(ms)
	}
	for _, m := range ms {
		a.printf("%s\n", line(m))
	}
	return nil
}

func (a *App) getports(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cluster, err := a.paths.LoadCluster()
	if err != nil && !errors.Is(err, conf.ErrNoCluster) {
		return err
	}
	var m *conf.Module
	id := 0
	if c.IsSet("i") {
		var err error
		if id, err = strconv.Atoi(c.String("i")); err != nil || id < 1 || id > conf.MaxID {
			return usage("-i %s: expected a module id from 1 to %d", c.String("i"), conf.MaxID)
		}
	} else {
		am, err := module(c)
		if err != nil {
			return err
		}
		if id, err = a.paths.ModuleID(am); err != nil {
			return err
		}
		if cluster != nil {
			active, err := a.paths.Active(am, cluster)
			switch {
			case err == nil:
				m = active.Module
			case !errors.Is(err, conf.ErrNotConfigured):
				return err
			}
		}
	}
	if c.Bool("json") {
		return a.printJSON(conf.PortsOf(id))
	}
	return conf.WritePorts(a.out, cluster, m, id)
}

func (a *App) clusterCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "config", Usage: "apply a cluster.xml or cluster.zip", ArgsUsage: "[cluster.xml|cluster.zip] [lock|unlock]",
			Description: "A cluster.xml, or no file, makes a new key. cluster.zip holds cluster.xml and key; SAFEVAR/cluster/cluster.zip is for the other nodes.",
			Action:      a.clusterConfig,
		},
		{Name: "genkey", Usage: "make a new key for what the nodes send each other", Action: func(c *cli.Context) error { return a.stageKey(c, conf.NewClusterKey()) }},
		{Name: "delkey", Usage: "let the nodes talk without a key", Action: func(c *cli.Context) error { return a.stageKey(c, conf.ClusterKey{}) }},
		{
			Name: "confcheck", Usage: "check a cluster.xml without applying it", ArgsUsage: "cluster.xml",
			Action: func(c *cli.Context) error {
				if c.NArg() != 1 {
					return usage("cluster confcheck: which file?")
				}
				if _, err := conf.ReadCluster(c.Args().First()); err != nil {
					return err
				}
				a.printf("%s is correct\n", c.Args().First())
				return nil
			},
		},
		{
			Name: "confinfo", Usage: "show the signature and date of the cluster's configuration on the nodes that are up",
			Flags:  []cli.Flag{flagJSON()},
			Action: a.clusterInfo,
		},
		{
			Name: "deconfig", Usage: "take the cluster's configuration away",
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				return a.viaDaemon(func() error { return a.client.DropCluster(c.Context) }, func() error {
					if err := a.allQuiet(); err != nil {
						return err
					}
					return a.paths.DropCluster()
				})
			},
		},
		{
			Name: "state", Usage: "show which nodes are up, and the configuration of every module on each",
			Flags:  []cli.Flag{flagJSON()},
			Action: a.clusterState,
		},
	}
}

func (a *App) clusterConfig(c *cli.Context) error {
	cc := web.ClusterConfig{}
	for _, arg := range c.Args().Slice() {
		switch {
		case arg == "lock":
			cc.Lock = conf.Lock
		case arg == "unlock":
			cc.Lock = conf.Unlock
		case cc.File != "":
			return usage("cluster config: expected one file, and lock or unlock; got %q after %q", arg, cc.File)
		default:
			var err error
			if cc.File, err = filepath.Abs(arg); err != nil {
				return err
			}
			if cc.Data, err = os.ReadFile(arg); err != nil {
				return err
			}
			if len(cc.Data) == 0 {
				return fmt.Errorf("%s is empty: expected a cluster.xml or cluster.zip", arg)
			}
		}
	}
	var done web.Configured
	err := a.viaDaemon(func() (err error) {
		done, err = a.client.ConfigureCluster(c.Context, cc)
		return err
	}, func() error {
		_, err := a.paths.ApplyCluster(cc.File, cc.Data, cc.Lock)
		return err
	})
	if err != nil {
		return err
	}
	a.warn(done.Warnings)
	if cc.Lock != conf.KeepLock && cc.File == "" {
		return nil
	}
	a.printf("The cluster is configured: apply %s on every other node\n", a.paths.ClusterZip())
	return nil
}

// stageKey makes cluster.zip with another key.
func (a *App) stageKey(c *cli.Context, k conf.ClusterKey) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if err := a.paths.StageClusterKey(k); err != nil {
		return err
	}
	a.printf("It takes effect with \"cluster config %s\", on every node\n", a.paths.ClusterZip())
	return nil
}

// nodeName is that of this node as the daemon knows it, "-" without a daemon.
func (a *App) nodeName(c *cli.Context) string {
	if n, err := a.client.Node(c.Context); err == nil && n.Name != "" {
		return n.Name
	}
	return "-"
}

func (a *App) clusterInfo(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	i, err := a.paths.ClusterInfo()
	if err != nil {
		return err
	}
	type row struct {
		Node      string
		Signature conf.Signature
		Date      time.Time
		Lock      int
	}
	lock := map[bool]int{false: 0, true: 1}
	own := a.nodeName(c)
	rows := []row{{own, i.Signature, i.Date, lock[i.Locked]}}
	nodes, err := a.client.Nodes(c.Context)
	if err != nil && !errors.Is(err, web.ErrNoDaemon) {
		return err
	}
	for _, n := range nodes { // the active ones: what the others had is no news
		if n.Up && n.Name != own && n.Cluster.Signature != "" {
			rows = append(rows, row{n.Name, n.Cluster.Signature, n.Cluster.Date, lock[n.Cluster.Locked]})
		}
	}
	if c.Bool("json") {
		return a.printJSON(rows)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Node\tSignature\tDate\tLock")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", r.Node, r.Signature, r.Date.Local().Format("2006-01-02T15:04:05"), r.Lock)
	}
	return w.Flush()
}

func (a *App) clusterState(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return err
	}
	ms, err := a.paths.Installed()
	if err != nil {
		return err
	}
	type row struct {
		Node, Module, Mode string
		ID                 int
		Date               string
		Signature          conf.Signature
		State              string // of the node: up, down, or unknown
	}
	rows := []row{}
	add := func(node, state string, name string, id int, mode conf.Mode, date time.Time, signature conf.Signature) {
		r := row{node, name, "-", id, "-", "-", state}
		if mode != "" {
			r.Mode, r.Date, r.Signature = string(mode), date.Local().Format("2006-01-02T15:04:05"), signature
		}
		rows = append(rows, r)
	}
	// What the others have is known by the daemon, from what they say of themselves.
	own := a.nodeName(c)
	nodes, err := a.client.Nodes(c.Context)
	if err != nil && !errors.Is(err, web.ErrNoDaemon) {
		return err
	}
	for _, m := range ms {
		active, err := a.paths.Active(m.Name, cluster)
		switch {
		case err == nil:
			add(own, "up", m.Name, m.ID, active.Module.Mode, active.Date, active.Signature)
			continue
		case !errors.Is(err, conf.ErrNotConfigured):
			a.warn([]string{err.Error()})
		}
		add(own, "up", m.Name, m.ID, "", time.Time{}, "")
	}
	for _, n := range nodes {
		state := "down"
		if n.Up {
			state = "up"
		}
		switch {
		case n.Name == own:
		case len(n.Modules) == 0:
			add(n.Name, state, "-", 0, "", time.Time{}, "")
		}
		for _, m := range n.Modules {
			if n.Name != own {
				add(n.Name, state, m.Name, m.ID, m.Mode, m.Date, m.Signature)
			}
		}
	}
	if c.Bool("json") {
		return a.printJSON(rows)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Node\tModule\tMode\tId\tDate\tSignature\tState")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.Node, r.Module, r.Mode, r.ID, r.Date, r.Signature, r.State)
	}
	return w.Flush()
}
