package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/lbfilter"
)

var sharedAddr = netip.MustParseAddr("10.77.0.200")

const sharedPort = 9000

// ground is where sharing is measured: a client and two members on a bridge.
//
//	client eth0 ──┐
//	first  eth0 ──┼── bridge
//	second eth0 ──┘
//
// Every end is a network namespace of this process, and ends with it. Packets go
// from the client to the first member on a cable of their own, wire, without the
// bridge: a flooded frame would be paid for twice.
type ground struct {
	dir                   string // a bpffs
	hub                   *sharer
	client, first, second *sharer
	wired                 *sharer // the first member's end of the wire
}

// sharer is one namespace.
type sharer struct {
	ns     netns.NsHandle
	number lbfilter.Number
	addr   netip.Addr
	mac    lbfilter.MAC
}

// do calls f on a thread in the namespace.
func (h *sharer) do(f func() error) (err error) {
	runtime.LockOSThread()
	was, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer was.Close()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if back := netns.Set(was); back != nil {
		return errors.Join(err, back) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func newSharer(n int) (*sharer, error) {
	h := &sharer{number: lbfilter.Number(n), addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}), mac: lbfilter.MAC{2, 0x77, 0, 0, 0, byte(n)}}
	runtime.LockOSThread()
	was, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer was.Close()
	h.ns, err = netns.New()
	if back := netns.Set(was); back != nil {
		return nil, errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return h, err
}

func newGround(dir string) (_ *ground, err error) {
	g := &ground{}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if dir == "" {
		dir = "/var/tmp"
	}
	if g.dir, err = os.MkdirTemp(dir, "skfs-bench-bpf-"); err != nil {
		return nil, err
	}
	if err := lbfilter.MountBPFFS(g.dir); err != nil {
		return nil, err
	}
	for n, h := range []**sharer{&g.hub, &g.client, &g.first, &g.second, &g.wired} {
		if *h, err = newSharer(n); err != nil {
			return nil, fmt.Errorf("network namespace: %w", err)
		}
	}
	err = g.hub.do(func() error {
		off := false
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hub"}, MulticastSnooping: &off}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		for _, h := range []*sharer{g.client, g.first, g.second} {
			port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", h.number)}, PeerName: "eth0", PeerHardwareAddr: h.mac[:], PeerNamespace: netlink.NsFd(h.ns)}
			if err := errors.Join(netlink.LinkAdd(port), netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port)); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	})
	if err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	if err := g.client.do(func() error {
		wire := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire"}, PeerName: "eth0", PeerHardwareAddr: g.wired.mac[:], PeerNamespace: netlink.NsFd(g.wired.ns)}
		return errors.Join(netlink.LinkAdd(wire), netlink.LinkSetUp(wire))
	}); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	for _, h := range []*sharer{g.client, g.first, g.second, g.wired} {
		if err := h.do(func() error { return h.configure(h != g.client) }); err != nil {
			return nil, fmt.Errorf("host %d: %w", h.number, err)
		}
	}
	return g, nil
}

// configure sets the interfaces of this namespace up.
func (h *sharer) configure(member bool) error {
	for _, name := range []string{"lo", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return err
		}
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	add := func(a netip.Addr, bits int) error {
		return netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}})
	}
	if err := add(h.addr, 24); err != nil || !member {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_announce", []byte("2"), 0); err != nil {
		return err
	}
	return add(sharedAddr, 32)
}

// forget the MAC of an address.
func (h *sharer) forget(a netip.Addr) error {
	return h.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice()})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// close leaves nothing: the namespaces end with their descriptors.
func (g *ground) close() error {
	for _, h := range []*sharer{g.client, g.first, g.second, g.wired, g.hub} {
		if h != nil {
			h.ns.Close()
		}
	}
	if g.dir == "" {
		return nil
	}
	err := unix.Unmount(g.dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) {
		err = nil // it was not mounted yet
	}
	return errors.Join(err, os.Remove(g.dir))
}
