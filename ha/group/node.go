package group

import (
	"fmt"
	"slices"
)

// Config is the same on all members, but for Self.
type Config struct {
	Self    string
	Members []string // sorted, without twins; Self among them
	// MLost and SLost are after how many ticks of silence the member that makes the
	// views, or another one, is gone (guide §13.4.3). At least 2: a counter that comes
	// over other members may be a tick late.
	MLost, SLost int
	// Decide makes the state of a view of these members from that of the one before
	// ("" at first). It is a function of its arguments alone, and gives a state that
	// it made back unchanged while the members and what they say stay the same. nil:
	// there is no state.
	Decide func(was string, members []Member) string
}

// Member is one of a view, as Decide sees it.
type Member struct {
	Index int // in Config.Members
	Name  string
	Info  string // as it said with SetInfo
}

// Row is what is known of one member.
type Row struct {
	Inc, Ctr uint64 // incarnation, and a counter that grows with every tick; together they only grow
	Left     bool   // it has left the group in order
	Hears    Set    // whom it hears
	Epoch    Epoch  // of the view that it goes by
	View     Set    // …and the members of it
	Info     string // what it says of itself
}

func (r *Row) newer(o *Row) bool {
	return r.Inc > o.Inc || r.Inc == o.Inc && r.Ctr > o.Ctr
}

// Message is what members send each other.
type Message struct {
	From  int
	Rows  []Row   // by index; Inc is 0 of those that the sender knows nothing of
	State *string // of the sender's view; nil: everybody is known to have it
}

// Node is one member: a state machine without clock and I/O. The caller calls Tick
// once a pulse and sends Message to all others then, and at once when Urgent says so.
type Node struct {
	conf Config
	self int
	life uint64 // as New was given it

	tick     uint64
	rows     [MaxMembers]Row
	heard    [MaxMembers]uint64 // tick at which the counter last went on; 0: it is not heard
	mutual   [MaxMembers]uint64 // …and said that it hears this node
	presumed [MaxMembers]uint64 // tick at which a view said that it is there, before it was heard

	view   View
	seen   uint64 // the greatest Epoch.N that was heard of
	set    Set    // as of the last decide
	grown  uint64 // tick at which set last changed
	since  uint64 // tick from which on this node knows what it knows
	fresh  uint64 // its counter then: who has not heard it tells of the time before
	sure   bool   // the view is in force: somebody said so since, or it is this node's own
	urgent bool
}

// New is a node that knows of nobody. inc is that of no earlier life of it, and greater
// as far as that can be had (the time); a node that hears it is not, corrects itself.
// was is the view that the node went by in its last life on this boot, if it had one.
func New(c Config, inc uint64, was View) (*Node, error) {
	n := &Node{conf: c, self: slices.Index(c.Members, c.Self), life: inc, tick: 1}
	switch {
	case len(c.Members) < 1 || len(c.Members) > MaxMembers:
		return nil, fmt.Errorf("a group of %d members: 1 to %d are possible", len(c.Members), MaxMembers)
	case !slices.IsSorted(c.Members) || len(slices.Compact(slices.Clone(c.Members))) != len(c.Members):
		return nil, fmt.Errorf("the members %q are not sorted, or have twins", c.Members)
	case n.self < 0:
		return nil, fmt.Errorf("node %s is not among the members %q", c.Self, c.Members)
	case c.MLost < 2 || c.SLost < 2:
		return nil, fmt.Errorf("mlost_count %d, slost_count %d: at least 2 is expected", c.MLost, c.SLost)
	case inc == 0:
		return nil, fmt.Errorf("incarnation 0")
	}
	n.since, n.grown, n.set = n.tick, n.tick, Set(0).With(n.self)
	me := &n.rows[n.self]
	me.Inc, me.Ctr = inc, 1
	n.fresh = me.Ctr
	if was.Epoch.N > 0 {
		n.adopt(was)
		n.presume()
	}
	n.decide()
	return n, nil
}

// window is how long a node listens before it believes that nobody is there, ticks.
func (n *Node) window() uint64 { return uint64(max(n.conf.MLost, n.conf.SLost)) + 1 }

// limit is after how many ticks of silence a member is gone.
func (n *Node) limit(i int) uint64 {
	if i == n.view.Members.First() {
		return uint64(n.conf.MLost)
	}
	return uint64(n.conf.SLost)
}

func (n *Node) within(t uint64, i int) bool { return t != 0 && n.tick-t <= n.limit(i) }

// Heard are the members that this node hears, itself among them.
func (n *Node) Heard() Set {
	s := Set(0).With(n.self)
	for i := range n.conf.Members {
		if i != n.self && n.within(n.heard[i], i) {
			s = s.With(i)
		}
	}
	return s
}

// Deaf are the members that this node hears, and that do not hear it: the datagrams
// of one direction are lost.
func (n *Node) Deaf() Set { return n.Heard() &^ n.both() }

// both are those that hear this node and that it hears.
func (n *Node) both() Set {
	s := Set(0).With(n.self)
	for i := range n.conf.Members {
		if i != n.self && n.within(n.heard[i], i) && n.within(n.mutual[i], i) {
			s = s.With(i)
		}
	}
	return s
}

// alive are those that the next view has: both, and those of the last one that had
// no time yet to be heard.
func (n *Node) alive() Set {
	s := n.both()
	for i := range n.conf.Members {
		if n.view.Members.Has(i) && !n.rows[i].Left && n.within(n.presumed[i], i) {
			s = s.With(i)
		}
	}
	return s
}

// all is every configured member.
func (n *Node) all() Set { return Set(1<<len(n.conf.Members) - 1) }

// View is what the node goes by; its Epoch.N is 0 while it listens for others.
func (n *Node) View() View { return n.view }

// Row is what is known of a member.
func (n *Node) Row(i int) Row { return n.rows[i] }

// Self is the index of this node.
func (n *Node) Self() int { return n.self }

// Ready says that the view is in force and this node in it.
func (n *Node) Ready() bool { return n.view.Members.Has(n.self) && n.certain() }

func (n *Node) certain() bool {
	return n.sure || n.tick-n.since >= n.window() || n.both() == n.all()
}

// Urgent says, once, that something changed that the others should know now.
func (n *Node) Urgent() bool {
	u := n.urgent
	n.urgent = false
	return u
}

// Message is what is to be sent to all others now.
func (n *Node) Message() Message {
	heard := n.Heard()
	n.rows[n.self].Hears = heard
	m := Message{From: n.self, Rows: slices.Clone(n.rows[:len(n.conf.Members)])}
	lacks := false
	for i, r := range m.Rows {
		lacks = lacks || heard.Has(i) && r.Epoch != n.view.Epoch
	}
	if lacks {
		state := n.view.State
		m.State = &state
	}
	return m
}

// touch notes a change that the others should know of.
func (n *Node) touch() {
	n.rows[n.self].Ctr++
	n.urgent = true
}

// Tick is a pulse that has passed.
func (n *Node) Tick() {
	n.tick++
	n.rows[n.self].Ctr++
	n.decide()
}

// Stalled says that this node was stopped for a while: what it knew is old, and so
// are the messages that wait for it.
func (n *Node) Stalled() {
	n.touch()
	n.since, n.fresh, n.sure = n.tick, n.rows[n.self].Ctr, false
	for i := range n.conf.Members {
		if n.within(n.heard[i], i) || n.view.Members.Has(i) {
			n.presumed[i] = n.tick
		}
	}
	clear(n.heard[:])
	clear(n.mutual[:])
	n.decide()
}

// SetInfo is what this node says of itself from now on.
func (n *Node) SetInfo(info string) {
	if n.rows[n.self].Info != info {
		n.rows[n.self].Info = info
		n.touch()
		n.decide()
	}
}

// Leave says to all that this node is gone. Its messages are still to be sent.
func (n *Node) Leave() {
	n.rows[n.self].Left = true
	n.touch()
}

// Hear takes a message.
func (n *Node) Hear(m Message) {
	if m.From == n.self || len(m.Rows) != len(n.conf.Members) || n.rows[n.self].Left {
		return
	}
	me := &n.rows[n.self]
	echo := m.Rows[n.self]
	known := echo.Inc != 0
	switch {
	case known && echo.newer(me):
		// An earlier life was numbered higher: the clock was set back since.
		me.Inc = echo.Inc + 1
		n.touch()
	case known && echo.Inc == me.Inc && echo.Ctr < n.fresh && m.Rows[m.From].Hears.Has(n.self):
		// It waited here while this node was stopped. One that does not hear this node
		// may have been stopped itself, and has to be heard first.
		return
	}
	before := n.Heard()
	for i, r := range m.Rows {
		if i != n.self {
			n.learn(i, r)
		}
	}
	if n.Heard() != before {
		n.touch()
	}
	from := m.Rows[m.From]
	if m.State != nil && n.view.Epoch.Less(from.Epoch) && n.both().Has(m.From) {
		n.adopt(View{from.Epoch, from.View, *m.State})
		n.presume()
		n.touch()
	}
	if known && echo.Inc == me.Inc && echo.Ctr >= n.fresh && from.Epoch == n.view.Epoch && from.View.Has(n.self) {
		n.sure = true
	}
	n.decide()
}

// learn takes a row that is newer than the one that is known.
func (n *Node) learn(i int, r Row) {
	n.seen = max(n.seen, r.Epoch.N)
	if !r.newer(&n.rows[i]) { // so is one that is not known
		return
	}
	n.rows[i] = r
	if r.Left {
		n.heard[i], n.mutual[i], n.presumed[i] = 0, 0, 0
		return
	}
	n.heard[i] = n.tick
	if r.Hears.Has(n.self) {
		n.mutual[i] = n.tick
	}
}

// adopt goes over to a view.
func (n *Node) adopt(v View) {
	n.view = v
	n.seen = max(n.seen, v.Epoch.N)
	n.rows[n.self].Epoch, n.rows[n.self].View = v.Epoch, v.Members
}

// presume takes those to be there that somebody else made members, and that this
// node had no time to hear.
func (n *Node) presume() {
	for _, i := range (n.view.Members &^ n.both()).Indices() {
		if !n.rows[i].Left {
			n.presumed[i] = n.tick
		}
	}
}

// decide makes a view if it is up to this node and the one in force is not right.
func (n *Node) decide() {
	set := n.alive()
	if set != n.set {
		n.set, n.grown = set, n.tick
	}
	if n.rows[n.self].Left || n.leader(set) != n.self || !n.certain() {
		return
	}
	if set&^n.view.Members != 0 && n.both() != n.all() && n.grown == n.tick {
		return // who comes seldom comes alone
	}
	state := n.view.State
	if n.conf.Decide != nil {
		state = n.conf.Decide(state, n.members(set))
	}
	if n.view.Epoch.N != 0 && set == n.view.Members && state == n.view.State {
		return
	}
	n.adopt(View{Epoch{max(n.seen, n.view.Epoch.N) + 1, uint8(n.self), n.life}, set, state})
	n.sure = true
	n.touch()
}

// leader is who makes the next view: the first that has one, so that a newcomer does
// not have to know what is in force, else the first.
func (n *Node) leader(set Set) int {
	for _, i := range set.Indices() {
		if n.rows[i].Epoch.N != 0 {
			return i
		}
	}
	return set.First()
}

func (n *Node) members(set Set) []Member {
	var ms []Member
	for _, i := range set.Indices() {
		ms = append(ms, Member{i, n.conf.Members[i], n.rows[i].Info})
	}
	return ms
}

// Clone is an independent copy.
func (n *Node) Clone() *Node {
	c := *n
	return &c
}
