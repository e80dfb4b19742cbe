package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// mixed is a module with an address and an application that answers there, whose
// scripts can be made to hang or to fail: see trouble.
func mixed() pair.Config {
	var answer strings.Builder
	for _, e := range lab.RoleEnv(answerRole) {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&answer, "%s='%s' ", name, value)
	}
	answer.WriteString("setsid " + strings.Join((&lab.Lab{}).Self(), " "))
	return pair.Config{
		StartPrim: "test ! -e /run/trouble || sh /run/trouble start; " + answer.String() + " </dev/null >/dev/null 2>&1 & echo $! >/run/application",
		StopPrim:  "test \"$1\" = force || test ! -e /run/trouble || sh /run/trouble stop || exit 1; test -e /run/application && kill -9 $(cat /run/application); rm -f /run/application; exit 0",
		Service:   oneAddress,
		TimeoutMs: 1000,
	}
}

// A mishap is something that happens to a pair. When do returns its cause is over.
type mishap struct {
	name string
	do   func(m *mixture, v *pair.Node) error
}

// mixture is a pair to which mishaps happen.
type mixture struct {
	*chaos
	upgraded int
}

// signalled stops processes of a host for a while.
func (m *mixture) signalled(v *pair.Node, which func(lab.Process) bool) error {
	all, err := v.Processes()
	if err != nil {
		return err
	}
	var stopped []lab.Process
	for _, p := range all {
		if which(p) && unix.Kill(p.PID, unix.SIGSTOP) == nil {
			stopped = append(stopped, p)
		}
	}
	if len(stopped) == 0 {
		return errors.New("no such process")
	}
	m.outage()
	for _, p := range stopped {
		if err := unix.Kill(p.PID, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// skfsProcess is one of skfs that runs as what.
func skfsProcess(what string) func(lab.Process) bool {
	return func(p lab.Process) bool {
		return len(p.Args) > 1 && strings.HasPrefix(filepath.Base(p.Args[0]), "skfs") && p.Args[1] == what
	}
}

// lost loses frames for a while.
func (m *mixture) lost(from, to *pair.Node, networks ...string) error {
	for _, on := range []bool{true, false} {
		for _, network := range networks {
			if err := m.Lab.Drop(from.Host, to.Host, network, on); err != nil {
				return err
			}
		}
		if on {
			m.outage()
		}
	}
	return nil
}

func (m *mixture) cut(v *pair.Node, networks ...string) error {
	for _, network := range networks {
		if err := v.LinkDown(network); err != nil {
			return err
		}
	}
	m.outage()
	for _, network := range networks {
		if err := v.LinkUp(network); err != nil {
			return err
		}
	}
	return nil
}

// full fills the disk under SAFEVAR for a while.
func (m *mixture) full(v *pair.Node) error {
	name := v.Path(pair.SafeVar + "/full")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	f.Close()
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill %s: %w", name, err)
	}
	m.outage()
	return os.Remove(name)
}

// upgrade puts another binary in the place of the node's and starts its daemon again.
func (m *mixture) upgrade(v *pair.Node) error {
	m.upgraded++
	to := fmt.Sprintf("%s.%d", skfs, m.upgraded)
	in, err := os.Open(skfs)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(m.t.Context(), patience)
	defer stop()
	return v.Upgrade(ctx, to)
}

// trouble makes the next script of a host do something before its work, by a swap.
func (m *mixture) trouble(v *pair.Node, commands string) error {
	for _, n := range m.Nodes {
		if err := os.WriteFile(n.Path("/run/trouble"), []byte(commands+"\n"), 0o755); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(m.t.Context(), patience)
	defer stop()
	mark, err := v.Mark(ctx)
	if err == nil {
		err = v.Do(ctx, "swap")
	}
	if err == nil {
		err = v.AwaitLog(ctx, mark, "Begin of Swap", "Local state")
	}
	for _, n := range m.Nodes {
		err = errors.Join(err, os.Remove(n.Path("/run/trouble")))
	}
	return err
}

var mishaps = []mishap{
	{"daemon killed", func(m *mixture, v *pair.Node) error { return v.KillDaemon() }},
	{"daemon paused", func(m *mixture, v *pair.Node) error { return m.signalled(v, skfsProcess("daemon")) }},
	{"daemon upgraded", func(m *mixture, v *pair.Node) error { return m.upgrade(v) }},
	{"replica killed", func(m *mixture, v *pair.Node) error {
		role := "SECOND"
		if v == m.primary() {
			role = "PRIM"
		}
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == "replica killed" })
		return faults[i].do(m.chaos, v, role)
	}},
	{"replica paused", func(m *mixture, v *pair.Node) error { return m.signalled(v, skfsProcess("replica")) }},
	{"host paused", func(m *mixture, v *pair.Node) error {
		if err := v.Pause(); err != nil {
			return err
		}
		m.outage()
		return v.Resume()
	}},
	{"host killed", func(m *mixture, v *pair.Node) error {
		err := v.Kill()
		m.outage()
		return err
	}},
	{"power off", func(m *mixture, v *pair.Node) error {
		err := v.PowerOff()
		m.outage()
		return err
	}},
	{"default cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "default") }},
	{"repli cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "repli") }},
	{"all networks cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "default", "repli") }},
	{"default lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "default") }},
	{"repli lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "repli") }},
	{"all lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "default", "repli") }},
	{"disk of SAFEVAR full", func(m *mixture, v *pair.Node) error { return m.full(v) }},
	{"scripts are slow", func(m *mixture, v *pair.Node) error { return m.trouble(v, "sleep 1") }},
	{"stop script fails", func(m *mixture, v *pair.Node) error { return m.trouble(v, "test \"$1\" = start") }},
}

// Mixed faults: after each the two hosts agree on who they are, one of them has the
// address and the application, and both have the same data. How long clients outside
// did not reach the address is told.
func TestMixedFaults(t *testing.T) {
	if !long() {
		t.Skip("takes E2E_LONG=1")
	}
	seed := randomSeed(t)
	p := newPairOf(t, pair.Options{Config: mixed(), Var: lab.Disk{FS: "ext4", Size: 96 << 20}})
	within(t, patience, p.Start)
	m := &mixture{chaos: &chaos{Pair: p, t: t, rnd: rand.New(rand.NewPCG(seed, 3))}}
	seen := watchReach(t, p.Client, answerPort, vip4)
	type measured struct{ gaps, whole []time.Duration }
	all := map[string]*measured{}
	// The short form takes its faults from the whole list, others each time.
	n := rounds(t, 6, 500)
	var order []int
	for round := range n {
		if len(order) == 0 {
			order = m.rnd.Perm(2 * len(mishaps))
		}
		pick := order[0]
		order = order[1:]
		victim, role := m.primary(), "PRIM"
		if pick%2 == 1 {
			victim, role = victim.Peer(), "SECOND"
		}
		f := mishaps[pick/2]
		name := f.name + " on " + role
		begun := time.Now()
		if err := f.do(m, victim); err != nil {
			t.Fatalf("round %d: %s: %v", round, name, err)
		}
		whole := m.settle().Sub(begun)
		m.audit(round, name)
		gap := seen.gaps(t, "", begun)
		if all[name] == nil {
			all[name] = &measured{}
		}
		all[name].gaps, all[name].whole = append(all[name].gaps, gap), append(all[name].whole, whole)
		t.Logf("round %d: %s: clients waited %v, whole again after %v", round, name, gap.Round(time.Millisecond), whole.Round(time.Millisecond))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Logf("%-28s %3d times, clients waited %s, whole again after %s", name, len(all[name].gaps), spread(all[name].gaps), spread(all[name].whole))
	}
	m.nothingLeft()
}

// spread shows the middle and the end of some durations.
func spread(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("%v (median) %v (longest)", d[len(d)/2].Round(time.Millisecond), d[len(d)-1].Round(time.Millisecond))
}

// settle brings the hosts to PRIM and SECOND, and returns since when they are so: a
// fault may only be noticed after its cause is over, so they have to stay so for a while.
func (m *mixture) settle() (since time.Time) {
	m.t.Helper()
	states := func() (all [2]pair.State) {
		for i, n := range m.Nodes {
			s, err := n.State(m.t.Context())
			if err != nil {
				m.t.Fatal(err)
			}
			all[i] = s
		}
		return all
	}
	deadline := time.Now().Add(2 * patience)
	for {
		m.recover()
		since = time.Now()
		before := states()
		time.Sleep(1500 * time.Millisecond) // longer than the heartbeats' timeout
		if after := states(); after == before {
			return since
		} else if time.Now().After(deadline) {
			m.t.Fatalf("the hosts do not stay as they are: %+v, then %+v", before, after)
		}
	}
}

// audit says what must hold after every fault.
func (m *mixture) audit(round int, name string) {
	m.t.Helper()
	prim := m.primary()
	i := slices.Index(m.Nodes[:], prim)
	deadline := time.Now().Add(patience)
	var wrong []string
	for {
		wrong = nil
		for k, n := range m.Nodes {
			_, err := os.Stat(n.Path("/run/application"))
			if running := err == nil; running != (k == i) {
				wrong = append(wrong, fmt.Sprintf("the application runs on %s: %v", n.Name(), running))
			}
			if has := held(m.t, m.Pair, k, vip4); has != (k == i) {
				wrong = append(wrong, fmt.Sprintf("%s has the address: %v", n.Name(), has))
			}
			st, err := n.State(m.t.Context())
			other, err2 := n.Peer().State(m.t.Context())
			if err := errors.Join(err, err2); err != nil {
				m.t.Fatal(err)
			}
			if st.Remote != other.State {
				wrong = append(wrong, fmt.Sprintf("%s says of %s that it is %s, it is %s", n.Name(), n.Peer().Name(), st.Remote, other.State))
			}
		}
		// What a node says of the other comes with the next heartbeat.
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(wrong) > 0 {
		m.t.Fatalf("round %d: after %s, %s is PRIM: %s\n%s", round, name, prim.Name(), strings.Join(wrong, "; "), m.Logs())
	}
	if err := os.WriteFile(prim.Path(filepath.Join("/replicated", fmt.Sprint("round", round))), []byte(name), 0o644); err != nil {
		m.t.Fatalf("round %d: after %s: %v", round, name, err)
	}
	same(m.t, m.Pair)
}
