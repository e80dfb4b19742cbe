package pair

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/skfs/skfs/e2e/lab"
)

// Hosts whose PID 1 is systemd: skfs is installed there, and its daemon is a unit.

const (
	unitDir   = "/etc/systemd/system"
	installed = "/usr/local/bin/skfs"
)

// installUnits waits until the host is up, installs skfs, and returns when the unit runs.
func (n *Node) installUnits(ctx context.Context) error {
	if _, err := n.AwaitBooted(ctx); err != nil {
		return err
	}
	// set -e forgives what stands before && and fails: the lines are used as they are.
	out, err := n.Run(ctx, "sh", "-c", n.install)
	if err == nil {
		err = n.Active(ctx)
	}
	if err != nil {
		return fmt.Errorf("install skfs on %s: %w\n%s\n%s", n.Name(), err, out, n.journal(ctx))
	}
	return nil
}

// Active says why the unit of skfs does not run, nil if it does.
func (n *Node) Active(ctx context.Context) error {
	_, err := n.Run(ctx, "systemctl", "is-active", "skfs.service")
	return err
}

// Reboot waits until the host has gone down by itself, to come up again, and has.
func (n *Node) Reboot(ctx context.Context) error {
	how, err := n.AwaitShutdown(ctx)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, n.journal(context.WithoutCancel(ctx)))
	}
	if how != lab.Rebooted {
		return fmt.Errorf("%s has gone down for a %s, expected a reboot", n.Name(), how)
	}
	if err := n.Boot(); err != nil {
		return err
	}
	if state, err := n.AwaitBooted(ctx); err != nil || state != "running" {
		return fmt.Errorf("%s is %s after a reboot: %w\n%s", n.Name(), state, err, n.journal(ctx))
	}
	return n.Active(ctx)
}

// DaemonPID is the daemon's process number on the machine, as systemd has it.
func (n *Node) DaemonPID() (int, error) {
	all, err := n.Processes()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(all, func(p lab.Process) bool {
		return slices.Equal(p.Args, []string{safe + "/skfs", "daemon"})
	})
	if i < 0 {
		return 0, fmt.Errorf("%s has no daemon", n.Name())
	}
	return all[i].PID, nil
}

// journal is the end of the host's journal.
func (n *Node) journal(ctx context.Context) string {
	out, err := n.Run(ctx, "journalctl", "--no-pager", "-b", "-n", "60", "-o", "short-precise")
	if err != nil {
		out += err.Error()
	}
	return fmt.Sprintf("== %s: journal\n%s\n", n.Name(), strings.TrimSpace(out))
}
