package cli

import (
	"context"
	"errors"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/packaging"
	"github.com/skfs/skfs/web"
)

// daemon runs the supervisor and the local service until SIGTERM. Modules go on
// without it (R1).
func (a *App) daemon(c *cli.Context) (err error) {
	if err := noArgs(c); err != nil {
		return err
	}
	unlock, err := lockDaemon(a.paths)
	if err != nil {
		return err
	}
	defer unlock()
	manager, err := takeManager()
	if err != nil {
		return err
	}
	started := time.Now()
	logger := log.New(a.err, "", log.LstdFlags|log.Lmsgprefix)
	if err := a.prepareNode(); err != nil {
		return err
	}
	node := c.String("node") // "": found by address, each time the cluster's configuration is read
	sup, err := ha.Open(ha.Options{
		Safe: a.paths.Safe, SafeVar: a.paths.SafeVar, Node: node, Launcher: &launcher{a.paths, node},
		Errors: func(text string) { logger.Print(text) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sup.Close()) }()

	nodes := ha.NewNodes(a.paths, node, func(text string) { logger.Print(text) })
	server := web.NewServer(web.Options{
		Nodes:      nodes.List,
		Supervisor: sup,
		Log:        func(am string) (web.Log, error) { return sup.Log(am) },
		Paths:      a.paths,
		Node:       func() web.Node { return a.self(node, started) },
		Errors:     logger,
	})
	listener, err := server.Listen()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(c.Context)
	g.Go(func() error { return sup.Run(ctx) })
	select { // a command that comes earlier waits in the listener
	case <-sup.Running():
	case <-ctx.Done():
	}
	g.Go(func() error { nodes.Run(ctx); return nil })
	g.Go(func() error { return server.Serve(ctx, listener) })
	g.Go(func() error { return manager.watch(ctx, sup) })
	manager.tell(logger, daemon.SdNotifyReady)
	logger.Printf("skfs %s runs, SAFE=%s SAFEVAR=%s", Version, a.paths.Safe, a.paths.SafeVar)
	<-ctx.Done()
	manager.tell(logger, daemon.SdNotifyStopping)
	// Whatever hangs is left as if this process were killed, which is always allowed (R1).
	late := time.AfterFunc(endPatience, func() { logger.Fatalf("it takes longer than %v to end", endPatience) })
	defer late.Stop()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// self describes this node. Its name is "" while it is not known.
func (a *App) self(node string, started time.Time) web.Node {
	n := web.Node{Name: node, Version: Version, PID: os.Getpid(), Started: started, Safe: a.paths.Safe, SafeVar: a.paths.SafeVar}
	if c, err := a.paths.LoadCluster(); err == nil {
		if name, err := c.LocalNode(node); err == nil {
			n.Name = name
		}
	}
	return n
}

// endPatience is how long the daemon may take to end after SIGTERM.
const endPatience = 30 * time.Second

// prepareNode makes the directories of an installation, the templates, SAFE/skfs and
// SAFE/safekit, and the special commands in SAFEBIN, which scripts call.
func (a *App) prepareNode() error {
	for _, dir := range []string{a.paths.Safe, a.paths.SafeBin(), a.paths.Modules(), a.paths.ActiveModules(), a.paths.ModuleVars(), a.paths.Cluster()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := packaging.WriteTemplates(a.paths.Templates()); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	skfs := filepath.Join(a.paths.Safe, "skfs")
	if self != skfs {
		if err := link(self, skfs); err != nil {
			return err
		}
	}
	for name := range a.specials() {
		if err := link("../../skfs", filepath.Join(a.paths.SafeBin(), name)); err != nil {
			return err
		}
	}
	return link("skfs", filepath.Join(a.paths.Safe, "safekit"))
}

// link makes path a symbolic link to target. A file that is no link, somebody's
// installation, is left.
func link(target, path string) error {
	switch old, err := os.Readlink(path); {
	case err == nil && old == target:
		return nil
	case err == nil:
		if err := os.Remove(path); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil
	}
	if err := os.Symlink(target, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
