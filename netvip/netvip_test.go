package netvip

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	vip4 = Address{Addr: netip.MustParseAddr("10.9.0.100")}
	vip6 = Address{Addr: netip.MustParseAddr("fd09::100")}
	long = Options{Lease: time.Hour}
	fast = Options{Lease: time.Hour, NoDAD: true}
)

func families(t *testing.T, f func(t *testing.T, a Address)) {
	t.Run("ipv4", func(t *testing.T) { f(t, vip4) })
	t.Run("ipv6", func(t *testing.T) { f(t, vip6) })
}

func TestAddAndRemove(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		m := h.manager()
		before := h.addrs()
		held := h.mustAdd(m, a, fast)
		var set *setAddr
		for _, s := range h.addrs() {
			if s.prefix.Addr() == a.Addr {
				set = &s
			}
		}
		if set == nil {
			t.Fatalf("not set: %v", h.addrs())
		}
		if want := map[bool]int{true: 24, false: 64}[a.Addr.Is4()]; set.prefix.Bits() != want {
			t.Errorf("prefix %v; expected that of the interface, /%d", set.prefix, want)
		}
		if !set.ours() || set.valid == 0 || set.valid > 3600 {
			t.Errorf("%+v; expected our mark and a lifetime of an hour", *set)
		}
		if a.Addr.Is6() && set.flags&unix.IFA_F_DEPRECATED == 0 {
			t.Errorf("flags %#x; expected that the host's own connections avoid it", set.flags)
		}
		if a.Addr.Is6() && set.flags&unix.IFA_F_NOPREFIXROUTE == 0 {
			t.Errorf("flags %#x; expected that the route to the subnet stays the host's", set.flags)
		}
		if p := held.Place(); p.Interface != "eth0" || p.Own.String() != map[bool]string{true: "10.9.0.1", false: "fd09::1"}[a.Addr.Is4()] {
			t.Errorf("place %+v", p)
		}
		if _, err := h.add(m, a, fast); !errors.Is(err, ErrHeld) {
			t.Errorf("added twice: %v; expected ErrHeld", err)
		}
		if err := m.Drop(a, false); !errors.Is(err, ErrHeld) {
			t.Errorf("dropped what is held: %v; expected ErrHeld", err)
		}
		for range 2 {
			if err := held.Remove(true); err != nil {
				t.Fatal(err)
			}
		}
		if _, open := <-held.Events(); open {
			t.Error("an event of an address that was only set and removed")
		}
		if after := h.addrs(); len(after) != len(before) {
			t.Errorf("left over: %v; before: %v", after, before)
		}
		if err := held.Renew(time.Hour); !errors.Is(err, ErrReleased) {
			t.Errorf("renewed after Remove: %v; expected ErrReleased", err)
		}
	})
}

// The route to the subnet is the host's: it neither takes the lifetime of the
// virtual address nor goes with it.
func TestRouteOfSubnetStays(t *testing.T) {
	h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
	m := h.manager()
	for _, a := range []Address{vip4, vip6} {
		if err := h.mustAdd(m, a, fast).Remove(false); err != nil {
			t.Fatal(err)
		}
	}
	h.do(func() {
		for _, to := range []string{"10.9.0.7", "fd09::7"} {
			r, err := netlink.RouteGet(net.ParseIP(to))
			if err != nil || len(r) != 1 || len(r[0].Gw) != 0 {
				t.Errorf("route to %s: %v, %v", to, r, err)
			}
		}
	})
}

// A virtual address that was there before the host's own does not take it along.
func TestOwnAddressSurvivesItsPrimary(t *testing.T) {
	h := newNetwork(t).join()
	m := h.manager()
	held := h.mustAdd(m, Address{Addr: vip4.Addr, Bits: 24, Interface: "eth0"}, long)
	h.addr("10.9.0.1/24")
	if err := held.Remove(false); err != nil {
		t.Fatal(err)
	}
	if !h.has("10.9.0.1") || h.has("10.9.0.100") {
		t.Errorf("left: %v; expected the host's own address", h.addrs())
	}
}

// The lease runs out when nobody renews it, and not before.
func TestLeaseRunsOut(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		m := h.manager()
		o := fast
		o.Lease = time.Second
		held := h.mustAdd(m, a, o)
		var last time.Time
		for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
			last = time.Now() // the kernel begins to count later than that
			if err := held.Renew(time.Second); err != nil {
				t.Fatal(err)
			}
			select {
			case e := <-held.Events():
				t.Fatalf("while it was renewed: %v", e)
			case <-time.After(300 * time.Millisecond):
			}
		}
		e := await(t, held.Events(), "end of the lease", func(e Event) bool { return e.Kind == Gone })
		if !errors.Is(e.Err, ErrExpired) {
			t.Errorf("%v; expected ErrExpired", e.Err)
		}
		after := time.Since(last)
		t.Logf("gone %v after the last renewal; Bound is %v", after, Bound(time.Second))
		if tick := 10 * time.Millisecond; after < time.Second-tick {
			t.Errorf("gone after %v, before the lease ended", after)
		}
		if h.has(a.Addr.String()) {
			t.Error("it is still there")
		}
		if err := held.Renew(time.Second); !errors.Is(err, ErrExpired) {
			t.Errorf("renewed: %v; expected ErrExpired", err)
		}
		if h.has(a.Addr.String()) {
			t.Error("the renewal brought it back")
		}
	})
}

// A process that slept through its lease must not renew it, even if the kernel
// has not taken the address away: it was suspended too.
func TestLateRenewalRemoves(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		// How often the clock is looked at until the lease is over.
		for name, inTime := range map[string]int64{"before": 0, "during": 1} {
			t.Run(name, func(t *testing.T) {
				h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
				var left atomic.Int64
				left.Store(1 << 40)
				m := h.managerAt(func() time.Duration {
					if left.Add(-1) < 0 {
						return bootTime() + time.Hour
					}
					return bootTime()
				})
				held := h.mustAdd(m, a, fast)
				changes, done := newChannel(t, func(c chan netlink.AddrUpdate, done chan struct{}) error {
					return h.ns.Do(func() error { return netlink.AddrSubscribe(c, done) })
				})
				defer done()
				left.Store(inTime)
				if err := held.Renew(time.Hour); !errors.Is(err, ErrExpired) {
					t.Errorf("renewed: %v; expected ErrExpired", err)
				}
				if h.has(a.Addr.String()) {
					t.Error("the address is still there")
				}
				await(t, changes, "removal", func(u netlink.AddrUpdate) bool {
					if u.NewAddr && inTime == 0 {
						t.Error("it was renewed first")
					}
					return !u.NewAddr
				})
				if e := <-held.Events(); e.Kind != Gone || !errors.Is(e.Err, ErrExpired) {
					t.Errorf("event %v; expected that it is gone", e)
				}
			})
		}
	})
}

func TestRemovedBySomebodyElse(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		m := h.manager()
		held := h.mustAdd(m, a, fast)
		h.del(held.Place().Prefix.String())
		e := await(t, held.Events(), "notice", func(e Event) bool { return e.Kind == Gone })
		if !errors.Is(e.Err, ErrGone) || errors.Is(e.Err, ErrExpired) {
			t.Errorf("%v; expected ErrGone", e.Err)
		}
		if err := held.Renew(time.Hour); !errors.Is(err, ErrGone) || h.has(a.Addr.String()) {
			t.Errorf("renewal: %v; expected ErrGone, and the address not to come back", err)
		}
		if err := held.Remove(true); err != nil {
			t.Errorf("removing what is gone: %v", err)
		}
	})
}

func TestInterfaceDeleted(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		held := h.mustAdd(h.manager(), a, fast)
		h.do(func() {
			l, err := netlink.LinkByName("eth0")
			h.must("eth0", err)
			h.must("delete", netlink.LinkDel(l))
		})
		await(t, held.Events(), "notice", func(e Event) bool { return e.Kind == Gone })
		if err := held.Renew(time.Hour); !errors.Is(err, ErrGone) {
			t.Errorf("renewal: %v; expected ErrGone", err)
		}
		if err := held.Remove(true); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
}

// The kernel flushes IPv6 addresses with a lifetime when the interface is set
// down; that must not pass unseen.
func TestInterfaceDownIPv6(t *testing.T) {
	h := newNetwork(t).join("fd09::1/64")
	held := h.mustAdd(h.manager(), vip6, fast)
	h.up(false)
	await(t, held.Events(), "notice", func(e Event) bool { return e.Kind == Gone && errors.Is(e.Err, ErrGone) })
}

// When the kernel could not tell everything, what happened is looked up.
func TestResync(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		m := h.manager()
		held := h.mustAdd(m, a, fast)
		m.watch.Close()
		m.watcher.Wait()
		m.resync()
		select {
		case e := <-held.Events():
			t.Fatalf("nothing had happened: %v", e)
		default:
		}
		h.del(held.Place().Prefix.String())
		m.resync()
		if e := <-held.Events(); e.Kind != Gone {
			t.Errorf("%v; expected that it is gone", e)
		}
	})
}

func TestForeignAddressIsLeftAlone(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		h.addr(netip.PrefixFrom(a.Addr, a.Addr.BitLen()).String())
		m := h.manager()
		_, err := h.add(m, a, fast)
		if !errors.Is(err, ErrForeign) {
			t.Errorf("add: %v; expected ErrForeign", err)
		}
		h.do(func() { _, err = m.Adopt(a, fast) })
		if !errors.Is(err, ErrForeign) {
			t.Errorf("adopt: %v; expected ErrForeign", err)
		}
		if err := m.Drop(a, true); !errors.Is(err, ErrForeign) || !h.has(a.Addr.String()) {
			t.Errorf("drop: %v; expected ErrForeign", err)
		}
		if left, err := m.Left(); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v; expected nothing of ours", left, err)
		}
	})
}

// What a killed daemon left is found, adopted without a moment of absence, or
// dropped.
func TestLeftByKilledDaemon(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		first := h.manager()
		h.mustAdd(first, a, fast)
		if err := first.Close(); err != nil { // closes sockets, as the kernel does for a killed process
			t.Fatal(err)
		}
		m := h.manager()
		left, err := m.Left()
		if err != nil || len(left) != 1 || left[0].Prefix.Addr() != a.Addr || left[0].Interface != "eth0" || left[0].Remaining <= 0 || left[0].Remaining > time.Hour {
			t.Fatalf("left: %+v, %v; expected %v with at most an hour", left, err, a)
		}
		changes, done := newChannel(t, func(c chan netlink.AddrUpdate, done chan struct{}) error {
			return h.ns.Do(func() error { return netlink.AddrSubscribe(c, done) })
		})
		var held *Held
		h.do(func() { held, err = m.Adopt(a, fast) })
		if err != nil {
			t.Fatal(err)
		}
		await(t, changes, "renewal", func(u netlink.AddrUpdate) bool {
			if !u.NewAddr {
				t.Error("the address was away while it was adopted")
			}
			return u.NewAddr && u.LinkAddress.IP.Equal(a.Addr.AsSlice())
		})
		done()
		if left, err := m.Left(); err != nil || len(left) != 0 {
			t.Errorf("left after it was adopted: %v, %v", left, err)
		}
		held.Release()
		if err := m.Drop(a, false); err != nil || h.has(a.Addr.String()) {
			t.Errorf("drop: %v, address there: %v", err, h.has(a.Addr.String()))
		}
		if err := m.Drop(a, false); err != nil {
			t.Errorf("dropping nothing: %v", err)
		}
		h.do(func() { _, err = m.Adopt(a, fast) })
		if !errors.Is(err, ErrAbsent) {
			t.Errorf("adopting nothing: %v; expected ErrAbsent", err)
		}
	})
}

// What is left with another prefix than is configured now is replaced by Add.
func TestLeftWithOtherPrefix(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		h := newNetwork(t).join("10.9.0.1/24", "fd09::1/64")
		m := h.manager()
		other := a
		other.Bits = a.Addr.BitLen()
		h.mustAdd(m, other, fast).Release()
		held := h.mustAdd(m, a, fast)
		var found []netip.Prefix
		for _, s := range h.addrs() {
			if s.prefix.Addr() == a.Addr {
				found = append(found, s.prefix)
			}
		}
		if len(found) != 1 || found[0] != held.Place().Prefix {
			t.Errorf("set: %v; expected %v alone", found, held.Place().Prefix)
		}
	})
}

// A neighbour that knows the address follows it to the other host at once.
func TestNeighbourFollows(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		n := newNetwork(t)
		one := n.join("10.9.0.1/24", "fd09::1/64")
		two := n.join("10.9.0.2/24", "fd09::2/64")
		client := n.join("10.9.0.3/24", "fd09::3/64")
		addr := a.Addr.String()
		heldByOne := one.mustAdd(one.manager(), a, fast)
		client.awaitNeighbour(addr, one.mac, func() { client.ping(addr) })
		m := two.manager()
		client.awaitNeighbour(addr, two.mac, func() {
			if err := heldByOne.Remove(false); err != nil {
				t.Fatal(err)
			}
			two.mustAdd(m, a, fast)
		})
	})
}

// The same without anybody giving way: the first host is dead, but its kernel
// answers. The neighbour follows; both are told.
func TestTakenFromDeadHost(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		n := newNetwork(t)
		one := n.join("10.9.0.1/24", "fd09::1/64")
		two := n.join("10.9.0.2/24", "fd09::2/64")
		client := n.join("10.9.0.3/24", "fd09::3/64")
		addr := a.Addr.String()
		first := one.mustAdd(one.manager(), a, fast)
		client.awaitNeighbour(addr, one.mac, func() { client.ping(addr) })

		m := two.manager()
		if _, err := two.add(m, a, fast); !errors.Is(err, ErrInUse) {
			t.Fatalf("add: %v; expected ErrInUse", err)
		} else if used := new(InUseError); !errors.As(err, &used) || used.MAC.String() != one.mac.String() {
			t.Errorf("%v; expected the MAC %v", err, one.mac)
		}
		if two.has(addr) {
			t.Fatal("it is set although it is in use")
		}
		force := fast
		force.Probe = -1
		client.awaitNeighbour(addr, two.mac, func() { two.mustAdd(m, a, force) })
		e := await(t, first.Events(), "conflict", func(e Event) bool { return e.Kind == Conflict })
		if e.MAC.String() != two.mac.String() || !e.Defended {
			t.Errorf("first heard %v; expected that it defended itself from %v", e, two.mac)
		}
	})
}

// Who was led back to a host that is dead but for its kernel is told again when that has
// lost the address, long after the burst.
func TestToldAgainWhenTheOtherIsGone(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		n := newNetwork(t)
		one := n.join("10.9.0.1/24", "fd09::1/64")
		two := n.join("10.9.0.2/24", "fd09::2/64")
		client := n.join("10.9.0.3/24", "fd09::3/64")
		addr := a.Addr.String()
		ear := client.ear(a)
		first := one.mustAdd(one.manager(), a, fast)
		awaitBurst(t, ear, a, one.mac)
		client.awaitNeighbour(addr, one.mac, func() { client.ping(addr) })
		force := fast
		force.Probe = -1
		two.mustAdd(two.manager(), a, force)
		left := len(burst)
		if a.Addr.Is4() {
			left *= 2
		}
		await(t, ear, "burst of "+two.mac.String(), func(mac net.HardwareAddr) bool {
			if mac.String() == two.mac.String() {
				left--
			}
			return left == 0
		})
		client.awaitNeighbour(addr, one.mac, first.Announce)
		if err := first.Remove(false); err != nil {
			t.Fatal(err)
		}
		// Not by notices: on a slow machine the next defence may have been before.
		for end := time.Now().Add(patience); client.neighbour(addr) != two.mac.String(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("neighbour %s at %s; expected it at %s", addr, client.neighbour(addr), two.mac)
			}
		}
	})
}

// An address that needs a carrier goes with it, and is not set without.
func TestNeedCarrier(t *testing.T) {
	h := newNetwork(t).join("10.9.0.1/24")
	m, o := h.manager(), long
	o.NeedCarrier = true
	held := h.mustAdd(m, vip4, o)
	h.up(false)
	cut := new(NoCarrierError)
	await(t, held.Events(), "notice", func(e Event) bool { return e.Kind == Gone && errors.As(e.Err, &cut) && errors.Is(e.Err, ErrGone) })
	if err := held.Renew(time.Hour); !errors.As(err, &cut) {
		t.Errorf("renewal: %v", err)
	}
	if held.Release(); h.has(vip4.Addr.String()) {
		t.Error("it is still there")
	}
	if _, err := h.add(m, vip4, o); !errors.As(err, &cut) {
		t.Errorf("set without a carrier: %v", err)
	}
	h.up(true)
	for end := time.Now().Add(patience); ; { // the kernel says so a moment after it is asked
		if _, err := h.add(m, vip4, o); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Both forms of gratuitous ARP are sent: some systems heed only one.
func TestGratuitousARP(t *testing.T) {
	n := newNetwork(t)
	one := n.join("10.9.0.1/24")
	c := n.join("10.9.0.3/24").claims(vip4).(*arpClaims)
	one.mustAdd(one.manager(), vip4, long)
	for _, want := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		var p arp.Packet
		c.conn.SetReadDeadline(time.Now().Add(patience))
		k, _, err := c.conn.ReadFrom(c.buf[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := p.UnmarshalBinary(c.buf[:k]); err != nil {
			t.Fatal(err)
		}
		if p.Operation != want || p.SenderIP != vip4.Addr || p.TargetIP != vip4.Addr || p.SenderHardwareAddr.String() != one.mac.String() {
			t.Errorf("heard %+v; expected operation %v of %v", p, want, one.mac)
		}
	}
}

// Another host claims the address while it is held: the neighbours are told
// better at once.
func TestConflictIsHeardAndAnswered(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		n := newNetwork(t)
		one := n.join("10.9.0.1/24", "fd09::1/64")
		two := n.join("10.9.0.2/24", "fd09::2/64")
		client := n.join("10.9.0.3/24", "fd09::3/64")
		ear, intruder := client.ear(a), two.claims(a)
		held := one.mustAdd(one.manager(), a, fast)
		awaitBurst(t, ear, a, one.mac) // which would answer by chance
		client.awaitNeighbour(a.Addr.String(), one.mac, func() { client.ping(a.Addr.String()) })
		client.awaitNeighbour(a.Addr.String(), two.mac, func() {
			if err := intruder.announce(two.mac); err != nil {
				t.Fatal(err)
			}
		})
		e := await(t, held.Events(), "conflict", func(e Event) bool { return e.Kind == Conflict })
		if e.MAC.String() != two.mac.String() || !e.Defended {
			t.Errorf("%v; expected a defended conflict with %v", e, two.mac)
		}
		awaitIn(t, ear, two.mac)
		awaitIn(t, ear, one.mac)
	})
}

// awaitIn waits for a claim of the MAC among others.
func awaitIn(t *testing.T, ear <-chan net.HardwareAddr, from net.HardwareAddr) {
	t.Helper()
	await(t, ear, "claim of "+from.String(), func(mac net.HardwareAddr) bool { return mac.String() == from.String() })
}

// The same address may live on another network.
func TestOtherNetworkIsNoConflict(t *testing.T) {
	families(t, func(t *testing.T, a Address) {
		n, other := newNetwork(t), newNetwork(t)
		one := n.join("10.9.0.1/24", "fd09::1/64")
		other.plug(one, "eth1")
		near, far := n.join("10.9.0.2/24", "fd09::2/64"), other.join("10.9.0.2/24", "fd09::2/64")
		held := one.mustAdd(one.manager(), a, fast)
		for _, h := range []*host{far, near} {
			if err := h.claims(a).announce(h.mac); err != nil {
				t.Fatal(err)
			}
		}
		if e := <-held.Events(); e.Kind != Conflict || e.MAC.String() != near.mac.String() {
			t.Errorf("%v; expected a conflict with %v alone", e, near.mac)
		}
	})
}

func TestDuplicateAddressDetection(t *testing.T) {
	n := newNetwork(t)
	one := n.join("fd09::1/64")
	two := n.join("fd09::2/64")
	one.sysctl("ipv6/conf/eth0/accept_dad", "1")
	m := one.manager()
	two.addr("fd09::100/64")
	_, err := one.add(m, vip6, Options{Lease: time.Second})
	used := new(InUseError)
	if !errors.Is(err, ErrInUse) || !errors.As(err, &used) || !used.DAD {
		t.Fatalf("add: %v; expected ErrInUse by duplicate address detection", err)
	}
	if used.MAC.String() != two.mac.String() {
		t.Errorf("held by %v; expected %v", used.MAC, two.mac)
	}
	if one.has("fd09::100") {
		t.Error("it is set although it is in use")
	}
	two.del("fd09::100/64")
	held := one.mustAdd(m, vip6, Options{Lease: time.Second}) // shorter than the detection
	if s := one.addrs(); !one.has("fd09::100") || held.Remaining() <= 0 {
		t.Errorf("after detection: %+v, %v left", s, held.Remaining())
	}
	for _, s := range one.addrs() {
		if s.prefix.Addr() == vip6.Addr && s.flags&unix.IFA_F_TENTATIVE != 0 {
			t.Error("Add returned while the address was tentative")
		}
	}
}

// A link that comes back is announced on again: switches have forgotten. So is
// one with a new MAC.
func TestAnnouncedAgain(t *testing.T) {
	for name, change := range map[string]func(one *host){
		"link up": func(one *host) {
			one.up(false)
			one.up(true)
		},
		"new MAC": func(one *host) {
			one.do(func() {
				l, err := netlink.LinkByName("eth0")
				one.must("eth0", err)
				one.must("MAC", netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1}))
			})
			one.mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			one := n.join("10.9.0.1/24")
			ear := n.join("10.9.0.3/24").ear(vip4)
			one.mustAdd(one.manager(), vip4, long)
			awaitBurst(t, ear, vip4, one.mac)
			change(one)
			awaitBurst(t, ear, vip4, one.mac)
		})
	}
}

// connected is a connection of a client to the address, with the server's end.
func connected(t *testing.T, server, client *host, network string, a netip.Addr) (atServer, atClient *net.TCPConn) {
	t.Helper()
	var l net.Listener
	server.do(func() {
		var err error
		l, err = net.Listen(network, ":0")
		server.must("listen", err)
	})
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	client.do(func() {
		c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: a.AsSlice(), Port: port})
		client.must("dial", err)
		atClient = c
	})
	c, err := l.Accept()
	server.must("accept", err)
	t.Cleanup(func() { c.Close(); atClient.Close() })
	return c.(*net.TCPConn), atClient
}

func TestConnectionsAndReset(t *testing.T) {
	for _, test := range []struct {
		name, network string
		a             Address
		own           string
	}{
		{"ipv4", "tcp4", vip4, "10.9.0.1"},
		{"ipv4 on an IPv6 socket", "tcp", vip4, "10.9.0.1"},
		{"ipv6", "tcp6", vip6, "fd09::1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNetwork(t)
			server := n.join("10.9.0.1/24", "fd09::1/64")
			client := n.join("10.9.0.3/24", "fd09::3/64")
			held := server.mustAdd(server.manager(), test.a, fast)
			count := func(want int) {
				t.Helper()
				if got, err := held.Connections(); err != nil || got != want {
					t.Errorf("connections: %d, %v; expected %d", got, err, want)
				}
			}
			count(0)
			atServer, atClient := connected(t, server, client, test.network, test.a.Addr)
			_, another := connected(t, server, client, test.network, test.a.Addr)
			_, elsewhere := connected(t, server, client, test.network, netip.MustParseAddr(test.own))
			count(2)
			if err := held.Remove(true); err != nil {
				t.Fatal(err)
			}
			for _, c := range []*net.TCPConn{atClient, another} {
				c.SetReadDeadline(time.Now().Add(patience))
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client read: %v; expected ECONNRESET", err)
				}
			}
			if _, err := atServer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("the server read: %v; expected ECONNABORTED", err)
			}
			elsewhere.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := elsewhere.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
				t.Errorf("a connection to the host's own address: %v; expected it to stay", err)
			}
		})
	}
}
