package group

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// links are ways in which three hosts can be connected.
var links = []struct {
	name string
	cut  [][2]int
}{
	{"all", nil},
	{"1|23", [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}}},
	{"2|13", [][2]int{{1, 0}, {0, 1}, {1, 2}, {2, 1}}},
	{"3|12", [][2]int{{2, 0}, {0, 2}, {2, 1}, {1, 2}}},
	{"1|2|3", [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1}}},
	{"1-2-3", [][2]int{{0, 2}, {2, 0}}},
	{"2-1-3", [][2]int{{1, 2}, {2, 1}}},
	{"1>2>3>1", [][2]int{{1, 0}, {2, 1}, {0, 2}}},
	{"1 is deaf", [][2]int{{1, 0}, {2, 0}}},
	{"3 is deaf", [][2]int{{0, 2}, {1, 2}}},
	{"1 is mute", [][2]int{{0, 1}, {0, 2}}},
	{"3 is mute", [][2]int{{2, 0}, {2, 1}}},
}

// act is one thing that happens to one host.
type act struct {
	name  string
	after string // it makes sense after one of these only
	do    func(w *world, i int)
}

var acts = []act{
	{"crash", "", func(w *world, i int) { w.crash(i) }},
	{"start", "crash leave", func(w *world, i int) { w.start(i) }},
	{"restart", "", func(w *world, i int) { w.crash(i); w.start(i) }},
	{"restart with the clock set back", "", func(w *world, i int) {
		w.crash(i)
		w.back[i] = true
		w.start(i)
	}},
	{"pause", "", func(w *world, i int) { w.paused[i] = w.nodes[i] != nil }},
	{"resume", "pause", func(w *world, i int) { w.resume(i) }},
	{"leave", "", func(w *world, i int) {
		if w.nodes[i] != nil && !w.paused[i] {
			w.nodes[i].Leave()
			w.send(i)
			w.crash(i)
		}
	}},
	{"an old message", "", func(w *world, i int) {
		for j := range w.nodes {
			if m := w.late[i]; m.Rows != nil && j != i && w.nodes[j] != nil {
				w.deliver(j, m)
			}
		}
	}},
	{"says another thing", "", func(w *world, i int) {
		if w.nodes[i] != nil && !w.paused[i] {
			w.nodes[i].SetInfo("off")
		}
	}},
}

// round is a step of a schedule: how the hosts are connected, what happens, and for
// how many ticks it stays so.
type round struct {
	link, act, node, ticks int // act -1: nothing
}

func (r round) String() string {
	s := fmt.Sprintf("%s for %d", links[r.link].name, r.ticks)
	if r.act >= 0 {
		s = fmt.Sprintf("node%02d %s, %s", r.node+1, acts[r.act].name, s)
	}
	return s
}

const exploreLimit = 2

// firsts and seconds are the two rounds that are played. Those that change nothing
// are left out: a start of a host that is up.
func firsts() []round {
	var all []round
	for l := range links {
		for _, ticks := range []int{1, exploreLimit + 2} {
			all = append(all, round{l, -1, 0, ticks})
			for a := range acts {
				for node := range 3 {
					if acts[a].after == "" {
						all = append(all, round{l, a, node, ticks})
					}
				}
			}
		}
	}
	return all
}

func seconds(first round) []round {
	var all []round
	for l := range links {
		for _, ticks := range []int{1, exploreLimit + 2} {
			all = append(all, round{l, -1, 0, ticks})
			for a := range acts {
				for node := range 3 {
					if after := acts[a].after; after == "" || first.act >= 0 && strings.Contains(after, acts[first.act].name) && first.node == node {
						all = append(all, round{l, a, node, ticks})
					}
				}
			}
		}
	}
	return all
}

func (w *world) connect(cut [][2]int) {
	for i := range w.cut {
		clear(w.cut[i])
	}
	for _, c := range cut {
		w.cut[c[0]][c[1]] = true
	}
}

func (w *world) play(rs []round, heal bool) {
	for i := range w.nodes {
		w.start(i)
	}
	w.pulse()
	for _, r := range rs {
		w.connect(links[r.link].cut)
		if r.act >= 0 {
			acts[r.act].do(w, r.node)
			w.flush()
		}
		for i, n := range w.nodes {
			if n != nil && w.late[i].Rows == nil {
				w.late[i] = n.Message()
			}
		}
		for range r.ticks {
			w.pulse()
		}
	}
	if heal {
		w.connect(nil)
	}
	w.settle()
}

// TestExplore plays schedules of two rounds. After a short second one the links are
// healed, after a long one the hosts have to agree over those that are left.
func TestExplore(t *testing.T) {
	every := 29 // in CI; any stride that shares no factor with the loops below
	if os.Getenv("E2E_LONG") != "" {
		every = 1
	}
	played, n := 0, 0
	for _, a := range firsts() {
		for _, b := range seconds(a) {
			if n++; n%every != 0 {
				continue
			}
			heal := b.ticks == 1
			w := newWorld(3, exploreLimit)
			rs := []round{a, b}
			w.play(rs, heal)
			played++
			if w.bad != "" {
				t.Fatalf("%v, healed %v: %s", rs, heal, w.bad)
			}
		}
	}
	t.Logf("%d schedules of %d", played, n)
}
