package ha

import (
	"slices"
	"time"

	"github.com/skfs/skfs/ha/rules"
)

// failoverMachine is the guide's failover machine (§13.18): it decides when what the
// rules want is carried out. It knows no clock and does nothing itself; the driver is
// judging.go.
//
//	resources ──▶ rules.Evaluate ──▶ rules.Decide ──▶ judge ──▶ Ruled (to Step)
//
// An action is carried out when it has been the same, of the same rule, for handle
// (§13.18.3); at once if the module is in WAIT and the action is wait: no application
// runs that haste could harm, and none shall start that is to be stopped again.
//
// A rule acts once for a cause. The cause is the rule with the readings that speak for
// it; it is over when the rule does not apply any more, and it is another one when a
// reading joins it. What one rule did for a cause no weaker rule does again. An action
// that the automaton could not take (a script runs) is tried again each handle.
//
// A module that a rule holds in WAIT goes on (Implicit_WAKEUP) as soon as no rule says
// wait, unless the rule that holds it is open again: some resource that it looks at is
// init (§13.15.3).
type failoverMachine struct {
	set    rules.Set
	period time.Duration
	handle time.Duration

	results []rules.Result // of the last evaluation
	want    string         // label of the rule whose action is not the same for handle yet, "": none
	since   time.Time      // since when it is
	spent   map[string][]rules.Reading
}

// situation is what the failover machine needs to know of the automaton.
type situation struct {
	Running   bool   // not STOP
	Waiting   bool   // WAIT
	Held      string // State.Held
	Unwatched bool   // the checkers are off: what is init stays so
}

func (s *State) situation() situation {
	return situation{Running: s.Role != RoleStop, Waiting: s.Role == RoleWait, Held: s.Held, Unwatched: s.Settings.CheckerOff}
}

// ruling is what is to be done now.
type ruling struct {
	Event  Ruled // zero: nothing
	Cause  []rules.Reading
	Assign []rules.Result // of rules that assign
	Again  time.Time      // judge again at the latest then; zero: with the next change
}

// judge looks at the facts. What it returns has to be carried out, and taken called if
// the automaton took it.
func (f *failoverMachine) judge(facts rules.Facts, s situation, now time.Time) ruling {
	if !s.Running {
		f.results, f.want, f.spent = nil, "", nil
		return ruling{}
	}
	f.results = f.set.Evaluate(facts)
	var fresh []rules.Result // of causes that were not acted upon
	var r ruling
	for _, x := range f.results {
		switch {
		case x.Truth != rules.True:
			delete(f.spent, x.Rule.Label)
		case f.isSpent(x) && (x.Rule.Then != rules.Wait || f.truth(s.Held) == rules.True):
		case x.Rule.Assign != nil:
			r.Assign = append(r.Assign, x)
			f.taken(x)
		default:
			fresh = append(fresh, x)
		}
	}
	if s.Held != "" && s.Waiting && !f.holds(facts, s) {
		f.want = ""
		r.Event = Ruled{Rule: ImplicitWakeup, Action: "wakeup"}
		return r
	}
	act := rules.Decide(fresh).Act
	if act == nil {
		f.want = ""
		return r
	}
	label, wait := act.Rule.Label, act.Rule.Then == rules.Wait
	if wait && s.Held != "" && f.truth(s.Held) == rules.True { // it waits already
		f.taken(*act)
		f.want = ""
		return r
	}
	if f.want != label {
		f.want, f.since = label, now
	}
	if due := f.since.Add(f.handle); now.Before(due) && !(wait && s.Waiting) {
		r.Again = due
		return r
	}
	f.since = now // if it is not taken: again after another handle
	r.Again = now.Add(max(f.handle, f.period))
	r.Event, r.Cause = Ruled{Rule: label, Action: string(act.Rule.Then)}, act.Evidence()
	return r
}

// isSpent says that the rule has acted for this cause. Of a wait that is not enough:
// it is State.Held that holds the module.
func (f *failoverMachine) isSpent(x rules.Result) bool {
	seen, ok := f.spent[x.Rule.Label]
	return ok && !slices.ContainsFunc(x.Evidence(), func(r rules.Reading) bool { return !slices.Contains(seen, r) })
}

// taken notes that the rule has acted.
func (f *failoverMachine) taken(x rules.Result) {
	if f.spent == nil {
		f.spent = map[string][]rules.Reading{}
	}
	f.spent[x.Rule.Label] = x.Evidence()
}

// accepted notes that the automaton took the action of the rule with this label. The
// weaker rules that apply for nothing but the same cause have been served with it.
func (f *failoverMachine) accepted(label string) {
	f.want = ""
	i := slices.IndexFunc(f.results, func(x rules.Result) bool { return x.Rule.Label == label })
	if i < 0 { // a wakeup
		return
	}
	f.taken(f.results[i])
	served := f.results[i].Evidence()
	for _, x := range f.results {
		own := x.Evidence()
		if x.Truth == rules.True && x.Rule.Assign == nil && len(own) > 0 && !slices.ContainsFunc(own, func(r rules.Reading) bool { return !slices.Contains(served, r) }) {
			f.taken(x)
		}
	}
}

func (f *failoverMachine) truth(label string) rules.Truth {
	for _, x := range f.results {
		if x.Rule.Label == label {
			return x.Truth
		}
	}
	return rules.False
}

// holds says that a module which is held in WAIT stays there.
func (f *failoverMachine) holds(facts rules.Facts, s situation) bool {
	for _, x := range f.results {
		if x.Rule.Then != rules.Wait {
			continue
		}
		if x.Truth == rules.True || x.Truth == rules.Undetermined && x.Rule.Label == s.Held && !s.Unwatched && open(x, facts) {
			return true
		}
	}
	return false
}

// open says that a resource which exists will decide the rule: one that does not may
// never do.
func open(x rules.Result, facts rules.Facts) bool {
	for _, f := range x.Findings {
		for _, v := range f.Values {
			if _, exists := facts.Local[v.Name]; exists && v.Value == rules.Init {
				return true
			}
		}
	}
	return false
}
