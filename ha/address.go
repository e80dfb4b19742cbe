package ha

import (
	"fmt"
	"slices"

	"github.com/skfs/skfs/conf"
)

// The virtual addresses of a mirror module are on the primary's interfaces from
// before start_prim until after stop_prim (guide §13.5). In the automaton they are
// one more part of what runs, PartAddress, and a set of those that are missing:
// because they are still to be set, because the kernel took them away when this
// host was late with their lease, or because somebody removed them.
//
// Missing ones are set beside the plan, whenever this node is certain that it is
// the primary. That makes a host that was paused safe: it wakes with its addresses
// gone, and with verdicts about the heartbeats that are worth nothing (see lost).

// VirtualAddress is what the automaton knows of one.
type VirtualAddress struct {
	Name  string // as it was configured
	Check bool   // when somebody removes it, the ip checker and its rule decide what follows
}

// Addresses is a set of Conf.Addresses, by index.
type Addresses uint64

func (a Addresses) has(i int) bool { return a&(1<<i) != 0 }

// allAddresses are those that are configured.
func (s *State) allAddresses() Addresses { return 1<<len(s.Conf.Addresses) - 1 }

// wants is what runs in a role of this module.
func (s *State) wants(r Role) Parts {
	p := partsOf(r)
	if p&PartPrim != 0 && len(s.Conf.Addresses) > 0 {
		p |= PartAddress
	}
	if r == RoleUp && s.Conf.Mode == conf.Farm {
		p |= PartFarm
	}
	return p
}

// certain says that this primary knows that nobody has taken over: the peer is
// dead as far as can be known, or says that it does not reign and cannot begin to:
// because it hears us, or is not started. One that waits and does not hear us may be
// about to take this node for dead.
func (m *machine) certain() bool {
	p := m.Peer
	return m.peerDead() || m.heard() && !p.Primary && (p.HearsMe || p.Role == RoleStop)
}

// address sets what is missing, once at a time. The link is asked first whether
// somebody has an address, unless nobody is to be expected: a peer that is silent may be
// dead in a way that leaves its kernel answering, and one that has released the reign
// before this one has taken the address away before it said so (swap, stop). Who else
// has it is heard afterwards.
func (m *machine) address() {
	if m.Order.stops() || m.Order == OrderStopwait {
		return
	}
	if m.Withdrawn || m.Missing&^m.Refused == 0 || m.Tried || m.AddressID != 0 || !m.claimed() || m.Up&PartAddress == 0 ||
		m.Cur.Kind == TaskNoAddress || m.leaving() || !m.certain() {
		return
	}
	m.AddressID = m.run(Task{Kind: TaskAddress, Ask: !m.silent() && m.Inherited != m.Epoch})
}

// claimed says that the claim of the reign was conceded, if the role does not say so yet.
func (m *machine) claimed() bool {
	return m.Reign && (m.Established || m.Cur.Kind == TaskJoin || m.Cur.Kind == TaskAlone)
}

// withdraw takes the addresses away before their turn in the plan, when another
// primary stays and this one does not: it has them already, and a script that stops
// the application may take its time.
func (m *machine) withdraw() {
	if m.Up&PartAddress == 0 || m.AddressID != 0 || m.Cur.Kind == TaskNoAddress || !m.leaving() || !m.givesWay() {
		return
	}
	m.Plan = slices.DeleteFunc(m.Plan, func(t Task) bool { return t.Kind == TaskNoAddress })
	m.Withdrawn = true
	m.AddressID = m.run(Task{Kind: TaskNoAddress})
}

// leaving says that the plan takes the addresses away.
func (m *machine) leaving() bool {
	return slices.ContainsFunc(m.Plan, func(t Task) bool { return t.Kind == TaskNoAddress })
}

// unaddressed says that start_prim has to wait for the first attempt to set the
// addresses. It is not held up by a peer that keeps this node uncertain.
func (m *machine) unaddressed() bool {
	return m.AddressID != 0 || m.Missing != 0 && !m.Tried && !m.silent() && !m.heard()
}

// addressed takes over how an attempt to set addresses, or a withdrawal, ended.
func (m *machine) addressed(d Done) {
	m.AddressID, m.Tried, m.Inherited = 0, true, 0
	if m.Withdrawn {
		m.noAddresses()
		return
	}
	if m.Up&PartAddress == 0 {
		return
	}
	for i, a := range m.Conf.Addresses {
		if m.Missing.has(i) && !d.Missing.has(i) {
			m.say("vip", fmt.Sprintf("Virtual IP %s set", a.Name))
		}
	}
	m.Missing = d.Missing
	m.Refused &= d.Missing
	if d.Late {
		m.forget()
	}
}

// lost: an address is not on this host any more. When the lease ran out this host
// did not run for a while: what it knows of the peer is old, and only what it hears
// from now on tells whether it still is the primary.
func (m *machine) lost(e AddressLost) {
	if m.Up&PartAddress == 0 || e.Index >= len(m.Conf.Addresses) {
		return
	}
	bit := Addresses(1) << e.Index
	m.Missing |= bit
	m.Tried = false
	if e.Expired {
		m.forget()
	} else if m.Conf.Addresses[e.Index].Check && !e.CutOff {
		m.Refused |= bit
	}
}

// forget drops what is known of the peer, as heart.doubt does: what it says from now
// on counts.
func (m *machine) forget() {
	for i := range m.Links {
		m.Links[i] = LinkUnknown
	}
	m.Peer = Beat{}
	m.rejoined()
}

// announce tells the link again where the addresses are: another primary had them
// too, and told it otherwise.
func (m *machine) announce() {
	if m.Up&PartAddress != 0 && m.Missing != m.allAddresses() {
		m.run(Task{Kind: TaskAnnounce})
	}
}

// givesWay says that another primary stays and this one does not: it has the
// addresses already.
func (m *machine) givesWay() bool {
	return m.Reign && m.heard() && m.Peer.Primary && m.Peer.Established
}

// noAddresses is what remains when they were taken away.
func (m *machine) noAddresses() {
	m.Up &^= PartAddress
	m.Missing, m.Refused, m.Tried, m.Withdrawn = 0, 0, false, false
}
