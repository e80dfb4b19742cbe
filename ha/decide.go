package ha

// decide begins the next transition; false: there is nothing to do now. It is
// called when no transition is under way.
func (m *machine) decide() bool {
	switch {
	case m.Role == RoleStop:
	case m.Order.stops():
		m.stop()
		return true
	case m.Order == OrderStopwait:
		m.Order = NoOrder
		if m.Role != RoleWait {
			m.stopwait()
			return true
		}
	}
	switch m.Role {
	case RoleStop:
		return m.decideStop()
	case RoleWait:
		return m.decideWait()
	case RoleSecond:
		return m.decideSecond()
	case RoleAlone, RolePrim:
		return m.decidePrimary()
	case RoleUp:
		return m.decideUp()
	}
	return false
}

// decideStop: a stopped module waits for an order.
func (m *machine) decideStop() bool {
	switch m.Order {
	case OrderStopstart:
		m.say("heart", "Action start called automatically")
		m.Want = WantStart
	case OrderStart:
	case OrderReboot:
		m.Order, m.Rebooted = NoOrder, true
		m.plan(Task{Kind: TaskReboot})
		return true
	default:
		m.Order = NoOrder
		return false
	}
	m.Order = NoOrder
	m.start()
	return true
}

// decideWait: who of the two becomes primary.
func (m *machine) decideWait() bool {
	if m.Data.Gone {
		m.say("nfsadmin", "The replication process has ended")
		m.again("nfsadmin")
		return m.Order != NoOrder
	}
	if m.Reign { // a claim that was cut short
		m.abandon()
		return true
	}
	p := m.Peer
	switch {
	case m.Held != "":
		return m.wait(BlockRule)
	case m.gated():
		return m.wait(NoBlock)
	case !m.Conf.mirror():
		m.up()
		return true
	case !m.silent() && !m.heard():
		return m.wait(NoBlock) // one window of silence, or a first word, decides
	case m.mustConcede():
		return m.wait(NoBlock)
	case p.Primary && (m.Want == WantPrim || m.Want == WantPrimforce):
		m.say("heart", "Requested prim start aborted")
		m.Order = OrderStop
		return true
	case p.Primary && p.Degraded:
		return m.wait(BlockDegraded)
	case p.Primary && m.Conf.SyncAt && !m.SyncDue && m.Want == WantStart:
		return m.wait(BlockSyncat)
	case p.Primary && !p.Open:
		return m.wait(NoBlock) // not yet, or not before we have conceded
	case p.Primary && m.cannotSync(p) != "":
		m.say("reintegre", m.cannotSync(p))
		m.Order = OrderStop
		return true
	case p.Primary:
		m.follow()
		return true
	case m.Want == WantPrim:
		m.overruled()
		return m.claim(ForcePrim, RoleAlone)
	case m.Want == WantPrimforce:
		m.overruled()
		return m.claim(ForcePrimforce, RoleAlone)
	case m.silent() && !m.peerDead():
		return m.wait(NoBlock) // the witness decides
	case p.Role == RoleWait && !(p.Ready && p.HearsMe), p.Role == RoleSecond:
		return m.wait(NoBlock) // it is about to take over, to wait, or to know
	case p.Held && m.Want != WantSecond && !(m.candidate() && m.exceeds(p)):
		// It starts nothing: whatever its data is, it does so only if this is the newest.
		if m.sure() {
			return m.claim(NoForce, RoleAlone)
		}
	case m.Want == WantSecond:
		if (p.Candidate || p.Held) && p.Role == RoleWait {
			return m.wait(NoBlock) // it starts as primary, or may when it is let
		}
		m.say("heart", "Requested second start aborted")
		m.Order = OrderStop
		return true
	case p.Role == RoleWait && p.Candidate && !m.exceeds(p):
		return m.wait(NoBlock)
	case p.Role == RoleWait && m.candidate():
		// The replica by itself is not sure; the two together are.
		return m.claim(ForcePrim, RoleAlone)
	case p.Role != RoleWait && m.sure(): // stopped, or silent
		return m.claim(NoForce, RoleAlone)
	case m.silent() && m.recent(m.now) && m.failover():
		m.say("heart", "Resource rfs.uptodate set to up by failover rule rfs_forceuptodate")
		return m.claim(ForcePrim, RoleAlone)
	}
	if m.elsewhere() != "" {
		return m.wait(BlockFailover)
	}
	return m.wait(BlockNotUptodate)
}

// wait stays in WAIT, and says why when the reason is new.
func (m *machine) wait(why Block) bool {
	if m.Why == why {
		return false
	}
	m.Why = why
	switch why {
	case BlockNotUptodate:
		m.say("nfsadmin", "Data may be not uptodate for replicated directories (wait for the start of the remote server)")
		m.say("heart", "Action wait from failover rule notuptodate_server")
		m.say("nfsadmin", "If you are sure that this server has valid data, run safekit prim to force start as primary")
	case BlockDegraded:
		m.say("heart", "Action wait from failover rule degraded_server")
	case BlockSyncat:
		m.say("heart", "Action wait from failover rule rfs_syncat_wait")
	}
	return false
}

// decideSecond: a second follows its primary, takes over from it, or waits.
func (m *machine) decideSecond() bool {
	p := m.Peer
	if m.Order == OrderSwap { // it was meant for a primary
		m.Order = NoOrder
	}
	if m.SwapAsk != 0 && (m.SwapAsk != m.Epoch || m.Swapping) {
		m.SwapAsk = 0
	}
	switch {
	case m.Data.Gone:
		m.say("nfsadmin", "The replication process has ended")
		m.again("nfsadmin")
		return m.Order != NoOrder
	case m.Reign: // a claim that was cut short
		m.abandon()
		return true
	case m.Order == OrderRestart:
		m.Order = NoOrder
		m.restart()
		return true
	case !m.silent() && !m.heard(), m.mustConcede(), m.Yield != 0:
		return false
	case m.Doubt && m.Followed:
		m.Doubt = false
		m.plan(Task{Kind: TaskStatus})
		return true
	case p.Primary && p.Degraded:
		m.leave()
		return true
	case p.Primary && (p.Epoch != m.Epoch || !m.Followed || !m.Fresh && p.Full != m.FullFor && p.Full != 0):
		if !p.Open {
			return false // not yet, or not before we have conceded
		}
		if why := m.cannotSync(p); why != "" {
			m.say("reintegre", why)
			m.Order = OrderStop
			return true
		}
		m.follow()
		return true
	case p.Primary && m.Fresh && m.synced() && m.Conf.SyncAt:
		m.syncedForNow()
		return true
	case p.Primary && m.Fresh && m.synced() && m.Up != m.wants(RoleSecond):
		m.scripts(RoleSecond, "start")
		return len(m.Plan) > 0
	case p.Primary:
		m.goHome()
		return false
	case !m.Fresh:
		m.leave()
		return true
	case m.silent() && !m.peerDead():
		return false // the witness decides
	case m.silent():
		return m.takeOver("no heartbeat")
	case p.Role == RoleSecond && p.Released < m.Epoch && (m.Released >= m.Epoch || m.Conf.Second):
		return false // it takes over, see below
	default: // it gave up its reign, was stopped, or was started again
		return m.takeOver("remote stop")
	}
}

// decidePrimary: a primary serves until it is told otherwise.
func (m *machine) decidePrimary() bool {
	p := m.Peer
	switch {
	case m.Data.Gone:
		m.degrade()
		return true
	case !m.Established:
		m.reclaim()
		return true
	case m.heard() && p.Primary && m.yields(p):
		m.again("heart")
		return m.Order != NoOrder
	case m.Order == OrderRestart:
		m.Order = NoOrder
		m.restart()
		return true
	case m.Order == OrderSwap:
		m.Order = NoOrder
		if m.secondReady() && m.Role == RolePrim {
			m.swap()
			return true
		}
	case m.Data.Frozen:
		return false
	case m.heard() && !p.Primary && p.DataEpoch > m.Epoch:
		m.reclaim() // a reign above the one that the peer has given up
		return true
	}
	switch {
	case m.Role == RoleAlone && m.secondReady():
		m.become(RolePrim)
		return true
	case m.Role == RolePrim && (m.peerDead() || m.heard() && p.Role != RoleSecond || m.Lost):
		m.become(RoleAlone)
		return true
	case m.Up != m.wants(m.Role):
		m.scripts(m.Role, "start")
		return len(m.Plan) > 0
	}
	return false
}

// secondReady says that the peer is an up to date second of this reign.
func (m *machine) secondReady() bool {
	p := m.Peer
	return m.heard() && p.Role == RoleSecond && p.Colour == Green && p.Epoch == m.Epoch && !p.Primary && m.synced()
}

// yields decides between two established primaries. Both nodes come to the same
// result from the same facts: who has nothing that the other lacks gives up;
// if both have, the one that held the reign before (the smaller epoch) stays.
// A peer that only claims has to give up by itself.
func (m *machine) yields(p Beat) bool {
	if !p.Established {
		return false
	}
	if p.Epoch > m.Epoch {
		if m.Unprotected {
			if !m.Rival {
				m.Rival = true
				m.say("heart", "Split brain recovery: staying alone")
				m.announce()
			}
			return false
		}
		m.say("heart", "The other server has taken over: giving up")
		if m.Conf.HasData && m.Data.Running {
			// Nobody will say any more that what waits may be answered, and a process
			// that waits for its file system cannot be stopped.
			m.run(Task{Kind: TaskAbandon})
		}
		return true
	}
	if p.Unprotected {
		m.say("heart", "Split brain recovery: exiting alone")
		return true
	}
	return false
}

// contested says that a claim has to be given up, and does so: the module is to
// stop, or the peer reigns already, or claims the greater epoch.
func (m *machine) contested() bool {
	p := m.Peer
	lost := m.heard() && p.Primary && (p.Established || p.Epoch > m.Epoch)
	stop := m.Order.stops() || m.Held != "" // decide undoes what is left
	if !lost && !stop {
		return false
	}
	if lost && (m.Want == WantPrim || m.Want == WantPrimforce) && !stop {
		m.say("heart", "Requested prim start aborted")
		m.Order = OrderStop
	}
	m.Cur, m.Plan = Task{}, nil
	if !stop {
		m.abandon()
	}
	return true
}
