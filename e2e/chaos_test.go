package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// a chaos is a pair with an application under load, to which faults happen.
type chaos struct {
	*pair.Pair
	t     *testing.T
	kind  string // of the store
	notes string
	next  uint64 // entry to ask for next
	load  *ledger.Load
	rnd   *rand.Rand
	addrs []string      // where the application answers; nil: on the hosts' own addresses
	rest  time.Duration // of a client after each entry

	postgres bool // the application is PostgreSQL
}

// dataDir is where the application keeps its entries.
const dataDir = "/replicated"

func newChaos(t *testing.T, kind, async string) *chaos {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start, stop := ledger.Scripts([]string{exe}, kind, dataDir)
	seed := randomSeed(t)
	p := started(t, pair.Config{Async: async, StartPrim: start, StopPrim: stop, TimeoutMs: 1000})
	return &chaos{Pair: p, t: t, kind: kind, notes: filepath.Join(p.Lab.Dir(), "acknowledged"), next: 1, rnd: rand.New(rand.NewPCG(seed, 1))}
}

// begin starts the load.
func (c *chaos) begin() {
	c.t.Helper()
	within(c.t, patience, func(ctx context.Context) (err error) {
		addrs := c.addrs
		if addrs == nil {
			for _, n := range c.Nodes {
				addrs = append(addrs, c.addr(n))
			}
		}
		c.load, err = ledger.StartLoad(ctx, c.Client, ledger.DriveSpec{Addrs: addrs, Notes: c.notes, Workers: 4, First: c.next, Pause: c.rest, Postgres: c.postgres})
		return err
	})
}

// addr is where the application of a host answers.
func (c *chaos) addr(n *pair.Node) string {
	port := ledger.Port
	if c.postgres {
		port = ledger.PostgresPort
	}
	return net.JoinHostPort(n.Addr("default").String(), port)
}

// stop stops the load.
func (c *chaos) stop() ledger.Summary {
	c.t.Helper()
	summary, err := c.load.Stop()
	if err != nil {
		c.t.Fatal(err)
	}
	c.next = summary.Asked + 1
	return summary
}

// end stops the load, and then everything acknowledged must be there and both
// hosts must have the same on disk.
func (c *chaos) end() ledger.Summary {
	c.t.Helper()
	summary := c.stop()
	if v := c.check(); !v.OK() {
		c.t.Fatalf("acknowledged entries are lost: %v", v)
	}
	same(c.t, c.Pair)
	return summary
}

// check looks on the primary for everything that was acknowledged.
func (c *chaos) check() (v ledger.Verdict) {
	c.t.Helper()
	prim := c.primary()
	within(c.t, patience, func(ctx context.Context) (err error) {
		v, err = ledger.CheckOn(ctx, prim.Host, c.kind, dataDir, c.notes)
		return err
	})
	return v
}

// purge deletes what the load has left behind, through the mount, so that a long
// run does not become a test of comparing files.
func (c *chaos) purge() {
	c.t.Helper()
	within(c.t, patience, func(ctx context.Context) error {
		out, err := c.primary().Host.Run(ctx, "sh", "-ec", "find "+dataDir+"/made -type f -delete; truncate -s 0 "+dataDir+"/log?")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	if err := os.Remove(c.notes); err != nil {
		c.t.Fatal(err)
	}
}

// primary returns the host that is PRIM.
func (c *chaos) primary() *pair.Node {
	c.t.Helper()
	for _, n := range c.Nodes {
		if s, err := n.State(c.t.Context()); err == nil && s.State == "PRIM green" {
			return n
		}
	}
	c.t.Fatal("no host is PRIM green")
	return nil
}

// recover does what an administrator does after a fault: switches on what is off,
// starts what has stopped. It returns when the hosts are PRIM and SECOND, green.
func (c *chaos) recover() {
	c.t.Helper()
	within(c.t, patience, func(ctx context.Context) error {
		poll := time.NewTicker(50 * time.Millisecond)
		defer poll.Stop()
		for {
			var states []string
			for _, n := range c.Nodes {
				s, err := c.revive(ctx, n)
				if err != nil {
					return err
				}
				states = append(states, s)
			}
			if all := strings.Join(states, ", "); all == "PRIM green, SECOND green" || all == "SECOND green, PRIM green" {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the hosts stay %v", states)
			case <-poll.C:
			}
		}
	})
}

// revive starts what of the host does not run, and returns its state.
func (c *chaos) revive(ctx context.Context, n *pair.Node) (string, error) {
	if !n.On() {
		if err := n.BootNode(ctx); err != nil {
			return "", err
		}
	}
	if !n.HasDaemon() {
		if err := n.StartDaemon(ctx); err != nil {
			return "", err
		}
	}
	s, err := n.State(ctx)
	switch {
	case err != nil:
	case s.State == "STOP red":
		err = n.Do(ctx, "start")
	case s.State == "ALONE green" && s.Degraded: // it serves, and waits to be told when it may stop to replicate again
		err = n.Do(ctx, "stopstart")
	}
	return s.State, err
}

// fault is something that happens to a host. When do returns, the cause is over
// and the hosts have noticed it as far as they can.
type fault struct {
	name string
	do   func(c *chaos, victim *pair.Node, role string) error
}

// outage is how long what is cut or off stays so: sometimes shorter than the
// heartbeat timeout, sometimes longer.
func (c *chaos) outage() { time.Sleep(time.Duration(100+c.rnd.IntN(2400)) * time.Millisecond) }

var faults = []fault{
	{"daemon killed", func(c *chaos, v *pair.Node, _ string) error { return v.KillDaemon() }},
	{"replica killed", func(c *chaos, v *pair.Node, role string) error {
		ctx, stop := context.WithTimeout(c.t.Context(), patience)
		defer stop()
		mark, err := v.Mark(ctx)
		if err != nil {
			return err
		}
		all, err := v.Replicas()
		if err != nil || len(all) != 1 {
			return fmt.Errorf("%d replicas, %w", len(all), err)
		}
		if err := all[0].Kill(); err != nil {
			return err
		}
		if role == "PRIM" {
			return v.AwaitLog(ctx, mark, "Script stop_prim", "Resource rfs.degraded set to up by nfsadmin", "Script start_prim", "Local state ALONE green")
		}
		return v.AwaitLog(ctx, mark, "Action stopstart called by")
	}},
	{"power off", func(c *chaos, v *pair.Node, _ string) error {
		err := v.PowerOff()
		c.outage()
		return err
	}},
	{"all processes killed", func(c *chaos, v *pair.Node, _ string) error {
		err := v.Kill()
		c.outage()
		return err
	}},
	{"replication cable pulled", func(c *chaos, v *pair.Node, _ string) error {
		if err := v.LinkDown("repli"); err != nil {
			return err
		}
		c.outage()
		return v.LinkUp("repli")
	}},
	{"replication lost one way", func(c *chaos, v *pair.Node, _ string) error {
		if err := c.Lab.Drop(v.Host, v.Peer().Host, "repli", true); err != nil {
			return err
		}
		c.outage()
		return c.Lab.Drop(v.Host, v.Peer().Host, "repli", false)
	}},
}

// Faults hit either host under load: nothing acknowledged is lost, both hosts end
// up with the same, and nothing waits for ever.
func TestChaos(t *testing.T) {
	rounds := rounds(t, 5, 100)
	for _, async := range []string{"second", "none"} {
		t.Run("async="+async, func(t *testing.T) {
			c := newChaos(t, "files", async)
			order := c.rnd.Perm(len(faults) * 2)
			for round := range rounds {
				if round > 0 && round%len(order) == 0 {
					order = c.rnd.Perm(len(faults) * 2)
				}
				pick := order[round%len(order)] // every fault comes to both roles before one comes again
				c.begin()
				victim, role := c.primary(), "PRIM"
				if pick%2 == 1 {
					victim, role = victim.Peer(), "SECOND"
				}
				f := faults[pick/2]
				begun := time.Now()
				if err := f.do(c, victim, role); err != nil {
					t.Fatalf("round %d: %s on %s: %v", round, f.name, role, err)
				}
				c.recover()
				s := c.end()
				if round%10 == 9 {
					c.purge()
				}
				t.Logf("round %d: %s on %s (%s): %d acknowledged, gap %v, whole again after %v", round, f.name, role, victim.Name(), s.Acked, s.Gap.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
			}
			c.nothingLeft()
		})
	}
}

// gone waits for the last processes of a stopped module to end.
func gone(ctx context.Context, n *pair.Node) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		left, err := n.Leftovers()
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("on %s is left: %v", n.Name(), left)
		case <-poll.C:
		}
	}
}

// nothingLeft stops the module on both hosts: nothing of it may run or be mounted
// then.
func (c *chaos) nothingLeft() {
	c.t.Helper()
	prim := c.primary()
	for _, n := range []*pair.Node{prim.Peer(), prim} {
		within(c.t, patience, func(ctx context.Context) error {
			if err := n.Do(ctx, "stop"); err != nil {
				return err
			}
			if err := n.Await(ctx, "STOP"); err != nil {
				return err
			}
			return gone(ctx, n)
		})
	}
}

// A hang of the whole host is a loss for the other, and the one that wakes up
// must not believe that it is still primary.
func TestPaused(t *testing.T) {
	for _, role := range []string{"PRIM", "SECOND"} {
		t.Run(role, func(t *testing.T) {
			c := newChaos(t, "files", "second")
			c.begin()
			victim := c.primary()
			if role == "SECOND" {
				victim = victim.Peer()
			}
			if err := victim.Pause(); err != nil {
				t.Fatal(err)
			}
			within(t, patience, func(ctx context.Context) error { return victim.Peer().Await(ctx, "ALONE") })
			if err := victim.Resume(); err != nil {
				t.Fatal(err)
			}
			c.recover()
			if got := c.primary(); got != victim.Peer() {
				t.Errorf("%s is PRIM, expected the host that was not paused", got.Name())
			}
			c.end()
		})
	}
}
