package lbfilter

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func testPolicy(t testing.TB, mode Mode) *Policy {
	t.Helper()
	p, err := NewPolicy(mode, []netip.Addr{virtual4, virtual6}, []Group{
		{Name: "web", Rules: []Rule{{Port: 80, Proto: TCP, Filter: OnPort}, {Port: 443, Proto: TCP}}},
		{Name: "names", Rules: []Rule{{Port: 53, Proto: UDP, Filter: OnIPID}, {Port: 1812, Proto: UDP, Filter: OnPort}, {Proto: ARP}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// open puts a filter on a host as member h.n.
func (h *host) open(p *Policy, pins string, clsact bool) *Filter {
	h.t.Helper()
	var f *Filter
	h.do(func() (err error) {
		f, err = Open(Config{Policy: p, Interface: "eth0", Self: Number(h.n), Pins: pins, Clsact: clsact})
		return err
	})
	return f
}

// attached is what is attached to eth0, what it hears, and what is pinned.
type attached struct {
	ingress, egress, qdiscs, macs, groups int
	pinned                                bool
}

func (h *host) attached(pins string) (a attached) {
	h.t.Helper()
	h.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for side, n := range map[uint32]*int{netlink.HANDLE_MIN_INGRESS: &a.ingress, netlink.HANDLE_MIN_EGRESS: &a.egress} {
			filters, err := netlink.FilterList(l, side)
			if err != nil {
				return err
			}
			*n = len(filters) + tcxCount(h.t, l.Attrs().Index, side)
		}
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				a.qdiscs++
			}
		}
		fdb, err := netlink.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			return err
		}
		for _, n := range fdb {
			if n.HardwareAddr[0] == 0x5a {
				a.macs++
			}
		}
		addrs, err := netlink.AddrList(l, unix.AF_INET6)
		if err != nil {
			return err
		}
		for _, x := range addrs {
			if x.IP.IsMulticast() {
				a.groups++
			}
		}
		return nil
	})
	_, err := os.Stat(pins)
	a.pinned = err == nil
	return a
}

// TestLife: what Open does is seen on the interface, outlives Close, is adopted, and
// is gone after Close with detach or Drop; by tcx and by clsact.
func TestLife(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			h := n.add(1)
			dir := pins(t)
			p := testPolicy(t, Invisible)
			there := attached{ingress: 1, egress: 1, macs: 1, groups: 1, pinned: true}
			if clsact {
				there.qdiscs = 1
			}
			is := func(when string, want attached) {
				t.Helper()
				if got := h.attached(dir); got != want {
					t.Fatalf("%s: %+v, expected %+v", when, got, want)
				}
			}
			adopt := func(config Config) (f *Filter, err error) {
				err = h.try(func() (err error) { f, err = Adopt(config); return err })
				return f, err
			}
			config := Config{Policy: p, Interface: "eth0", Self: 1, Pins: dir, Clsact: clsact}
			if _, err := adopt(config); !errors.Is(err, ErrNone) {
				t.Fatalf("adopt of nothing: %v", err)
			}
			f := h.open(p, dir, clsact)
			is("open", there)
			if err := f.Check(); err != nil {
				t.Fatal(err)
			}
			table := Table{Epoch: 3, Version: 4, Groups: p.Next(nil, []Member{{Number: 1, Name: "a"}})}
			if err := f.Apply(table); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(false); err != nil {
				t.Fatal(err)
			}
			is("closed", there)

			// Another configuration is not taken over, and left alone.
			other := config
			other.Self = 2
			if _, err := adopt(other); !errors.Is(err, ErrOther) {
				t.Fatalf("adopt by another member: %v", err)
			}
			is("refused", there)

			f, err := adopt(config)
			if err != nil {
				t.Fatal(err)
			}
			is("adopted", there)
			if got := f.Table(); got == nil || got.Epoch != 3 || got.Version != 4 || got.Groups[1] != table.Groups[1] || got.MACs[1] != h.mac {
				t.Errorf("table after adoption: %+v", got)
			}
			if err := f.Apply(Table{Epoch: 3, Version: 3, Groups: table.Groups}); !errors.Is(err, ErrStale) {
				t.Errorf("an older table: %v", err)
			}
			if err := f.Close(true); err != nil {
				t.Fatal(err)
			}
			is("detached", attached{})

			replaced := h.open(p, dir, clsact)
			f = h.open(p, dir, clsact)
			if err := replaced.Close(false); err != nil {
				t.Fatal(err)
			}
			is("opened twice", there)
			if err := f.Close(false); err != nil {
				t.Fatal(err)
			}
			h.do(func() error { return Drop(dir) })
			is("dropped", attached{})
			if err := h.try(func() error { return Drop(dir) }); !errors.Is(err, ErrNone) {
				t.Errorf("drop of nothing: %v", err)
			}
		})
	}
}

// TestCheck: what others have taken away is put back where it can be, and told of
// where it cannot.
func TestCheck(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			h := newNetwork(t).add(1)
			dir := pins(t)
			p := testPolicy(t, Invisible)
			f := h.open(p, dir, clsact)
			defer func() {
				if err := f.Close(true); err != nil {
					t.Error(err)
				}
			}()
			there := h.attached(dir)
			h.do(func() error { return f.note.ignore(f.nl) })
			if got := h.attached(dir); got.macs != 0 || got.groups != 0 {
				t.Fatalf("the interface still hears: %+v", got)
			}
			if err := f.Check(); err != nil {
				t.Fatal(err)
			}
			if got := h.attached(dir); got != there {
				t.Errorf("after Check: %+v, expected %+v", got, there)
			}

			// Another MAC of the interface is what the filter answers with.
			if err := f.Apply(Table{Version: 1, Groups: p.Next(nil, nil)}); err != nil {
				t.Fatal(err)
			}
			other := MAC{2, 9, 9, 9, 9, 9}
			h.do(func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return netlink.LinkSetHardwareAddr(l, other[:])
			})
			if err := f.Check(); err != nil {
				t.Fatal(err)
			}
			if got, err := readTable(f.coll.Maps["tables"]); err != nil || got.MACs[1] != other || f.Table().MACs[1] != other {
				t.Errorf("MAC in the table after Check: %s, %v, expected %s", got.MACs[1], err, other)
			}

			// The interface goes, and another one has its name.
			h.do(func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				if err := netlink.LinkDel(l); err != nil {
					return err
				}
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: h.mac[:]}, PeerName: "eth1"})
			})
			if err := f.Check(); !errors.Is(err, ErrOther) {
				t.Errorf("check after the interface was replaced: %v", err)
			}
			err := h.try(func() error {
				_, err := Adopt(Config{Policy: p, Interface: "eth0", Self: 1, Pins: dir, Clsact: clsact})
				return err
			})
			if !errors.Is(err, ErrOther) {
				t.Errorf("adopt after the interface was replaced: %v", err)
			}
		})
	}
	// One program is taken off.
	h := newNetwork(t).add(1)
	dir := pins(t)
	f := h.open(testPolicy(t, Directed), dir, false)
	if err := f.hooks.(*tcxHooks).links[ingress].(interface{ Detach() error }).Detach(); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); !errors.Is(err, ErrOther) {
		t.Errorf("check without the program: %v", err)
	}
	if err := f.Close(true); err != nil {
		t.Fatal(err)
	}
	if got := h.attached(dir); got != (attached{}) {
		t.Errorf("after Close: %+v", got)
	}
}

// TestTogether: two filters on one interface, for other addresses, do not touch each
// other, and clsact stays as long as somebody uses it.
func TestTogether(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			h := newNetwork(t).add(1)
			dir := pins(t)
			other, err := NewPolicy(Invisible, []netip.Addr{netip.MustParseAddr("10.77.255.1")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			a := h.open(testPolicy(t, Invisible), dir, clsact)
			b := h.open(other, dir+"2", clsact)
			if got := h.attached(dir); got.ingress != 2 || got.egress != 2 || got.macs != 2 {
				t.Errorf("both: %+v", got)
			}
			if err := a.Close(true); err != nil {
				t.Fatal(err)
			}
			if got := h.attached(dir + "2"); got.ingress != 1 || got.egress != 1 || got.macs != 1 || got.groups != 0 || !got.pinned {
				t.Errorf("after the first was closed: %+v", got)
			}
			if err := b.Check(); err != nil {
				t.Error(err)
			}
			if err := b.Close(true); err != nil {
				t.Fatal(err)
			}
			if got := h.attached(dir); got != (attached{}) {
				t.Errorf("after both: %+v", got)
			}
		})
	}
}
