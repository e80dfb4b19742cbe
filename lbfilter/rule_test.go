package lbfilter

import (
	"net/netip"
	"strings"
	"testing"
)

// TestHash pins the buckets: other releases and other systems must find the same.
func TestHash(t *testing.T) {
	// Vectors of lookup3 as the kernel has it, for keys of whole words.
	for _, c := range []struct {
		key  string
		seed uint32
		want uint32
	}{
		{"abcd", 0, 0xb5f4889c},
		{"abcdefgh", 1, 0xaa8c7ebd},
		{"abcdefghijkl", 2, 0x120b64fc},
		{"abcdefghijklmnop", 3, 0x4c3be9cc},
		{"abcdefghijklmnopqrst", Seed, 0xe8d19544},
	} {
		if got := jhash([]byte(c.key), c.seed); got != c.want {
			t.Errorf("jhash(%q, %#x) = %#x, expected %#x", c.key, c.seed, got, c.want)
		}
	}
	a4, a6 := netip.MustParseAddr("192.168.1.17"), netip.MustParseAddr("2001:db8::17")
	for name, c := range map[string]struct{ got, want uint8 }{
		"on_addr 4":       {addressBucket(a4), 95},
		"on_addr 4 in 6":  {addressBucket(netip.AddrFrom16(a4.As16())), 95},
		"on_addr 6":       {addressBucket(a6), 59},
		"on_port 4":       {portBucket(netip.AddrPortFrom(a4, 40000)), 181},
		"on_port 4, next": {portBucket(netip.AddrPortFrom(a4, 40001)), 205},
		"on_port 6":       {portBucket(netip.AddrPortFrom(a6, 40000)), 206},
		"on_ipid":         {ipidBucket(0x1234), 61},
	} {
		if c.got != c.want {
			t.Errorf("%s: bucket %d, expected %d", name, c.got, c.want)
		}
	}
}

func TestPolicyErrors(t *testing.T) {
	web := func(rules ...Rule) []Group { return []Group{{Name: "web", Rules: rules}} }
	many := make([]Rule, MaxRules+1)
	for i := range many {
		many[i] = Rule{Port: uint16(i + 1), Proto: TCP}
	}
	for _, c := range []struct {
		addrs  []netip.Addr
		groups []Group
		want   string
	}{
		{nil, nil, "0 virtual addresses"},
		{[]netip.Addr{virtual4, virtual4}, nil, "is there twice"},
		{[]netip.Addr{{}}, nil, "expected the address of one host"},
		{[]netip.Addr{netip.MustParseAddr("224.0.0.1")}, nil, "expected the address of one host"},
		{virtuals, []Group{{}}, "a group has no name"},
		{virtuals, []Group{{Name: "a"}, {Name: "a"}}, "group a is there twice"},
		{virtuals, []Group{{Name: "a", Powers: map[string]int{"n": -1}}}, "power -1 of n"},
		{virtuals, web(Rule{Proto: 47}), "expected protocol tcp, udp or arp"},
		{virtuals, web(Rule{Proto: ARP, Port: 1}), "arp has no ports"},
		{virtuals, web(Rule{Proto: TCP, Filter: 3}), "expected filter"},
		{virtuals, web(Rule{Proto: TCP, Addr: netip.MustParseAddr("10.0.0.1")}), "10.0.0.1 is not a virtual address"},
		{virtuals, web(Rule{Proto: TCP, Port: 80}, Rule{Proto: TCP, Port: 80, Filter: OnPort}), "for the same packets"},
		{virtuals, web(many...), "expected 254 rules at most"},
	} {
		_, err := NewPolicy(Invisible, c.addrs, c.groups)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, expected %q", c.addrs, c.groups, err, c.want)
		}
	}
}

// TestWho: the most exact rule counts, and what makes the bucket is told.
func TestWho(t *testing.T) {
	p, err := NewPolicy(Invisible, virtuals, []Group{
		{Name: "any", Rules: []Rule{{Proto: TCP}, {Port: 80, Proto: TCP}}},
		{Name: "own", Rules: []Rule{{Addr: virtual4, Proto: TCP, Filter: OnPort}, {Addr: virtual4, Port: 443, Proto: TCP}, {Port: 443, Proto: TCP, Filter: OnPort}}},
		{Name: "udp", Rules: []Rule{{Port: 53, Proto: UDP, Filter: OnIPID}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	groups := p.Next(nil, []Member{{Number: 0, Name: "alice"}, {Number: 1, Name: "bob"}})
	client4, client6 := netip.MustParseAddrPort("192.168.1.17:40000"), netip.MustParseAddrPort("[2001:db8::17]:40000")
	to := netip.AddrPortFrom
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{Proto: TCP, Client: client4, Service: to(virtual4, 80)}, "rule tcp port 80 on_addr of group any: the client's address is bucket"},
		{Query{Proto: TCP, Client: client4, Service: to(virtual4, 443)}, "rule tcp port 443 of 10.77.255.200 on_addr of group own: the client's address is"},
		{Query{Proto: TCP, Client: client6, Service: to(virtual6, 443)}, "rule tcp port 443 on_port of group own: the client's address and port is"},
		{Query{Proto: TCP, Client: client4, Service: to(virtual4, 22)}, "rule tcp port * of 10.77.255.200 on_port of group own: the client's address and port is"},
		{Query{Proto: TCP, Client: client6, Service: to(virtual6, 22)}, "rule tcp port * on_addr of group any: the client's address is"},
		{Query{Proto: UDP, Client: client4, Service: to(virtual4, 53)}, "rule udp port 53 on_ipid of group udp: the packet's identification is"},
		{Query{Proto: UDP, Client: client6, Service: to(virtual6, 53)}, "rule udp port 53 on_ipid of group udp: the client's address is"},
		{Query{Proto: UDP, Client: client4, Service: to(virtual4, 53), Fragment: true}, "the default rule: the client's address is"},
		{Query{Proto: UDP, Client: client4, Service: to(virtual4, 54)}, "the default rule: the client's address is"},
		{Query{Proto: 1, Client: client4, Service: to(virtual4, 0), Echo: true}, "every member answers an echo request"},
	} {
		a, err := p.Who(c.q, groups)
		if err != nil {
			t.Fatal(err)
		}
		if why := a.Why(func(n Number) string { return []string{"alice", "bob"}[n] }); !strings.HasPrefix(why, c.want) {
			t.Errorf("%+v:\n%s, expected\n%s…", c.q, why, c.want)
		}
		if want := groups[0].Owner[a.Bucket]; a.Default && a.Owner != want {
			t.Errorf("%+v: member %d, expected %d", c.q, a.Owner, want)
		}
	}
	for _, q := range []Query{
		{Proto: TCP, Client: client4, Service: to(virtual6, 80)},
		{Proto: TCP, Client: client4, Service: to(netip.MustParseAddr("10.0.0.1"), 80)},
	} {
		if a, err := p.Who(q, groups); err == nil {
			t.Errorf("%+v: %+v, expected an error", q, a)
		}
	}
}

// TestSignature: what members must have alike is in it, the order of powers is not.
func TestSignature(t *testing.T) {
	make := func(mode Mode, addrs []netip.Addr, power int, filter Criterion) string {
		p, err := NewPolicy(mode, addrs, []Group{{Name: "web", Powers: map[string]int{"a": power, "b": 1, "c": 2}, Rules: []Rule{{Port: 80, Proto: TCP, Filter: filter}}}})
		if err != nil {
			t.Fatal(err)
		}
		return p.Signature()
	}
	same := make(Invisible, virtuals, 1, OnAddr)
	for range 20 {
		if make(Invisible, virtuals, 1, OnAddr) != same {
			t.Fatal("the signature changes by itself")
		}
	}
	for _, other := range []string{make(Directed, virtuals, 1, OnAddr), make(Invisible, virtuals[:1], 1, OnAddr), make(Invisible, virtuals, 2, OnAddr), make(Invisible, virtuals, 1, OnPort)} {
		if other == same {
			t.Error("another policy has the same signature")
		}
	}
}

func TestDefaultMAC(t *testing.T) {
	for addr, want := range map[string]string{"192.168.56.20": "5a:fe:c0:a8:38:14", "fd77::ffc8": "5a:fe:00:00:ff:c8"} { // the first is of §4.3.4
		p, err := NewPolicy(Invisible, []netip.Addr{netip.MustParseAddr(addr)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.DefaultMAC().String(); got != want {
			t.Errorf("virtual MAC of %s: %s, expected %s", addr, got, want)
		}
	}
	for _, bad := range []string{"", "5a:fe", "5b:fe:00:00:00:01", "00:00:00:00:00:00", "5a:fe:00:00:00:01:02:03"} {
		if m, err := ParseMAC(bad); err == nil {
			t.Errorf("%q is read as %s", bad, m)
		}
	}
}
