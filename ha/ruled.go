package ha

import (
	"strings"

	"github.com/skfs/skfs/conf"
)

// What failover rules (§13.18), and commands that detectors give with their
// identity, do with a module.
//
// The failover machine gives the event Ruled when the action of a rule has been the
// same for handle_time, and again after each further handle_time in which it is. The
// automaton takes what is on its way already for nothing, so that no event can come
// too often.
//
//	Action     in STOP, or while the module stops: nothing. Else:
//	wait       the module goes to WAIT and stays there until wakeup (State.Held)
//	wakeup     no rule says wait any more (Rule: ImplicitWakeup)
//	restart    the application is stopped and started, if it runs and no script does
//	stopstart  the module is stopped and started, or with automatic_reboot the host is
//	stop       the module is stopped
//	swap       primary and second change places, if both are ready
//
// All but wakeup and stop count as a loop (loop.go). The rules of replication
// (notuptodate_server, degraded_server, rfs_forceuptodate) are not among these:
// decideWait is them, because what they look at is the automaton's own.

// ImplicitWakeup is the rule of a wakeup.
const ImplicitWakeup = "Implicit_WAKEUP"

// transitionNames are those of the log.
var transitionNames = map[string]string{"wait": "WAIT_TR", "restart": "RESTART", "stopstart": "STOPSTART", "stop": "STOP", "swap": "SWAP"}

func (m *machine) ruled(e Ruled) {
	if e.Action == "wakeup" {
		m.wakeup(e.Rule)
		return
	}
	m.detected(e.Action, e.Rule, "from failover rule "+e.Rule)
}

// detected carries out an action that no administrator asked for. why is how the log
// says where it comes from.
func (m *machine) detected(action, who, why string) {
	if m.Role == RoleStop || m.Order.stops() || m.stopping() {
		return
	}
	switch action {
	case "wait":
		m.hold(who, why)
	case "restart":
		if m.serves() && m.idle() && m.Order == NoOrder && m.counts(action, why) {
			m.Order = OrderRestart
		}
	case "swap":
		if m.Refusal(Command{Name: "swap"}) == nil && !m.Swapping && m.SwapAsk == 0 && m.counts(action, why) {
			m.swapOrdered()
		}
	case "stopstart":
		m.loop(why)
	case "stop":
		m.acts(action, why)
		m.cut(OrderStop)
	}
}

// acts says in the log what is done, and because of a rule what it leads to.
func (m *machine) acts(action, why string) {
	m.say("heart", "Action "+action+" "+why)
	if strings.HasPrefix(why, "from ") {
		m.say("heart", "Transition "+transitionNames[action]+" "+why)
	}
}

// hold takes the module to WAIT, and keeps it there until wakeup.
func (m *machine) hold(who, why string) {
	was := m.Held
	m.Held = who
	switch {
	case was != "": // it waits, or is on its way to
		if was != who {
			m.say("heart", "Action wait "+why)
		}
	case m.Role == RoleWait:
		m.say("heart", "Action wait "+why)
		if m.Reign { // a claim, which decide undoes
			m.Plan = nil
		}
	case m.counts("wait", why):
		m.Plan, m.Order = nil, OrderStopwait
	default:
		m.Held = ""
	}
}

// wakeup lets the module go on.
func (m *machine) wakeup(rule string) {
	if m.Held == "" {
		return
	}
	m.Held = ""
	m.Home = m.defaultPrim()
	m.say("heart", "Transition WAKEUP from failover rule "+rule)
}

// stopwait: to WAIT without poststop and prestart. The replica is started anew, as a
// module that waits replicates nothing.
func (m *machine) stopwait() {
	m.unserve("stopwait")
	m.Fresh, m.Followed, m.Why = false, false, NoBlock
	if !m.Conf.HasData {
		return
	}
	if m.Data.Running && !m.Data.Gone {
		m.plan(Task{Kind: TaskStop, Clean: true})
	} else {
		m.Data = Data{}
	}
	m.plan(Task{Kind: TaskStart})
}

// serves says that the module runs its application here, or some part of it.
func (s *State) serves() bool {
	return s.Role == RoleAlone || s.Role == RolePrim || s.Role == RoleSecond || s.Role == RoleUp
}

func (c *Conf) mirror() bool { return c.Mode == "" || c.Mode == conf.Mirror }

// swapOrdered asks for a swap here (PRIM) or at the peer (SECOND).
func (m *machine) swapOrdered() {
	if m.Role == RolePrim {
		m.Order = OrderSwap
		return
	}
	m.SwapAsk = m.Epoch
}
