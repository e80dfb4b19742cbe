package lbfilter

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Config says what a filter is for.
type Config struct {
	Policy    *Policy
	Interface string // where the clients are; an Ethernet interface
	// VirtualMAC is what the addresses are resolved to in Invisible mode. The zero
	// MAC takes DefaultMAC of the policy.
	VirtualMAC MAC
	Self       Number // this member
	// Pins is a directory below a bpffs, of this filter alone: what keeps the filter
	// when the process ends. It is made.
	Pins string
	// Clsact attaches by a clsact queueing discipline even where the kernel has
	// tcx. Before Linux 6.6 that is the only way.
	Clsact bool
}

// DefaultMAC is 5a:fe and the first virtual address (§13.5.5.1); of an IPv6
// address the last four bytes.
func (p *Policy) DefaultMAC() MAC {
	a := p.addrs[0].AsSlice()
	m := MAC{0x5a, 0xfe}
	copy(m[2:], a[len(a)-4:])
	return m
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// ParseMAC reads a unicast MAC as the attribute addr of <virtual_interface> has
// it.
func ParseMAC(s string) (MAC, error) {
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != 6 {
		return MAC{}, fmt.Errorf("MAC address %q: expected six hexadecimal bytes, as 5a:fe:c0:a8:38:14", s)
	}
	if a[0]&1 != 0 || MAC(a) == (MAC{}) {
		return MAC{}, fmt.Errorf("MAC address %q: expected a unicast address: an even first byte", s)
	}
	return MAC(a), nil
}

// check tells what is wrong, and fills in what is left out.
func (c Config) check() (Config, error) {
	switch {
	case c.Policy == nil:
		return c, errors.New("no policy")
	case c.Interface == "":
		return c, errors.New("no interface")
	case c.Self >= MaxMembers:
		return c, fmt.Errorf("member %d: expected 0 to %d", c.Self, MaxMembers-1)
	case c.Pins == "":
		return c, errors.New("no directory for the pins")
	}
	if c.VirtualMAC == (MAC{}) {
		c.VirtualMAC = c.Policy.DefaultMAC()
	}
	if c.VirtualMAC[0]&1 != 0 {
		return c, fmt.Errorf("virtual MAC %s: expected a unicast address", c.VirtualMAC)
	}
	return c, nil
}

// Signature is the same for policies that share alike: members whose signatures
// differ must not be in one farm.
func (p *Policy) Signature() string {
	var s strings.Builder
	fmt.Fprintf(&s, "format %d seed %x mode %s\n", Format, Seed, p.mode)
	for _, a := range p.addrs {
		fmt.Fprintln(&s, "address", a)
	}
	for _, g := range p.groups {
		fmt.Fprintf(&s, "group %q %v\n", g.Name, g.Powers != nil)
		var names []string
		for name := range g.Powers {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(&s, "power %q %d\n", name, g.Powers[name])
		}
		for _, r := range g.Rules {
			fmt.Fprintln(&s, "rule", r)
		}
	}
	sum := sha256.Sum256([]byte(s.String()))
	return hex.EncodeToString(sum[:8])
}
