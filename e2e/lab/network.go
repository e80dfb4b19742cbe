package lab

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A network is one bridge in the lab's namespace. The port of host i is the
// lab's end of a veth pair whose other end is the host's ethN.
type network struct {
	name  string
	index int // N of ethN, and the third byte of the addresses
	ns    netns.NsHandle
}

func (n *network) bridge() string       { return fmt.Sprintf("br%d", n.index) }
func (n *network) port(host int) string { return fmt.Sprintf("n%dh%d", n.index, host) }
func (n *network) device() string       { return fmt.Sprintf("eth%d", n.index) }
func (n *network) addr(host int) net.IP { return net.IPv4(10, 77, byte(n.index), byte(host+1)) }
func (n *network) mac(host int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x5f, 0x4b, 0x46, byte(n.index), byte(host + 1)}
}

func newNetwork(ns netns.NsHandle, index int, name string) (*network, error) {
	n := &network{name: name, index: index, ns: ns}
	err := n.inLab(func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.bridge()
		off := false // multicast needs no querier here
		br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
		if err := nl.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return nl.LinkSetUp(br)
	})
	if err != nil {
		return nil, fmt.Errorf("lab: network %s: %w", name, err)
	}
	return n, nil
}

// inLab calls do with a netlink socket in the namespace of the bridges.
func (n *network) inLab(do func(*netlink.Handle) error) error { return inNetNS(n.ns, do) }

func inNetNS(ns netns.NsHandle, do func(*netlink.Handle) error) error {
	nl, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	defer nl.Close()
	return do(nl)
}

// plug wires the host whose network namespace is ns.
func (n *network) plug(host int, ns netns.NsHandle) error {
	err := n.inLab(func(nl *netlink.Handle) error {
		br, err := nl.LinkByName(n.bridge())
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.port(host)
		attrs.MasterIndex = br.Attrs().Index
		veth := netlink.NewVeth(attrs)
		veth.PeerName = n.device()
		veth.PeerHardwareAddr = n.mac(host)
		veth.PeerNamespace = netlink.NsFd(ns)
		if err := nl.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", attrs.Name, err)
		}
		port, err := nl.LinkByName(attrs.Name)
		if err != nil {
			return err
		}
		if err := nl.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: port.Attrs().Index,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		}}); err != nil {
			return fmt.Errorf("add clsact to %s: %w", attrs.Name, err)
		}
		return nl.LinkSetUp(port)
	})
	if err == nil {
		err = inNetNS(ns, func(nl *netlink.Handle) error {
			eth, err := nl.LinkByName(n.device())
			if err != nil {
				return err
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: n.addr(host), Mask: net.CIDRMask(24, 32)}}
			if err := nl.AddrAdd(eth, addr); err != nil {
				return fmt.Errorf("add address %s: %w", addr.IPNet, err)
			}
			return nl.LinkSetUp(eth)
		})
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", n.name, err)
	}
	return nil
}

// unplug removes the host's port. The pair goes with either end, so a port that
// is gone already is fine.
func (n *network) unplug(host int) error {
	return n.inLab(func(nl *netlink.Handle) error {
		port, err := nl.LinkByName(n.port(host))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err == nil {
			err = nl.LinkDel(port)
		}
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}

// setLink plugs in or pulls out the host's cable: the host sees its carrier come
// and go.
func (n *network) setLink(host int, up bool) error {
	return n.inLab(func(nl *netlink.Handle) error {
		port, err := nl.LinkByName(n.port(host))
		if err != nil {
			return err
		}
		if up {
			return nl.LinkSetUp(port)
		}
		return nl.LinkSetDown(port)
	})
}

// dropFilter is the identity of the filter that loses frames of host from on
// their way to host to.
func (n *network) dropFilter(nl *netlink.Handle, from, to int) (netlink.FilterAttrs, error) {
	port, err := nl.LinkByName(n.port(to))
	if err != nil {
		return netlink.FilterAttrs{}, err
	}
	return netlink.FilterAttrs{
		LinkIndex: port.Attrs().Index,
		Parent:    netlink.HANDLE_MIN_EGRESS,
		Handle:    1,
		Protocol:  unix.ETH_P_ALL,
		Priority:  uint16(from + 1), // one priority a sender, so that filters are independent
	}, nil
}

// drop loses, or no longer loses, every frame of host from on its way to host to.
func (n *network) drop(from, to int, on bool) error {
	return n.inLab(func(nl *netlink.Handle) error {
		attrs, err := n.dropFilter(nl, from, to)
		if err != nil {
			return err
		}
		filter := &netlink.BpfFilter{FilterAttrs: attrs, Name: "skfs-lab-drop", DirectAction: true}
		if !on {
			if err := nl.FilterDel(filter); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove filter: %w", err)
			}
			return nil
		}
		if filter.Fd, err = loadDropFrom(n.mac(from)); err != nil {
			return err
		}
		defer unix.Close(filter.Fd) // the filter holds the program
		if err := nl.FilterReplace(filter); err != nil {
			return fmt.Errorf("add filter: %w", err)
		}
		return nil
	})
}
