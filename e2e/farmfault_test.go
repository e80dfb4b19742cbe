package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/echo"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// fastFarm is the fast preset of docs/availability.md, and fastLease what it makes of the
// lease of a filter: pulse × the greater count.
const (
	fastFarm  = `<farm pulse="100" mlost_count="10" slost_count="10" draintimeout="10"><lan name="default"/></farm>`
	fastLease = time.Second
)

// answersAfter is how long after its lease a member may still be heard here. The lease
// itself ends a tick of the kernel late at the most; the rest is for a machine that does
// many other things.
const answersAfter = 2 * time.Second

// A member that cannot take part any more: its kernel goes on filtering, or its cable is
// back before it knows of the others, or it is dead. Seen from outside.
func TestFarmFaultsInvisible(t *testing.T) { farmFaults(t, "vmac_invisible") }
func TestFarmFaultsDirected(t *testing.T)  { farmFaults(t, "vmac_directed") }

func farmFaults(t *testing.T, mode string) {
	f := newFarmOf(t, 3, pair.FarmConfig{Farm: fastFarm, VIP: farmVIP(mode)})
	s := farming(t, f)
	for i := range f.Nodes {
		s.do(i, "boot", "on")
	}
	s.start()
	s.asks(all(3)...)
	const victim = 2
	others := []int{0, 1}
	together := func(t *testing.T) *farmers {
		t.Helper()
		s := farming(t, f)
		s.await(victim, "UP")
		for i := range f.Nodes {
			s.shows(i, []string{"34%", "33%", "33%"}[i])
		}
		s.asks(all(3)...)
		for i := range f.Nodes {
			s.mark(i)
		}
		return s
	}
	t.Run("a host is frozen", func(t *testing.T) {
		s := together(t)
		s.silent(mode, victim, f.Nodes[victim].Pause, f.Nodes[victim].Resume)
		together(t)
	})
	t.Run("a daemon is frozen", func(t *testing.T) {
		s := together(t)
		daemon := func(sig unix.Signal) func() error {
			return func() error {
				all, err := f.Nodes[victim].Processes()
				i := slices.IndexFunc(all, func(p lab.Process) bool { return len(p.Args) > 1 && p.Args[1] == "daemon" })
				if i < 0 {
					return errors.Join(errors.New("there is no daemon"), err)
				}
				return unix.Kill(all[i].PID, sig)
			}
		}
		s.silent(mode, victim, daemon(unix.SIGSTOP), daemon(unix.SIGCONT))
		together(t)
	})
	t.Run("a cable is pulled", func(t *testing.T) {
		s := together(t)
		var held *echo.Holding
		within(t, patience, func(ctx context.Context) (err error) {
			held, err = echo.Hold(ctx, f.Client, net.JoinHostPort(farm4, echo.Port), 60, time.Hour)
			return err
		})
		t.Cleanup(held.Kill)
		if err := f.Nodes[victim].LinkDown("default"); err != nil {
			t.Fatal(err)
		}
		s.share(others...)
		s.logged(victim, "no interface with virtual addresses has a carrier")
		time.Sleep(2 * fastLease) // it would miss the others meanwhile
		within(t, patience, func(ctx context.Context) error {
			return f.Nodes[victim].Absent(ctx, s.marks[victim], "farm membership: "+s.names(victim)+" (")
		})
		if err := f.Nodes[victim].LinkUp("default"); err != nil {
			t.Fatal(err)
		}
		together(t)
		result, err := held.End()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d connections, by %v, %d broke", result.Connections, result.By, len(result.Broken))
		for _, b := range result.Broken {
			if b.Server != f.Nodes[victim].Name() {
				t.Errorf("connection of %q to %q, whose cable was not pulled, at %v: %s", b.Client, b.Server, b.At, b.Error)
			}
		}
	})
	t.Run("hosts die", func(t *testing.T) {
		r := rand.New(rand.NewPCG(randomSeed(t), 5))
		worst := time.Duration(0)
		for round := range rounds(t, 1, 10) {
			together(t)
			v, how := victim, f.Nodes[victim].PowerOff
			if round > 0 {
				v = r.IntN(3)
				how = []func() error{f.Nodes[v].PowerOff, f.Nodes[v].Kill}[r.IntN(2)]
			}
			worst = max(worst, s.gap(mode, v, how))
			within(t, patience, f.Nodes[v].BootNode)
			address6(t, f.Nodes[v].Host, v+1)
		}
		t.Logf("%s: the outside client's longest gap is %v", mode, worst.Round(time.Millisecond))
	})
}

// silent does something to member v after which it has to stop answering, looks for how
// long it was heard, and undoes it.
func (s *farmers) silent(mode string, v int, do, undo func() error) {
	t := s.t
	t.Helper()
	if mode == "vmac_directed" {
		defer found(t, s.Client, s.Nodes[v].Host)() // all frames go there, whoever else there is
	}
	var flows [2]*echo.Flows
	for k, addr := range []string{farm4, farm6} {
		within(t, patience, func(ctx context.Context) (err error) {
			flows[k], err = echo.Watch(ctx, s.Client, net.JoinHostPort(addr, echo.Port), 24)
			return err
		})
		defer flows[k].Kill()
	}
	listen := func() *echo.Overhearing {
		var o *echo.Overhearing
		within(t, patience, func(ctx context.Context) (err error) {
			o, err = echo.Overhear(ctx, s.Client, "eth0", macOf(t, s.Nodes[v].Host, "eth0"), farm4, farm6)
			return err
		})
		return o
	}
	before, heard := listen(), listen()
	time.Sleep(fastLease / 2)
	was, err := before.End()
	if err != nil || was.Frames == 0 {
		t.Fatalf("%s was not heard before: %+v, %v", s.Nodes[v].Name(), was, err)
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	time.Sleep(fastLease + answersAfter + 2*time.Second)
	is, err := heard.End()
	err = errors.Join(err, undo())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s was last heard %v after, its lease is %v", s.Nodes[v].Name(), is.Last.Sub(from).Round(time.Millisecond), fastLease)
	if late := is.Last.Sub(from); late > fastLease+answersAfter {
		t.Errorf("%s still answered %v after it was stopped, longer than its lease of %v", s.Nodes[v].Name(), late, fastLease)
	}
}

// gap kills member v and returns for how long the client that was served last was not.
// The client has found the member that dies.
func (s *farmers) gap(mode string, v int, kill func() error) (longest time.Duration) {
	t := s.t
	t.Helper()
	mac := macOf(t, s.Nodes[v].Host, "eth0").String()
	var flows []*echo.Flows
	addrs := []string{farm4, farm6}
	for _, addr := range addrs {
		within(t, patience, func(ctx context.Context) error {
			x, err := echo.Watch(ctx, s.Client, net.JoinHostPort(addr, echo.Port), 48)
			flows = append(flows, x)
			return err
		})
		t.Cleanup(flows[len(flows)-1].Kill)
		if mode == "vmac_directed" {
			run(t, s.Client, "ip", "neigh", "replace", addr, "lladdr", mac, "dev", "eth0", "nud", "reachable")
		}
	}
	time.Sleep(fastLease) // all are served for a while
	from := time.Now()
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	s.share(slices.DeleteFunc(all(3), func(i int) bool { return i == v })...)
	time.Sleep(fastLease)
	for k, x := range flows {
		w, err := x.End()
		if err != nil {
			t.Fatal(err)
		}
		hit, own, others := 0, time.Duration(0), time.Duration(0)
		for _, g := range w.Gaps {
			switch {
			case g.To.IsZero():
				t.Errorf("flow %d to %s, which %s served, is not served again", g.Flow, addrs[k], g.Last)
			case g.To.Before(from):
			case g.Last == s.Nodes[v].Name():
				hit++
				own = max(own, g.To.Sub(g.From))
			default:
				others = max(others, g.To.Sub(g.From))
			}
		}
		if hit == 0 {
			t.Errorf("%s served none of the flows to %s", s.Nodes[v].Name(), addrs[k])
		}
		t.Logf("%s died: of the flows to %s it served %d, the longest waited %v; of those that others served %v", s.Nodes[v].Name(), addrs[k], hit, own.Round(time.Millisecond), others.Round(time.Millisecond))
		longest = max(longest, own, others)
	}
	return longest
}
