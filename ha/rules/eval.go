package rules

import (
	"maps"
	"slices"
	"strings"
)

// Truth is what a condition comes to.
type Truth uint8

// The truths. Undetermined: something that it depends on is not known yet.
const (
	False Truth = iota
	Undetermined
	True
)

func (t Truth) String() string {
	return [...]string{"does not hold", "is undetermined", "holds"}[t]
}

func truth(b bool) Truth {
	if b {
		return True
	}
	return False
}

// Facts are what conditions speak of.
type Facts struct {
	Local  map[string]string // value by name of this node's resources
	Remote map[string]string // the other node's; nil: they are unknown
	// Cluster is up while this node hears another one of the cluster, else down.
	Cluster string
}

// evaluation is one look at the facts. It notes the comparisons on its way.
type evaluation struct {
	facts Facts
	seen  []Finding
}

// Finding is one comparison of a rule, as it was found.
type Finding struct {
	Compare Compare
	Values  []Reading // of the resources that it speaks of, by name
	Truth   Truth
}

// Reading is the value of a resource.
type Reading struct{ Name, Value string }

// Result is what a rule comes to.
type Result struct {
	Rule     Rule
	Truth    Truth
	Findings []Finding
}

// Evidence are the readings that speak for the rule: those of the comparisons that
// hold. A rule that applies with other evidence applies for another cause.
func (r Result) Evidence() []Reading {
	var all []Reading
	for _, f := range r.Findings {
		for _, v := range f.Values {
			if f.Truth == True && f.Compare.matches(v.Value) && !slices.Contains(all, v) {
				all = append(all, v)
			}
		}
	}
	return all
}

// matches says that one value meets the comparison with a literal.
func (c Compare) matches(value string) bool {
	for _, o := range []Operand{c.A, c.B} {
		if lit, ok := o.(Value); ok {
			return (string(lit) == value) != c.Differ
		}
	}
	return true
}

// Set is the rules of a module.
type Set []Rule

// Evaluate is pure: every rule, with what it comes to.
func (s Set) Evaluate(f Facts) []Result {
	all := make([]Result, len(s))
	for i, r := range s {
		e := evaluation{facts: f}
		all[i] = Result{Rule: r, Truth: r.If.eval(&e)}
		all[i].Findings = e.seen
	}
	return all
}

// Decision is what the rules want.
type Decision struct {
	Act     *Result      // the rule that counts; nil: none applies
	Waits   bool         // some rule says wait
	Unknown bool         // no rule says wait, but one is undetermined
	Assign  []Assignment // of all rules that assign and apply
}

// Decide says which of the rules counts; see the package comment.
func Decide(results []Result) Decision {
	var d Decision
	for i := range results {
		r := &results[i]
		if r.Truth == Undetermined && r.Rule.Then == Wait {
			d.Unknown = true
		}
		switch {
		case r.Truth != True:
			continue
		case r.Rule.Assign != nil:
			d.Assign = append(d.Assign, *r.Rule.Assign)
			continue
		case r.Rule.Then == Wait:
			d.Waits = true
		}
		if d.Act == nil || r.Rule.beats(d.Act.Rule) {
			d.Act = r
		}
	}
	d.Unknown = d.Unknown && !d.Waits
	return d
}

// beats says that of two rules that apply r counts, though it is written later.
func (r Rule) beats(o Rule) bool {
	a, b := slices.Index(Actions, r.Then), slices.Index(Actions, o.Then)
	if a != b {
		return a < b
	}
	return o.Product && !r.Product
}

func (c Or) eval(e *evaluation) Truth  { return max(c.A.eval(e), c.B.eval(e)) }
func (c And) eval(e *evaluation) Truth { return min(c.A.eval(e), c.B.eval(e)) }
func (c Not) eval(e *evaluation) Truth { return True - c.Of.eval(e) }

func (c Same) eval(e *evaluation) Truth {
	a, b := c.A.eval(e), c.B.eval(e)
	if a == Undetermined || b == Undetermined {
		return Undetermined
	}
	return truth(a == b)
}

func (c Compare) eval(e *evaluation) Truth {
	f := Finding{Compare: c}
	a, b := e.readings(c.A), e.readings(c.B)
	for _, side := range [][]Reading{a, b} {
		for _, r := range side {
			if r.Name != "" {
				f.Values = append(f.Values, r)
			}
		}
	}
	all := wildcard(c.A) == "*" || wildcard(c.B) == "*"
	f.Truth = False
	if all && len(a) > 0 && len(b) > 0 {
		f.Truth = True
	}
	for _, x := range a {
		for _, y := range b {
			t := c.one(x, y)
			if all {
				f.Truth = min(f.Truth, t)
			} else {
				f.Truth = max(f.Truth, t)
			}
		}
	}
	e.seen = append(e.seen, f)
	return f.Truth
}

// one compares two values. A resource that is init says nothing, except to who asks
// for init.
func (c Compare) one(x, y Reading) Truth {
	asks := func(r Reading) bool { return r.Name == "" && r.Value == Init }
	silent := func(r Reading) bool { return r.Name != "" && r.Value == Init }
	if !asks(x) && !asks(y) && (silent(x) || silent(y)) {
		return Undetermined
	}
	return truth((x.Value == y.Value) != c.Differ)
}

func wildcard(o Operand) string {
	if r, ok := o.(Resource); ok && r.Wild() {
		return r.ID
	}
	return ""
}

// readings are the values that an operand stands for. A literal has no name.
func (e *evaluation) readings(o Operand) []Reading {
	switch o := o.(type) {
	case Value:
		return []Reading{{"", string(o)}}
	case Cluster:
		return []Reading{{"cluster()", e.facts.Cluster}}
	case Resource:
		return e.resource(o)
	}
	return nil
}

func (e *evaluation) resource(r Resource) []Reading {
	from, missing, prefix := e.facts.Local, Init, ""
	if r.Remote {
		from, missing, prefix = e.facts.Remote, Unknown, "remote."
	}
	if !r.Wild() || r.Remote && from == nil {
		v, ok := from[r.Name()]
		if !ok {
			v = missing
		}
		return []Reading{{r.String(), v}}
	}
	var all []Reading
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if strings.HasPrefix(name, r.Class+".") {
			all = append(all, Reading{prefix + name, from[name]})
		}
	}
	return all
}
