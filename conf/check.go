package conf

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// CheckerKind is what a checker looks at. It is the class of its resource.
type CheckerKind string

// The checkers (guide §13.11–13.17).
const (
	CheckTCP        CheckerKind = "tcp"        // whether a TCP service accepts connections
	CheckPing       CheckerKind = "ping"       // whether a host answers an ICMP echo request
	CheckIntf       CheckerKind = "intf"       // whether a network interface has a carrier
	CheckIP         CheckerKind = "ip"         // whether an address is on this host
	CheckCustom     CheckerKind = "custom"     // what a program of the module finds out
	CheckModule     CheckerKind = "module"     // whether another module serves
	CheckSplitbrain CheckerKind = "splitbrain" // whether the witness can be reached
)

// When says during which part of a module's life a checker works: after the start
// scripts of that part, until before its stop scripts.
type When string

// The values of when.
const (
	WhenPre    When = "pre" // from after prestart until before poststop
	WhenPrim   When = "prim"
	WhenSecond When = "second"
	WhenBoth   When = "both"
)

// Checker is one of <check>. Fields that its kind has no use for are zero.
type Checker struct {
	Kind     CheckerKind
	Ident    string
	When     When
	Addr     string        // of tcp, ping, ip, splitbrain: what is checked; of intf: an address on the interface; of module: the server
	Port     int           // of tcp, module
	Interval time.Duration // between two checks
	Timeout  time.Duration // of one
	Intf     string        // of intf: the interface's name; "": the one that has Addr
	Exec     string        // of custom: path of the program, relative to SAFEUSERBIN
	Args     []string      // of custom
	Module   string        // of module: its name
}

// Resource is the name of the resource that the checker sets.
func (c *Checker) Resource() string { return string(c.Kind) + "." + c.Ident }

// SplitUptodate is the resource that a node sets to down when it lost its peer and
// its witness (§13.17.3).
const SplitUptodate = "splitbrain.uptodate"

// witnessInterval and witnessTimeout are not in the guide: those of ping.
const (
	witnessInterval = 10 * time.Second
	witnessTimeout  = 5 * time.Second
)

// validIdent is what may follow the dot in the name of a resource.
var validIdent = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9_.:%@/-]{0,127}$`)

// checkers reads <check>.
func (s *scanner) checkers(n *node, m *Module) {
	for _, c := range n.children {
		k := Checker{Kind: CheckerKind(c.tag.name), Ident: c.str("ident"), When: When(c.str("when"))}
		to := c.one("to")
		switch {
		case to == nil && (k.Kind != CheckCustom && k.Kind != CheckSplitbrain && k.Kind != CheckModule):
			continue // reported
		case k.Kind == CheckTCP || k.Kind == CheckPing:
			k.Addr = s.host(to, "addr")
		case k.Kind == CheckIP:
			k.Addr = s.host(to, "addr")
		case k.Kind == CheckIntf:
			k.Addr = s.host(to, "local_addr")
			k.Intf = c.str("intf")
		case k.Kind == CheckCustom:
			k.Exec, k.Args = c.str("exec"), strings.Fields(c.str("arg"))
			if c.has("exec") && k.Exec == "" {
				s.addf(c.at("exec"), "exec=\"\": expected the path of a program, relative to the module's bin")
			}
		case k.Kind == CheckModule:
			k.Module, k.Addr, k.Port = c.str("name"), "127.0.0.1", 9010
			k.Interval, k.Timeout = 10*time.Second, 5*time.Second
			if to != nil {
				k.Addr = s.host(to, "addr")
				if ip, err := netip.ParseAddr(k.Addr); k.Addr != "" && (err != nil || !ip.IsLoopback()) {
					m.Warnings.addf(to.at("addr"), "modules of other nodes cannot be asked by this version: while %s is no address of this node, the resource is down", k.Addr)
				}
			}
			if k.Ident == "" && k.Addr != "" {
				k.Ident = k.Module + "_" + k.Addr
			}
		case k.Kind == CheckSplitbrain:
			k.Addr, k.Interval, k.Timeout = s.host(c, "arg"), witnessInterval, witnessTimeout
		}
		if to != nil {
			if to.tag.attr("port") != nil {
				k.Port = int(to.num("port"))
			}
			if to.tag.attr("interval") != nil {
				k.Interval = to.dur("interval", time.Second)
			}
			if to.tag.attr("timeout") != nil {
				k.Timeout = to.dur("timeout", time.Second)
			}
		}
		if m.Mode != Mirror && (k.When == WhenPrim || k.When == WhenSecond) {
			if c.has("when") {
				s.addf(c.at("when"), "when=%q: a %s module has no such part: expected pre or both", k.When, m.Mode)
			}
			k.When = WhenBoth
		}
		s.ident(c, &k, m)
		m.Checkers = append(m.Checkers, k)
	}
}

// ident checks the name of a checker.
func (s *scanner) ident(n *node, k *Checker, m *Module) {
	switch {
	case k.Ident == "" && !n.has("ident"): // reported
	case !validIdent.MatchString(k.Ident):
		s.addf(n.at("ident"), "ident=%q: expected up to 128 letters, digits or any of . _ : %% @ / -", k.Ident)
	case k.Resource() == SplitUptodate:
		s.addf(n.at("ident"), "ident=%q: the resource %s is set by skfs itself; call the witness otherwise", k.Ident, SplitUptodate)
	case slices.ContainsFunc(m.Checkers, func(o Checker) bool { return o.Resource() == k.Resource() }):
		s.addf(n.at("ident"), "two checkers set the resource %s: give each an ident of its own", k.Resource())
	case m.VIP != nil && k.Kind == CheckIP && slices.ContainsFunc(m.VIP.Addresses, func(a VirtualAddr) bool { return a.Check && a.Addr == k.Ident }):
		s.addf(n.at("ident"), "the resource %s is that of <virtual_addr check=\"on\">: give the checker another ident", k.Resource())
	}
}

// host reads an attribute that is an address or a name that resolves to one, and
// returns it in one spelling; "" when it is wrong, which is reported.
func (s *scanner) host(n *node, attr string) string {
	v := n.str(attr)
	if !n.has(attr) {
		return ""
	}
	ip, err := netip.ParseAddr(v)
	switch {
	case err == nil:
		return ip.Unmap().String()
	case strings.Contains(v, ":") || !validHost.MatchString(v) || dotted.MatchString(v):
		s.addf(n.at(attr), "%s=%q: expected an IPv4 or IPv6 address, or a name that resolves to one", attr, v)
		return ""
	}
	return v
}
