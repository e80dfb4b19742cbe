package ha

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
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
			*trail = append(*trail, m.name)
			m.do(w)
			if w.bad != "" {
				return
			}
			continue
		}
		again := false
		for i := range w.n {
			if w.n[i].s.Role == RoleStop && started < 6 {
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
	a, b := &w.n[0].s, &w.n[1].s
	is := func(s *State, r Role, c Colour) bool { return s.Role == r && s.Colour == c }
	switch {
	case is(a, RolePrim, Green) && is(b, RoleSecond, Green), is(b, RolePrim, Green) && is(a, RoleSecond, Green):
		if a.Conf.HasData && !w.cuts && !w.forced && (w.acked&^w.n[0].disk.data != 0 || w.acked&^w.n[1].disk.data != 0) {
			w.fail("answered writes %b are lost: %b %b", w.acked, w.n[0].disk.data, w.n[1].disk.data)
		}
	case a.Data.Degraded && is(a, RoleAlone, Green) && is(b, RoleWait, Red),
		b.Data.Degraded && is(b, RoleAlone, Green) && is(a, RoleWait, Red):
	case is(a, RoleWait, Red) && is(b, RoleWait, Red) && !a.candidate() && !b.candidate():
		if !w.cuts && !w.forced && w.acked != 0 {
			w.fail("nobody is primary, though no more than crashes happened")
		}
	default:
		w.fail("it settles in %v %v (%v) and %v %v (%v)", a.Role, a.Colour, a.Cur.Kind, b.Role, b.Colour, b.Cur.Kind)
	}
}

// walk takes random moves with some faults, then settles.
func walk(seed int64, data, cuts bool, step func(*world)) (trail []string, bad string) {
	r := rand.New(rand.NewSource(seed))
	w := newWorld(data)
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
			trail = append(trail, m.name)
			m.do(w)
		}
	}
	w.event(0, Asked{Command{Name: "prim"}})
	quiet()
	w.event(1, Asked{Command{Name: "second"}})
	quiet()
	trail = append(trail, "--- the pair is up")
	faults := r.Intn(7)
	for n := 0; n < 400 && w.bad == ""; n++ {
		ms := w.moves(true)
		if cuts {
			for i := range w.n {
				ms = append(ms, move{fmt.Sprintf("heartbeats from %d cut: %v", i, !w.cut[i]), true, func(w *world) { w.cut[i], w.cuts = !w.cut[i], true }})
			}
		}
		m := ms[r.Intn(len(ms))]
		if m.fault {
			if faults == 0 || r.Intn(4) > 0 {
				continue
			}
			faults--
			if strings.Contains(m.name, "write") {
				faults++ // free
			}
		}
		trail = append(trail, m.name)
		m.do(w)
	}
	if w.bad == "" {
		trail = append(trail, "--- settle")
		w.settle(r, &trail)
	}
	return trail, w.bad
}

// walks is how many random walks a test takes; SKFS_HA_WALKS overrides it.
func walks(t *testing.T, n int) int {
	if v := os.Getenv("SKFS_HA_WALKS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestWalks(t *testing.T) {
	for _, c := range []struct{ data, cuts bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		t.Run(fmt.Sprintf("data=%v,cuts=%v", c.data, c.cuts), func(t *testing.T) {
			t.Parallel()
			base := rand.Int63()
			if v := os.Getenv("SKFS_HA_SEED"); v != "" {
				base, _ = strconv.ParseInt(v, 10, 64)
			}
			for i := range walks(t, 2000) {
				seed := base + int64(i)
				if trail, bad := walk(seed, c.data, c.cuts, nil); bad != "" {
					t.Fatalf("SKFS_HA_SEED=%d: %s\n%s", seed, bad, strings.Join(trail, "\n"))
				}
			}
		})
	}
}
