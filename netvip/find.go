package netvip

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// link is what is needed of an interface.
type link struct {
	index int
	name  string
	flags uint32 // IFF_*
	mac   net.HardwareAddr
}

func (l link) running() bool  { return l.flags&unix.IFF_RUNNING != 0 }
func (l link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }

// neighbour tells whether hosts on the link are found by ARP or NDP, with
// Ethernet addresses: the others need no announcement, or know none.
func (l link) neighbour() bool {
	return l.flags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) == 0 && len(l.mac) == 6
}

// direct answers which interface a route without a gateway leads to; text says
// what the route is when there is no such interface.
type direct func(netip.Addr) (index int, text string)

// choose finds the place of an address. It is a function of what the kernel has:
// addresses that skfs has set itself do not make a subnet.
func choose(a Address, links []link, addrs []setAddr, route direct) (Place, error) {
	if a.Interface != "" {
		for _, l := range links {
			if l.name == a.Interface {
				return place(a, l, addrs), nil
			}
		}
		return Place{}, fmt.Errorf("virtual address %s: no interface %q; there are %s: %w", a.Addr, a.Interface, names(links), ErrNoInterface)
	}
	var found []link
	longest := -1
	for _, s := range addrs {
		l := slices.IndexFunc(links, func(l link) bool { return l.index == s.index })
		if l < 0 || links[l].loopback() || s.ours() || s.prefix.Addr() == a.Addr || !s.prefix.Masked().Contains(a.Addr) {
			continue
		}
		switch {
		case s.prefix.Bits() > longest:
			found, longest = []link{links[l]}, s.prefix.Bits()
		case s.prefix.Bits() == longest && !slices.ContainsFunc(found, func(f link) bool { return f.index == s.index }):
			found = append(found, links[l])
		}
	}
	if len(found) > 1 {
		return Place{}, fmt.Errorf("virtual address %s: %s have addresses in its subnet; name one of them (attribute name of <interface>): %w", a.Addr, names(found), ErrNoInterface)
	}
	if len(found) == 1 {
		return place(a, found[0], addrs), nil
	}
	index, text := route(a.Addr)
	for _, l := range links {
		if l.index == index && !l.loopback() {
			return place(a, l, addrs), nil
		}
	}
	return Place{}, fmt.Errorf("virtual address %s: no interface has an address in a subnet with it (%s), and %s; name the interface (attribute name of <interface>): %w",
		a.Addr, subnets(a.Addr, links, addrs), text, ErrNoInterface)
}

// place completes the prefix. Without Bits it is that of the address of the
// interface in the same subnet; else IPv4 takes the first mask that the interface
// has, IPv6 the address alone.
func place(a Address, l link, addrs []setAddr) Place {
	p := Place{Index: l.index, Interface: l.name, mac: l.mac, running: l.running(), neighbour: l.neighbour()}
	bits, first := a.Bits, 0
	for _, s := range addrs {
		if s.index != l.index || s.ours() || s.prefix.Addr() == a.Addr || s.prefix.Addr().Is4() != a.Addr.Is4() {
			continue
		}
		if first == 0 {
			first = s.prefix.Bits()
		}
		if s.prefix.Masked().Contains(a.Addr) {
			if a.Bits == 0 {
				bits = max(bits, s.prefix.Bits())
			}
			if a.Bits == 0 || s.prefix.Bits() <= a.Bits {
				p.Covered = true
			}
			if !p.Own.IsValid() {
				p.Own = s.prefix.Addr()
			}
		}
	}
	if bits == 0 && a.Addr.Is4() {
		bits = first
	}
	if bits == 0 {
		bits = a.Addr.BitLen()
	}
	p.Prefix = netip.PrefixFrom(a.Addr, bits)
	return p
}

func nameOf(index int, links []link) string {
	for _, l := range links {
		if l.index == index {
			return l.name
		}
	}
	return ""
}

func names(links []link) string {
	var s []string
	for _, l := range links {
		s = append(s, l.name)
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// subnets lists what was looked at.
func subnets(a netip.Addr, links []link, addrs []setAddr) string {
	var out []string
	for _, l := range links {
		for _, s := range addrs {
			if s.index == l.index && s.prefix.Addr().Is4() == a.Is4() && !l.loopback() && !s.ours() {
				out = append(out, l.name+" "+s.prefix.String())
			}
		}
	}
	if len(out) == 0 {
		return "none has an address of that family"
	}
	return "there are " + strings.Join(out, ", ")
}
