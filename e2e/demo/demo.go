package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
	"github.com/skfs/skfs/e2e/tree"
)

// Options of a demonstration.
type Options struct {
	Skfs   string    // the binary, which calls lab.Main(Roles()) when it is run with Helper
	Helper []string  // arguments
	Source string    // the tree to copy
	Keep   bool      // leave the hosts up
	Out    io.Writer // what is shown
}

// Roles are the helper processes of a demonstration, for lab.Main.
func Roles() map[string]lab.Role { return ledger.Roles() }

const (
	replicated = "/replicated"
	workers    = 4               // of the client
	settling   = 2 * time.Second // of load before and after the loss of the primary
	stepLimit  = 60 * time.Second
)

// demo is one demonstration.
type demo struct {
	Options
	start time.Time
	pair  *pair.Pair
	notes string // what was acknowledged, outside of the hosts

	copied    copied
	gap       time.Duration
	takeover  time.Duration
	verdict   ledger.Verdict
	compared  *tree.Result
	copiedRei string // the statistics of the reintegration, from the log
}

// Run shows the demonstration. It fails when anything is not as it should be.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{Options: o, start: time.Now()}
	if removed, err := lab.Sweep("", false); err != nil {
		return err
	} else if len(removed) > 0 {
		d.say("removed what an earlier run left: %s", strings.Join(removed, ", "))
	}
	d.say("making two hosts and a client, each with skfs's own directories and disks")
	start, stop := ledger.Scripts(append([]string{o.Skfs}, o.Helper...), "sql", replicated)
	err = d.step(ctx, func(ctx context.Context) error {
		d.pair, err = pair.New(ctx, pair.Options{
			Skfs:   o.Skfs,
			Lab:    lab.Options{HelperArgs: o.Helper},
			Config: pair.Config{Dirs: []string{replicated}, StartPrim: start, StopPrim: stop, TimeoutMs: 2500},
		})
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if !o.Keep {
			d.say("removing the hosts and their disks")
		}
		err = errors.Join(err, d.pair.Close())
	}()
	d.notes = filepath.Join(d.pair.Lab.Dir(), "acknowledged")
	if err := d.play(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.pair.Logs())
	}
	d.figures()
	if o.Keep {
		return d.keep()
	}
	return nil
}

// say shows a line of progress.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "%6.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) step(ctx context.Context, do func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, stepLimit)
	defer stop()
	return do(ctx)
}

func (d *demo) play(ctx context.Context) error {
	first, second := d.pair.Nodes[0], d.pair.Nodes[1]
	d.say("starting the mirror module on both")
	if err := d.step(ctx, d.pair.Start); err != nil {
		return err
	}
	d.say("node1 is PRIM (green), node2 is SECOND (green)")

	var load *ledger.Load
	err := d.step(ctx, func(ctx context.Context) (err error) {
		load, err = ledger.StartLoad(ctx, d.pair.Client, ledger.DriveSpec{
			Addrs: d.addrs(), Notes: d.notes, Workers: workers, First: 1,
		})
		return err
	})
	if err != nil {
		return err
	}
	d.say("the client inserts rows into an SQLite database on the primary, and notes each acknowledged one")

	if err := d.copySource(ctx); err != nil {
		return err
	}
	if err := d.rest(ctx, settling); err != nil {
		return err
	}
	d.say("power off: node1 is gone in the middle of its transactions")
	lost := time.Now()
	if err := first.PowerOff(); err != nil {
		return err
	}
	if err := d.step(ctx, func(ctx context.Context) error { return second.Await(ctx, "ALONE") }); err != nil {
		return err
	}
	d.takeover = time.Since(lost)
	d.say("node2 is ALONE (green) and runs the application, %.1f s after the loss", d.takeover.Seconds())
	if err := d.rest(ctx, settling); err != nil {
		return err
	}
	if err := d.comesBack(ctx, first); err != nil {
		return err
	}
	if err := d.rest(ctx, settling); err != nil {
		return err
	}
	summary, err := load.Stop()
	if err != nil {
		return err
	}
	d.gap = summary.Gap
	d.say("the client stops; looking for every acknowledged row")
	if err := d.step(ctx, func(ctx context.Context) (err error) {
		d.verdict, err = ledger.CheckOn(ctx, second.Host, "sql", replicated, d.notes)
		return err
	}); err != nil {
		return err
	}
	if !d.verdict.OK() || d.verdict.Noted == 0 {
		return fmt.Errorf("rows are lost: %v", d.verdict)
	}
	d.say("the database is sound: %v", d.verdict)
	return d.compare(ctx)
}

func (d *demo) addrs() []string {
	var all []string
	for _, n := range d.pair.Nodes {
		all = append(all, n.Addr("default").String()+":"+ledger.Port)
	}
	return all
}

// rest lets the load run for a while.
func (d *demo) rest(ctx context.Context, for_ time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(for_):
		return nil
	}
}

// copySource copies the source tree into the replicated directory of node1.
func (d *demo) copySource(ctx context.Context) error {
	d.say("copying %s into %s", d.Source, replicated)
	begun := time.Now()
	err := d.showing(func() string {
		return fmt.Sprintf("  copied %d files, %d MB", d.copied.files.Load(), d.copied.bytes.Load()/1e6)
	}, func() error {
		return copyTree(ctx, d.Source, filepath.Join(d.pair.Nodes[0].Path(replicated), "src"), &d.copied)
	})
	if err != nil {
		return err
	}
	n, t := d.copied.files.Load(), time.Since(begun).Seconds()
	d.say("copied %d files, %.1f MB in %.1f s: %.0f files/s, each on both hosts before the call returned", n, float64(d.copied.bytes.Load())/1e6, t, float64(n)/t)
	return nil
}

// showing does something, and shows a line every second meanwhile.
func (d *demo) showing(line func() string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			d.say("%s", line())
		}
	}
}

// comesBack switches the first host on and waits until it is SECOND again.
func (d *demo) comesBack(ctx context.Context, n *pair.Node) error {
	d.say("node1 is switched on again, while the client goes on")
	return d.step(ctx, func(ctx context.Context) error {
		if err := n.BootNode(ctx); err != nil {
			return err
		}
		mark, err := n.Mark(ctx)
		if err != nil {
			return err
		}
		if err := n.Do(ctx, "start"); err != nil {
			return err
		}
		err = d.showing(func() string { return "  node1 is brought up to date" }, func() error {
			return n.AwaitLog(ctx, mark, "Reintegration ended", "Local state SECOND green")
		})
		if err != nil {
			return err
		}
		if d.copiedRei, err = n.Logged(ctx, mark, "Copied "); err != nil {
			return err
		}
		d.say("node1 is SECOND (green)")
		return nil
	})
}

// compare compares the copy with its source, and both hosts with each other.
func (d *demo) compare(ctx context.Context) error {
	d.say("comparing both hosts' disks: content, names, modes, owners, times, xattrs, links, holes")
	r, err := d.pair.Settled(ctx)
	if err != nil {
		return err
	}
	if !r.Equal() {
		return fmt.Errorf("the hosts differ: %v", r)
	}
	d.compared = r
	copy, err := d.pair.Nodes[1].Backing(replicated + "/src")
	if err != nil {
		return err
	}
	if r, err = tree.Compare(ctx, d.Source, copy, tree.Options{}); err != nil {
		return err
	}
	if !r.Equal() {
		return fmt.Errorf("the copy differs from %s: %v", d.Source, r)
	}
	return nil
}

func (d *demo) figures() {
	fmt.Fprintf(d.Out, `
  files on each host           %d in %d directories, %.1f MB: identical on both
  rows acknowledged            %d, of which missing: %d
  takeover                     %.1f s after the loss of the primary (heartbeat timeout 2.5 s)
  longest gap for the client   %.1f s
  at the return of node1       %s

`, d.compared.Files, d.compared.Directories, float64(d.compared.Bytes)/1e6, d.verdict.Noted, len(d.verdict.Missing),
		d.takeover.Seconds(), d.gap.Seconds(), d.copiedRei)
}

// keep leaves the hosts up and says how to look at them.
func (d *demo) keep() error {
	if err := d.pair.Lab.Keep(); err != nil {
		return err
	}
	fmt.Fprintf(d.Out, "\nThe hosts stay up. To look at them:\n\n")
	for _, h := range d.pair.Nodes {
		fmt.Fprintf(d.Out, "  nsenter -t %d -m -u -i -n -p env SAFE=/opt/skfs SAFEVAR=/var/lib/skfs PATH=/opt/skfs:$PATH sh    # %s\n", h.PID(), h.Name())
	}
	fmt.Fprintf(d.Out, `
and there, for instance

  skfs state -v -m %s
  skfs logview -m %s -I
  skfs swap -m %s
  ls %s

To remove them:

  %s demo --clean
`, pair.Module, pair.Module, pair.Module, replicated, d.Skfs)
	return nil
}
