package ha

import (
	"cmp"
	"fmt"
	"slices"
)

// take turns an event into facts.
func (m *machine) take(e Event) {
	switch e := e.(type) {
	case Asked:
		m.asked(e.Command)
	case Done:
		m.done(e)
	case Told:
		m.told(e.Event)
	case Due:
		m.due(e.By)
	case Gone:
		if m.Data.Running && !(m.Cur.Kind == TaskStop) {
			m.Data = Data{Running: true, Gone: true, Degraded: m.Data.Degraded}
		}
	case AddressLost:
		m.lost(e)
	case Tick:
		m.Tried = false
	case Ruled:
		m.ruled(e)
	case Checked:
		m.Checked = true
	case Heard:
		m.heardBeat(e.Beat)
	case Linked:
		m.linked(e)
	case Adopted:
		m.adopted(e)
	case Reconfigured:
		m.Conf = e.Conf
		if !m.Conf.Witness {
			m.Witness, m.WitnessID, m.Split = LinkUnknown, 0, false
		}
		m.paired()
		if len(m.Links) != len(e.Conf.Heartbeats) {
			m.Links = make([]Link, len(e.Conf.Heartbeats))
			m.Peer = Beat{}
		}
	}
}

// Refusal says why a command is not accepted in state s, or returns nil.
func (s *State) Refusal(c Command) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%s %w: %s", c.Name, ErrRefused, fmt.Sprintf(format, args...))
	}
	switch {
	case c.Name == "rfssync":
		if why := s.mayRfssync(c.Args); why != "" {
			return no("%s", why)
		}
		return nil
	case c.Name == "failover" || c.Name == "checker" || c.Name == "errd":
		if why := s.mayReset(c); why != "" {
			return no("%s", why)
		}
		return nil
	case c.Name == "set":
		if why := s.mayAssign(c); why != "" {
			return no("%s", why)
		}
		return nil
	case c.Name == "secondforce" && len(c.Args) == 1:
		if _, err := parseDate(c.Args[0]); err != nil {
			return no("%v", err)
		}
	case c.Name == "secondforce":
		return no("expected one date")
	case c.Name == "swap" && len(c.Args) == 1 && c.Args[0] == "nosync":
		// Both have the same data when they swap, so nothing is synchronised either way.
	case len(c.Args) > 0 && !(c.Name == "second" && len(c.Args) == 1 && c.Args[0] == "fullsync"):
		return no("unknown argument %q", c.Args)
	}
	if !s.Conf.mirror() && slices.Contains(mirrorOnly, c.Name) {
		return no("it is a %s module: %s is a command of mirror modules", s.Conf.Mode, c.Name)
	}
	if c.Name == "secondforce" && !s.Conf.HasData {
		return no("the module replicates nothing")
	}
	switch c.Name {
	case "stop", "forcestop", "shutdown", "incloop", "resetloop":
		return nil
	case "stopwait":
		if s.Role == RoleStop || s.Order.stops() {
			return no("the module is stopped")
		}
	case "start":
		if s.Role != RoleStop || s.Order == OrderStart {
			return no("the module is started already (%s)", s.Role)
		}
	case "prim", "primforce", "second", "secondforce":
		if s.Role != RoleStop && s.Role != RoleWait || s.Order != NoOrder {
			return no("the module is %s; stop it first", s.Role)
		}
		if s.Role == RoleWait && (!s.idle() || s.Reign) {
			return no("the module is starting or stopping; try again when it waits")
		}
		if (c.Name == "prim" || c.Name == "primforce") && s.heard() && s.Peer.Primary {
			return no("%s is primary", s.Conf.Peer)
		}
	case "stopstart":
		if s.Role == RoleStop {
			return no("the module is stopped")
		}
	case "restart":
		if !s.serves() || s.Order != NoOrder {
			return no("the module is %s: restart needs ALONE, PRIM, SECOND or UP", s.Role)
		}
		if c.Identity != "" && !s.idle() {
			return no("a transition is under way (%s)", s.Cur.name())
		}
	case "swap":
		switch {
		case s.Role != RolePrim && s.Role != RoleSecond || s.Colour != Green || s.Order != NoOrder:
			return no("the module is %s %s: swap needs PRIM green or SECOND green", s.Role, s.Colour)
		case !s.heard() || s.Peer.Colour != Green:
			return no("%s is not ready", s.Conf.Peer)
		}
	default:
		return no("no such command: start, stop, forcestop, prim, primforce, second, secondforce, swap, restart, stopstart, stopwait, rfssync, failover, checker, errd")
	}
	return nil
}

// mirrorOnly are the commands that need a peer.
var mirrorOnly = []string{"prim", "primforce", "second", "secondforce", "swap"}

// asked takes a command that Refusal let pass.
func (m *machine) asked(c Command) {
	if m.Refusal(c) != nil {
		return
	}
	if c.Identity != "" && slices.Contains([]string{"restart", "stopstart", "stopwait", "stop", "swap"}, c.Name) {
		action := c.Name
		if action == "stopwait" {
			action = "wait"
		}
		m.detected(action, c.Identity, "called by "+c.Identity)
		return
	}
	by := cmp.Or(c.Identity, c.By, bySystem)
	switch {
	case c.Name == "incloop":
		m.incLoop()
		m.info("heart", fmt.Sprintf("Action incloop called by %s: %d of %d", by, m.Loops, m.Conf.MaxLoop))
		return
	case c.Name == "resetloop":
		m.resetLoop()
		m.info("heart", "Action resetloop called by "+by)
		return
	case c.Name == "stopwait":
		m.detected("wait", by, "called by "+by)
		return
	case c.setsClass(): // scripts do
		m.info("heart", fmt.Sprintf("Action errd %s %s called by %s", c.Args[0], c.Args[1], by))
	case by == AtBoot:
		m.say("heart", fmt.Sprintf("Action %s called %s", c.Name, by))
	case c.Name == "shutdown" && c.By == "":
		m.say("heart", "Action shutdown called by SYSTEM")
	default:
		name := c.Name
		if c.Name == "failover" || c.Name == "checker" || c.Name == "errd" {
			name += " " + c.Args[0]
		}
		m.say("heart", fmt.Sprintf("Action %s called by %s", name, by))
	}
	switch c.Name {
	case "failover", "checker", "errd":
		m.reset(c)
		return
	case "rfssync":
		m.setSync(c.Args)
		return
	case "set":
		m.due(by)
		return
	}
	if c.Identity == "" && c.By != AtBoot {
		m.resetLoop()
	}
	switch c.Name {
	case "start":
		m.Want, m.Order = WantStart, OrderStart
	case "prim", "primforce", "second", "secondforce":
		m.Want = map[string]Want{"prim": WantPrim, "primforce": WantPrimforce, "second": WantSecond, "secondforce": WantSecond}[c.Name]
		switch {
		case c.Name == "secondforce":
			if t, err := parseDate(c.Args[0]); err == nil {
				m.Sync = SyncPolicy{Mode: SyncDate, Since: t.UnixNano()}
			}
		case c.Name == "primforce" || len(c.Args) > 0: // second fullsync
			m.Sync = SyncPolicy{Mode: SyncFull, Asked: uint64(m.now.UnixNano())}
		}
		if m.Role == RoleStop {
			m.Order = OrderStart
		}
	case "stop", "shutdown":
		// A host that goes down in order leaves the module stopped, and yet it was started
		// before (boot="auto").
		m.Rebooted = c.Name == "shutdown" && (m.Role != RoleStop || m.Rebooted)
		m.cut(OrderStop)
	case "stopstart":
		m.cut(OrderStopstart)
	case "forcestop":
		m.cut(OrderForcestop)
	case "restart":
		m.Order = OrderRestart
	case "swap":
		m.say("heart", "Transition SWAP from SYSTEM")
		m.swapOrdered()
	}
}

// due: the data is to be brought up to date now (§13.6.4.10).
func (m *machine) due(by string) {
	if !m.Conf.SyncAt || m.SyncDue || m.Role == RoleStop {
		return
	}
	m.SyncDue = true
	m.say("nfsadmin", "Resource rfs.syncat set to up by "+by)
	if m.Why == BlockSyncat {
		m.say("heart", "Transition WAKEUP from failover rule Implicit_WAKEUP")
	}
}

// cut ends the plan under way after the task that runs, and orders a stop.
func (m *machine) cut(o Order) {
	if m.Role == RoleStop && m.idle() {
		m.Order = NoOrder // a start that was ordered in this very moment is taken back
		return
	}
	if m.stopping() { // its plan goes on to the end
		if o == OrderForcestop {
			m.kill()
		}
		m.Order = o
		return
	}
	m.Plan, m.Order = nil, o
	if o == OrderForcestop {
		m.kill()
	}
}

// stopping says that a stop plan is under way.
func (m *machine) stopping() bool {
	n := len(m.Plan)
	return n > 0 && m.Plan[n-1].Kind == MarkEnd
}

func (m *machine) kill() {
	if m.Cur.Kind == TaskScript {
		m.actions = append(m.actions, Kill{m.CurID})
	}
}

// told takes an event of the replica. Those of another epoch are late.
func (m *machine) told(e ReplicaEvent) {
	if !m.Data.Running || m.Data.Gone {
		return
	}
	switch e.Kind {
	case ReplicaLog:
		m.actions = append(m.actions, Say{e.Level, e.Source, e.Text})
		return
	case ReplicaStuck:
		m.say("nfsadmin", e.Text)
		m.again("nfsadmin")
		return
	case ReplicaFailed:
		m.say("nfsadmin", "The replication process cannot go on: "+e.Text)
		m.again("nfsadmin") // a second that is in sync takes over (R13)
		return
	}
	if e.Epoch != m.Epoch && !(e.Kind == PeerLost && !m.Reign) {
		return
	}
	if m.Reign && (e.Kind == PeerJoined || e.Kind == PeerLost) {
		m.Data.Stream = e.Stream
	}
	switch e.Kind {
	case PeerLost:
		m.Data.Joined, m.Data.Synced = false, false
		// While the reign ends the stream may: Demote says whether the data was
		// handed over before it did.
		if m.Reign && !m.Drained && m.Cur.Kind != TaskDemote {
			m.peerLost()
		}
	case PeerJoined:
		m.Data.Joined, m.Data.Synced = true, false
		m.Data.Frozen, m.Lost = false, false
		if m.Reign {
			m.Drop = Drop{}
		} else {
			m.Fresh = false
		}
	case Synced:
		if !m.Data.Joined { // of a stream that was conceded to be lost, or its PeerJoined came before m.Epoch
			m.Doubt = !m.Reign
			return
		}
		m.Data.Synced = true
		if m.Reign {
			m.Unprotected = false
			m.syncServed()
		} else if m.Role == RoleSecond && m.Followed {
			m.inSync(e.Follow)
		}
	}
}

// peerLost freezes this primary until the peer concedes this very loss.
func (m *machine) peerLost() {
	m.Data.Frozen = true
	m.asks()
}

// aloneTask is the task beside the plan that ends the wait after the loss of AloneOf.
func (m *machine) aloneTask() Task {
	return Task{Kind: TaskAlone, Epoch: m.Epoch, Stream: m.AloneOf}
}

// heardBeat takes over what the peer says of itself.
func (m *machine) heardBeat(b Beat) {
	if m.Reign && m.Peer.Primary && !b.Primary {
		m.announce()
	}
	m.Peer = b
	m.Seen = max(m.Seen, b.Seen, b.Epoch)
	m.remote(Remote{b.Role, b.Colour})
	if m.Reign && b.FullDone != 0 && b.FullDone == m.Sync.Asked {
		m.Sync = SyncPolicy{}
	}
	switch {
	case m.Role == RoleSecond && b.Swapping && b.Epoch == m.Epoch && !m.Swapping && m.Released != m.Epoch:
		m.Swapping = true
		m.say("heart", "Begin of Swap")
	case m.Role == RolePrim && b.SwapAsk != 0 && b.SwapAsk == m.Epoch && m.Order == NoOrder && !m.Swapping:
		m.Order = OrderSwap
	}
}

// remote logs the state of the peer when it changes.
func (m *machine) remote(r Remote) {
	if r == m.Remote {
		return
	}
	m.Remote = r
	level := LevelInfo
	if r.Colour != Magenta {
		level = LevelEvent
	}
	m.actions = append(m.actions, Say{level, "heart", fmt.Sprintf("Remote state %s %s", r.Role, r.Colour)})
}

// linked takes the verdict about one heartbeat.
func (m *machine) linked(e Linked) {
	if e.Index >= len(m.Links) || m.Links[e.Index] == e.Link {
		return
	}
	m.Links[e.Index] = e.Link
	if e.Link == LinkUp {
		m.rejoined()
	}
	if e.Link != LinkUnknown {
		value := "up"
		if e.Link == LinkDown {
			value = "down"
		}
		m.say("heart", fmt.Sprintf("Resource heartbeat.%s set to %s by heart", m.Conf.Heartbeats[e.Index], value))
	}
	if m.silent() {
		if m.Reign && m.Conf.HasData && m.Data.Running {
			// A host that lost its power closes no connection: without this its
			// primary would wait for an answer until locktimeout. PeerLost follows.
			m.run(Task{Kind: TaskCut})
		}
		m.Peer = Beat{}
		m.remote(Remote{RoleUnknown, Grey})
	}
}

// adopted compares what was noted before the daemon ended with what is found now.
// A task that was under way is given to the driver again under its old number:
// the driver finds a script that still runs, or how it ended, and repeats a call
// to the replica.
func (m *machine) adopted(e Adopted) {
	m.Peer, m.Links = Beat{}, make([]Link, len(m.Conf.Heartbeats))
	m.paired()
	if e.Reboot {
		if m.Role != RoleStop {
			m.say("heart", "Previous halt unexpected")
		}
		m.State = State{
			Conf: m.Conf, Role: RoleStop, Since: m.now, Epoch: m.Epoch, Seen: max(m.Seen, m.Epoch),
			Outdated: m.Outdated, Stale: m.Stale, Handed: m.Handed, Drops: m.Drops, Sync: m.Sync, Pairing: m.Pairing,
			SyncedAt: m.SyncedAt, WasPrim: m.Role == RoleAlone || m.Role == RolePrim || (m.Role == RoleStop || m.Role == RoleWait) && m.WasPrim,
			Loops: m.Loops, LoopFrom: m.LoopFrom, TaskID: m.TaskID, Links: m.Links, Settings: Settings{Failover: m.Settings.Failover},
		}
		return
	}
	if m.Live == 0 && m.Role != RoleStop && m.idle() { // an older version did not keep it
		m.Live = PartPre | m.Up&^(PartAddress|PartFarm)
	}
	m.WitnessID = 0 // asked again when the heartbeats are silent for this daemon too
	if m.Data.Running && m.Cur.Kind != TaskStart && m.Cur.Kind != TaskStop {
		if e.Found {
			m.adoptedReplica(e.Status)
		} else {
			m.Data = Data{Running: true, Gone: true, Degraded: m.Data.Degraded}
		}
	}
	if m.Up&PartAddress != 0 {
		// Whether they may still be set has to be known anew.
		if m.Missing, m.AddressID = e.Missing, 0; m.Withdrawn {
			m.AddressID = m.run(Task{Kind: TaskNoAddress})
		}
	}
	if m.Cur.Kind != 0 && m.Cur.Kind != TaskClaim {
		m.actions = append(m.actions, Run{m.CurID, m.Cur})
	}
	if m.Alone != 0 {
		m.actions = append(m.actions, Run{m.Alone, m.aloneTask()})
	}
	if m.Yield != 0 {
		m.actions = append(m.actions, Run{m.Yield, Task{Kind: TaskOutdate, Epoch: m.YieldD.Epoch}})
	}
	m.Colour = m.colour() // as it was: adoption is no change of state
}

// adoptedReplica makes up for the events that nobody heard.
func (m *machine) adoptedReplica(st ReplicaStatus) {
	m.status(st)
	was := m.Data
	m.Data.Joined, m.Data.Synced, m.Data.Stream = st.Connected, st.Connected && st.Synced, 0
	if m.Reign && st.Epoch == m.Epoch {
		m.Data.Stream = st.Stream
	}
	switch {
	case m.Reign && st.Frozen:
		if !was.Frozen {
			m.peerLost()
		}
	case m.Reign && st.Connected:
		m.Data.Frozen, m.Lost, m.Drop = false, false, Drop{}
		m.Unprotected = m.Unprotected && !st.Synced
	case m.Role == RoleSecond && m.Followed && st.Connected:
		m.Fresh = false
		if st.Synced && st.Epoch == m.Epoch {
			m.inSync(st.Follow)
		}
	case m.Role == RoleSecond && m.Followed:
		m.Fresh = m.Fresh && st.Uptodate
	}
}
