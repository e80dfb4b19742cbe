package ha

// Farm and light modules (§6.2): STOP, WAIT and UP. They have no peer to ask; what a
// farm has in common is the task of its members (TaskShare), not of this automaton.

// up: WAIT to UP.
func (m *machine) up() {
	m.Why, m.Want = NoBlock, WantStart
	m.plan(Task{Kind: MarkRole, Role: RoleUp})
	m.script("transition", RoleUp, "start")
	m.startParts(m.wants(RoleUp)&^m.Up, RoleUp, "start")
}

// decideUp: a module that is up serves until it is told otherwise.
func (m *machine) decideUp() bool {
	switch {
	case m.Order == OrderRestart:
		m.Order = NoOrder
		m.restart()
		return true
	case m.Up != m.wants(RoleUp):
		m.scripts(RoleUp, "start")
		return len(m.Plan) > 0
	}
	m.Order = NoOrder
	return false
}
