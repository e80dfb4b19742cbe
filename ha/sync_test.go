package ha

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// value waits until resource name of node i has a value that ok takes.
func (p *pair) value(i int, name string, ok func(string) bool) string {
	p.t.Helper()
	var got string
	p.until(i, "another "+name, func(st ModuleState) bool {
		for _, r := range st.Resources {
			if r.Name == name {
				got = r.Value
				return ok(r.Value)
			}
		}
		return false
	})
	return got
}

func is(want string) func(string) bool { return func(got string) bool { return got == want } }

// follows are the Follow calls on node i so far.
func (p *pair) follows(i int) []string {
	p.data.mu.Lock()
	defer p.data.mu.Unlock()
	var calls []string
	for _, c := range p.data.calls {
		if who, call, _ := strings.Cut(c, " "); who == string('0'+byte(i)) && strings.HasPrefix(call, "follow ") {
			_, how, _ := strings.Cut(strings.TrimPrefix(call, "follow "), " ")
			calls = append(calls, how)
		}
	}
	return calls
}

// wantFollow checks how node i followed last.
func (p *pair) wantFollow(i int, how string) {
	p.t.Helper()
	if f := p.follows(i); len(f) == 0 || f[len(f)-1] != how {
		p.t.Fatalf("node%d followed %q, wanted %q at last\n%s", i+1, f, how, p.logs())
	}
}

func (p *pair) refused(i int, why string, name string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	err := p.sups[i].Do(ctx, "mirror", Command{Name: name, Args: args})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), why) {
		p.t.Fatalf("%s %q: %v, wanted a refusal with %q", name, args, err, why)
	}
}

// A full copy is made once, whoever asks for it and however.
func TestSyncFull(t *testing.T) {
	p := newPair(t, true)
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.do(1, "second", "fullsync")
	p.want("PRIM green", "SECOND green")
	p.wantFollow(1, "full")
	p.value(1, "usersetting.rfssyncmode", is("default"))

	again := func() {
		p.do(1, "stop")
		p.want("ALONE green", "STOP red")
		p.do(1, "start")
		p.want("PRIM green", "SECOND green")
	}
	again()
	p.wantFollow(1, "default")

	p.do(0, "rfssync", "full") // the primary asks
	p.logged(0, 0, "Action rfssync called by SYSTEM/root", "Synchronization policy set to full")
	p.value(0, "usersetting.rfssyncmode", is("full"))
	again()
	p.wantFollow(1, "full")
	p.value(0, "usersetting.rfssyncmode", is("default"))

	p.do(1, "rfssync", "full") // the second asks
	again()
	p.wantFollow(1, "full")
	p.value(1, "usersetting.rfssyncmode", is("default"))
	again()
	p.wantFollow(1, "default")
	p.refused(0, `expected "full"`, "rfssync", "fully")
}

// After primforce the next second copies everything (§5.9).
func TestPrimforceLeadsToFull(t *testing.T) {
	p := newPair(t, true)
	p.do(0, "primforce")
	p.want("ALONE green", "STOP red")
	p.do(1, "second")
	p.want("PRIM green", "SECOND green")
	p.wantFollow(1, "full")
	p.value(0, "usersetting.rfssyncmode", is("default"))
}

func TestSecondforce(t *testing.T) {
	p := newPair(t, true)
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.refused(1, "expected one date", "secondforce")
	p.refused(1, "such as 2016-03-01T12:00:00Z", "secondforce", "yesterday")
	p.do(1, "secondforce", "2016-03-01T12:00:00Z")
	p.want("PRIM green", "SECOND green")
	p.logged(1, 0, "Action secondforce called by SYSTEM/root")
	p.wantFollow(1, "since 2016-03-01T12:00:00Z")
	p.do(1, "stopstart")
	p.logged(1, 0, "Action stopstart called by SYSTEM/root", "Local state WAIT magenta", "Local state SECOND green")
	p.wantFollow(1, "default")
}

// An external synchronisation copies what was changed since the primary announced
// the copy, if both mean the same copy (§13.6.4.9).
func TestSyncExternal(t *testing.T) {
	p := newPair(t, true)
	p.refused(1, "give the command \"rfssync external second B1\" first", "rfssync", "-d", "second", "B1")
	p.refused(1, "1 to 24 letters", "rfssync", "external", "second", strings.Repeat("x", 25))
	p.do(1, "rfssync", "external", "second", "B1")
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.value(1, "rfs.rfssync", is("down"))

	p.do(1, "second") // the primary knows of no copy
	p.logged(1, 0, "External synchronization B1 cannot be applied: none is set on node1", "Local state STOP red")
	p.do(0, "rfssync", "external", "prim", "B2")
	p.value(0, "usersetting.rfssyncuid", is("B2"))
	p.until(1, "STOP", func(st ModuleState) bool { return st.Role == RoleStop && st.Colour == Red })
	p.do(1, "second")
	p.logged(1, 0, "External synchronization B1 cannot be applied: node1 has B2", "Local state STOP red")

	from := time.Now().Add(-externalGrace).Truncate(time.Second)
	p.do(0, "rfssync", "external", "prim", "B1")
	to := time.Now()
	p.do(0, "rfssync", "external", "prim", "B1") // again: the earlier date stays
	p.do(0, "rfssync", "-d", "prim", "B1")
	p.value(1, "rfs.rfssync", is("up"))
	p.value(0, "rfs.rfssync", is("up"))
	p.want("-", "STOP red")
	p.do(1, "start")
	p.want("PRIM green", "SECOND green")
	f := p.follows(1)
	since, err := time.Parse(time.RFC3339, strings.TrimPrefix(f[len(f)-1], "since "))
	if err != nil || since.Before(from) || since.After(to.Add(-externalGrace)) {
		t.Fatalf("node2 followed %q, expected since %v to %v\n%s", f, from, to, p.logs())
	}
	for i := range 2 {
		p.value(i, "usersetting.rfssyncmode", is("default"))
	}
	p.refused(1, "STOP or WAIT", "rfssync", "external", "second", "B3")
	p.refused(0, "STOP or ALONE green", "rfssync", "external", "prim", "B3")
	if n := slices.Index(p.follows(1), "full"); n >= 0 {
		t.Errorf("follow %d was full", n)
	}
}

// The node that a module belongs to gets it back once it is up to date, and only
// then: not after a swap (§5.8).
func TestDefaultPrim(t *testing.T) {
	p := newPair(t, true, func(mc *moduleConf) { mc.conf.DefaultPrim = "node1" })
	p.up()
	p.do(0, "stop")
	p.want("STOP red", "ALONE green")
	p.do(0, "start")
	p.want("PRIM green", "SECOND green")
	p.logged(0, 0, "End of stop", "Transition SWAP from defaultprim", "Begin of Swap", "Script start_prim", "Local state PRIM green")

	n := len(p.lines(0))
	p.until(0, "a remote that is green", func(st ModuleState) bool { return st.RemoteCol == Green })
	p.do(0, "swap")
	p.want("SECOND green", "PRIM green")
	p.do(1, "stopstart") // node1 takes over; node2, which is started, is second again
	p.want("PRIM green", "SECOND green")
	for _, line := range p.lines(0)[n:] {
		if strings.Contains(line, "defaultprim") {
			t.Errorf("a swap that was commanded is undone: %q", line)
		}
	}
}

func TestLastPrim(t *testing.T) {
	p := newPair(t, true, func(mc *moduleConf) { mc.conf.DefaultPrim = conf.DefaultLast })
	p.up()
	p.do(1, "stop") // a second that returns stays one
	p.want("ALONE green", "STOP red")
	p.do(1, "start")
	p.want("PRIM green", "SECOND green")
	p.do(0, "stop")
	p.want("STOP red", "ALONE green")
	p.close(0) // the daemon forgets nothing
	p.open(0)
	p.do(0, "start")
	p.want("PRIM green", "SECOND green")
	p.logged(0, 0, "Transition SWAP from defaultprim", "Local state PRIM green")
}

// A second that is brought up to date at scheduled times waits between them.
func TestSyncAt(t *testing.T) {
	p := newPair(t, true, func(mc *moduleConf) { mc.conf.SyncAt = true })
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.do(1, "start")
	p.want("ALONE green", "WAIT red")
	p.logged(1, 0, "Resource rfs.syncat set to down by nfsadmin", "Action wait from failover rule rfs_syncat_wait", "Local state WAIT red")
	p.logged(1, 0, "Updating directory tree from /replicated")
	p.value(1, "rfs.syncat", is("down"))
	p.value(1, "rfs.uptodate", is("down"))
	p.refused(1, "only rfs.syncat can be set, to up", "set", "rfs.uptodate", "up")

	n := len(p.lines(1))
	p.do(1, "set", "rfs.syncat", "up")
	p.logged(1, n, "Resource rfs.syncat set to up by SYSTEM/root", "Transition WAKEUP from failover rule Implicit_WAKEUP",
		"Resource rfs.syncat set to down by nfsadmin", "Local state WAIT red")
	p.want("ALONE green", "WAIT red")

	// It is not up to date: it does not take over.
	p.do(0, "stop")
	p.want("STOP red", "WAIT red")
	p.value(1, "rfs.uptodate", is("down"))
	p.do(0, "start")
	p.want("ALONE green", "WAIT red")
}

// The schedule makes a moment due once, also when nobody was awake then.
func TestSchedule(t *testing.T) {
	s, err := conf.ParseSchedule("0 3 * * *")
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, true, func(mc *moduleConf) { mc.conf.SyncAt, mc.syncAt = true, s })
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.do(1, "start")
	p.want("ALONE green", "WAIT red")
	p.close(1)

	mc := p.confs[1]
	m, err := openModule(p.paths(1), mc, fakeLauncher{p.data, 1}, nil, nil, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	m.openVips()
	defer m.close()
	day := func(d, h int) time.Time { return time.Date(2026, 3, d, h, 0, 0, 0, time.Local) }
	for i, c := range []struct {
		now time.Time
		due bool
	}{
		{day(1, 2), false}, {day(1, 3), true}, {day(1, 4), false},
		{day(4, 2), true}, {day(4, 2), false}, {day(4, 5), true}, // three nights were slept through: once
		{day(3, 1), false}, {day(3, 3), true}, // the clock was set back
	} {
		m.state.SyncDue = false
		m.clockwork(t.Context(), c.now)
		if m.state.SyncDue != c.due {
			t.Errorf("%d: at %v due=%t, want %t", i, c.now, m.state.SyncDue, c.due)
		}
	}
}

// With syncdelta a node that is alone may serve data that is a little old.
func TestSyncDelta(t *testing.T) {
	for _, delta := range []time.Duration{0, time.Hour, time.Nanosecond} {
		t.Run(delta.String(), func(t *testing.T) {
			p := newPair(t, true, func(mc *moduleConf) { mc.conf.SyncDelta = delta })
			p.up()
			p.do(1, "stop")
			p.want("ALONE green", "STOP red")
			p.until(1, "a remote that is ALONE", func(st ModuleState) bool { return st.Remote == RoleAlone })
			p.close(0)
			p.until(1, "a remote that is silent", func(st ModuleState) bool { return st.Remote == RoleUnknown })
			p.do(1, "start")
			if delta < time.Second {
				p.want("-", "WAIT red")
				p.logged(1, 0, "Action wait from failover rule notuptodate_server")
				return
			}
			p.value(1, "rfs.synced", is("up"))
			p.want("-", "ALONE green")
			p.logged(1, 0, "Resource rfs.uptodate set to up by failover rule rfs_forceuptodate", "Script start_prim")
		})
	}
}

func TestRecent(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, c := range []struct {
		delta, ago   time.Duration
		inconsistent bool
		want         bool
	}{
		{time.Hour, time.Minute, false, true}, {time.Hour, 59 * time.Minute, false, true}, {time.Hour, time.Hour, false, false},
		{time.Hour, -time.Minute, false, false}, // the clock was set back
		{time.Hour, time.Minute, true, false}, {0, 0, false, false},
	} {
		s := State{Conf: Conf{SyncDelta: c.delta}, SyncedAt: now.Add(-c.ago), Data: Data{Consistent: !c.inconsistent}}
		if got := s.recent(now); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
	if s := (State{Conf: Conf{SyncDelta: time.Hour}, Data: Data{Consistent: true}}); s.recent(time.Unix(60, 0)) {
		t.Error("what was never in sync is recent")
	}
}

// Other directories: what is known of the other node's data is worth nothing.
func TestPairing(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := State{Role: RoleStop}
	conf := func(pairing string) Conf { return Conf{HasData: true, Pairing: pairing} }
	for i, c := range []struct {
		pairing string
		full    bool
	}{{"node2\n/a", false}, {"node2\n/a", false}, {"node2\n/a\n/b", true}, {"node2\n/a\n/b", false}, {"node3\n/a\n/b", true}, {"", false}, {"node3\n/a", false}} {
		s.Sync = SyncPolicy{}
		s, _ = Step(s, Reconfigured{conf(c.pairing)}, now)
		if full := s.Sync.Mode == SyncFull; full != c.full {
			t.Errorf("%d: after %q full=%t", i, c.pairing, full)
		}
	}
	s.Conf = conf("node4\n/x") // while no daemon ran
	if s, _ = Step(s, Adopted{Reboot: true}, now); s.Sync.Mode != SyncFull {
		t.Error("a daemon that is started does not look")
	}
}
