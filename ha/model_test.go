package ha

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skfs/skfs/conf"
)

// world is a model of two nodes around Step: hosts, daemons, replicas, scripts,
// heartbeats and the stream, with everything that can happen to them as moves. A
// world is a value; a move makes another one. explore_test.go walks through it.
type world struct {
	n      [2]mnode
	cut    [2]bool // heartbeats from node i do not arrive
	acked  uint8   // writes that the application was told are done
	writes int
	cuts   bool    // heartbeats were cut, or a host paused: split brain is possible
	pauses bool    // hosts may be paused
	apart  bool    // heartbeats were cut
	shaken bool    // an address was lost or could not be set
	forced bool    // an administrator overrode what the data said
	links  bool    // heartbeats may be cut, and heal
	late   bool    // what a node said before it said something else may arrive yet
	fails  bool    // calls to a replica may fail
	solo   bool    // a farm or light module: node 1 is not there
	holds  bool    // a rule may say wait for ever
	starts uint8   // modules that the administrator has started again because they had stopped
	dues   int     // scheduled synchronisations
	asks   int     // full copies that were demanded: each at a time of its own
	owed   [2]bool // a full copy was demanded on node i, and none has ended since
	seers  [2]bool // who reaches the witness while the heartbeats are cut
	bad    string
	step   func(State, Event, time.Time) (State, []Action)
}

// mnode is a host.
type mnode struct {
	up, daemon bool
	s          State
	say        Beat // what the heartbeats say
	before     Beat // what they said before that, and may still be on its way; Known: it is
	tasks      []mtask
	disk       mdisk
	r          mreplica
	v          mvip
}

// mtask is a task that the driver was given: todo, or done with a result that the
// automaton does not know yet.
type mtask struct {
	run  Run
	done bool
	old  bool // its host was paused since it was given
	res  Done
}

// mdisk is what survives a crash.
type mdisk struct {
	epoch uint64
	role  string // as fakeNode.role
	data  uint8  // the writes it holds
}

// mreplica is a replica process.
type mreplica struct {
	run, primary, frozen, degraded, drained, follow bool
	fresh                                           bool // in sync in the life of this process, and not outdated since
	full, did                                       bool // the Follow asked for everything; what ended last was that
	joined, synced, copying                         bool
	stream                                          uint64 // primary: streams of its epoch so far
	events                                          []ReplicaEvent
	gone                                            bool // its death is not known yet
}

// move is something that can happen.
type move struct {
	format string
	args   []any
	fault  bool // not needed for progress
	free   bool // may happen or not, and costs nothing
	do     func(*world)
}

func (m move) name() string { return fmt.Sprintf(m.format, m.args...) }

func newWorld(data bool, variant string) *world {
	w := &world{step: Step, pauses: variant == "address pause"}
	for i := range w.n {
		w.n[i] = mnode{up: true, daemon: true}
		c := mconf(i, data, variant)
		w.n[i].s = State{Role: RoleStop, Conf: c, Links: make([]Link, len(c.Heartbeats))}
		w.solo = !c.mirror()
		w.n[i].s.Colour = Red
		w.n[i].say = w.n[i].s.beat()
	}
	return w
}

func mconf(i int, data bool, variant string) Conf {
	c := Conf{Node: "ab"[i : i+1], Peer: "ba"[i : i+1], Second: i == 1, HasData: data, Failover: true,
		Heartbeats: []string{"default"}, MaxLoop: 100, LoopInterval: 24 * time.Hour}
	switch variant {
	case "light", "farm":
		c.Mode, c.Heartbeats, c.Peer = conf.Mode(variant), nil, ""
	case "failover off":
		c.Failover = false
	case "node a":
		c.DefaultPrim = "a"
	case "lastprim":
		c.DefaultPrim = variant
	case "syncat":
		c.SyncAt = true
	case "syncdelta":
		c.SyncDelta = time.Hour
	case "address", "address pause":
		c.Addresses = []VirtualAddress{{Name: "10.0.0.10"}}
	case "witness":
		c.Witness = true
	case "address check":
		c.Addresses = []VirtualAddress{{Name: "10.0.0.10", Check: true}}
	}
	return c
}

func (w *world) clone() *world {
	c := *w
	for i := range c.n {
		c.n[i].tasks = slices.Clone(w.n[i].tasks)
		c.n[i].r.events = slices.Clone(w.n[i].r.events)
		c.n[i].s = c.n[i].s.clone()
	}
	return &c
}

var modelNow = time.Unix(1_000_000, 0)

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
	}
}

// event gives node i an event.
func (w *world) event(i int, e Event) {
	n := &w.n[i]
	if !n.daemon {
		return
	}
	next, actions := w.step(n.s, e, modelNow.Add(time.Duration(w.asks)*time.Second))
	if n.s.Sync.Mode == SyncFull && next.Sync.Mode == SyncDefault && w.owed[i] {
		w.fail("node %d takes a full copy that was demanded for done", i)
	}
	old := n.say
	old.HearsMe = len(n.s.Links) > 0 && n.s.Links[0] == LinkUp
	n.s = next
	n.say = n.s.beat()
	if now := n.say; w.late {
		now.HearsMe = len(n.s.Links) > 0 && n.s.Links[0] == LinkUp
		if now != old {
			n.before = old
		}
	}
	for _, a := range actions {
		r, ok := a.(Run)
		if !ok || slices.ContainsFunc(n.tasks, func(t mtask) bool { return t.run.ID == r.ID && t.run.Task.Kind == TaskScript }) {
			continue // a script that still runs is adopted
		}
		w.begins(i, r.Task)
		n.tasks = append(n.tasks, mtask{run: r})
	}
	w.check()
}

// begins looks at what a task may rely on.
func (w *world) begins(i int, t Task) {
	n := &w.n[i]
	if t.Kind == TaskScript && slices.ContainsFunc(n.tasks, func(m mtask) bool { return m.run.Task.Kind == TaskScript && !m.done }) {
		w.fail("node %d runs %s beside another script", i, t.Script)
	}
	if t.starts() && n.s.Held != "" {
		w.fail("node %d starts a part of the application while a rule says wait", i)
	}
	switch {
	case t.Script == "start_prim":
		w.startPrim(i)
		w.startAddressed(i)
	case t.Script == "start_both" && n.s.Conf.Mode == conf.Farm && !n.v.shared:
		w.fail("the application of a farm starts before its address is shared")
	case t.Kind == TaskUnshare && n.s.Up&PartBoth != 0:
		w.fail("a farm is left while the application runs")
	}
}

// startPrim is the moment that R12 is about.
func (w *world) startPrim(i int) {
	me, other := &w.n[i], &w.n[1-i]
	if w.cuts || !other.up {
		return
	}
	if other.s.Up&PartPrim != 0 {
		w.fail("node %d starts the application before node %d has stopped it", i, 1-i)
	}
	if me.s.Conf.HasData && !w.forced && w.acked&^me.disk.data != 0 {
		w.fail("node %d starts the application without the answered writes %b: it has %b", i, w.acked, me.disk.data)
	}
}

// check holds what must be true in every state.
func (w *world) check() {
	a, b := &w.n[0].s, &w.n[1].s
	if a.Reign && b.Reign && a.Epoch == b.Epoch {
		w.fail("both nodes reign in epoch %d", a.Epoch)
	}
	for i := range w.n {
		s := &w.n[i].s
		if s.Up&PartPrim != 0 && !s.Reign {
			w.fail("node %d serves without a reign", i)
		}
		if w.n[i].v.there && w.n[i].up && s.Up&PartAddress == 0 {
			w.fail("node %d has an address that it does not know of", i)
		}
		if s.Live&^PartPre&^s.Up != 0 {
			w.fail("node %d watches %b, which does not run (%b)", i, s.Live, s.Up)
		}
		if stopped := s.Role == RoleStop && s.idle(); stopped && (s.Up != 0 || s.Live != 0 || s.Held != "" || s.Reign) {
			w.fail("node %d is stopped: runs %b, watches %b, is held by %q, reigns: %v", i, s.Up, s.Live, s.Held, s.Reign)
		}
		if s.Role == RoleStop && s.idle() && w.n[i].daemon && w.n[i].v.shared {
			w.fail("node %d is stopped and a member of the farm", i)
		}
		for _, class := range []string{"both", "prim", "second", "sec"} {
			if t := s.Cur; t.Kind == TaskScript && t.Part == classParts[class] && s.checking(class) {
				w.fail("node %d: checkers of class %s run beside %s", i, class, t.Script)
			}
		}
		if s.Reign && s.Released == s.Epoch {
			w.fail("node %d has released epoch %d and reigns in it", i, s.Epoch)
		}
	}
}

func (w *world) write(i int) {
	n, o := &w.n[i], &w.n[1-i]
	bit := uint8(1) << w.writes
	w.writes++
	n.disk.data |= bit
	if n.r.joined && n.r.synced {
		o.disk.data |= bit
	}
	w.acked |= bit
	if !n.r.joined && !w.cuts && n.s.Conf.HasData && o.up && w.promotable(1-i) {
		w.fail("node %d answers alone while node %d could be promoted as up to date", i, 1-i)
	}
}

// promotable says that node i could become primary without being forced.
func (w *world) promotable(i int) bool {
	s := &w.n[i].s
	return s.Role == RoleSecond && s.Fresh && w.n[i].r.fresh
}

func (w *world) canJoin(i int) bool {
	n, o := &w.n[i], &w.n[1-i]
	for _, t := range n.tasks {
		if t.run.Task.Kind == TaskCut && !t.done {
			return false // that call does not take as long as a join
		}
	}
	if n.daemon && o.daemon && !w.cut[1-i] && n.s.silent() {
		return false // nor the first heartbeat of a host that is back
	}
	if n.s.Drops > 2 && w.hurried(i) {
		return false
	}
	return n.r.run && o.r.run && n.r.primary && !n.r.degraded && o.r.follow && !n.r.joined && !o.r.joined && o.disk.epoch <= n.disk.epoch
}

// hurried says that a join would overtake what primary i is to be told of the loss
// before, or to tell. It may, but not for ever: the stream would be given up and opened
// for ever.
func (w *world) hurried(i int) bool {
	n, o := &w.n[i], &w.n[1-i]
	for _, e := range append(n.r.events, o.r.events...) {
		if e.Kind == PeerLost {
			return true
		}
	}
	return o.daemon && n.daemon && !w.cut[i] && !w.cut[1-i] && n.s.Drop != o.s.Outdated && !n.s.Drop.isZero()
}

func (w *world) tell(i int, k ReplicaEventKind, epoch uint64) {
	e := ReplicaEvent{Kind: k, Epoch: epoch}
	if w.n[i].r.primary && k != Synced {
		e.Stream = w.n[i].r.stream
	}
	w.n[i].r.events = append(w.n[i].r.events, e)
}

func (w *world) join(i int) {
	n, o := &w.n[i], &w.n[1-i]
	n.r.joined, o.r.joined, n.r.frozen = true, true, false
	n.r.stream++
	if o.r.full || o.disk.role != "clean" || o.disk.data != n.disk.data {
		n.r.copying = true
		o.r.fresh = false
		o.disk.role, o.disk.epoch, n.disk.role = "syncing", n.disk.epoch, "alone"
	}
	w.tell(i, PeerJoined, n.disk.epoch)
	w.tell(1-i, PeerJoined, n.disk.epoch)
}

func (w *world) sync(i int) {
	n, o := &w.n[i], &w.n[1-i]
	n.r.synced, o.r.synced, n.r.copying = true, true, false
	o.r.did = o.r.full
	if o.r.full {
		o.r.full, w.owed = false, [2]bool{}
	}
	n.disk.role = "connected"
	o.r.fresh = true
	o.disk.role, o.disk.data, o.disk.epoch = "second", n.disk.data, n.disk.epoch
	w.tell(i, Synced, n.disk.epoch)
	o.r.events = append(o.r.events, ReplicaEvent{Kind: Synced, Epoch: n.disk.epoch, Follow: FollowOptions{Full: o.r.did}})
}

func (w *world) unjoin() {
	for i := range w.n {
		r := &w.n[i].r
		if !r.joined {
			continue
		}
		if r.primary {
			r.frozen = !r.copying
		}
		r.joined, r.synced, r.copying = false, false, false
		if r.run {
			w.tell(i, PeerLost, w.n[i].disk.epoch)
		}
	}
}

func (w *world) killReplica(i int, told bool) {
	if w.n[i].r.joined {
		w.unjoin()
	}
	w.n[i].r = mreplica{gone: told}
	for k := range w.n[i].tasks {
		if t := &w.n[i].tasks[k]; !t.done && t.run.Task.Kind != TaskScript && t.run.Task.Kind != TaskStart &&
			t.run.Task.Kind < TaskAddress {
			t.done, t.res = true, Done{ID: t.run.ID, Err: errors.New("the replica died")}
		}
	}
}

func (w *world) crash(i int) {
	w.killReplica(i, false)
	w.n[i].up, w.n[i].daemon, w.n[i].tasks, w.n[i].v, w.n[i].before = false, false, nil, mvip{}, Beat{}
	w.n[i].s.Up, w.n[i].s.Live = 0, 0 // the application died with the host
	if w.n[i].s.Reign {
		w.n[i].s.Reign = false
	}
}

// killDaemon forgets what only the daemon knew: results that were under way and
// calls to the replica (made or not).
func (w *world) killDaemon(i int) {
	n := &w.n[i]
	n.daemon = false
	n.tasks = slices.DeleteFunc(n.tasks, func(t mtask) bool { return t.run.Task.Kind != TaskScript })
	n.v.knows() // its sockets are closed
	n.v.lost = false
	n.r.gone = false // events are kept for the next daemon
}

// startDaemon: what is durable of the state is what JSON keeps.
func (w *world) startDaemon(i int, boot bool) {
	n := &w.n[i]
	n.up, n.daemon = true, true
	saved, err := decodeSaved(encodeSaved(saved{State: n.s}))
	if err != nil {
		w.fail("ha.state: %v", err)
		return
	}
	c := n.s.Conf
	n.s = saved.State
	n.s.Conf, n.s.Links = c, make([]Link, len(c.Heartbeats))
	missing := n.s.allAddresses()
	if n.v.there {
		missing = 0
	}
	w.event(i, Adopted{Reboot: boot, Found: n.r.run, Status: w.status(i), Missing: missing})
	if !boot {
		return
	}
	n.tasks = nil
}

func (w *world) status(i int) ReplicaStatus {
	n := &w.n[i]
	return ReplicaStatus{Role: n.disk.role, Epoch: n.disk.epoch, Uptodate: n.r.primary || n.r.fresh || n.disk.role == "alone",
		Consistent: n.disk.role != "syncing", Connected: n.r.joined, Synced: n.r.synced, Frozen: n.r.frozen, Degraded: n.r.degraded, Stream: n.r.stream,
		Follow: FollowOptions{Full: n.r.did}}
}

// exec does what task k of node i asks for.
func (w *world) exec(i, k int) {
	n := &w.n[i]
	t := n.tasks[k].run
	r := &n.r
	switch t.Task.Kind {
	case TaskWitness:
		n.tasks[k].done, n.tasks[k].res = true, Done{ID: t.ID}
		if !w.sees(i) {
			n.tasks[k].res.Err = errors.New("it does not answer")
		}
		return
	case TaskShare, TaskUnshare:
		n.v.shared = t.Task.Kind == TaskShare
		n.tasks[k].done, n.tasks[k].res = true, Done{ID: t.ID}
		return
	case TaskReboot:
		w.crash(i)
		return
	}
	if t.Task.Kind >= TaskAddress {
		n.tasks[k].done, n.tasks[k].res = true, w.address(i, n.tasks[k])
		return
	}
	var err error
	if t.Task.Kind != TaskScript && t.Task.Kind != TaskStart && t.Task.Kind != TaskJoin && !r.run {
		err = ErrNoReplica
	} else {
		switch t.Task.Kind {
		case TaskStart:
			if r.run {
				w.killReplica(i, false)
			}
			*r = mreplica{run: true, degraded: t.Task.Degraded}
		case TaskStop:
			if t.Task.Clean && n.disk.role == "second" {
				n.disk.role = "clean"
			}
			if r.joined {
				w.unjoin()
			}
			*r = mreplica{}
		case TaskPromote:
			err = w.promote(i, t.Task)
		case TaskAlone:
			if r.primary && !r.joined && r.stream <= t.Task.Stream {
				w.alone(i)
			}
		case TaskCut:
			if r.primary && r.joined {
				w.unjoin()
			}
		case TaskFollow:
			switch {
			case r.primary:
				err = errors.New("it is a primary")
			case !r.follow || t.Task.Full || !t.Task.Since.IsZero():
				if r.joined {
					w.unjoin()
				}
				r.follow = true
				r.full = r.full || t.Task.Full
			}
		case TaskOutdate:
			if r.joined {
				w.unjoin()
			}
			r.fresh, r.follow, r.full, r.did = false, false, false, false
			if n.disk.role != "syncing" {
				n.disk.role = "outdated"
			}
		case TaskDemote:
			if r.primary && r.frozen {
				err = errors.New("the stream is broken")
			} else {
				if r.primary {
					if r.joined && !r.copying {
						n.disk.role = "clean"
					} else {
						n.disk.role = "alone"
					}
				}
				r.primary = false
				if r.joined {
					w.unjoin()
				}
			}
		}
	}
	d := Done{ID: t.ID, Err: err}
	if err == nil && t.Task.Kind != TaskScript && t.Task.Kind != TaskJoin {
		d.Status = w.status(i)
	}
	n.tasks[k].done, n.tasks[k].res = true, d
}

func (w *world) promote(i int, t Task) error {
	n := &w.n[i]
	if !n.r.primary {
		switch role := n.disk.role; {
		case role == "syncing" && t.Forced < ForcePrimforce:
			return ErrInconsistent
		case role != "alone" && !(role == "second" && n.r.fresh) && t.Forced < ForcePrim:
			return ErrNotUptodate
		}
	}
	if t.Forced == ForcePrim && n.s.Conf.SyncDelta > 0 && (!w.n[1-i].up || w.cut[1-i]) {
		w.forced = true // the administrator has accepted that changes of the last hour are lost
	}
	if n.r.joined {
		w.unjoin()
	}
	n.r.primary, n.r.frozen, n.r.drained, n.r.follow, n.r.full, n.r.did, n.r.stream = true, true, false, false, false, false, 0
	n.disk.epoch, n.disk.role = t.Epoch, "connected"
	return nil
}

func (w *world) alone(i int) {
	n := &w.n[i]
	n.r.frozen, n.disk.role = false, "alone"
	if !w.cuts && w.n[1-i].up && w.promotable(1-i) {
		w.fail("node %d goes on alone while node %d could be promoted as up to date", i, 1-i)
	}
}
