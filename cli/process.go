package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/replica"
	"github.com/skfs/skfs/web"
)

// processCommands are the processes of skfs and what acts on all modules (§9.2).
func (a *App) processCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "daemon", Usage: "run the daemon of this node, in the foreground",
			Flags:  []cli.Flag{flagNode()},
			Action: a.daemon,
		},
		{
			Name: "replica", Usage: "own the data of a module; the daemon starts this process", Hidden: true,
			Flags: []cli.Flag{
				flagM(), flagNode(),
				&cli.BoolFlag{Name: "degraded", Usage: "without replication"},
			},
			Action: a.replica,
		},
		{
			Name: "shutdown", Usage: "stop all modules",
			Flags: []cli.Flag{flagTimeout(),
				&cli.StringFlag{Name: "unit", Usage: "only if systemd stops `NAME`, and not if it restarts it; called by that unit", Hidden: true}},
			Action: a.shutdown,
		},
		{
			Name: "boot", Usage: "set or show whether modules start with the node", ArgsUsage: "[on|off|status]",
			Flags:  []cli.Flag{flagM(), flagJSON()},
			Action: a.boot,
		},
		demoCommand(),
	}
}

func flagNode() cli.Flag {
	return &cli.StringFlag{Name: "node", Usage: "the `NAME` of this node in cluster.xml (default: the node with a local address)", EnvVars: []string{"SKFS_NODE"}}
}

// lockDaemon takes the lock that a daemon holds while it lives.
func lockDaemon(p conf.Paths) (unlock func(), err error) {
	if err := os.MkdirAll(p.SafeVar, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p.DaemonLock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("a daemon with SAFEVAR=%s is running already, or a configuration is just being changed", p.SafeVar)
		}
		return nil, fmt.Errorf("lock %s: %w", p.DaemonLock(), err)
	}
	return func() { f.Close() }, nil
}

// replica is the process that owns the data of a module. It is told to end over
// its socket; SIGTERM, which nobody sends it in order, ends it as a crash would,
// only that it unmounts.
func (a *App) replica(c *cli.Context) error {
	am, err := module(c)
	if err != nil {
		return err
	}
	configured := func() (replica.Dynamic, string, error) { return a.replicaConf(am, c.String("node")) }
	now, node, err := configured()
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGHUP)
	return replica.Run(c.Context, replica.Config{
		Module:   am,
		Node:     node,
		RFS:      now.RFS,
		Listen:   now.Listen,
		Reload:   func() (replica.Dynamic, error) { d, _, err := configured(); return d, err },
		Socket:   a.paths.ReplicaSocket(am),
		StateDir: a.paths.UserVar(am),
		Degraded: c.Bool("degraded"),
	})
}

// replicaConf is what the configuration in force says to a replica, and the name of this
// node.
func (a *App) replicaConf(am, name string) (d replica.Dynamic, node string, err error) {
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return d, "", err
	}
	active, err := a.paths.Active(am, cluster)
	if err != nil {
		return d, "", err
	}
	if d.RFS = active.Module.RFS; d.RFS == nil {
		return d, "", fmt.Errorf("module %s replicates nothing", am)
	}
	if node, err = cluster.LocalNode(name); err != nil {
		return d, "", err
	}
	d.Listen, err = listenAddresses(cluster, d.RFS.Flow, node, conf.PortsOf(active.ID).RFS)
	return d, node, err
}

// shutdown stops all modules and waits until they have.
func (a *App) shutdown(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	ctx := c.Context
	if limit := c.Duration("timeout"); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if unit := c.String("unit"); unit != "" {
		stops, err := unitStops(ctx, unit)
		if err != nil {
			a.warn([]string{fmt.Sprintf("%v: modules are stopped", err)})
		} else if !stops {
			return nil
		}
	}
	ms, err := a.client.Modules(ctx)
	if err != nil {
		return err
	}
	// All at once: a module that takes its time holds up no other.
	var g errgroup.Group
	for _, m := range ms {
		if m.Configured && m.State.Role != ha.RoleStop {
			g.Go(func() error {
				if err := a.client.Do(ctx, m.Name, web.Command{Name: "shutdown", By: "SYSTEM"}); err != nil {
					return fmt.Errorf("stop %s: %w", m.Name, err)
				}
				_, err := a.awaitState(ctx, m.Name, time.Duration(0), func(s ha.ModuleState) bool { _, ok := stopEnded(s); return ok })
				if err != nil {
					return fmt.Errorf("stop %s: %w", m.Name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// boot sets or shows whether modules start with the node.
func (a *App) boot(c *cli.Context) error {
	what, am := c.Args().First(), c.String("m")
	switch {
	case c.NArg() > 1:
		return usage("boot: expected on, off or status")
	case what == "on" || what == "off":
		if _, err := module(c); err != nil {
			return err
		}
	case slices.Contains([]string{"webon", "weboff", "webstatus", "snmpon", "snmpoff", "snmpstatus"}, what):
		return usage("boot %s is not supported by this version", what)
	case what != "" && what != "status":
		return usage("boot %s: expected on, off or status", what)
	}
	installed, err := a.paths.Installed()
	if err != nil {
		return err
	}
	if am != "" {
		id, err := a.paths.ModuleID(am)
		if err != nil {
			return err
		}
		installed = []conf.Installed{{Name: am, ID: id}}
	}
	if what == "on" || what == "off" {
		if err := a.paths.SetBoot(am, what == "on"); err != nil {
			return err
		}
	}
	cluster, err := a.paths.LoadCluster()
	if err != nil && !errors.Is(err, conf.ErrNoCluster) {
		return err
	}
	status := map[string]conf.Boot{}
	for _, m := range installed {
		status[m.Name], err = a.bootOf(m.Name, cluster)
		if err != nil { // of this one: it hides nothing of the others
			delete(status, m.Name)
			a.warn([]string{err.Error()})
		}
	}
	if what == "on" || what == "off" {
		if status[am] != "" && string(status[am]) != what {
			a.warn([]string{fmt.Sprintf("userconfig.xml of module %s has boot=%q, which counts", am, status[am])})
		}
		return nil
	}
	if c.Bool("json") {
		return a.printJSON(status)
	}
	for _, am := range slices.Sorted(maps.Keys(status)) {
		a.printf("%s %s\n", am, status[am])
	}
	return nil
}

// bootOf is what counts for a module: its configuration, or what the command boot has
// set as long as it has none.
func (a *App) bootOf(am string, cluster *conf.Cluster) (conf.Boot, error) {
	if cluster != nil {
		active, err := a.paths.Active(am, cluster)
		if err == nil {
			return active.Module.Boot, nil
		}
		if !errors.Is(err, conf.ErrNotConfigured) {
			return "", err
		}
	}
	return a.paths.BootSetting(am)
}
