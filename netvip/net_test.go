package netvip

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/skfs/skfs/internal/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is what an awaited event may take on a busy machine; no test sleeps
// that long when it passes.
const patience = 20 * time.Second

// host is a network namespace with one interface, eth0, on the bridge of its
// network.
type host struct {
	t   *testing.T
	ns  *netnstest.Namespace
	mac net.HardwareAddr
}

// network is a bridge in a namespace of its own.
type network struct {
	*host
	n int
}

func newNamespace(t *testing.T) *host {
	t.Helper()
	return &host{t: t, ns: netnstest.New(t)}
}

// do runs f on a thread in the namespace.
func (h *host) do(f func()) {
	h.t.Helper()
	if err := h.ns.Do(func() error { f(); return nil }); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) must(what string, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
}

func (h *host) sysctl(name, value string) {
	h.t.Helper()
	h.do(func() { h.must(name, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)) })
}

func newNetwork(t *testing.T) *network {
	n := &network{host: newNamespace(t)}
	n.do(func() {
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name = "br0"
		n.must("bridge", netlink.LinkAdd(br))
		n.must("bridge up", netlink.LinkSetUp(br))
	})
	return n
}

// join adds a host with the addresses. Its interface does no duplicate address
// detection, until a test asks for it, so that it is ready at once.
func (n *network) join(addrs ...string) *host {
	n.t.Helper()
	h := newNamespace(n.t)
	h.sysctl("ipv6/conf/default/accept_dad", "0")
	h.sysctl("ipv4/conf/default/promote_secondaries", "0")
	h.do(func() {
		lo, err := netlink.LinkByName("lo")
		h.must("lo", err)
		h.must("lo up", netlink.LinkSetUp(lo))
	})
	n.plug(h, "eth0")
	h.up(true)
	for _, a := range addrs {
		h.addr(a)
	}
	return h
}

// plug gives the host an interface on the network.
func (n *network) plug(h *host, name string) {
	n.t.Helper()
	port := fmt.Sprintf("port%d", n.n)
	n.n++
	n.do(func() {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name, PeerNamespace: h.ns.Peer()}
		veth.Name = port
		n.must("veth", netlink.LinkAdd(veth))
		br, err := netlink.LinkByName("br0")
		n.must("bridge", err)
		l, err := netlink.LinkByName(port)
		n.must("port", err)
		n.must("port to bridge", netlink.LinkSetMaster(l, br))
		n.must("port up", netlink.LinkSetUp(l))
	})
	h.do(func() {
		l, err := netlink.LinkByName(name)
		h.must(name, err)
		h.must("up", netlink.LinkSetUp(l))
	})
}

// up sets the interface up or down.
func (h *host) up(up bool) {
	h.t.Helper()
	h.do(func() {
		l, err := netlink.LinkByName("eth0")
		h.must("eth0", err)
		h.mac = l.Attrs().HardwareAddr
		if up {
			h.must("up", netlink.LinkSetUp(l))
		} else {
			h.must("down", netlink.LinkSetDown(l))
		}
	})
}

// addr sets an address as an administrator would; del removes it.
func (h *host) addr(a string) {
	h.t.Helper()
	h.change(a, netlink.AddrAdd)
}

func (h *host) del(a string) {
	h.t.Helper()
	h.change(a, netlink.AddrDel)
}

func (h *host) change(a string, f func(netlink.Link, *netlink.Addr) error) {
	h.t.Helper()
	h.do(func() {
		l, err := netlink.LinkByName("eth0")
		h.must("eth0", err)
		addr, err := netlink.ParseAddr(a)
		h.must(a, err)
		h.must(a, f(l, addr))
	})
}

// addrs lists what the host has on eth0, without link-local addresses.
func (h *host) addrs() (all []setAddr) {
	h.t.Helper()
	h.do(func() {
		k, err := openKernel()
		h.must("netlink", err)
		defer k.close()
		list, err := k.addresses()
		h.must("addresses", err)
		for _, a := range list {
			if a.index != 1 && !a.prefix.Addr().IsLinkLocalUnicast() {
				all = append(all, a)
			}
		}
	})
	return all
}

func (h *host) has(a string) bool {
	h.t.Helper()
	for _, s := range h.addrs() {
		if s.prefix.Addr() == netip.MustParseAddr(a) {
			return true
		}
	}
	return false
}

// manager opens a Manager in the namespace.
func (h *host) manager() *Manager { return h.managerAt(bootTime) }

func (h *host) managerAt(now func() time.Duration) (m *Manager) {
	h.t.Helper()
	h.do(func() {
		var err error
		m, err = open(now)
		h.must("manager", err)
	})
	h.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return m
}

// add calls Add in the namespace.
func (h *host) add(m *Manager, a Address, o Options) (held *Held, err error) {
	h.do(func() { held, err = m.Add(h.t.Context(), a, o) })
	return held, err
}

func (h *host) mustAdd(m *Manager, a Address, o Options) *Held {
	h.t.Helper()
	held, err := h.add(m, a, o)
	h.must("add", err)
	return held
}

// ping makes the host resolve an address, as any client does, by a datagram that
// nobody need answer.
func (h *host) ping(a string) {
	h.t.Helper()
	h.do(func() {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(a), 9)))
		h.must("socket", err)
		defer c.Close()
		_, err = c.Write([]byte("x"))
		h.must("datagram", err)
	})
}

// awaitNeighbour waits until the host's cache says that a is at mac, by the
// kernel's notices; cause is what makes it say so.
func (h *host) awaitNeighbour(a string, mac net.HardwareAddr, cause func()) {
	h.t.Helper()
	updates, done := newChannel(h.t, func(c chan netlink.NeighUpdate, done chan struct{}) error {
		return h.ns.Do(func() error { return netlink.NeighSubscribe(c, done) })
	})
	defer done()
	cause()
	await(h.t, updates, fmt.Sprintf("neighbour %s at %s", a, mac), func(u netlink.NeighUpdate) bool {
		return u.IP.Equal(net.ParseIP(a)) && u.HardwareAddr.String() == mac.String()
	})
}

// neighbour is the MAC that the host's cache has for a.
func (h *host) neighbour(a string) (mac string) {
	h.t.Helper()
	h.do(func() {
		l, err := netlink.LinkByName("eth0")
		h.must("eth0", err)
		all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		h.must("neighbours", err)
		for _, n := range all {
			if n.IP.Equal(net.ParseIP(a)) {
				mac = n.HardwareAddr.String()
			}
		}
	})
	return mac
}

// claims opens what the host itself says and hears of an address on its link.
func (h *host) claims(a Address) (c claims) {
	h.t.Helper()
	h.do(func() {
		l, err := netlink.LinkByName("eth0")
		h.must("eth0", err)
		c, err = openClaims(Place{Index: l.Attrs().Index, Interface: "eth0", Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), neighbour: true})
		h.must("claims", err)
	})
	h.t.Cleanup(func() { c.close() })
	return c
}

// ear returns the MACs that claim the address, as the host hears them.
func (h *host) ear(a Address) <-chan net.HardwareAddr {
	h.t.Helper()
	c, heard := h.claims(a), make(chan net.HardwareAddr, 256)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			mac, err := c.read()
			if err != nil {
				return
			}
			heard <- mac
		}
	})
	h.t.Cleanup(func() { c.close(); reader.Wait() })
	return heard
}

// awaitBurst waits until all announcements of an Add were heard.
func awaitBurst(t *testing.T, ear <-chan net.HardwareAddr, a Address, from net.HardwareAddr) {
	t.Helper()
	frames := len(burst)
	if a.Addr.Is4() {
		frames *= 2 // request and reply
	}
	for range frames {
		awaitClaim(t, ear, from)
	}
}

// awaitClaim waits for the next claim, which must be of that MAC.
func awaitClaim(t *testing.T, ear <-chan net.HardwareAddr, from net.HardwareAddr) {
	t.Helper()
	await(t, ear, "claim of "+from.String(), func(mac net.HardwareAddr) bool {
		if mac.String() != from.String() {
			t.Fatalf("claim of %v; expected one of %v", mac, from)
		}
		return true
	})
}

// newChannel subscribes; done ends it and waits for its goroutines.
func newChannel[T any](t *testing.T, subscribe func(chan T, chan struct{}) error) (chan T, func()) {
	t.Helper()
	c, done := make(chan T, 64), make(chan struct{})
	if err := subscribe(c, done); err != nil {
		t.Fatal(err)
	}
	return c, func() {
		close(done)
		for range c {
		}
	}
}

func await[T any](t *testing.T, c <-chan T, what string, want func(T) bool) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case v, ok := <-c:
			if !ok {
				t.Fatalf("%s: the channel was closed", what)
			}
			if want(v) {
				return v
			}
		case <-timeout:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
