package ha

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/skfs/skfs/ha/rules"
)

// RulesView is the failover machine of a module at one moment, for who wants to know
// why it acts or does not.
type RulesView struct {
	Module             string
	Period, HandleTime time.Duration
	Running            bool   // rules are looked at; they are not in STOP
	Held               string `json:",omitempty"` // the rule, or who gave the command, that keeps the module in WAIT
	RemoteKnown        bool   // the other node's resources are known
	Cluster            string // cluster()
	Rules              []RuleView
	Inner              []InnerView // what the automaton itself decides
}

// RuleView is one rule.
type RuleView struct {
	Label    string
	Text     string // the rule as it was understood
	Product  bool   // skfs brings it
	Truth    string // holds, does not hold, is undetermined
	Compared []ComparedView
	Effect   string `json:",omitempty"` // what follows, or why nothing does
}

// ComparedView is one comparison of a rule.
type ComparedView struct {
	Text   string
	Truth  string
	Values []rules.Reading
	Note   string `json:",omitempty"`
}

// InnerView is one of rules.Inner.
type InnerView struct {
	Label, Meaning string
	Applies        bool
}

// Rules says what the failover rules of a module come to now.
func (s *Supervisor) Rules(ctx context.Context, module string) (RulesView, error) {
	m, err := s.module(module)
	if err != nil {
		return RulesView{}, err
	}
	answer := make(chan RulesView, 1)
	if err := m.post(ctx, func() { answer <- m.viewRules(time.Now()) }); err != nil {
		return RulesView{}, err
	}
	select {
	case v := <-answer:
		return v, nil
	case <-ctx.Done():
		return RulesView{}, ctx.Err()
	}
}

// viewRules looks without leaving a trace. Loop's goroutine.
func (m *module) viewRules(now time.Time) RulesView {
	f, facts := m.judging.machine, m.ruleFacts()
	v := RulesView{Module: m.name, Period: f.period, HandleTime: f.handle, Running: m.state.Role != RoleStop,
		Held: m.state.Held, RemoteKnown: facts.Remote != nil, Cluster: facts.Cluster}
	results := f.set.Evaluate(facts)
	decided := rules.Decide(results)
	for _, x := range results {
		r := RuleView{Label: x.Rule.Label, Text: x.Rule.String(), Product: x.Rule.Product, Truth: x.Truth.String()}
		for _, c := range x.Findings {
			r.Compared = append(r.Compared, ComparedView{Text: c.Compare.String(), Truth: c.Truth.String(), Values: c.Values, Note: findingNote(c, facts)})
		}
		if v.Running && x.Truth == rules.True {
			r.Effect = f.effect(x, decided, m.state.Held, now)
		}
		v.Rules = append(v.Rules, r)
	}
	if m.state.Conf.HasData {
		for _, i := range rules.Inner {
			v.Inner = append(v.Inner, InnerView{i.Label, i.Meaning, whyTexts[m.state.Why] == i.Label})
		}
	}
	return v
}

// findingNote says what the values do not.
func findingNote(c rules.Finding, facts rules.Facts) string {
	if len(c.Values) == 0 {
		return "there is no such resource"
	}
	var missing []string
	for _, v := range c.Values {
		_, here := facts.Local[v.Name]
		_, there := facts.Remote[strings.TrimPrefix(v.Name, "remote.")]
		if remote := strings.HasPrefix(v.Name, "remote."); v.Name != "cluster()" && (remote && facts.Remote != nil && !there || !remote && !here) {
			missing = append(missing, v.Name)
		}
	}
	if len(missing) > 0 {
		return strings.Join(missing, ", ") + " is not set"
	}
	return ""
}

// effect says what follows from a rule that applies.
func (f *failoverMachine) effect(x rules.Result, d rules.Decision, held string, now time.Time) string {
	r := x.Rule
	switch {
	case r.Assign != nil:
		return fmt.Sprintf("%s is %s", r.Assign.Resource, r.Assign.Value)
	case r.Then == rules.Wait && held == r.Label:
		return "it keeps the module in WAIT"
	case f.isSpent(x):
		return "it has acted for this cause"
	case f.want == r.Label:
		return fmt.Sprintf("%s() in %v, if it still applies (handle_time)", r.Then, f.since.Add(f.handle).Sub(now).Round(100*time.Millisecond))
	case d.Act != nil && d.Act.Rule.Label != r.Label:
		return fmt.Sprintf("rule %s goes before it", d.Act.Rule.Label)
	}
	return fmt.Sprintf("%s() is due", r.Then)
}
