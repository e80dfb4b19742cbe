package ha

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// scenario is one kind of pair and of what may happen to it, for explore.
type scenario struct {
	name    string
	data    bool
	variant string
	setup   func(*world)
	// states bounds what is visited; second is the share (one in so many) of the states
	// after one fault at which a second one strikes.
	states, second int
}

var scenarios = []scenario{
	{name: "pair with data", data: true, setup: pairUp, states: 250_000},
	{name: "pair without data", setup: pairUp, states: 120_000},
	{name: "start of a pair", data: true, setup: pairDown, states: 100_000},
	{name: "heartbeats cut and late", data: true, setup: allOf(pairUp, badLinks), states: 200_000},
	{name: "heartbeats cut and late, without data", setup: allOf(pairUp, badLinks), states: 100_000},
	{name: "address", data: true, variant: "address", setup: pairUp, states: 80_000},
	{name: "address of a host that is paused", variant: "address pause", setup: pairUp, states: 80_000},
	{name: "address that is checked", variant: "address check", setup: pairUp, states: 50_000},
	{name: "witness", data: true, variant: "witness", setup: pairUp, states: 60_000},
	{name: "lastprim", data: true, variant: "lastprim", setup: pairUp, states: 50_000},
	{name: "syncat", data: true, variant: "syncat", setup: pairUp, states: 50_000},
	{name: "syncdelta", data: true, variant: "syncdelta", setup: pairUp, states: 50_000},
	{name: "failover off", data: true, variant: "failover off", setup: pairUp, states: 50_000},
	{name: "rules that hold for ever", data: true, setup: allOf(pairUp, func(w *world) { w.holds = true }), states: 60_000},
	{name: "rules that hold for ever, without data", setup: allOf(pairUp, func(w *world) { w.holds = true }), states: 40_000},
	{name: "start under rules that hold for ever", data: true, setup: allOf(pairDown, func(w *world) { w.holds = true }), states: 60_000},
	{name: "failover off, without data", variant: "failover off", setup: pairUp, states: 50_000},
	{name: "light", variant: "light", states: 20_000, second: 1},
	{name: "farm", variant: "farm", setup: func(w *world) { w.fails = true }, states: 40_000, second: 1},
	{name: "calls that fail", data: true, setup: allOf(pairUp, func(w *world) { w.fails = true }), states: 100_000},
}

func allOf(fs ...func(*world)) func(*world) {
	return func(w *world) {
		for _, f := range fs {
			f(w)
		}
	}
}

// pairUp makes a pair in sync, with something to lose.
func pairUp(w *world) {
	for i, name := range []string{"prim", "second"} {
		w.event(i, Asked{Command{Name: name}})
		for ms := necessary(w); len(ms) > 0; ms = necessary(w) {
			ms[0].do(w)
		}
	}
	w.forced = false
	if w.n[0].s.Conf.HasData {
		w.write(0)
	}
}

// pairDown is a pair that was stopped, the second first.
func pairDown(w *world) {
	pairUp(w)
	for _, i := range []int{1, 0} {
		w.event(i, Asked{Command{Name: "stop"}})
		for ms := necessary(w); len(ms) > 0; ms = necessary(w) {
			ms[0].do(w)
		}
	}
}

func badLinks(w *world) { w.links, w.late = true, true }

// TestExplore visits what can become of two nodes: from the start of both, every
// order in which things can happen by themselves; at each state on the way every
// fault, command, or rule that fires, and every order of what follows; and at one in
// so many of those states a second one. Whatever a state leads to has to end well
// (world.settled).
func TestExplore(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(200))
	sample := uint32(number(t, "SKFS_HA_SEED", 0))
	more := number(t, "SKFS_HA_MORE", 1)
	whole := number(t, "SKFS_EXPLORE", 0) > 0 // make explore; else a share
	var total atomic.Int64
	var ran atomic.Int32
	t.Run("of", func(t *testing.T) { // ends when all of them have
		for _, sc := range scenarios {
			sc.states *= more
			if !whole {
				sc.states /= 100
			}
			t.Run(sc.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(sc.data, sc.variant)
				if sc.setup != nil {
					sc.setup(w)
				}
				e := newExplorer(w)
				e.sample = sample
				counts := e.run(sc)
				t.Logf("%d states: %d without a fault, %d after one, %d after two", len(e.recs), counts[0], counts[1], counts[2])
				ran.Add(1)
				total.Add(int64(len(e.recs)))
				if e.bad != "" {
					t.Fatalf("%s\n%s", e.bad, e.trail())
				}
			})
		}
	})
	t.Logf("%d states", total.Load())
	if whole && ran.Load() == int32(len(scenarios)) && total.Load() < 1_000_000 && !t.Failed() {
		t.Errorf("only %d states were visited", total.Load())
	}
}

// explorer visits worlds. What was seen is kept as keys, and how each was reached as
// the number of the move, so that the trail can be walked again.
type explorer struct {
	start *world
	seen  map[uint64]struct{}
	recs  []visit
	bad   string
	at    int32 // where bad is

	sample uint32 // another number takes other states for the second fault
}

type visit struct {
	from int32
	move uint16 // of moves of the world at from
}

type visited struct {
	w  *world
	id int32
}

func newExplorer(w *world) *explorer {
	e := &explorer{start: w, seen: map[uint64]struct{}{w.key(): {}}, recs: []visit{{-1, 0}}}
	return e
}

// byItself are the moves that are no faults, always in the same order. Where nothing
// is left to happen, an administrator starts what has stopped.
func byItself(w *world) []move {
	ms := w.moves(false)
	n, necessary := 0, false
	for _, m := range ms {
		if !m.fault {
			ms[n] = m
			n++
			necessary = necessary || !m.free
		}
	}
	ms = ms[:n]
	if necessary {
		return ms
	}
	for i := range w.n {
		if w.n[i].daemon && w.n[i].s.Role == RoleStop && w.starts < 4 && !(w.solo && i > 0) {
			ms = append(ms, move{"%d: command start, as an administrator would", []any{i}, false, false, func(w *world) {
				w.starts++
				w.event(i, Asked{Command{Name: "start"}})
			}})
		}
	}
	return ms
}

// faults are the others, always in the same order.
func faults(w *world) []move {
	return slices.DeleteFunc(w.moves(true), func(m move) bool { return !m.fault })
}

// isFault marks the number of a move of faults.
const isFault = 1 << 15

// run explores in layers of faults, and says how many states each has. What is left of
// the limit is shared evenly among the faults of a layer that are to come.
func (e *explorer) run(sc scenario) (counts [3]int) {
	seeds := []visited{{e.start, 0}}
	if sc.second == 0 {
		sc.second = 10
	}
	seeds = e.closure(seeds, 1, sc.states/10)
	counts[0] = len(e.recs)
	for layer, limit := range []int{sc.states * 6 / 10, sc.states} {
		one := 0 // of the states of this layer at which the next one goes on
		if layer == 0 {
			one = sc.second
		}
		var next []visited
		// The order in which they were found would favour some.
		slices.SortFunc(seeds, func(a, b visited) int { return cmp.Compare(e.lot(a.id), e.lot(b.id)) })
		for i, at := range seeds {
			fs := faults(at.w)
			for k, m := range fs {
				left := (len(seeds)-i-1)*len(fs) + len(fs) - k
				share := max((limit-len(e.recs))/left, min(200, limit-len(e.recs)))
				if v, ok := e.visit(at, isFault|uint16(k), m); ok {
					next = append(next, e.closure([]visited{v}, one, share)...)
				}
				if e.bad != "" {
					return counts
				}
			}
			if len(e.recs) >= limit {
				break
			}
		}
		counts[layer+1] = len(e.recs)
		for _, c := range counts[:layer+1] {
			counts[layer+1] -= c
		}
		seeds = next
	}
	return counts
}

// lot draws a state: by the order in which it was found, so that every run draws the
// same.
func (e *explorer) lot(id int32) uint32 {
	h := (uint32(id) + e.sample*0x85ebca6b) * 0x9e3779b1
	h ^= h >> 15
	return h * 0x2c1b3c6d >> 8
}

// closure visits what follows by itself, at most limit states, and returns one in so
// many of them.
func (e *explorer) closure(stack []visited, one, limit int) (seeds []visited) {
	limit += len(e.recs)
	for len(stack) > 0 && e.bad == "" && len(e.recs) < limit {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if one == 1 || one > 0 && e.lot(at.id)%uint32(one) == 0 {
			seeds = append(seeds, at)
		}
		ends, moved := true, false
		for k, m := range byItself(at.w) {
			ends = ends && m.free
			if v, ok := e.visit(at, uint16(k), m); ok {
				stack = append(stack, v)
				moved = true
			}
			if e.bad != "" {
				return nil
			}
		}
		switch {
		case ends:
			at.w.settled()
		case !moved && e.stuck(at.w):
			at.w.fail("what happens changes nothing, for ever")
		}
		e.check(at)
	}
	return seeds
}

// stuck says that no move leads to another world.
func (e *explorer) stuck(w *world) bool {
	for _, m := range byItself(w) {
		next := w.clone()
		m.do(next)
		if next.key() != w.key() {
			return false
		}
	}
	return true
}

// visit makes a move, and says whether it leads to a world that was not seen yet.
func (e *explorer) visit(at visited, k uint16, m move) (visited, bool) {
	next := at.w.clone()
	m.do(next)
	key := next.key()
	if _, ok := e.seen[key]; ok {
		return visited{}, false
	}
	e.seen[key] = struct{}{}
	v := visited{next, int32(len(e.recs))}
	e.recs = append(e.recs, visit{at.id, k})
	if next.n[0].s.Drops > 12 {
		next.fail("the stream is given up and opened for ever")
	}
	e.check(v)
	return v, true
}

func (e *explorer) check(v visited) {
	if v.w.bad != "" && e.bad == "" {
		e.bad, e.at = v.w.bad, v.id
	}
}

// trail walks to the bad world once more.
func (e *explorer) trail() string {
	var way []uint16
	for id := e.at; e.recs[id].from >= 0; id = e.recs[id].from {
		way = append(way, e.recs[id].move)
	}
	var b strings.Builder
	w := e.start
	for i := len(way) - 1; i >= 0; i-- {
		ms, k := byItself(w), way[i]
		if k&isFault != 0 {
			ms, k = faults(w), k&^isFault
		}
		m := ms[k]
		fmt.Fprintf(&b, "%-50s", m.name())
		w = w.clone()
		m.do(w)
		for i := range w.n {
			s := &w.n[i].s
			fmt.Fprintf(&b, " | %v %v e%d %v", s.Role, s.Colour, s.Epoch, s.Cur.name())
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}
