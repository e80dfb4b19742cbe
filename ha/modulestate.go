package ha

import (
	"fmt"
	"time"
)

// What the loop of a module (module.run) shows of it.

var whyTexts = map[Block]string{BlockNotUptodate: "notuptodate_server", BlockDegraded: "degraded_server", BlockSyncat: "rfs_syncat_wait", BlockFailover: "failover-off"}

// publish copies the state for readers.
func (m *module) publish() {
	s := &m.state
	now := time.Now()
	values := s.resources(now)
	if s.Conf.HasData {
		m.traffic.resources(values, s.Reign)
	}
	values["usersetting.boot"] = string(m.mc.boot)
	m.addressResources(values)
	m.farmResources(values)
	m.res.set(now, values)
	changedRes := m.res.fresh
	m.res.fresh = false
	if changedRes {
		m.tellResources()
	}
	p := ModuleState{Module: m.name, Mode: s.Conf.Mode, ID: m.mc.id, Node: s.Conf.Node, Role: s.Role, Colour: s.Colour, Since: s.Since,
		Peer: s.Conf.Peer, Remote: s.Remote.Role, RemoteCol: s.Remote.Colour, Epoch: s.Epoch,
		Degraded: s.Data.Degraded, Busy: s.Cur.name(), Why: whyTexts[s.Why], Progress: m.prog, Loop: s.loopCount(), Started: m.began}
	if s.Why == BlockRule {
		p.Why = s.Held
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = s.clone()
	old := m.public
	if changedRes || old.Resources == nil {
		p.Resources, p.RemoteResources = m.res.list(), m.res.remote
	} else {
		p.Resources, p.RemoteResources = old.Resources, old.RemoteResources
	}
	m.public = p
	if changedRes || !sameState(old, p) {
		m.judging.unjudged = true
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func sameState(a, b ModuleState) bool {
	a.Resources, b.Resources, a.RemoteResources, b.RemoteResources = nil, nil, nil, nil
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

// look is the published state, and what is closed when it changes.
func (m *module) look() (ModuleState, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.public, m.changed
}
