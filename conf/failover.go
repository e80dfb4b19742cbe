package conf

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skfs/skfs/ha/rules"
)

// Failover is the failover machine of a module (guide §13.18). Every module has one:
// without <failover> it is that of the product.
type Failover struct {
	Extends    bool          // the rules of the product count too
	Period     time.Duration // between two evaluations, besides those after a change
	HandleTime time.Duration // an action is the same for so long before it is carried out
	Rules      rules.Set     // the module's, then those of the product
}

// String is what can be compared: the same text means the same.
func (f Failover) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "period %v, handle_time %v\n", f.Period, f.HandleTime)
	for _, r := range f.Rules {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// failover reads <failover>; n is nil if there is none.
func (s *scanner) failover(n *node, m *Module) Failover {
	if n == nil {
		n = &node{tag: failoverTags()}
	}
	f := Failover{Extends: n.str("extends") == "yes", Period: n.dur("period", time.Millisecond), HandleTime: n.dur("handle_time", time.Millisecond)}
	if rest := f.HandleTime % f.Period; rest != 0 {
		if n.has("handle_time") {
			s.addf(n.at("handle_time"), "handle_time=%q is no multiple of period (%d)", n.str("handle_time"), f.Period.Milliseconds())
		}
		f.HandleTime += f.Period - rest
	}
	if n.has("extends") && !f.Extends {
		m.Warnings.addf(n.at("extends"), "extends=\"no\": the rules of the checkers (ping_failure, tcp_failure, …) do not count; what they find out has no effect but by the rules here")
	}
	own, err := rules.Parse(string(n.text.text), Nearest)
	var wrong rules.Errors
	if errors.As(err, &wrong) {
		for _, e := range wrong {
			s.addf(n.text.pos(s, e.Offset, n.pos), "%s", e.Text)
		}
	}
	for _, r := range own {
		s.fits(r, n.text.pos(s, r.Offset, n.pos), m)
	}
	f.Rules = rules.Extend(own, f.Extends)
	return f
}

// fits checks a rule against the kind of the module.
func (s *scanner) fits(r rules.Rule, at Pos, m *Module) {
	if m.Mode == Mirror {
		return
	}
	if r.Then == rules.Swap {
		s.addf(at, "rule %s: swap() belongs to a mirror module; this one has mode=%q", r.Label, m.Mode)
	}
	for _, x := range rules.Resources(r.If) {
		if x.Remote {
			s.addf(at, "rule %s: %s: only a mirror module has remote resources; this one has mode=%q", r.Label, x, m.Mode)
		}
	}
}

// ParseRules reads a text of rules by itself, as it stands in a <failover> that extends
// the product's. The error is of type Problems; file is the name it shows.
func ParseRules(file, text string) (Failover, error) {
	var s scanner
	f := s.failover(nil, &Module{Mode: Mirror})
	own, err := rules.Parse(text, Nearest)
	var wrong rules.Errors
	if errors.As(err, &wrong) {
		for _, e := range wrong {
			line, column := rules.Position(text, e.Offset)
			s.addf(Pos{file, line, column}, "%s", e.Text)
		}
		return f, s.err()
	}
	f.Rules = rules.Extend(own, true)
	return f, nil
}
