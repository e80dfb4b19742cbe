package group

import "testing"

// mutants are nodes that break a rule each. mend is applied after every call to a
// node, garble to every message.
var mutants = []struct {
	name   string
	mend   func(n *Node)
	garble func(m *Message)
}{
	{"trusts what waited while it was stopped", func(n *Node) { n.fresh = 0; n.sure = n.sure || n.view.Epoch.N != 0 }, nil},
	{"is sure at once", func(n *Node) { n.sure = true }, nil},
	{"takes who is heard for one that hears", func(n *Node) { n.mutual = n.heard }, nil},
	{"never drops anybody", func(n *Node) {
		for i, h := range n.heard {
			if h != 0 {
				n.heard[i], n.mutual[i] = n.tick, n.tick
			}
		}
	}, nil},
	{"presumes for ever", func(n *Node) {
		for _, i := range n.view.Members.Indices() {
			n.presumed[i] = n.tick
		}
	}, nil},
	{"does not presume", func(n *Node) { clear(n.presumed[:]) }, nil},
	{"forgets what epochs there were", func(n *Node) { n.seen = 0 }, nil},
	{"does not pass on what it heard", nil, func(m *Message) {
		for i := range m.Rows {
			if i != m.From && m.Rows[i].Ctr > 1 {
				m.Rows[i].Ctr = 1
			}
		}
	}},
	{"does not pass on its state", nil, func(m *Message) { m.State = nil }},
	{"keeps to its number", func(n *Node) { n.rows[n.self].Inc = n.life }, nil},
	{"does not say that it leaves", nil, func(m *Message) { m.Rows[m.From].Left = false }},
}

// survivors are mutants that agree all the same; what they cost is said.
var survivors = map[string]string{
	"does not presume":               "the first by name drops who it had no time to hear, and takes them in again: two views more, seen by TestQuietJoin",
	"forgets what epochs there were": "the view that a node goes by has the greatest epoch it may act on; seen only spares it a view that nobody takes",
	"does not say that it leaves":    "it is missed after a window, as one that crashed",
}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			caught := false
			k := 0
			for _, a := range firsts() {
				for _, b := range seconds(a) {
					if k++; k%97 != 0 || caught {
						continue
					}
					w := newWorld(3, exploreLimit)
					w.mend, w.garble = m.mend, m.garble
					w.play([]round{a, b}, b.ticks == 1)
					caught = w.bad != ""
				}
			}
			w := newWorld(3, 5)
			w.mend, w.garble = m.mend, m.garble
			w.stop()
			w.again()
			caught = caught || w.bad != ""
			if why, expected := survivors[m.name]; caught == expected {
				t.Errorf("caught: %v, expected otherwise (%s)", caught, why)
			}
		})
	}
}

// TestQuietJoin: one that comes, by any name, makes one view more, and takes over the
// state that is in force.
func TestQuietJoin(t *testing.T) {
	for late := range 3 {
		w := newWorld(3, 5)
		for i := range 3 {
			if i != late {
				w.start(i)
			}
		}
		for range 12 {
			w.pulse()
		}
		w.agree()
		before := w.nodes[(late+1)%3].View()
		w.start(late)
		for range 4 {
			w.pulse()
		}
		w.agree()
		after := w.nodes[late].View()
		if after.Epoch.N != before.Epoch.N+1 {
			t.Errorf("node %d comes: epoch %v after %v, expected the next one", late+1, after.Epoch, before.Epoch)
		}
		if w.bad != "" {
			t.Errorf("node %d comes: %s", late+1, w.bad)
		}
	}
}

// TestLeave: who leaves is missed at once.
func TestLeave(t *testing.T) {
	w := newWorld(3, 5)
	for i := range 3 {
		w.start(i)
	}
	for range 12 {
		w.pulse()
	}
	w.nodes[0].Leave()
	w.send(0)
	w.crash(0)
	w.flush()
	w.agree()
	if w.bad != "" {
		t.Error(w.bad)
	}
}

// stop pauses each host in turn for so long that the others go on without it. What
// waits for it then is from before, and it must not believe it.
func (w *world) stop() {
	for i := range w.nodes {
		w.start(i)
	}
	w.pulse()
	for i, n := range w.nodes {
		w.paused[i] = true
		for range w.limit + 2 {
			w.pulse()
		}
		w.paused[i] = false
		n.Stalled()
		w.check(i)
		for k, m := range w.queue[i] {
			if n.Hear(m); k == 0 && n.View().Members != n.all() {
				w.fail("%s was dropped too early for this test", w.names[i])
			}
			w.check(i)
			if n.Ready() {
				w.fail("%s is ready after message %d of %d that waited for it", w.names[i], k+1, len(w.queue[i]))
			}
		}
		w.queue[i] = nil
		w.flush()
		w.pulse()
		w.pulse()
		w.agree()
	}
}

// again starts a node that knows the view of its last life, which is not in force any
// more.
func (w *world) again() {
	was := w.nodes[2].View()
	w.crash(2)
	for range w.limit + 2 {
		w.pulse()
	}
	n, err := New(Config{Self: w.names[2], Members: w.names, MLost: w.limit, SLost: w.limit, Decide: table}, 2000, was)
	if err != nil {
		panic(err)
	}
	w.nodes[2] = n
	n.SetInfo("on")
	w.check(2)
	if n.Ready() {
		w.fail("a node that was started again is ready at once")
	}
	w.pulse()
	w.pulse()
	w.agree()
}

func TestStopped(t *testing.T) {
	w := newWorld(3, 5)
	w.stop()
	w.again()
	if w.bad != "" {
		t.Error(w.bad)
	}
}
