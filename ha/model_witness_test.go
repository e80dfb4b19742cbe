package ha

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sees says that node i reaches the witness.
func (w *world) sees(i int) bool { return !w.cut[0] && !w.cut[1] || w.seers[i] }

// TestWitness cuts a running pair in two, at any moment of what follows, with a witness
// that one of the nodes, or none, can reach (§13.17): never do both serve, and whoever
// reaches it does in the end. When the nodes meet again nothing answered is lost.
func TestWitness(t *testing.T) {
	for _, data := range []bool{true, false} {
		for _, seers := range [][2]bool{{true, false}, {false, true}, {false, false}} {
			t.Run(fmt.Sprintf("data=%v,reached by %v", data, seers), func(t *testing.T) {
				t.Parallel()
				base := int64(1) // see TestWalks
				if v := os.Getenv("SKFS_HA_SEED"); v != "" {
					base, _ = strconv.ParseInt(v, 10, 64) // 0 is as good a seed
				}
				for i := range number(t, "SKFS_HA_WALKS", 150) {
					seed := base + int64(i)
					if trail, bad := walkWitness(seed, data, seers, Step); bad != "" {
						t.Fatalf("SKFS_HA_SEED=%d: %s\n%s", seed, bad, strings.Join(trail, "\n"))
					}
				}
			})
		}
	}
}

// Without its parts the automaton fails TestWitness.
func TestWitnessMutants(t *testing.T) {
	for name, step := range map[string]func(State, Event, time.Time) (State, []Action){
		"silence is death": func(s State, e Event, now time.Time) (State, []Action) {
			if s.silent() {
				s.Witness = LinkUp
			}
			return Step(s, e, now)
		},
		"the answer of an earlier silence counts": func(s State, e Event, now time.Time) (State, []Action) {
			was := s.Witness
			s, a := Step(s, e, now)
			if was != LinkUnknown || s.Role == RoleSecond && s.heard() {
				s.Witness = LinkUp
			}
			return s, a
		},
		"a node that is cut off goes on": func(s State, e Event, now time.Time) (State, []Action) {
			if d, ok := e.(Done); ok && d.ID != 0 && d.ID == s.WitnessID {
				s.WitnessID, s.Witness = 0, LinkDown
				return s, nil
			}
			return Step(s, e, now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range int64(300) {
				if _, bad := walkWitness(seed, seed&1 == 0, [2]bool{seed&2 == 0, seed&2 != 0}, step); bad != "" {
					t.Logf("after %d walks: %s", seed+1, bad)
					return
				}
			}
			t.Error("it is not caught")
		})
	}
}

func walkWitness(seed int64, data bool, seers [2]bool, step func(State, Event, time.Time) (State, []Action)) (trail []string, bad string) {
	r := rand.New(rand.NewSource(seed))
	w := newWorld(data, "witness")
	w.seers, w.step = seers, step
	do := func(m move) {
		trail = append(trail, m.name())
		m.do(w)
		if w.answers(0) && w.answers(1) {
			w.fail("both answer alone")
		}
	}
	quiet := func() {
		for range 2000 {
			ms := necessary(w)
			if len(ms) == 0 || w.bad != "" {
				return
			}
			do(ms[r.Intn(len(ms))])
		}
		w.fail("it never comes to rest")
	}
	w.event(0, Asked{Command{Name: "prim"}})
	quiet()
	w.event(1, Asked{Command{Name: "second"}})
	quiet()
	if data {
		w.write(0)
	}
	if r.Intn(2) == 0 {
		w.event(0, Asked{Command{Name: "swap"}})
	}
	for range r.Intn(40) { // into the middle of it
		if ms := necessary(w); len(ms) > 0 {
			do(ms[r.Intn(len(ms))])
		}
	}
	trail = append(trail, "--- cut")
	w.cut, w.cuts, w.apart = [2]bool{true, true}, true, true
	if w.n[0].r.joined {
		w.unjoin()
	}
	quiet()
	if w.bad != "" {
		return trail, w.bad
	}
	for i := range w.n {
		s := &w.n[i].s
		serves := s.Role == RoleAlone && s.Colour == Green && s.Up&PartPrim != 0
		switch {
		case serves && !seers[i]:
			w.fail("node %d serves, cut off", i)
		case !seers[i] && (s.Up&PartPrim != 0 || !s.Split || s.Role != RoleWait || s.Colour != Red):
			w.fail("node %d is %v %v, split %v, runs %v", i, s.Role, s.Colour, s.Split, s.Up)
		case seers[i] && !serves && s.Role != RoleWait: // what it has may not be up to date
			w.fail("node %d reaches the witness, and is %v %v", i, s.Role, s.Colour)
		}
	}
	trail = append(trail, "--- meet")
	if w.bad == "" {
		w.cut = [2]bool{}
		w.settle(r, &trail)
	}
	if a, b := w.n[0].disk.data, w.n[1].disk.data; w.bad == "" && data && (w.acked&^a != 0 || w.acked&^b != 0) {
		w.fail("answered writes %b are lost: %b %b", w.acked, a, b)
	}
	return trail, w.bad
}

// answers says that node i answers its application without the other.
func (w *world) answers(i int) bool {
	n := &w.n[i]
	return n.r.primary && !n.r.frozen && !n.r.joined && n.s.Up&PartPrim != 0
}
