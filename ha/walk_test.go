package ha

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/skfs/skfs/conf"
)

// settle lets everything happen that has to, and nothing else, until nothing is
// left to happen. Modules that are stopped are started, as an administrator would.
func (w *world) settle(r *rand.Rand, trail *[]string) {
	w.cut = [2]bool{}
	started := 0
	for range 5000 {
		var ms []move
		for _, m := range w.moves(false) {
			if !m.fault {
				ms = append(ms, m)
			}
		}
		if len(ms) > 0 {
			m := ms[r.Intn(len(ms))]
			*trail = append(*trail, m.name())
			m.do(w)
			if w.bad != "" {
				return
			}
			continue
		}
		again := false
		for i := range w.n {
			if w.n[i].s.Role == RoleStop && started < 6 && !(w.solo && i > 0) {
				started++
				again = true
				*trail = append(*trail, fmt.Sprintf("%d: command start (to settle)", i))
				w.event(i, Asked{Command{Name: "start"}})
			}
		}
		if !again {
			w.settled()
			return
		}
	}
	w.fail("it never settles")
}

// settled checks that nothing waits without a cause.
func (w *world) settled() {
	if w.solo {
		s := &w.n[0].s
		if !(s.Role == RoleUp && s.Colour == Green && s.Up == s.wants(RoleUp) && s.Live == PartPre|PartBoth && w.n[0].v.shared == (s.Conf.Mode == conf.Farm)) {
			w.fail("it settles in %v %v, runs %b, watches %b, shares: %v", s.Role, s.Colour, s.Up, s.Live, w.n[0].v.shared)
		}
		return
	}
	w.settledAddresses()
	a, b := &w.n[0].s, &w.n[1].s
	is := func(s *State, r Role, c Colour) bool { return s.Role == r && s.Colour == c }
	if is(a, RoleSecond, Green) && a.Home || is(b, RoleSecond, Green) && b.Home {
		w.fail("the default primary stays second")
	}
	if w.holds && (a.Held != "" || b.Held != "") {
		w.settledHeld()
		return
	}
	switch {
	case is(a, RolePrim, Green) && is(b, RoleSecond, Green), is(b, RolePrim, Green) && is(a, RoleSecond, Green):
		if a.Conf.HasData && !w.cuts && !w.forced && (w.acked&^w.n[0].disk.data != 0 || w.acked&^w.n[1].disk.data != 0) {
			w.fail("answered writes %b are lost: %b %b", w.acked, w.n[0].disk.data, w.n[1].disk.data)
		}
	case a.Data.Degraded && is(a, RoleAlone, Green) && is(b, RoleWait, Red),
		b.Data.Degraded && is(b, RoleAlone, Green) && is(a, RoleWait, Red):
	case is(a, RoleAlone, Green) && is(b, RoleWait, Red) && b.Why == BlockSyncat,
		is(b, RoleAlone, Green) && is(a, RoleWait, Red) && a.Why == BlockSyncat:
	case is(a, RoleWait, Red) && is(b, RoleWait, Red) && !a.candidate() && !b.candidate():
		if !w.cuts && !w.forced && w.acked != 0 {
			w.fail("nobody is primary, though no more than crashes happened")
		}
	default:
		w.fail("it settles in %v %v (%v) and %v %v (%v)", a.Role, a.Colour, a.Cur.Kind, b.Role, b.Colour, b.Cur.Kind)
	}
}

// settledHeld: who is held waits, and keeps nobody else from serving who has the newest
// data for sure.
func (w *world) settledHeld() {
	for i := range w.n {
		s, o := &w.n[i].s, &w.n[1-i].s
		switch {
		case s.Held != "" && !(s.Role == RoleWait && s.Colour == Red):
			w.fail("node %d is held and settles in %v %v", i, s.Role, s.Colour)
		case s.Held != "" || s.Role == RoleAlone && s.Colour == Green:
		case o.Held != "" && !(s.Role == RoleWait && s.Colour == Red && !s.sure() && !s.exceeds(o.beat())):
			w.fail("node %d settles in %v %v, sure: %v, beside one that is held", i, s.Role, s.Colour, s.sure())
		}
	}
}

// walk takes random moves with some faults, then settles.
func walk(seed int64, data, cuts bool, variant string, step func(*world)) (trail []string, bad string) {
	r := rand.New(rand.NewSource(seed))
	w := newWorld(data, variant)
	if step != nil {
		step(w)
	}
	// From a running pair: prim, second.
	quiet := func() {
		for range 1000 {
			var ms []move
			for _, m := range w.moves(false) {
				if !m.fault {
					ms = append(ms, m)
				}
			}
			if len(ms) == 0 {
				return
			}
			m := ms[r.Intn(len(ms))]
			trail = append(trail, m.name())
			m.do(w)
		}
	}
	if w.solo {
		w.event(0, Asked{Command{Name: "start"}})
	} else {
		w.event(0, Asked{Command{Name: "prim"}})
		quiet()
		w.event(1, Asked{Command{Name: "second"}})
	}
	quiet()
	trail = append(trail, "--- the pair is up")
	faults := r.Intn(7)
	for n := 0; n < 400 && w.bad == ""; n++ {
		ms := w.moves(true)
		if cuts {
			for i := range w.n {
				ms = append(ms, move{"heartbeats from %d cut: %v", []any{i, !w.cut[i]}, true, false, func(w *world) { w.cut[i], w.cuts, w.apart = !w.cut[i], true, true }})
			}
		}
		m := ms[r.Intn(len(ms))]
		if (strings.HasSuffix(m.format, "wakes") || strings.HasSuffix(m.format, "wait any more")) && r.Intn(10) > 0 {
			continue // pauses last, and what rules look at, or nothing becomes of them
		}
		if m.fault {
			if faults == 0 || r.Intn(4) > 0 {
				continue
			}
			faults--
			if strings.HasSuffix(m.format, "write") {
				faults++ // free
			}
		}
		trail = append(trail, m.name())
		m.do(w)
	}
	if w.bad == "" {
		trail = append(trail, "--- settle")
		w.settle(r, &trail)
	}
	return trail, w.bad
}

// number is def unless the environment says otherwise.
func number(t *testing.T, name string, def int) int {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func TestWalks(t *testing.T) {
	for _, c := range []struct {
		data, cuts bool
		variant    string
	}{
		{true, false, ""}, {true, true, ""}, {false, false, ""}, {false, true, ""},
		{true, false, "node a"}, {false, false, "lastprim"}, {true, true, "lastprim"},
		{true, false, "syncat"}, {true, true, "syncat"}, {true, false, "syncdelta"}, {true, true, "syncdelta"},
		{true, false, "address"}, {false, false, "address check"}, {true, true, "address"},
		{true, false, "witness"}, {false, false, "witness"},
		{false, false, "light"}, {false, false, "farm"}, {true, false, "failover off"}, {false, false, "failover off"}, {false, true, "failover off"},
		{true, false, "address pause"}, {false, false, "address pause"}, {true, true, "address pause"},
	} {
		t.Run(fmt.Sprintf("data=%v,cuts=%v,%s", c.data, c.cuts, c.variant), func(t *testing.T) {
			t.Parallel()
			base := int64(1) // the same in every run: what a change of the code does is to be seen by it alone
			if v := os.Getenv("SKFS_HA_SEED"); v != "" {
				base, _ = strconv.ParseInt(v, 10, 64) // 0 is as good a seed
			}
			for i := range number(t, "SKFS_HA_WALKS", 20) {
				seed := base + int64(i)
				if trail, bad := walk(seed, c.data, c.cuts, c.variant, nil); bad != "" {
					t.Fatalf("SKFS_HA_SEED=%d: %s\n%s", seed, bad, strings.Join(trail, "\n"))
				}
			}
		})
	}
}

// necessary are the moves that happen by themselves.
func necessary(w *world) []move {
	var ms []move
	for _, m := range w.moves(false) {
		if !m.fault && !m.free {
			ms = append(ms, m)
		}
	}
	return ms
}
