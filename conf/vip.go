package conf

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// VIP is what a module's clients connect to (guide §13.5): addresses that are on the
// interfaces of a mirror module's primary, and nowhere else, or on those of all
// members of a farm, who share what comes to them.
type VIP struct {
	TCPReset  bool // connections are ended before an address goes
	Addresses []VirtualAddr
	Shared    []SharedInterface // of a farm: where the addresses are
	Groups    []LoadGroup       // of a farm: who takes what
}

// VirtualAddr is one of them.
type VirtualAddr struct {
	Addr        string // an IP address, or a name that resolves to one
	Bits        int    // of the netmask; 0: that of the interface
	Interface   string // its name; "": the one that is in the address's network
	Check       bool   // an ip checker looks whether it is there (ip.Addr)
	CheckIntf   bool   // an intf checker looks at its interface (intf.NETWORK)
	Connections bool   // they are counted (connections.Addr)
	// The address is announced every ArpInterval during ArpElapse after it was set;
	// 0: then only.
	ArpInterval, ArpElapse time.Duration
}

// maxVirtualAddrs bounds the addresses of a module.
const maxVirtualAddrs = 64

var validHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$`)

func (s *scanner) vip(n *node, m *Module) *VIP {
	v := &VIP{TCPReset: n.on("tcpreset")}
	list := n.one("interface_list")
	if list == nil {
		return v // reported
	}
	for _, i := range list.all("interface") {
		name := i.str("name")
		if i.has("name") && (name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t")) {
			s.addf(i.at("name"), "name=%q: expected the name of a network interface, as ip link shows it", name)
		}
		real, virtual := i.one("real_interface"), i.one("virtual_interface")
		switch {
		case virtual != nil:
			s.shared(virtual, i, name, v, m)
		case real != nil:
			for _, a := range real.all("virtual_addr") {
				if a.has("where") && a.str("where") != "one_side_alias" {
					s.addf(a.at("where"), "where=%q: in a mirror module an address is on the primary: expected where=\"one_side_alias\"", a.str("where"))
				}
				s.address(a, i, name, v)
			}
		case i.partial:
		case m.Mode == Farm:
			s.addf(i.pos, "<interface> of a farm module lacks <virtual_interface> with its virtual addresses")
		default:
			s.addf(i.pos, "<interface> of a mirror module lacks <real_interface> with its virtual addresses")
		}
	}
	if l := n.one("loadbalancing_list"); l != nil {
		s.loadbalancing(l, v, m)
	}
	return v
}

// address reads a <virtual_addr> of the <interface> i.
func (s *scanner) address(a, i *node, name string, v *VIP) {
	addr := VirtualAddr{Addr: a.str("addr"), Interface: name, Check: a.on("check"), CheckIntf: i.on("check"), Connections: a.on("connections")}
	if i.on("arpreroute") {
		addr.ArpInterval, addr.ArpElapse = i.dur("arpinterval", time.Second), i.dur("arpelapse", time.Second)
	}
	s.virtualAddr(a, &addr)
	for _, o := range v.Addresses {
		if o.Addr == addr.Addr {
			s.addf(a.at("addr"), "virtual address %s is defined twice", addr.Addr)
		}
	}
	if len(v.Addresses) == maxVirtualAddrs {
		s.addf(a.pos, "the module has more than %d virtual addresses", maxVirtualAddrs)
	}
	v.Addresses = append(v.Addresses, addr)
}

// virtualAddr checks the address and the netmask of <virtual_addr>.
func (s *scanner) virtualAddr(n *node, a *VirtualAddr) {
	if !n.has("addr") {
		return // reported
	}
	h := s.host(n, "addr")
	if h == "" {
		return
	}
	a.Addr = h // one spelling, for the resource's name and to find twins
	ip, err := netip.ParseAddr(a.Addr)
	switch {
	case err != nil: // a name
	case ip.Zone() != "":
		s.addf(n.at("addr"), "addr=%q: the address has a zone; give the interface's name to <interface> instead", a.Addr)
	case ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback():
		s.addf(n.at("addr"), "addr=%q: expected the address of one host, which others can reach", a.Addr)
	}
	if !n.has("netmask") || n.str("netmask") == "defaultnetmask" {
		return
	}
	mask := net.ParseIP(n.str("netmask")).To4()
	if ones, bits := net.IPMask(mask).Size(); mask != nil && bits == 32 && ones > 0 {
		a.Bits = ones
	} else {
		s.addf(n.at("netmask"), "netmask=%q: expected a netmask like 255.255.255.0", n.str("netmask"))
	}
	if err == nil && ip.Is6() && !ip.Is4In6() {
		s.addf(n.at("netmask"), "netmask is for IPv4 only: %s takes the prefix of its interface", a.Addr)
	}
}

// dotted is what was meant as an IPv4 address.
var dotted = regexp.MustCompile(`^[0-9.]+$`)
