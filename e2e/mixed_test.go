package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// mixed is a module with an address and an application that answers there, whose
// scripts can be made to hang or to fail: see trouble.
func mixed() pair.Config {
	start, stop := ledger.Scripts((&lab.Lab{}).Self(), "files", dataDir)
	c := pair.Config{Service: oneAddress, TimeoutMs: 1000, StopSecs: 3}
	c.StartPrim, c.StopPrim = withTrouble(start, stop)
	return c
}

// Mixed faults: after each the two hosts agree on who they are, one of them has the
// address and the application, nothing that was acknowledged to the clients is lost,
// both have the same data, and nothing is left over. How long clients outside did not
// reach the address is told.
func TestMixedFaults(t *testing.T) {
	if !long() {
		t.Skip("takes E2E_LONG=1")
	}
	seed := randomSeed(t)
	small := lab.Disk{FS: "ext4", Size: 256 << 20}
	p := newPairOf(t, pair.Options{Config: mixed(), Var: lab.Disk{FS: "ext4", Size: 96 << 20}, Disk: small})
	m := &mixture{chaos: &chaos{Pair: p, t: t, kind: "files", notes: filepath.Join(p.Lab.Dir(), "acknowledged"), next: 1,
		rnd: rand.New(rand.NewPCG(seed, 3)), addrs: []string{net.JoinHostPort(vip4, ledger.Port)}, rest: 5 * time.Millisecond}}
	own := m.addresses() // before the module has any
	within(t, patience, p.Start)
	reached := watchReach(t, p.Client, ledger.Port, vip4)
	type measured struct{ connections, answers, whole []time.Duration }
	all := map[string]*measured{}
	acked, split := 0, 0
	mishaps := chosen(t)
	n := rounds(t, 6, 500)
	var order []int
	for round := range n {
		if len(order) == 0 { // every fault comes to both roles before one comes again
			order = m.rnd.Perm(2 * len(mishaps))
		}
		pick := order[0]
		order = order[1:]
		m.begin()
		victim, role := m.primary(), "PRIM"
		if pick%2 == 1 {
			victim, role = victim.Peer(), "SECOND"
		}
		f := mishaps[pick/2]
		name := f.name + " on " + role
		begun := time.Now()
		if err := f.do(m, victim); err != nil {
			t.Fatalf("round %d: %s: %v\n%s", round, name, err, m.Logs())
		}
		whole := m.settle().Sub(begun)
		gap := reached.gaps(t, "", begun)
		load, aside := m.end()
		if aside > 0 && !slices.Contains(apart, f.name) {
			t.Fatalf("round %d: after %s: %d acknowledged entries were kept aside, although the hosts heard each other\n%s", round, name, aside, m.Logs())
		}
		acked, split = acked+load.Acked, split+aside
		if wrong := m.audit(own); len(wrong) > 0 {
			t.Fatalf("round %d: after %s: %s\n%s", round, name, strings.Join(wrong, "; "), m.Logs())
		}
		if round%10 == 9 && aside == 0 { // else it is done
			m.purge()
		}
		if all[name] == nil {
			all[name] = &measured{}
		}
		seen := all[name]
		seen.connections, seen.answers, seen.whole = append(seen.connections, gap), append(seen.answers, load.Gap), append(seen.whole, whole)
		t.Logf("round %d: %s: clients waited %v for a connection and %v for an answer, whole again after %v", round, name,
			gap.Round(time.Millisecond), load.Gap.Round(time.Millisecond), whole.Round(time.Millisecond))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		seen := all[name]
		t.Logf("%-45s %3d times, clients waited %s for a connection and %s for an answer, whole again after %s", name, len(seen.whole),
			spread(seen.connections), spread(seen.answers), spread(seen.whole))
	}
	t.Logf("%d rounds, %d entries acknowledged, %d of them by a host that had to give way and kept them aside", n, acked, split)
	m.auditNotices(own)
	m.nothingLeft()
}

// chosen are the mishaps that E2E_FAULTS selects, or all.
func chosen(t *testing.T) []mishap {
	t.Helper()
	pattern, err := regexp.Compile(os.Getenv("E2E_FAULTS"))
	if err != nil {
		t.Fatalf("E2E_FAULTS: %v", err)
	}
	some := slices.DeleteFunc(slices.Clone(mishaps), func(m mishap) bool { return !pattern.MatchString(m.name) })
	if len(some) == 0 {
		t.Fatalf("E2E_FAULTS: no fault matches %s", pattern)
	}
	return some
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

// end stops the load. Everything acknowledged must be there; what is not must have been
// kept aside by a host that gave way, since two that hear nothing of each other both
// serve (§4.2.10). Both must have the same on disk.
func (m *mixture) end() (load ledger.Summary, aside int) {
	m.t.Helper()
	load = m.stop()
	if v := m.check(); !v.OK() {
		kept := map[uint64]bool{}
		for _, n := range m.Nodes {
			dir, err := n.Backing(dataDir + "/.skfs/quarantine")
			if err != nil {
				m.t.Fatal(err)
			}
			found, err := ledger.Kept(dir)
			if err != nil {
				m.t.Fatal(err)
			}
			maps.Copy(kept, found)
		}
		lost := slices.DeleteFunc(slices.Clone(v.Missing), func(id uint64) bool { return kept[id] })
		if len(lost) > 0 {
			m.t.Fatalf("acknowledged entries are lost: %v; %d of them are not kept aside either: %v", v, len(lost), lost[:min(10, len(lost))])
		}
		aside = len(v.Missing)
		m.purge()
	}
	same(m.t, m.Pair)
	return load, aside
}

// purge is that of chaos; what was kept aside goes, too.
func (m *mixture) purge() {
	m.t.Helper()
	m.chaos.purge()
	for _, n := range m.Nodes {
		within(m.t, patience, func(ctx context.Context) error { return n.Do(ctx, "splitbrain", "purge", "all") })
	}
}

// addresses are the IPv4 addresses of each host.
func (m *mixture) addresses() (all [2][]string) {
	m.t.Helper()
	for i, n := range m.Nodes {
		for line := range strings.Lines(run(m.t, n.Host, "ip", "-o", "-4", "addr", "show")) {
			if fields := strings.Fields(line); len(fields) > 3 {
				all[i] = append(all[i], fields[1]+" "+fields[3])
			}
		}
		slices.Sort(all[i])
	}
	return all
}

// audit says what is not as it must be after every fault. What the hosts' own
// addresses are is own.
func (m *mixture) audit(own [2][]string) []string {
	m.t.Helper()
	// What a node says of the other comes with the next heartbeat, and the last
	// processes of a script may still be ending.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if wrong := m.look(own); len(wrong) == 0 || time.Now().After(deadline) {
			return wrong
		}
	}
}

// look says what of it is not so now.
func (m *mixture) look(own [2][]string) (wrong []string) {
	m.t.Helper()
	prim := slices.Index(m.Nodes[:], m.primary())
	addresses := m.addresses()
	for i, n := range m.Nodes {
		want := slices.Clone(own[i])
		if i == prim {
			want = append(want, "eth0 "+vip4+"/24")
			slices.Sort(want)
		}
		if !slices.Equal(addresses[i], want) {
			wrong = append(wrong, fmt.Sprintf("%s has the addresses %q, expected %q", n.Name(), addresses[i], want))
		}
		st, err := n.State(m.t.Context())
		other, err2 := n.Peer().State(m.t.Context())
		if err := errors.Join(err, err2); err != nil {
			m.t.Fatal(err)
		}
		if st.Remote != other.State {
			wrong = append(wrong, fmt.Sprintf("%s says of %s that it is %s, it is %s", n.Name(), n.Peer().Name(), st.Remote, other.State))
		}
		odd, err := leftOver(n, i == prim)
		if err != nil {
			m.t.Fatal(err)
		}
		wrong = append(wrong, odd...)
	}
	return wrong
}

// Descriptors that a process of skfs may have: those of the daemon do not depend on what
// it has been through; a replica keeps up to 1024 objects open.
const (
	daemonFiles  = 150
	replicaFiles = 1024 + 200
)

// leftOver says which processes, mounts and descriptors a host has too many or too few:
// there must be a daemon, a replica with a mount, the application on the primary, and
// nothing else.
func leftOver(n *pair.Node, prim bool) (wrong []string, err error) {
	all, err := n.Processes()
	if err != nil {
		return nil, err
	}
	applications, daemons, replicas := 0, 0, 0
	self := (&lab.Lab{}).Self()[0]
	for _, p := range all {
		limit := 0
		switch {
		case p.Args[0] == self:
			applications++
		case skfsProcess("daemon")(p):
			daemons++
			limit = daemonFiles
		case skfsProcess("replica")(p):
			replicas++
			limit = replicaFiles
		default:
			wrong = append(wrong, fmt.Sprintf("%s runs %v", n.Name(), p))
		}
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
		if err == nil && limit > 0 && len(files) > limit {
			wrong = append(wrong, fmt.Sprintf("%v of %s has %d descriptors", p, n.Name(), len(files)))
		}
	}
	want := 0
	if prim {
		want = 1
	}
	if applications != want || daemons != 1 || replicas != 1 {
		wrong = append(wrong, fmt.Sprintf("on %s %d applications, %d daemons and %d replicas run, expected %d, 1 and 1", n.Name(), applications, daemons, replicas, want))
	}
	mounts, err := n.Mounts()
	mounts = slices.DeleteFunc(mounts, func(mount lab.Mount) bool { return !strings.HasPrefix(mount.FS, "fuse") })
	if len(mounts) != 1 || mounts[0].Path != dataDir {
		wrong = append(wrong, fmt.Sprintf("%s has the mounts %v, expected one on %s", n.Name(), mounts, dataDir))
	}
	return wrong, err
}

// auditNotices says that the audit does notice what is not as it must be.
func (m *mixture) auditNotices(own [2][]string) {
	m.t.Helper()
	second := m.primary().Peer()
	run(m.t, second.Host, "ip", "addr", "add", vip4+"/24", "dev", "eth0")
	if len(m.look(own)) == 0 {
		m.t.Error("the audit does not notice a second holder of the address")
	}
	run(m.t, second.Host, "ip", "addr", "del", vip4+"/24", "dev", "eth0")
	left, err := second.Start(second.Command(m.t.Context(), "sleep", "1000000"))
	if err != nil {
		m.t.Fatal(err)
	}
	if len(m.look(own)) == 0 {
		m.t.Error("the audit does not notice a process that was left over")
	}
	unix.Kill(left.PID(), unix.SIGKILL)
	left.Wait()
	if wrong := m.audit(own); len(wrong) > 0 {
		m.t.Errorf("the audit still finds %v", wrong)
	}
}
