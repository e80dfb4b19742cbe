package conf

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// VIP is what a mirror module's clients connect to: addresses that are on the
// primary's interfaces, and nowhere else (guide §13.5).
type VIP struct {
	TCPReset  bool // connections are ended before an address goes
	Addresses []VirtualAddr
}

// VirtualAddr is one of them.
type VirtualAddr struct {
	Addr        string // an IP address, or a name that resolves to one
	Bits        int    // of the netmask; 0: that of the interface
	Interface   string // its name; "": the one that is in the address's network
	Check       bool   // the module is restarted when the address is deleted (ip.Addr)
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
		real := i.one("real_interface")
		if real == nil {
			if !i.partial {
				s.addf(i.pos, "<interface> of a mirror module lacks <real_interface> with its virtual addresses")
			}
			continue
		}
		if i.on("check") {
			m.Warnings.addf(i.at("check"), "the interface is not checked by this version: the module goes on when it is down")
		}
		name := i.str("name")
		if i.has("name") && (name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t")) {
			s.addf(i.at("name"), "name=%q: expected the name of a network interface, as ip link shows it", name)
		}
		for _, a := range real.all("virtual_addr") {
			addr := VirtualAddr{Addr: a.str("addr"), Interface: name, Check: a.on("check"), Connections: a.on("connections")}
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
	}
	return v
}

// virtualAddr checks the address and the netmask of <virtual_addr>.
func (s *scanner) virtualAddr(n *node, a *VirtualAddr) {
	if !n.has("addr") {
		return // reported
	}
	ip, err := netip.ParseAddr(a.Addr)
	switch {
	case err != nil && (strings.Contains(a.Addr, ":") || !validHost.MatchString(a.Addr) || dotted.MatchString(a.Addr)):
		s.addf(n.at("addr"), "addr=%q: expected an IPv4 or IPv6 address, or a name that resolves to one", a.Addr)
	case err != nil: // a name
	case ip.Zone() != "":
		s.addf(n.at("addr"), "addr=%q: the address has a zone; give the interface's name to <interface> instead", a.Addr)
	case ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback():
		s.addf(n.at("addr"), "addr=%q: expected the address of one host, which others can reach", a.Addr)
	default:
		a.Addr = ip.Unmap().String() // one spelling, for the resource's name and to find twins
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
