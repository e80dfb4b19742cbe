package lbfilter

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Mode is the type of a <virtual_interface> (§13.5.7.2, §13.5.7.3).
type Mode uint8

const (
	// Invisible: the addresses are resolved to a virtual MAC that no switch can
	// locate, so all members see all frames and each takes its own.
	Invisible Mode = iota
	// Directed: a member answers with its own MAC and sends on what others own.
	Directed
)

var modeNames = []string{"vmac_invisible", "vmac_directed"}

func (m Mode) String() string { return modeNames[m] }

// Proto is the protocol of a rule, by its number in the IP header; ARP stands for
// ARP and neighbour discovery.
type Proto uint8

const (
	TCP Proto = 6
	UDP Proto = 17
	ARP Proto = 255 // reserved by IANA: never in a packet
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ARP:
		return "arp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Criterion is what of a client makes its bucket (§13.5.6).
type Criterion uint8

const (
	OnAddr Criterion = iota
	OnPort
	// OnIPID is for UDP over IPv4. TCP and IPv6 have no use for it (§13.5.6): they
	// go by address.
	OnIPID
)

var criterionNames = []string{"on_addr", "on_port", "on_ipid"}

func (c Criterion) String() string { return criterionNames[c] }

// Rule says which packets of the virtual addresses a group shares, and how.
type Rule struct {
	Addr   netip.Addr // the zero Addr is "*"
	Port   uint16     // of the service; 0 is "*", and is all there is for ARP
	Proto  Proto
	Filter Criterion // ARP goes by the address of the asker whatever it says
}

func (r Rule) String() string {
	s := r.Proto.String()
	if r.Proto != ARP {
		s += " port "
		if r.Port == 0 {
			s += "*"
		} else {
			s += fmt.Sprint(r.Port)
		}
	}
	if r.Addr.IsValid() {
		s += " of " + r.Addr.String()
	}
	return s + " " + r.Filter.String()
}

// Group is a <group>: rules, and the powers of the members that share what they
// match.
type Group struct {
	Name  string
	Rules []Rule
	// Powers is the <cluster>: members that are not in it have power 0. When it is
	// nil all have power 1.
	Powers map[string]int
}

// Power of a member in the group.
func (g Group) Power(name string) int {
	if g.Powers == nil {
		return 1
	}
	return g.Powers[name]
}

// Limits of a Policy.
const (
	MaxAddresses = 16
	MaxGroups    = 31 // beside that of the default rule
	MaxRules     = 254
	MaxPower     = 1 << 20
)

// Policy is what the configuration says of the virtual addresses of an interface:
// it is the same on every member and does not change. NewPolicy makes one.
//
// The most exact rule counts: one with the address and the port of the packet,
// then one with the port, then one with the address, then one for the protocol.
// What no rule matches falls under the default rule, which shares by client
// address in a group of its own in which every member has power 1.
type Policy struct {
	mode   Mode
	addrs  []netip.Addr
	groups []Group // [0] is that of the default rule
	rules  []policyRule
	byKey  map[ruleKey]uint8 // index in rules
}

// Indexes of Policy.rules that are always there.
const (
	defaultRule = 0
	pingRule    = 1 // echo requests in invisible mode: all members answer (§4.3.7)
	ownRules    = 2
)

type policyRule struct {
	Rule
	group uint8 // index in groups
}

// ruleKey is what a packet is looked up by; a port of 0 is for all that have no
// key of their own.
type ruleKey struct {
	addr  uint8 // index in Policy.addrs
	proto Proto
	port  uint16
}

// NewPolicy checks the configuration as a whole.
func NewPolicy(mode Mode, addrs []netip.Addr, groups []Group) (*Policy, error) {
	p := &Policy{mode: mode, groups: append([]Group{{}}, groups...), byKey: map[ruleKey]uint8{}}
	if mode > Directed {
		return nil, fmt.Errorf("mode %d: expected %s or %s", mode, Invisible, Directed)
	}
	if len(addrs) == 0 || len(addrs) > MaxAddresses {
		return nil, fmt.Errorf("%d virtual addresses: expected 1 to %d for an interface", len(addrs), MaxAddresses)
	}
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "":
			return nil, fmt.Errorf("virtual address %s: expected the address of one host, which others can reach", a)
		case slices.Contains(p.addrs, a):
			return nil, fmt.Errorf("virtual address %s is there twice", a)
		}
		p.addrs = append(p.addrs, a)
	}
	p.rules = []policyRule{{}, {}}
	if len(groups) > MaxGroups {
		return nil, fmt.Errorf("%d groups: expected %d at most", len(groups), MaxGroups)
	}
	for i, g := range groups {
		if g.Name == "" {
			return nil, errors.New("a group has no name")
		}
		if slices.ContainsFunc(groups[:i], func(o Group) bool { return o.Name == g.Name }) {
			return nil, fmt.Errorf("group %s is there twice", g.Name)
		}
		for name, power := range g.Powers {
			if power < 0 || power > MaxPower {
				return nil, fmt.Errorf("group %s: power %d of %s: expected 0 to %d", g.Name, power, name, MaxPower)
			}
		}
		for _, r := range g.Rules {
			if err := p.add(r, i+1); err != nil {
				return nil, fmt.Errorf("group %s: rule %s: %w", g.Name, r, err)
			}
		}
	}
	p.index()
	return p, nil
}

// add checks a rule.
func (p *Policy) add(r Rule, group int) error {
	r.Addr = r.Addr.Unmap()
	switch {
	case r.Proto != TCP && r.Proto != UDP && r.Proto != ARP:
		return errors.New("expected protocol tcp, udp or arp")
	case r.Filter > OnIPID:
		return errors.New("expected filter on_addr, on_port or on_ipid")
	case r.Proto == ARP && r.Port != 0:
		return errors.New("arp has no ports")
	case r.Addr.IsValid() && !slices.Contains(p.addrs, r.Addr):
		return fmt.Errorf("%s is not a virtual address of the interface", r.Addr)
	case len(p.rules) == MaxRules+ownRules:
		return fmt.Errorf("expected %d rules at most", MaxRules)
	}
	for _, o := range p.rules[ownRules:] {
		if o.Addr == r.Addr && o.Port == r.Port && o.Proto == r.Proto {
			return fmt.Errorf("a rule of group %s is for the same packets", p.groups[o.group].Name)
		}
	}
	p.rules = append(p.rules, policyRule{r, uint8(group)})
	return nil
}

// index gives every address the rules that are for all of them; a rule for the
// address itself goes before.
func (p *Policy) index() {
	for i := ownRules; i < len(p.rules); i++ {
		r := p.rules[i]
		for a, addr := range p.addrs {
			if r.Addr.IsValid() && r.Addr != addr {
				continue
			}
			k := ruleKey{uint8(a), r.Proto, r.Port}
			if other, ok := p.byKey[k]; ok && p.rules[other].Addr.IsValid() {
				continue
			}
			p.byKey[k] = uint8(i)
		}
	}
}

// Mode of the virtual interface.
func (p *Policy) Mode() Mode { return p.mode }

// Addresses are the virtual addresses.
func (p *Policy) Addresses() []netip.Addr { return slices.Clone(p.addrs) }

// Groups are the groups in the order of the tables: the first, which has no name,
// is that of the default rule.
func (p *Policy) Groups() []Group { return slices.Clone(p.groups) }

// Group is the index of the group with that name.
func (p *Policy) Group(name string) (int, bool) {
	i := slices.IndexFunc(p.groups, func(g Group) bool { return g.Name == name })
	return i, i >= 0
}

// find is the rule for a packet to the address with that index.
func (p *Policy) find(addr uint8, proto Proto, port uint16) uint8 {
	if r, ok := p.byKey[ruleKey{addr, proto, port}]; ok {
		return r
	}
	return p.byKey[ruleKey{addr, proto, 0}] // the default rule when there is none
}

// keys are the keys in a fixed order.
func (p *Policy) keys() []ruleKey {
	var all []ruleKey
	for k := range p.byKey {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b ruleKey) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port))
	})
	return all
}
