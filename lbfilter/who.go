package lbfilter

import (
	"fmt"
	"net/netip"
	"slices"
)

// Query is a packet of a client to a virtual address. Ports are 0 for protocols
// that have none.
type Query struct {
	Proto   Proto // TCP, UDP, ARP, or any other of the IP header
	Client  netip.AddrPort
	Service netip.AddrPort
	IPID    uint16 // IPv4 identification, for on_ipid
	// Fragment: a part of a packet, of which only the addresses are known.
	Fragment bool
	// Error: an ICMP error about a packet that went to the client. It goes where
	// what the client sends goes, as far as ports and addresses tell.
	Error bool
	// Echo: an ICMP echo request.
	Echo bool
}

// Answer is who serves a client, and why.
type Answer struct {
	Rule    Rule // zero for the default rule
	Group   string
	Default bool      // no rule of the configuration matches
	Filter  Criterion // what the bucket is made of
	Bucket  uint8
	Owner   Number
	Prev    Number // may still serve connections that it has
	All     bool   // every member answers: an echo request in invisible mode
}

// Who tells which member serves a client: what the filter in the kernel does.
func (p *Policy) Who(q Query, groups []Ownership) (Answer, error) {
	addr := slices.Index(p.addrs, q.Service.Addr().Unmap())
	if addr < 0 {
		return Answer{}, fmt.Errorf("%s is not a virtual address; there are %v", q.Service.Addr(), p.addrs)
	}
	if len(groups) != len(p.groups) {
		return Answer{}, fmt.Errorf("a table of %d groups, expected %d", len(groups), len(p.groups))
	}
	if q.Client.Addr().Unmap().Is4() != p.addrs[addr].Is4() {
		return Answer{}, fmt.Errorf("client %s and %s are not of the same protocol", q.Client.Addr(), p.addrs[addr])
	}
	port := q.Service.Port()
	if q.Fragment {
		port = 0
	}
	number := p.find(uint8(addr), q.Proto, port)
	r := p.rules[number]
	a := Answer{Rule: r.Rule, Group: p.groups[r.group].Name, Default: number == defaultRule, All: q.Echo && p.mode == Invisible}
	a.Bucket, a.Filter = r.bucket(q)
	a.Owner, a.Prev = groups[r.group].Owner[a.Bucket], groups[r.group].Prev[a.Bucket]
	return a, nil
}

// bucket of a packet, and what it is made of.
func (r Rule) bucket(q Query) (uint8, Criterion) {
	is4 := q.Client.Addr().Unmap().Is4()
	switch {
	case q.Fragment || q.Proto == ARP:
	case r.Filter == OnPort:
		return portBucket(q.Client), OnPort
	case r.Filter == OnIPID && q.Proto == UDP && is4 && !q.Error:
		return ipidBucket(q.IPID), OnIPID
	}
	return addressBucket(q.Client.Addr()), OnAddr
}

// Why says it in words; name gives the names of members.
func (a Answer) Why(name func(Number) string) string {
	if a.All {
		return "every member answers an echo request in vmac_invisible mode"
	}
	s := "the default rule"
	if !a.Default {
		s = fmt.Sprintf("rule %s of group %s", a.Rule, a.Group)
	}
	s += fmt.Sprintf(": %s is bucket %d", map[Criterion]string{
		OnAddr: "the client's address", OnPort: "the client's address and port", OnIPID: "the packet's identification"}[a.Filter], a.Bucket)
	if a.Owner == None {
		return s + ", which nobody has"
	}
	s += ", which " + name(a.Owner) + " has"
	if a.Prev != None {
		s += "; connections from before are with " + name(a.Prev)
	}
	return s
}
