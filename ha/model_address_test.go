package ha

// mvip is what the model has of a host's virtual address, and of hosts that do not
// run for a while, which is what its lease is for.
type mvip struct {
	there  bool // the kernel has it
	paused bool // nothing runs on the host but its kernel
	lost   bool // its lease ran out while the host was paused, and nobody knows yet
	woken  bool // was paused, and the peer may have taken over unheard
	shared bool // farm: it is a member
	stale  Beat // what the peer said before: it still waits in a socket
}

// knows: the host has heard what is true now.
func (v *mvip) knows() { v.woken, v.stale = false, Beat{} }

// hears: one that does not hear this host may be about to take over.
func (v *mvip) hears(b Beat) {
	v.stale = Beat{}
	v.woken = v.woken && (b.Primary || !b.HearsMe)
}

// addressMoves lists what can happen to the address of node i.
func (w *world) addressMoves(i int, add func(bool, func(*world), string, ...any)) {
	n := &w.n[i]
	if len(n.s.Conf.Addresses) == 0 || !n.up {
		return
	}
	if n.v.paused {
		add(false, func(w *world) { w.n[i].v.paused = false }, "%d: wakes", i)
		if n.v.there {
			add(false, func(w *world) { w.n[i].v.there, w.n[i].v.lost, w.shaken = false, true, true }, "%d: the lease runs out", i)
		}
		return
	}
	if !n.daemon {
		if n.v.there {
			add(false, func(w *world) { w.n[i].v.there, w.shaken = false, true }, "%d: the lease runs out", i)
		}
		return
	}
	if n.v.lost {
		add(false, func(w *world) {
			w.n[i].v.lost = false
			w.n[i].v.knows() // heart.doubt
			w.event(i, AddressLost{Expired: true})
		}, "%d: sees that the lease ran out", i)
	}
	if stale := n.v.stale; stale.Known && n.s.Links[0] != LinkDown {
		add(false, func(w *world) {
			w.n[i].v.stale = Beat{}
			w.event(i, Linked{0, LinkUp})
			w.event(i, Heard{stale})
		}, "%d hears %v %v of long ago", i, stale.Role, stale.Colour)
	}
	if n.s.Missing != 0 && n.s.Tried {
		add(false, func(w *world) { w.event(i, Tick{}) }, "%d: tick", i)
	}
	if n.s.Refused != 0 && n.s.Up&PartAddress != 0 { // the ip checker tells it; maxloop is none of the model's
		add(false, func(w *world) { w.event(i, Ruled{"ip_failure", "stopstart"}) }, "%d: rule ip_failure", i)
	}
	if n.v.there && n.s.Missing == 0 {
		add(true, func(w *world) {
			w.n[i].v.there, w.shaken = false, true
			w.event(i, AddressLost{})
		}, "%d: the address is removed by somebody", i)
		if n.s.Conf.Addresses[0].Check { // else it is the same
			add(true, func(w *world) {
				w.n[i].v.there, w.shaken = false, true
				w.event(i, AddressLost{CutOff: true})
			}, "%d: the interface of the address loses its carrier", i)
		}
	}
	for k, t := range n.tasks {
		if t.run.Task.Kind == TaskAddress && !t.done {
			add(true, func(w *world) {
				w.shaken = true
				w.n[i].tasks[k].done, w.n[i].tasks[k].res = true, Done{ID: t.run.ID, Missing: 1}
			}, "%d: the address cannot be set", i)
		}
	}
	if w.pauses {
		add(true, func(w *world) {
			v := &w.n[i].v
			v.paused, v.woken, w.cuts = true, true, true
			if w.n[i].s.Links[0] == LinkUp && !v.stale.Known {
				v.stale = w.n[1-i].say
				v.stale.HearsMe = w.n[1-i].s.Links[0] == LinkUp
			}
			for k := range w.n[i].tasks {
				w.n[i].tasks[k].old = true
			}
		}, "%d: paused", i)
	}
}

// address carries out what task t asks for. A host that was paused since it was asked
// sets nothing (vips.set).
func (w *world) address(i int, t mtask) Done {
	n, o := &w.n[i], &w.n[1-i]
	d := Done{ID: t.run.ID}
	switch {
	case t.run.Task.Kind == TaskNoAddress:
		n.v.there = false
		return d
	case n.v.there, t.run.Task.Kind == TaskAnnounce:
		return d
	case t.old:
		w.shaken = true
		d.Missing, d.Late = 1, true
		return d
	}
	// One that was paused has it until its lease runs out, or until it knows, and then
	// takes it away at once.
	if o.v.there && !o.v.paused && !o.v.woken && !w.apart && !o.s.Withdrawn {
		w.fail("node %d sets the address while node %d has it and renews its lease", i, 1-i)
	}
	if n.v.woken && !n.s.Reign {
		w.fail("node %d sets the address and does not reign", i)
	}
	n.v.there = true
	return d
}

// startAddressed: the application finds its address, unless the peer keeps this node
// uncertain (unaddressed).
func (w *world) startAddressed(i int) {
	n := &w.n[i]
	if len(n.s.Conf.Addresses) > 0 && !n.v.there && !w.shaken && !w.cuts && n.s.clone().machine().certain() {
		w.fail("node %d starts the application without its address", i)
	}
}

// settledAddresses: who serves has the address, and nobody else.
func (w *world) settledAddresses() {
	for i := range w.n {
		n := &w.n[i]
		if serves := n.s.Up&PartPrim != 0; len(n.s.Conf.Addresses) > 0 && serves != n.v.there {
			w.fail("node %d serves: %v, and has the address: %v", i, serves, n.v.there)
		}
	}
}
