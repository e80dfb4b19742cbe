package lbfilter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/internal/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a network namespace with one interface, eth0, on the bridge of its
// network.
type host struct {
	t   *testing.T
	ns  *netnstest.Namespace
	mac MAC
	n   int
}

// network is a bridge in a namespace of its own.
type network struct{ *host }

func newNamespace(t *testing.T) *host {
	t.Helper()
	return &host{t: t, ns: netnstest.New(t)}
}

// do runs f on a thread in the namespace.
func (h *host) do(f func() error) {
	h.t.Helper()
	if err := h.try(f); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) try(f func() error) error { return h.ns.Do(f) }

func newNetwork(t *testing.T) *network {
	n := &network{newNamespace(t)}
	n.do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		off := false
		br.MulticastSnooping = &off
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	return n
}

// Host number i has these addresses; clients have more of them.
func addr4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}) }
func addr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 0x77, 14: byte(i >> 8), 15: byte(i)})
}

var (
	virtual4 = netip.MustParseAddr("10.77.255.200")
	virtual6 = netip.MustParseAddr("fd77::ffc8")
)

// add connects a new host with number i.
func (n *network) add(i int) *host {
	n.t.Helper()
	h := newNamespace(n.t)
	h.n = i
	h.mac = MAC{2, 0x77, 0, 0, byte(i >> 8), byte(i)}
	n.do(func() error {
		name := fmt.Sprintf("p%d", i)
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerHardwareAddr: h.mac[:], PeerNamespace: h.ns.Peer()}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(veth, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	// Otherwise nothing is asked of the neighbours for two seconds.
	h.setSysctl("net/ipv6/conf/eth0/accept_dad", "0")
	h.do(func() error {
		for _, name := range []string{"lo", "eth0"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		if err := setAddr("eth0", addr4(i), 16); err != nil {
			return err
		}
		return setAddr("eth0", addr6(i), 64)
	})
	return h
}

// setAddr gives an interface of this namespace an address.
func setAddr(name string, a netip.Addr, bits int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("address %s of %s: %w", a, name, err)
	}
	return nil
}

// pins is a directory below a bpffs that ends with the test.
func pins(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a bpffs needs root")
	}
	dir := t.TempDir()
	if err := MountBPFFS(dir); err != nil {
		t.Skipf("bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir + "/filter"
}

// tcxCount is how many programs tcx has on one side of an interface.
func tcxCount(t *testing.T, index int, side uint32) int {
	attach := ebpf.AttachTCXIngress
	if side == netlink.HANDLE_MIN_EGRESS {
		attach = ebpf.AttachTCXEgress
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: attach})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return 0
	}
	if err != nil {
		t.Fatalf("programs of tcx: %v", err)
	}
	return len(result.Programs)
}
