package ha

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/skfs/skfs/ha/rules"
)

// How the loop of a module (module.run) drives its failover machine: after each event
// that changed a resource or the state, at the end of handle_time, and each period.

// maxJudgements bounds how often in a row rules that assign resources may lead to each
// other. The next period goes on.
const maxJudgements = 8

// judging belongs to the loop.
type judging struct {
	machine  *failoverMachine
	timer    *time.Timer // when to judge at the latest
	unjudged bool        // something changed since
}

// openJudge is called by the loop before it adopts.
func (m *module) openJudge() {
	m.newFailover()
	m.judging.timer = time.NewTimer(m.judging.machine.period)
}

// newFailover takes up the configured rules: <failover> is not dynamic.
func (m *module) newFailover() {
	m.judging.machine = &failoverMachine{set: m.mc.rules.Rules, period: m.mc.rules.Period, handle: m.mc.rules.HandleTime}
	if m.judging.machine.period <= 0 { // of a test that does not care
		m.judging.machine.period = time.Hour
	}
	m.judging.unjudged = true
}

// begins is called when the module leaves STOP: what was found out of its last run is
// of no meaning for this one (§13.18.5, init). Who set it stays known.
func (m *module) begins() {
	m.newFailover()
	now := time.Now()
	for _, r := range m.res.list() {
		if r.By != "" && m.res.put(Resource{Name: r.Name, Value: rules.Init, Since: now, By: r.By}, historyChanges) {
			m.log.Write(LevelInfo, "heart", fmt.Sprintf("Resource %s set to init by heart", r.Name))
		}
	}
}

// judge carries out what the rules want now.
func (m *module) judge(ctx context.Context) {
	for range maxJudgements {
		if !m.judging.unjudged {
			return
		}
		m.judging.unjudged = false
		now := time.Now()
		r := m.judging.machine.judge(m.ruleFacts(), m.state.situation(), now)
		next := m.judging.machine.period
		if !r.Again.IsZero() {
			next = min(next, r.Again.Sub(now))
		}
		m.judging.timer.Reset(next)
		for _, x := range r.Assign {
			m.assign(ctx, x.Rule.Assign.Resource, x.Rule.Assign.Value, "failover rule "+x.Rule.Label)
		}
		if r.Event != (Ruled{}) {
			m.rule(ctx, r)
		}
	}
	m.judging.unjudged = false
}

// rule gives the automaton an action.
func (m *module) rule(ctx context.Context, r ruling) {
	old := m.state
	for _, c := range r.Cause {
		m.seen.readings = append(m.seen.readings, RuleReading(c))
	}
	m.step(ctx, r.Event)
	m.seen.readings = nil
	if !m.state.took(&old) {
		return
	}
	m.judging.machine.accepted(r.Event.Rule)
	if len(r.Cause) > 0 {
		m.log.Write(LevelInfo, "heart", fmt.Sprintf("Rule %s applied because of %s", r.Event.Rule, causeText(r.Cause)))
	}
}

// took says that an action was taken since old.
func (s *State) took(old *State) bool {
	return s.Held != old.Held || s.Loops != old.Loops || !s.LoopFrom.Equal(old.LoopFrom) || s.Order != old.Order || s.Role != old.Role
}

func causeText(cause []rules.Reading) string {
	var parts []string
	for _, c := range cause {
		parts = append(parts, c.Name+"="+c.Value)
	}
	return strings.Join(parts, ", ")
}

// ruleFacts are what rules speak of.
func (m *module) ruleFacts() rules.Facts {
	f := rules.Facts{Local: make(map[string]string, len(m.res.values)), Cluster: rules.Up}
	for name, r := range m.res.values {
		f.Local[name] = r.Value
	}
	if len(m.state.Links) > 0 && m.state.silent() {
		f.Cluster = rules.Down
	}
	if m.state.heard() && m.state.Peer.Role != RoleStop && m.res.remote != nil {
		f.Remote = make(map[string]string, len(m.res.remote))
		for _, r := range m.res.remote {
			f.Remote[r.Name] = r.Value
		}
	}
	return f
}
