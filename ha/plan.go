package ha

import "github.com/skfs/skfs/conf"

// A transition is planned here: the tasks of each, in order. What the scripts
// are and how they follow each other is §14.2 of the guide, which reduces to one
// rule: each role wants some parts of the application (wants), a transition
// stops those that the next role does not want, calls the script transition, and
// starts those that are missing.

func (m *machine) plan(ts ...Task) { m.Plan = append(m.Plan, ts...) }

func (m *machine) script(name string, to Role, action string) {
	m.plan(Task{Kind: TaskScript, Script: name, From: m.Role, To: to, Action: action})
}

// stopParts plans the stop scripts, each gracefully and then with force.
// Addresses go after what uses them; see withdraw.
func (m *machine) stopParts(parts Parts, to Role, action string) {
	for _, p := range stopOrder {
		if parts&p == 0 {
			continue
		}
		switch p {
		case PartAddress:
			m.plan(Task{Kind: TaskNoAddress})
			continue
		case PartFarm:
			m.plan(Task{Kind: TaskUnshare})
			continue
		}
		t := Task{Kind: TaskScript, Script: "stop_" + p.name(), Part: p, From: m.Role, To: to, Action: action}
		if m.Order != OrderForcestop {
			m.plan(t)
		}
		t.Force = true
		m.plan(t)
	}
}

func (m *machine) startParts(parts Parts, to Role, action string) {
	for _, p := range partNames {
		switch {
		case parts&p.part == 0:
		case p.part == PartAddress:
			m.plan(Task{Kind: TaskAddress})
		case p.part == PartFarm:
			m.plan(Task{Kind: TaskShare})
		default:
			m.plan(Task{Kind: TaskScript, Script: "start_" + p.name, Part: p.part, From: m.Role, To: to, Action: action})
		}
	}
}

// scripts plans the way from the parts that run to those of role.
func (m *machine) scripts(role Role, action string) {
	m.stopParts(m.Up&^m.wants(role), role, action)
	if m.Role != role {
		m.script("transition", role, action)
	}
	m.startParts(m.wants(role)&^m.Up, role, action)
}

// start: STOP to WAIT. The replica comes up read-only; what it knows decides.
func (m *machine) start() {
	m.Why, m.Released, m.Followed, m.Held, m.Checked, m.Rebooted = NoBlock, 0, false, "", false, false
	m.SyncDue = m.Conf.SyncAt
	m.Home = m.defaultPrim()
	m.script("prestart", RoleWait, "start")
	m.script("transition", RoleWait, "start")
	m.Role = RoleWait
	if m.Conf.HasData {
		m.plan(Task{Kind: TaskStart})
	}
}

// defaultPrim says that this node is the one to be primary (§5.8).
func (s *State) defaultPrim() bool {
	return s.Conf.DefaultPrim == s.Conf.Node || s.Conf.DefaultPrim == conf.DefaultLast && s.WasPrim
}

// stop: from wherever the module is to STOP. A primary hands over first: the
// peer may take over once the reign is released, and not before.
func (m *machine) stop() {
	action := "stop"
	if m.Order == OrderStopstart {
		action = "stopstart"
	}
	m.unserve(action)
	if m.Data.Running && !m.Data.Gone {
		m.plan(Task{Kind: TaskStop, Clean: m.Order != OrderForcestop})
	}
	for _, p := range []Parts{PartSec, PartPrim, PartSecond, PartBoth} {
		m.plan(Task{Kind: TaskScript, Script: "stop_" + p.name(), Part: p, Force: true, From: RoleWait, To: RoleStop, Action: action})
	}
	m.plan(
		Task{Kind: TaskScript, Script: "poststop", From: RoleWait, To: RoleStop, Action: action},
		Task{Kind: TaskScript, Script: "transition", From: RoleWait, To: RoleStop, Action: action},
		Task{Kind: MarkEnd})
}

// unserve plans the way to WAIT: the application stopped, the reign handed over.
func (m *machine) unserve(action string) {
	if m.Role != RoleWait {
		// One that gives way to another primary does not want to be it again.
		m.WasPrim = (m.Role == RoleAlone || m.Role == RolePrim) && !(m.heard() && m.Peer.Primary)
	}
	m.stopParts(m.Up, RoleWait, action)
	if m.Reign {
		m.demote()
		m.plan(Task{Kind: MarkRelease, Role: RoleWait})
	}
	if m.Role != RoleWait {
		m.script("transition", RoleWait, action)
		m.plan(Task{Kind: MarkRole, Role: RoleWait})
	}
}

// demote plans the end of writing, if there is something that could be written.
func (m *machine) demote() {
	m.Drained = false
	if m.Conf.HasData && m.Data.Running && !m.Data.Gone {
		m.plan(Task{Kind: TaskDemote, Epoch: m.Epoch})
	}
}

// claim: to the reign of a new epoch. The claim is seen by the peer before the
// data is touched; nothing is written, and no script started, before the peer
// has conceded or is silent.
func (m *machine) claim(f Force, to Role) bool {
	m.stopParts(m.Up&^m.wants(to), to, "start")
	m.reign(f, to, m.wants(to)&^m.Up)
	return true
}

func (m *machine) reign(f Force, to Role, start Parts) {
	from := m.Role
	m.Epoch = m.nextEpoch()
	m.Seen = m.Epoch
	m.Reign, m.Established, m.Unprotected, m.Drained, m.Drop = true, false, false, false, Drop{}
	m.Lost, m.Rival, m.Followed, m.Why, m.SwapAsk, m.Home = false, false, false, NoBlock, 0, false
	m.Data.Joined, m.Data.Synced, m.Data.Frozen, m.Data.Stream = false, false, false, 0
	if m.Conf.HasData {
		m.plan(Task{Kind: TaskPromote, Epoch: m.Epoch, Forced: f})
	} else {
		m.asks()
	}
	m.plan(Task{Kind: TaskClaim})
	if start&PartAddress != 0 { // from here on the peer cannot have them: not after the second has joined
		m.plan(Task{Kind: TaskAddress})
	}
	if m.Conf.HasData {
		if to == RolePrim {
			m.plan(Task{Kind: TaskJoin})
		}
		m.plan(Task{Kind: TaskAlone, Epoch: m.Epoch})
	}
	m.plan(Task{Kind: MarkRole, Role: to})
	if from != to {
		m.script("transition", to, "start")
	}
	m.startParts(start&^PartAddress, to, "start")
}

// asks begins to ask the peer for a concession.
func (m *machine) asks() {
	m.Drops++
	m.Drop = Drop{m.Epoch, m.Drops}
}

// abandon gives up a claim that was not established, and waits again.
func (m *machine) abandon() {
	m.stopParts(m.Up, RoleWait, "stop")
	m.demote()
	m.plan(Task{Kind: MarkRelease, Role: RoleWait})
	m.toWait()
}

// syncedForNow: a second that is brought up to date at scheduled times is so, and
// waits for the next one. From here on it is not up to date any more.
func (m *machine) syncedForNow() {
	m.SyncDue = false
	m.say("nfsadmin", "Resource rfs.syncat set to down by nfsadmin")
	m.stopParts(m.Up, RoleWait, "stop")
	m.script("transition", RoleWait, "stop")
	m.plan(Task{Kind: MarkRole, Role: RoleWait})
	m.Fresh, m.Followed, m.Follower, m.Stale, m.Why = false, false, false, true, NoBlock
	m.Data.Joined, m.Data.Synced = false, false
	if m.Data.Running && !m.Data.Gone {
		m.plan(Task{Kind: TaskOutdate, Epoch: m.Epoch})
	}
}

// goHome: the default primary, which was started as a second, asks for the reign
// once everything has settled (§5.8).
func (m *machine) goHome() {
	p := m.Peer
	if m.Home && m.Fresh && m.synced() && !m.Swapping && p.Role == RolePrim && p.Colour == Green {
		m.Home, m.SwapAsk = false, m.Epoch
		m.say("heart", "Transition SWAP from defaultprim")
	}
}

// leave: a second that cannot go on waits again.
func (m *machine) leave() {
	m.stopParts(m.Up, RoleWait, "stop")
	m.toWait()
}

func (m *machine) toWait() {
	if m.Role != RoleWait {
		m.script("transition", RoleWait, "stop")
		m.plan(Task{Kind: MarkRole, Role: RoleWait})
	}
	m.Fresh, m.Followed, m.Why = false, false, NoBlock
	if m.Data.Running && !m.Data.Gone {
		m.plan(Task{Kind: TaskStatus})
	}
}

// follow: second of the primary that was heard.
func (m *machine) follow() {
	if m.Role != RoleSecond {
		m.script("transition", RoleSecond, "start")
		m.Role = RoleSecond
	}
	afresh := m.Afresh || !m.Follower || m.Epoch != m.Peer.Epoch
	m.Epoch = m.Peer.Epoch
	m.Followed, m.Fresh, m.Swapping, m.SwapAsk, m.Released, m.Why, m.Doubt = true, false, false, 0, 0, NoBlock, false
	if m.Conf.HasData {
		t := m.syncTask()
		m.plan(t)
		afresh = afresh || t.Full || !t.Since.IsZero()
	} else {
		m.Fresh, m.Stale, m.Handed = true, false, false
	}
	if afresh { // the replica opens a new stream: what it still says of the old one is late
		m.Data.Joined, m.Data.Synced, m.Data.Frozen = false, false, false
	}
	m.Want = WantStart
}

// takeOver: the primary is gone and everything that it answered is here.
func (m *machine) takeOver(reason string) bool {
	force := NoForce
	handed := m.heard() && m.Peer.Released >= m.Epoch
	defer func() {
		if m.Inherited = 0; handed && m.Reign {
			m.Inherited = m.Epoch
		}
	}()
	if m.Released == m.Epoch && !m.Followed {
		force = ForcePrim // the replica cannot know that nobody went on from what it released
	}
	switch {
	case m.Swapping && m.heard() && m.Peer.Role == RoleSecond:
		return m.claim(force, RolePrim)
	case !m.failover() && !m.Swapping:
		m.say("heart", "Failover-off configured")
		m.say("heart", "Action stopstart called by failover-off")
		m.say("heart", "Transition STOPSTART from failover-off")
		m.Order = OrderStopstart
		return true
	}
	m.say("heart", "Reason of failover: "+reason)
	return m.claim(force, RoleAlone)
}

// swap: PRIM to SECOND. After the release the peer takes over; should it vanish
// before it has, this node is a second whose primary is gone, and takes over.
func (m *machine) swap() {
	m.say("heart", "Begin of Swap")
	m.Swapping = true
	m.stopParts(m.Up&^m.wants(RoleSecond), RoleSecond, "stop")
	m.demote()
	m.script("transition", RoleSecond, "stop")
	m.plan(Task{Kind: MarkRelease, Role: RoleSecond})
}

// restart stops and starts the application where it is. The addresses stay: clients
// are refused meanwhile, which they notice sooner than silence.
func (m *machine) restart() {
	const stay = PartAddress | PartFarm
	up := m.Up &^ stay
	m.stopParts(up, m.Role, "stopstart")
	m.script("transition", m.Role, "stopstart")
	m.startParts((up|m.wants(m.Role))&^(m.Up&stay), m.Role, "stopstart")
}

// become: ALONE to PRIM or back, while the application runs.
func (m *machine) become(role Role) {
	m.scripts(role, "start")
	m.Role = role
}

// degrade: the replica of a primary died and took the mounts with it. The
// application cannot go on with its open files: it is stopped and started again,
// here, on data that is not replicated any more (§5.6).
func (m *machine) degrade() {
	m.say("nfsadmin", "The replication process has ended: going on without replication")
	m.stopParts(m.Up, RoleAlone, "stopstart")
	m.plan(Task{Kind: TaskStart, Degraded: true})
	m.reign(ForcePrim, RoleAlone, m.wants(RoleAlone))
	m.Role = RoleAlone
}

// reclaim: a primary takes a new epoch for what it goes on doing.
func (m *machine) reclaim() {
	m.reign(ForcePrim, RoleAlone, m.wants(RoleAlone)&^m.Up)
}
