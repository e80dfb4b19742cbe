package conf

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SharedInterface is an interface with virtual addresses that all members of a farm
// have (guide §13.5.5.1).
type SharedInterface struct {
	Interface string // its name; "": the one that is in the network of the addresses
	Type      VMACType
	MAC       net.HardwareAddr // what the addresses are resolved to; nil: as the first of them gives it
	Addresses []string         // as in VIP.Addresses
	// ARP tells again whose the addresses are (arpreroute), every ArpInterval during
	// ArpElapse; 0: after a change of members only.
	ArpInterval, ArpElapse time.Duration
}

// VMACType is how clients find the members of a farm.
type VMACType string

// The values of type (guide §13.5.5.1).
const (
	Directed  VMACType = "vmac_directed"
	Invisible VMACType = "vmac_invisible"
)

// LoadGroup is a <group>: what it shares, and among whom (guide §13.5.6).
type LoadGroup struct {
	Name string
	// Powers is the <cluster>; nodes that are not in it take no part. nil: all have
	// the same.
	Powers map[string]int
	Rules  []LoadRule
}

// LoadRule is a <rule>.
type LoadRule struct {
	Addr   string // of VIP.Addresses; "": all
	Port   int    // 0: all
	Proto  string // tcp, udp or arp
	Filter string // on_addr, on_port or on_ipid
}

// shared reads the <virtual_interface> of an <interface>.
func (s *scanner) shared(n, i *node, name string, v *VIP, m *Module) {
	si := SharedInterface{Interface: name, Type: VMACType(n.str("type"))}
	if i.on("arpreroute") {
		si.ArpInterval, si.ArpElapse = i.dur("arpinterval", time.Second), i.dur("arpelapse", time.Second)
	}
	if n.has("addr") {
		mac, err := net.ParseMAC(n.str("addr"))
		switch {
		case err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Max(mac) == 0:
			s.addf(n.at("addr"), "addr=%q: expected a unicast MAC address like 5a:fe:c0:a8:38:14", n.str("addr"))
		case si.Type == Directed:
			m.Warnings.addf(n.at("addr"), "addr=%q has no effect with type=%q: members answer with their own addresses", n.str("addr"), Directed)
		default:
			si.MAC = mac
		}
	}
	for _, a := range n.all("virtual_addr") {
		if a.has("where") && a.str("where") != "alias" {
			s.addf(a.at("where"), "where=%q: in a farm an address is on all servers: expected where=\"alias\"", a.str("where"))
		}
		before := len(v.Addresses)
		s.address(a, i, name, v)
		for _, addr := range v.Addresses[before:] {
			si.Addresses = append(si.Addresses, addr.Addr)
		}
	}
	v.Shared = append(v.Shared, si)
}

// loadbalancing reads <loadbalancing_list>. The rule that is the most exact counts,
// whichever group it is of, so two for the same packets make no sense.
func (s *scanner) loadbalancing(n *node, v *VIP, m *Module) {
	type packets struct {
		addr, proto string
		port        int
	}
	seen := map[packets]string{}
	rules := 0
	for _, g := range n.all("group") {
		lg := LoadGroup{Name: g.str("name")}
		if g.has("name") && slices.ContainsFunc(v.Groups, func(o LoadGroup) bool { return o.Name == lg.Name }) {
			s.addf(g.at("name"), "group %s is defined twice", lg.Name)
		}
		if c := g.one("cluster"); c != nil {
			lg.Powers = s.powers(c, m)
		}
		for _, rn := range g.all("rule") {
			r := s.rule(rn, v, m)
			if rules++; rules == maxRules+1 {
				s.addf(rn.pos, "the module has more than %d rules", maxRules)
			}
			p := packets{r.Addr, r.Proto, r.Port}
			if other, dup := seen[p]; dup {
				s.addf(rn.pos, "a rule of group %s is for the same packets", other)
			}
			seen[p] = lg.Name
			lg.Rules = append(lg.Rules, r)
		}
		v.Groups = append(v.Groups, lg)
	}
}

func (s *scanner) powers(n *node, m *Module) map[string]int {
	powers := map[string]int{}
	total := 0
	for _, h := range n.all("host") {
		name := h.str("name")
		switch _, dup := powers[name]; {
		case !h.has("name"):
		case dup:
			s.addf(h.at("name"), "host %s stands twice in this <cluster>", name)
		case m.Farm != nil && len(m.Farm.Members) > 0 && !slices.Contains(m.Farm.Members, name):
			s.addf(h.at("name"), "host %s is no node of the farm's networks%s", name, suggest(name, m.Farm.Members))
		}
		powers[name] = int(h.num("power"))
		total += powers[name]
	}
	if total == 0 && !n.partial {
		s.addf(n.pos, "all powers of this <cluster> are 0: nobody would take what its rules match")
	}
	return powers
}

func (s *scanner) rule(n *node, v *VIP, m *Module) LoadRule {
	r := LoadRule{Proto: n.str("proto"), Filter: n.str("filter")}
	if p := n.str("port"); p != "*" {
		port, err := strconv.Atoi(p)
		if err != nil || port < 1 || port > 65535 {
			s.addf(n.at("port"), "port=%q: expected * or a number from 1 to 65535", p)
		}
		if r.Port = port; r.Proto == "arp" {
			s.addf(n.at("port"), "port=%q: arp has no ports", p)
		}
	}
	if r.Filter == "on_ipid" && r.Proto != "udp" {
		m.Warnings.addf(n.at("filter"), "filter=%q makes no sense for proto=%q: the address of the client decides, as with on_addr", r.Filter, r.Proto)
	}
	if a := n.str("virtual_addr"); a != "*" {
		if ip, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil {
			a = ip.Unmap().String() // as in VIP.Addresses
		}
		var known []string
		for _, o := range v.Addresses {
			known = append(known, o.Addr)
		}
		if r.Addr = a; !slices.Contains(known, a) {
			s.addf(n.at("virtual_addr"), "virtual_addr=%q is no virtual address of this module%s", n.str("virtual_addr"), suggest(a, known))
		}
	}
	return r
}
