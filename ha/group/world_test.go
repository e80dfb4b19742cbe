package group

import (
	"fmt"
	"strings"
)

// world is some hosts with a node each, and the network between them. Everything in
// it is a function of the moves made.
type world struct {
	names  []string
	limit  int
	chain  int         // how many hosts may stand between two, of those that hear each other
	nodes  []*Node     // nil: the host is down
	paused []bool      // it is stopped; messages wait for it
	queue  [][]Message // …here
	cut    [][]bool    // [from][to]
	late   []Message   // an old message of each
	lives  []uint64
	back   []bool // the clock was set back before the next life
	made   map[Epoch]View
	was    []Epoch        // greatest that each life has gone by
	mend   func(*Node)    // of a mutant
	garble func(*Message) // …
	bad    string
}

func newWorld(n, limit int) *world {
	w := &world{limit: limit, made: map[Epoch]View{}}
	for i := range n {
		w.names = append(w.names, fmt.Sprintf("node%02d", i+1))
		w.cut = append(w.cut, make([]bool, n))
	}
	w.nodes, w.paused, w.queue = make([]*Node, n), make([]bool, n), make([][]Message, n)
	w.late, w.lives, w.back, w.was = make([]Message, n), make([]uint64, n), make([]bool, n), make([]Epoch, n)
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
	}
}

// table is the state of the worlds: who was there, in order, with what they say, and
// how often it was made from another one. It is a pure function, as Decide has to be.
func table(was string, ms []Member) string {
	var b strings.Builder
	for _, m := range ms {
		b.WriteString(m.Name)
		b.WriteString(m.Info)
	}
	now := b.String()
	old, n, _ := strings.Cut(was, "#")
	if old == now {
		return was
	}
	return now + "#" + string(rune('a'+len(n)))
}

func (w *world) start(i int) {
	if w.nodes[i] != nil {
		return
	}
	w.lives[i]++
	inc := 1000 + w.lives[i]
	if w.back[i] {
		inc = 500 - w.lives[i]
	}
	n, err := New(Config{Self: w.names[i], Members: w.names, MLost: w.limit, SLost: w.limit, Decide: table}, inc, View{})
	if err != nil {
		panic(err)
	}
	n.SetInfo("on")
	w.nodes[i], w.was[i], w.paused[i], w.queue[i], w.back[i] = n, Epoch{}, false, nil, false
}

func (w *world) crash(i int) { w.nodes[i], w.paused[i], w.queue[i] = nil, false, nil }

func (w *world) resume(i int) {
	if !w.paused[i] {
		return
	}
	w.paused[i] = false
	if w.nodes[i] != nil {
		w.nodes[i].Stalled()
		q := w.queue[i]
		w.queue[i] = nil
		for _, m := range q {
			w.nodes[i].Hear(m)
		}
		w.flush()
	}
}

// check looks at a node after it was touched.
func (w *world) check(i int) {
	n := w.nodes[i]
	if w.mend != nil {
		w.mend(n)
	}
	v := n.View()
	if v.Epoch.N == 0 {
		return
	}
	if made, ok := w.made[v.Epoch]; !ok {
		w.made[v.Epoch] = v
	} else if made != v {
		w.fail("two views have epoch %v: %+v and %+v", v.Epoch, made, v)
	}
	if v.Epoch != w.was[i] && !w.was[i].Less(v.Epoch) {
		w.fail("%s went back from %v to %v", w.names[i], w.was[i], v.Epoch)
	}
	w.was[i] = v.Epoch
	if n.Ready() && !v.Members.Has(i) {
		w.fail("%s is ready in a view without it", w.names[i])
	}
}

func (w *world) send(i int) {
	m := w.nodes[i].Message()
	if w.garble != nil {
		w.garble(&m)
	}
	for j := range w.nodes {
		if j != i && w.nodes[j] != nil && !w.cut[i][j] {
			w.deliver(j, m)
		}
	}
}

func (w *world) deliver(j int, m Message) {
	if w.paused[j] {
		w.queue[j] = append(w.queue[j], m)
		return
	}
	w.nodes[j].Hear(m)
	w.check(j)
}

// flush sends what is urgent until nothing is.
func (w *world) flush() {
	for range 200 {
		any := false
		for i, n := range w.nodes {
			if n != nil && !w.paused[i] && n.Urgent() {
				any = true
				w.send(i)
			}
		}
		if !any {
			return
		}
	}
	w.fail("there is no end of urgent messages")
}

// pulse lets the time of a tick pass.
func (w *world) pulse() {
	for i, n := range w.nodes {
		if n == nil || w.paused[i] {
			continue
		}
		n.Tick()
		w.check(i)
		w.send(i)
	}
	w.flush()
}

// components are the sets of live hosts that hear each other, directly or not.
func (w *world) components() []Set {
	n := len(w.nodes)
	reach := make([][]bool, n)
	for i := range reach {
		reach[i] = make([]bool, n)
		for j := range n {
			reach[i][j] = i == j || w.nodes[i] != nil && w.nodes[j] != nil && !w.cut[i][j]
		}
	}
	for k := range n {
		for i := range n {
			for j := range n {
				reach[i][j] = reach[i][j] || reach[i][k] && reach[k][j]
			}
		}
	}
	var sets []Set
	for i := range n {
		var s Set
		for j := range n {
			if w.nodes[j] != nil && reach[i][j] && reach[j][i] {
				s = s.With(j)
			}
		}
		if s.Has(i) && s.First() == i {
			sets = append(sets, s)
		}
	}
	return sets
}

// settle waits as long as agreement may take, and checks it.
func (w *world) settle() {
	for i := range w.nodes {
		w.resume(i)
	}
	for range 2*(w.limit+1) + 4 + w.chain {
		w.pulse()
	}
	w.agree()
	settled := make([]Epoch, len(w.nodes))
	for i, n := range w.nodes {
		if n != nil {
			settled[i] = n.View().Epoch
		}
	}
	for range w.limit + 2 {
		w.pulse()
	}
	w.agree()
	for i, n := range w.nodes {
		if n != nil && n.View().Epoch != settled[i] {
			w.fail("%s changes its view though nothing happens", w.names[i])
		}
	}
}

// agree checks that all members of a component have the view of it.
func (w *world) agree() {
	for _, set := range w.components() {
		first := w.nodes[set.First()].View()
		for _, i := range set.Indices() {
			switch n := w.nodes[i]; {
			case n.View() != first:
				w.fail("%s goes by %+v, %s by %+v", w.names[set.First()], first, w.names[i], n.View())
			case n.View().Members != set:
				w.fail("%s has the members %b, they are %b", w.names[i], n.View().Members, set)
			case !n.Ready():
				w.fail("%s is not ready", w.names[i])
			case table(first.State, n.members(set)) != first.State:
				w.fail("the state %q of %s is not that of its members", first.State, w.names[i])
			}
		}
	}
}
