package lbfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var packets = flag.Int("packets", 100_000, "random packets that TestKernel gives to the filter")

// What a program of tcx answers.
const (
	goesOn     = 0xffffffff
	shot       = 2
	redirected = 7
)

// verdict is what becomes of a packet: out is what is sent, if anything is.
type verdict struct {
	rule                         int // counted there; -1: not for the filter
	accepted, dropped, forwarded bool
	left                         bool   // to who had the bucket
	to                           Number // who is sent the packet
	again                        bool   // it has come from a member
	answered                     bool
	action                       uint32
}

// model is what the filter must do, on a host without any connection.
func model(p *Policy, t *Table, self Number, members []MAC, f frame) verdict {
	v := verdict{rule: -1, action: goesOn}
	from := None
	for n, m := range members {
		if m == f.from && Number(n) != self {
			from = Number(n)
		}
	}
	if f.kind == claim {
		if from != None {
			v.action = shot
		}
		return v
	}
	a, err := p.Who(f.query, t.Groups)
	if err != nil {
		panic(err)
	}
	for i, r := range p.rules[ownRules:] {
		if !a.Default && r.Rule == a.Rule {
			v.rule = ownRules + i
		}
	}
	if a.Default {
		v.rule = defaultRule
	}
	if a.All {
		v.rule = pingRule
	}
	accept := func() verdict { v.accepted = true; return v }
	drop := func() verdict { v.dropped, v.action = true, shot; return v }
	forward := func(n Number) verdict {
		if n == None || members[n] == (MAC{}) {
			return drop()
		}
		v.forwarded, v.to, v.action = true, n, redirected
		return v
	}
	segment := f.query.Proto == TCP && !f.query.Fragment && (f.kind == icmpErr || f.flags&(syn|ack) != syn)
	switch {
	case a.All, f.kind == reply:
		return accept()
	case f.kind == question || f.kind == probe:
		if a.Owner != self {
			return drop()
		}
		v.accepted, v.answered, v.action = true, true, redirected
		return v
	case a.Owner == self && (!segment || a.Prev == None || a.Prev == self):
		return accept()
	case p.mode == Invisible:
		v.left = a.Owner == self
		return drop()
	case a.Owner == self && from == a.Prev:
		return accept()
	case a.Owner == self:
		v.left = true
		v.again = from != None
		return forward(a.Prev)
	case from != None && a.Prev == self && !segment:
		return accept()
	case from != None:
		return drop()
	}
	return forward(a.Owner)
}

// checkOutput compares what the filter sends with what it should.
func checkOutput(p *Policy, v verdict, f frame, mine, vmac MAC, members []MAC, in, out []byte) error {
	if v.forwarded {
		want := bytes.Clone(in)
		copy(want, members[v.to][:])
		copy(want[6:], mine[:])
		if v.again && f.query.Service.Addr().Is4() {
			want[22]--
			binary.BigEndian.PutUint16(want[24:], 0)
			binary.BigEndian.PutUint16(want[24:], checksum(want[14:14+int(want[14]&15)*4]))
		} else if v.again {
			want[21]--
		}
		if !bytes.Equal(out, want) {
			return fmt.Errorf("sent on\n%x, expected\n%x", out, want)
		}
	}
	if !v.answered {
		return nil
	}
	resolved := mine
	if p.mode == Invisible {
		resolved = vmac
	}
	client, service := f.query.Client.Addr(), f.query.Service.Addr()
	var want []byte
	if service.Is4() {
		want = append(append([]byte(nil), f.from[:]...), mine[:]...)
		want = append(want, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
		want = append(append(want, resolved[:]...), service.AsSlice()...)
		want = append(append(want, f.from[:]...), client.AsSlice()...)
	} else {
		to, flags := f.from, byte(0x60)
		if f.kind == probe {
			to, flags, client = MAC{0x33, 0x33, 0, 0, 0, 1}, 0x20, netip.MustParseAddr("ff02::1")
		}
		icmp := append([]byte{136, 0, 0, 0, flags, 0, 0, 0}, service.AsSlice()...)
		icmp = append(append(icmp, 2, 1), resolved[:]...)
		pseudo := append(append(service.AsSlice(), client.AsSlice()...), 0, 0, 0, 32, 0, 0, 0, 58)
		binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))
		want = append(append(append([]byte(nil), to[:]...), mine[:]...), 0x86, 0xdd)
		want = append(want, header6(58, service, client, 255, icmp)...)
	}
	if !bytes.Equal(out, want) {
		return fmt.Errorf("answered\n%x, expected\n%x", out, want)
	}
	return nil
}

// TestKernel gives random packets to the filter in the kernel and compares what
// becomes of them, what is sent and what is counted with the model. The model
// takes the bucket from Policy.Who, so the hashes are compared too: a packet in a
// wrong bucket is seen in 31 of 32 cases, since every bucket has a random owner.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading a filter needs root")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, mode := range []Mode{Invisible, Directed} {
		t.Run(mode.String(), func(t *testing.T) { testKernel(t, mode, r) })
	}
}

func testKernel(t *testing.T, mode Mode, r *rand.Rand) {
	const self = Number(5)
	second4, second6 := netip.MustParseAddr("10.77.255.201"), netip.MustParseAddr("fd77::1:ffc8")
	p, err := NewPolicy(mode, []netip.Addr{virtual4, virtual6, second4, second6}, []Group{
		{Name: "web", Rules: []Rule{{Port: 80, Proto: TCP, Filter: OnPort}, {Port: 443, Proto: TCP}, {Addr: second4, Port: 80, Proto: TCP}}},
		{Name: "names", Rules: []Rule{{Port: 53, Proto: UDP, Filter: OnIPID}, {Port: 1812, Proto: UDP, Filter: OnPort}, {Proto: ARP}}},
		{Name: "all", Rules: []Rule{{Addr: second6, Proto: TCP, Filter: OnPort}, {Addr: second4, Proto: UDP, Filter: OnPort}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	vmac := p.DefaultMAC()
	coll, err := load(p, constants{self, mode, vmac}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	f := &Filter{config: Config{Policy: p, Self: self}, coll: coll}

	// All members but the last are there; a frame comes from one of them or not.
	members := make([]MAC, MaxMembers)
	for n := range members[:MaxMembers-1] {
		members[n] = MAC{2, 0x77, 0, 0, 1, byte(n)}
	}
	macs := append([]MAC{{2, 1, 1, 1, 1, 1}, {2, 2, 2, 2, 2, 2}, {2, 3, 3, 3, 3, 3}, {2, 4, 4, 4, 4, 4}}, members[:4]...)
	to := vmac
	if mode == Directed {
		to = MAC{} // that of lo, which is where test runs come in
	}
	newTable := func() *Table {
		table := &Table{Groups: make([]Ownership, len(p.groups))}
		copy(table.MACs[:], members)
		for g := range table.Groups {
			o := &table.Groups[g]
			for b := range o.Owner {
				o.Owner[b], o.Prev[b] = Number(r.IntN(MaxMembers)), None
				if r.IntN(3) == 0 {
					o.Owner[b] = self
				}
				if r.IntN(2) == 0 {
					o.Prev[b] = Number(r.IntN(MaxMembers))
				}
				if r.IntN(10) == 0 {
					o.Prev[b] = self
				}
				if r.IntN(50) == 0 {
					o.Owner[b] = None
				}
			}
		}
		setTable(t, coll, table)
		return table
	}
	ports := []uint16{80, 443, 53, 1812, 0}
	setLease(t, coll, Boottime()+time.Hour)
	table := newTable()
	want := make([]Count, len(p.rules))
	program := coll.Programs[ingress]
	kinds := map[string]int{}
	for i := range *packets / 2 {
		if i%1000 == 999 {
			table = newTable()
		}
		fr := randomFrame(r, p.addrs, ports, macs, to)
		v := model(p, table, self, members, fr)
		in := fr.bytes()
		action, out := run(t, program, in)
		if action != v.action {
			t.Fatalf("packet %d: the filter says %d, expected %+v\nframe %+v\n%x", i, int32(action), v, fr, in)
		}
		if err := checkOutput(p, v, fr, members[self], vmac, members, in, out); err != nil {
			t.Fatalf("packet %d: %v\nframe %+v\n%x", i, err, fr, in)
		}
		if v.rule >= 0 {
			c := &want[v.rule]
			for _, n := range []struct {
				to *uint64
				is bool
			}{{&c.Accepted, v.accepted}, {&c.Dropped, v.dropped}, {&c.Forwarded, v.forwarded}, {&c.Left, v.left}} {
				if n.is {
					*n.to++
				}
			}
		}
		kinds[fmt.Sprintf("accepted %v forwarded %v again %v answered %v", v.accepted, v.forwarded, v.again, v.answered)]++
	}
	t.Logf("what became of the packets: %v", kinds)
	got, err := f.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range got {
		w := want[i]
		w.Group, w.Rule = c.Group, c.Rule
		if c != w {
			t.Errorf("counts of rule %s: %+v, expected %+v", c.Rule, c, w)
		}
		if c.Accepted+c.Dropped == 0 && (i != pingRule || mode == Invisible) {
			t.Errorf("rule %s was not met", c.Rule)
		}
	}
	testOthers(t, coll, r, p, macs, to)
	testEgress(t, coll, p, members[self], vmac)
	testCut(t, program, r, p, ports, macs, to)
	testExpired(t, coll, r, p, ports, macs, to)
}

// testOthers: what is not for a virtual address, and what is for another host's
// MAC, is left alone.
func testOthers(t *testing.T, coll *ebpf.Collection, r *rand.Rand, p *Policy, macs []MAC, to MAC) {
	for i := range 2000 {
		addr := randomAddr(r, i%2 == 0)
		other := to
		if i%4 >= 2 {
			addr, other = p.addrs[i%len(p.addrs)], MAC{2, 9, 9, 9, 9, 9}
		}
		f := randomFrame(r, []netip.Addr{addr}, []uint16{80}, macs, other)
		if action, _ := run(t, coll.Programs[ingress], f.bytes()); action != goesOn {
			t.Fatalf("packet %d: the filter says %d of %+v", i, action, f)
		}
	}
}

// testEgress: what the kernel asks in the name of a virtual address tells the virtual
// MAC, in the payload only; nothing else that goes out is changed.
func testEgress(t *testing.T, coll *ebpf.Collection, p *Policy, mine, vmac MAC) {
	other := netip.MustParseAddr("10.1.1.1")
	for _, sender := range append([]netip.Addr{other}, p.addrs...) {
		if sender.Is6() {
			continue
		}
		f := frame{query: Query{Proto: ARP, Client: netip.AddrPortFrom(sender, 0), Service: netip.AddrPortFrom(netip.MustParseAddr("10.9.9.9"), 0)},
			kind: question, to: MAC{255, 255, 255, 255, 255, 255}, from: mine}
		in := f.bytes()
		want := bytes.Clone(in)
		if p.mode == Invisible && sender != other {
			copy(want[22:], vmac[:])
		}
		if action, out := run(t, coll.Programs[egress], in); action != goesOn || !bytes.Equal(out, want) {
			t.Errorf("ARP in the name of %s goes out, by %d, as\n%x, expected\n%x", sender, int32(action), out, want)
		}
	}
	ip := append(append(append([]byte(nil), vmac[:]...), mine[:]...), 8, 0)
	ip = append(ip, header4(17, p.addrs[0], other, 1, 0, 64, 0, make([]byte, 20))...)
	if action, out := run(t, coll.Programs[egress], ip); action != goesOn || !bytes.Equal(out, ip) {
		t.Errorf("a packet goes out, by %d, as\n%x, expected\n%x", int32(action), out, ip)
	}
}

// testCut: a frame that ends too early does no harm.
func testCut(t *testing.T, program *ebpf.Program, r *rand.Rand, p *Policy, ports []uint16, macs []MAC, to MAC) {
	for i := range 5000 {
		b := randomFrame(r, p.addrs, ports, macs, to).bytes()
		b = b[:15+r.IntN(len(b)-14)]
		if i%2 == 0 {
			b[12+r.IntN(len(b)-12)] ^= byte(1 << r.IntN(8))
		}
		action, err := program.Run(&ebpf.RunOptions{Data: b, DataOut: make([]byte, 512)})
		if errors.Is(err, unix.EINVAL) {
			continue // too short for a test run
		}
		if err != nil {
			t.Fatalf("test run of %x: %v", b, err)
		}
		if action != goesOn && action != shot && action != redirected {
			t.Fatalf("the filter says %d of %x", action, b)
		}
	}
}

// testExpired: without a lease, and without a table, all is dropped.
func testExpired(t *testing.T, coll *ebpf.Collection, r *rand.Rand, p *Policy, ports []uint16, macs []MAC, to MAC) {
	setLease(t, coll, Boottime())
	for range 2000 {
		f := randomFrame(r, p.addrs, ports, macs, to)
		action, _ := run(t, coll.Programs[ingress], f.bytes())
		if f.kind != claim && action != shot {
			t.Fatalf("after the lease the filter says %d of %+v", action, f)
		}
	}
}

func run(t *testing.T, program *ebpf.Program, in []byte) (uint32, []byte) {
	t.Helper()
	options := &ebpf.RunOptions{Data: in, DataOut: make([]byte, 256)}
	action, err := program.Run(options)
	if err != nil {
		t.Fatalf("test run of %x: %v", in, err)
	}
	return action, options.DataOut
}

func setTable(t testing.TB, coll *ebpf.Collection, table *Table) {
	t.Helper()
	inner, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: tableSize, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if err := inner.Put(uint32(0), table.kernelBytes()); err != nil {
		t.Fatal(err)
	}
	if err := coll.Maps["tables"].Put(uint32(0), inner); err != nil {
		t.Fatal(err)
	}
}

func setLease(t testing.TB, coll *ebpf.Collection, until time.Duration) {
	t.Helper()
	if err := coll.Maps["lease"].Put(uint32(0), uint64(until)); err != nil {
		t.Fatal(err)
	}
}
