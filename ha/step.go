package ha

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Step is the automaton: from what is known and what has happened, what is known
// now and what is to be done. It is pure.
//
// It works in three layers. take turns the event into facts. A transition is a
// Plan, a list of tasks that advance carries out one by one. decide looks at the
// facts when no transition is under way and begins the next one. A plan can be
// cut short between any two tasks: decide finds in the facts (Reign, Up, Data)
// what is left to undo.
func Step(s State, e Event, now time.Time) (State, []Action) {
	m := &machine{State: s.clone(), now: now}
	role, colour, certain := s.Role, s.Colour, m.certain()
	m.take(e)
	if !certain && m.certain() {
		m.Tried = false // what was not set before is not left to the next Tick
	}
	m.settle()
	if _, tick := e.(Tick); m.Conf.SyncDelta > 0 && (tick && m.same() || m.same() != s.same()) {
		m.SyncedAt = now.UTC().Truncate(time.Second)
	}
	if m.Colour = m.colour(); m.Role != role || m.Colour != colour {
		level := LevelInfo
		if m.Colour != Magenta {
			level = LevelEvent
		}
		m.Since = now
		m.actions = append(m.actions, Say{level, "heart", fmt.Sprintf("Local state %s %s", m.Role, m.Colour)})
	}
	return m.State, m.actions
}

// settle goes on until something has to be waited for.
func (m *machine) settle() {
	for {
		m.beside()
		switch {
		case m.advance():
		case (m.Cur.Kind == TaskClaim || m.Cur.Kind == TaskJoin) && m.contested():
		case m.idle() && m.decide():
		default:
			return
		}
	}
}

// colour says how settled the module is.
func (m *machine) colour() Colour {
	steady := m.idle()
	switch m.Role {
	case RoleStop:
		if steady {
			return Red
		}
	case RoleWait:
		if steady && m.Why != NoBlock {
			return Red
		}
	case RoleAlone, RolePrim:
		if steady && m.Established && !m.Data.Frozen && !m.Data.Gone && m.Up == m.wants(m.Role) {
			return Green
		}
	case RoleUp:
		if steady && m.Up == m.wants(m.Role) {
			return Green
		}
	case RoleSecond:
		if steady && m.Fresh && m.synced() && !m.Data.Gone && m.Up == m.wants(m.Role) {
			return Green
		}
	}
	return Magenta
}

// same says that the data here is the peer's, as far as is known.
func (s *State) same() bool {
	return s.Data.Joined && s.Data.Synced && (s.Reign || s.Role == RoleSecond && s.Fresh)
}

// recent says that the data, which may not be up to date, was the peer's not longer
// ago than Conf.SyncDelta (rfs.synced, §13.6.4.4). When the clock was set back
// nobody knows how long ago that was.
func (s *State) recent(now time.Time) bool {
	ago := now.Sub(s.SyncedAt)
	return s.Conf.SyncDelta > 0 && s.Data.Consistent && !s.SyncedAt.IsZero() && ago >= -time.Second && ago < s.Conf.SyncDelta
}

// synced says that the stream is up and both data are the same.
func (m *machine) synced() bool { return !m.Conf.HasData || m.Data.Synced }

// conceded says that the peer cannot be promoted behind this primary's back: it
// has said so, or is being synchronised by us, or is dead as far as can be known.
func (m *machine) conceded() bool {
	return m.peerDead() || m.Data.Joined || m.heard() && m.Peer.Outdated.covers(m.Drop)
}

// beside starts what may not wait for the plan: an application script that
// writes to frozen data ends only after Alone, and the peer's frozen
// application goes on only after this node conceded.
func (m *machine) beside() {
	m.askWitness()
	m.withdraw()
	m.address()
	if m.Reign && m.Established && m.Data.Frozen && m.Alone == 0 && m.Cur.Kind != TaskDemote && m.conceded() {
		m.Unprotected = true
		m.AloneOf = m.Data.Stream
		m.Alone = m.run(m.aloneTask())
	}
	if m.mustConcede() && m.Yield == 0 {
		m.Fresh, m.Stale, m.Followed = false, true, false
		m.Data.Joined, m.Data.Synced = false, false
		m.YieldD = m.Peer.Drop
		m.Plan = slices.DeleteFunc(m.Plan, func(t Task) bool { return t.Kind == TaskFollow }) // decide plans it again
		// Data that was not synchronised since it was released, or started, is not
		// promoted without force anyway; and what it is may spare a copy.
		if m.Follower && m.Data.Running && !m.Data.Gone {
			m.Afresh = true
			m.Yield = m.run(Task{Kind: TaskOutdate, Epoch: m.YieldD.Epoch})
		} else {
			m.Outdated = m.YieldD
		}
	}
}

// mustConcede says that the peer asks for a concession that is still owed. A node
// that reigns concedes nothing before it has given up its reign.
func (m *machine) mustConcede() bool {
	return m.heard() && m.Peer.Primary && !m.Peer.Drop.isZero() && !m.Reign && !m.Outdated.covers(m.Peer.Drop)
}

// advance begins the next task of the plan; false when there is none or one is
// under way.
func (m *machine) advance() bool {
	if m.Cur.Kind == TaskClaim && m.conceded() || m.Cur.Kind == TaskJoin && (m.Data.Joined || m.silent() || m.heard() && m.Peer.Role != RoleSecond) {
		m.Cur = Task{}
		return true
	}
	if m.Cur.Kind != 0 || len(m.Plan) == 0 {
		return false
	}
	t := m.Plan[0]
	if (t.Kind == TaskNoAddress || t.Kind == MarkRelease) && m.AddressID != 0 || t.starts() && t.Part == PartPrim && m.unaddressed() {
		return false
	}
	m.Plan = m.Plan[1:]
	switch t.Kind {
	case MarkRole:
		m.Role = t.Role
		if t.Role == RoleAlone || t.Role == RolePrim {
			m.Established, m.Lost, m.Swapping, m.SwapAsk, m.Want = true, false, false, 0, WantStart
			m.Unprotected = m.Unprotected || !m.Data.Joined
		}
		return true
	case MarkRelease:
		m.release(t)
		return true
	case MarkEnd:
		m.say("heart", "End of stop")
		m.noAddresses()
		m.ended()
		return true
	case TaskAddress:
		m.Up |= PartAddress
		m.Missing, m.Refused, m.Tried = m.allAddresses(), 0, false
		return true
	case TaskClaim:
		m.Cur = t
		return true
	case TaskScript:
		if t.starts() {
			m.Up |= t.Part
		}
		m.scriptBegins(t)
	case TaskShare:
		m.Up |= PartFarm
	case TaskAlone:
		if m.Data.Joined {
			return true // changes wait no longer since
		}
		m.Unprotected = true
		t.Stream = m.Data.Stream
	case TaskFollow:
		m.Follower, m.Afresh = true, false
	case TaskPromote, TaskStart, TaskStop:
		m.Follower, m.Afresh = false, false
	}
	m.Cur = t
	m.CurID = m.run(t)
	return true
}

// ended: the module is stopped. What was set for its run is forgotten, unless it is
// to be started again.
func (m *machine) ended() {
	m.Role, m.Up, m.Live, m.Data, m.Held, m.Checked, m.Classes = RoleStop, 0, 0, Data{}, "", false, nil
	m.Witness, m.WitnessID, m.Split = LinkUnknown, 0, false
	if m.Order != OrderStopstart && m.Order != OrderReboot {
		m.Settings = Settings{Failover: m.Settings.Failover}
	}
}

// release ends the reign. Where the plan was to hand the data over and it could
// not be drained, the reign is kept and claimed again.
func (m *machine) release(t Task) {
	drained := !m.Conf.HasData || m.Drained
	switch {
	case t.Role == RoleSecond && !drained:
		m.say("heart", "Swap abandoned: the data could not be handed over")
		m.Established, m.Swapping, m.Plan = false, false, nil
		return
	case drained:
		m.Released = m.Epoch
	}
	m.Handed = m.Conf.HasData && (m.Data.Synced || m.heard() && m.Peer.Fresh)
	m.Reign, m.Established, m.Drop = false, false, Drop{}
	if t.Role == RoleSecond {
		m.Role, m.Fresh = RoleSecond, true
		return
	}
	m.Swapping, m.SwapAsk = false, 0
}

// done ends the task under way.
func (m *machine) done(d Done) {
	switch d.ID {
	case 0:
		return
	case m.Alone:
		m.Alone = 0
		if d.Err != nil {
			m.failed("go on alone", d.Err)
			return
		}
		if m.AloneOf == m.Data.Stream { // else it had no effect: another second has joined since
			m.Data.Frozen, m.Lost = false, !m.Data.Joined
		}
		return
	case m.AddressID:
		m.addressed(d)
		return
	case m.WitnessID:
		m.witnessed(d)
		return
	case m.Yield:
		// The concession stands even if the replica could not note it: ha.state has.
		m.Yield, m.Outdated = 0, m.YieldD
		return
	}
	if d.ID != m.CurID || m.Cur.Kind == 0 {
		return // of a plan that was cut short
	}
	t := m.Cur
	m.Cur = Task{}
	switch t.Kind {
	case TaskScript:
		m.scriptEnded(t, d)
		return
	case TaskNoAddress:
		m.noAddresses()
		return
	case TaskShare:
		if d.Err != nil {
			m.say("vip", fmt.Sprintf("The farm cannot be joined: %v", d.Err))
			m.again("vip")
		}
		return
	case TaskUnshare:
		m.Up &^= PartFarm
		if d.Err != nil {
			m.say("vip", fmt.Sprintf("The farm cannot be left in order: %v", d.Err))
		}
		return
	case TaskReboot:
		if d.Err != nil {
			m.say("heart", fmt.Sprintf("The server cannot be rebooted: %v", d.Err))
			m.Order, m.Rebooted = OrderStopstart, false
		}
		return
	}
	// What a replica said before it ended is old: only a new one makes up for Gone.
	if d.Err == nil && t.Kind != TaskStop && t.Kind != TaskJoin && (!m.Data.Gone || t.Kind == TaskStart) {
		m.status(d.Status)
	}
	switch t.Kind {
	case TaskStart:
		if d.Err != nil {
			m.Plan, m.Order = nil, OrderStop
			m.say("nfsadmin", "The replication process cannot start: "+d.Err.Error())
			return
		}
		if t.Degraded {
			m.Data.Degraded = true
			m.say("nfsadmin", "Resource rfs.degraded set to up by nfsadmin")
		}
	case TaskAlone:
		if d.Err != nil {
			m.failed("go on alone", d.Err)
			return
		}
		if t.Stream == m.Data.Stream { // as above
			m.Data.Frozen = false
		}
	case TaskStop:
		if d.Err != nil {
			m.info("nfsadmin", "Stop of the replication process: "+d.Err.Error())
		}
		m.Data = Data{}
	case TaskPromote:
		if d.Err != nil {
			m.promoteFailed(t, d.Err)
			return
		}
		m.Fresh, m.Stale, m.Handed, m.Released = false, false, false, 0
		m.Want = WantStart
		m.asks()
	case TaskFollow:
		if d.Err != nil {
			m.failed("follow", d.Err)
			return
		}
		if !m.Followed {
			return // it was conceded meanwhile: this does not count
		}
		m.followed(d.Status) // it may have followed all the time: then no event comes
	case TaskStatus:
		if d.Err != nil {
			m.failed("say what it is", d.Err)
			return
		}
		if m.Role == RoleSecond && m.Followed {
			m.followed(d.Status)
		}
	case TaskDemote:
		if m.Drained = d.Err == nil; !m.Drained {
			m.info("nfsadmin", "The data could not be handed over: "+d.Err.Error())
		}
	}
}

// scriptEnded takes note of the end of a script. The exit code of a script
// changes nothing by itself (a script that wants the module stopped says so with
// a command), nor does a stop script that had to be killed: it has ended.
func (m *machine) scriptEnded(t Task, d Done) {
	switch {
	case d.Err != nil:
		m.say("script", fmt.Sprintf("Script %s: %v", t.Script, d.Err))
	case d.Exit != 0:
		m.say("script", fmt.Sprintf("Script %s ended with exit code %d", t.Script, d.Exit))
	}
	if t.Force {
		m.Up &^= t.Part
	}
	m.scriptEnds(t)
}

// promoteFailed gives up the reign that began with the call.
func (m *machine) promoteFailed(t Task, err error) {
	m.Plan = nil
	m.Reign, m.Established, m.Drop, m.Fresh = false, false, Drop{}, false
	switch {
	case errors.Is(err, ErrInconsistent):
		m.Data.Consistent, m.Data.Uptodate = false, false
		m.say("nfsadmin", "Data may be inconsistent for replicated directories (stopped during reintegration)")
		m.say("nfsadmin", "If you are sure that this server has valid data, run safekit primforce to force start as primary")
	case errors.Is(err, ErrNotUptodate):
		m.Data.Uptodate, m.Stale = false, true
	default:
		m.failed("promote", err)
		return
	}
	if m.Role == RoleAlone || m.Role == RolePrim { // it was going to go on as primary
		m.again("nfsadmin")
	} else if m.Want == WantPrim || m.Want == WantPrimforce {
		m.say("heart", "Requested prim start aborted")
		m.Order = OrderStop
	}
}

// followed takes over what the replica of a second says of its stream.
func (m *machine) followed(st ReplicaStatus) {
	if !st.Connected {
		return
	}
	m.Data.Joined = true
	if st.Synced && st.Epoch == m.Epoch {
		m.Data.Synced = true
		m.inSync(st.Follow)
	}
}

// inSync: a second has what its primary has, and its primary knows.
func (m *machine) inSync(how FollowOptions) {
	m.syncEnded(how)
	m.Fresh, m.Stale, m.Handed = true, false, false
	m.Data.Epoch = m.Epoch
}

// failed restarts the module after an error of the replica that leaves nothing to
// decide.
func (m *machine) failed(what string, err error) {
	m.say("nfsadmin", fmt.Sprintf("The replication process could not %s: %v", what, err))
	if m.Data.Gone {
		return // decide knows
	}
	m.Plan = nil
	m.again("nfsadmin")
}

// status takes over what the replica says of its data. The state of the stream
// comes with events.
func (m *machine) status(st ReplicaStatus) {
	if !m.Conf.HasData {
		return
	}
	m.Data.Running, m.Data.Gone = true, false
	m.Data.Epoch, m.Data.Uptodate, m.Data.Consistent, m.Data.Rank = st.Epoch, st.Uptodate, st.Consistent, st.Rank
	m.Data.Degraded = m.Data.Degraded || st.Degraded
	m.Seen = max(m.Seen, st.Epoch)
}
