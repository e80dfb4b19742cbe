package conf

import (
	"errors"
	"fmt"
	"slices"
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

// failover reads <failover>; n is nil if there is none, and its place is at.
func (s *scanner) failover(n *node, at Pos, m *Module) Failover {
	if n == nil {
		n = &node{tag: failoverTags(), pos: at}
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
	f.Rules = rules.Extend(own, f.Extends)
	if !n.partial {
		for _, r := range own {
			at := n.text.pos(s, r.Offset, n.pos)
			s.fits(r, at, m)
			m.unset(r, at)
		}
		m.unread(f.Rules, n.pos)
	}
	return f
}

// set are the resources of a class that the configuration has somebody set; all: there
// may be others of the class.
func (m *Module) set(class string) (names []string, all bool) {
	for _, c := range m.Checkers {
		if string(c.Kind) == class {
			names = append(names, c.Resource())
		}
	}
	switch class {
	case "heartbeat":
		if m.Heart != nil {
			for _, b := range m.Heart.Heartbeats {
				names = append(names, "heartbeat."+b.Ident)
			}
		}
	case "proc":
		if m.Errd != nil {
			for _, p := range m.Errd.Procs {
				names = append(names, "proc."+p.Name)
			}
		}
	case "splitbrain":
		if len(names) > 0 {
			names = append(names, SplitUptodate)
		}
	case "ip", "intf":
		if m.VIP != nil {
			for _, a := range m.VIP.Addresses {
				if a.Check {
					names = append(names, "ip."+a.Addr)
				}
				all = all || class == "intf" && a.CheckIntf // named for a network that only the host knows
			}
		}
	case "tcp", "ping", "module":
	default: // set by commands, or by the automaton
		return nil, true
	}
	return names, all
}

// unset warns of resources that a rule asks for and nobody sets: it would never act.
func (m *Module) unset(r rules.Rule, at Pos) {
	for _, x := range rules.Resources(r.If) {
		names, all := m.set(x.Class)
		if x.Wild() || all || slices.Contains(names, x.Name()) {
			continue
		}
		near := ""
		if n := Nearest(x.Name(), names); n != "" {
			near = "; did you mean " + n + "?"
		}
		m.Warnings.addf(at, "rule %s looks at %s, which nothing in this configuration sets%s", r.Label, x, near)
	}
}

// unread warns of custom checkers whose resource no rule looks at (§13.15.3).
func (m *Module) unread(all rules.Set, at Pos) {
	for _, c := range m.Checkers {
		if c.Kind == CheckCustom && !slices.ContainsFunc(all, func(r rules.Rule) bool {
			return slices.ContainsFunc(rules.Resources(r.If), func(x rules.Resource) bool {
				return x.Class == string(c.Kind) && (x.Wild() || x.ID == c.Ident)
			})
		}) {
			m.Warnings.addf(at, "no rule of <failover> looks at %s: what its checker finds out has no effect, unless it gives commands itself", c.Resource())
		}
	}
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
	f := s.failover(nil, Pos{}, &Module{Mode: Mirror})
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
