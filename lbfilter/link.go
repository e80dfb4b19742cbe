package lbfilter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is the interface of the configuration, as it is now.
func (f *Filter) link() (netlink.Link, error) {
	l, err := f.nl.LinkByName(f.config.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", f.config.Interface, err)
	}
	if a := l.Attrs(); a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is of type %s, expected Ethernet", a.Name, a.EncapType)
	}
	return l, nil
}

// MAC is the hardware address of the interface now: what the others need for
// Table.MACs.
func (f *Filter) MAC() (MAC, error) {
	l, err := f.link()
	if err != nil {
		return MAC{}, err
	}
	return MAC(l.Attrs().HardwareAddr), nil
}

// solicited are the multicast addresses to which hosts send when they look for the
// IPv6 addresses (RFC 4291 §2.7.1).
func (p *Policy) solicited() []string {
	var all []string
	for _, a := range p.addrs {
		if a.Is6() {
			b, own := netip.MustParseAddr("ff02::1:ff00:0").As16(), a.As16()
			copy(b[13:], own[13:])
			all = append(all, netip.AddrFrom16(b).String())
		}
	}
	return all
}

// listen lets the interface hear what is sent to the addresses: frames to the
// virtual MAC, which goes into the interface's own filter (a card that has none
// becomes promiscuous by that, §13.5.7.2), and solicitations for IPv6 addresses,
// which are on another interface. Both stay when the process ends. What is there
// already is left as it is.
func (n *note) listen(nl *netlink.Handle) error {
	if n.Mode == Invisible {
		if err := nl.NeighAdd(n.fdb()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("let %s hear the virtual MAC %s: %w", n.Interface, n.MAC, err)
		}
	}
	for _, g := range n.Groups {
		if err := nl.AddrAdd(n.dummy(), groupAddr(g)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("join %s on %s: %w", g, n.Interface, err)
		}
	}
	return nil
}

// ignore undoes listen.
func (n *note) ignore(nl *netlink.Handle) error {
	if _, err := nl.LinkByIndex(n.Index); err != nil {
		return nil // the interface is gone, and all of it
	}
	gone := func(err error) bool {
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
	}
	var all error
	if n.Mode == Invisible {
		if err := nl.NeighDel(n.fdb()); err != nil && !gone(err) {
			all = fmt.Errorf("let %s forget the virtual MAC %s: %w", n.Interface, n.MAC, err)
		}
	}
	for _, g := range n.Groups {
		if err := nl.AddrDel(n.dummy(), groupAddr(g)); err != nil && !gone(err) {
			all = errors.Join(all, fmt.Errorf("leave %s on %s: %w", g, n.Interface, err))
		}
	}
	return all
}

// fdb is the entry of the virtual MAC among the addresses of the interface.
func (n *note) fdb() *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: n.Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: n.MAC[:]}
}

// groupAddr is a multicast address that the kernel joins when it is added.
func groupAddr(g string) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(g), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_MCAUTOJOIN, Scope: unix.RT_SCOPE_LINK}
}

func (n *note) dummy() netlink.Link {
	return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: n.Index, Name: n.Interface}}
}

// makePins makes the directory, which must be below a bpffs.
func makePins(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of the pins: %w", err)
	}
	is, err := isBPFFS(dir)
	if err == nil && !is {
		err = fmt.Errorf("%s is not below a bpffs: mount -t bpf bpf /sys/fs/bpf", dir)
	}
	if err != nil {
		return fmt.Errorf("directory of the pins: %w", err)
	}
	return nil
}

func isBPFFS(dir string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return s.Type == unix.BPF_FS_MAGIC, nil
}

// MountBPFFS mounts a bpffs on dir, which is made, unless there is one. It lasts
// as long as the mount namespace of the caller.
func MountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if is, err := isBPFFS(dir); err != nil || is {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return &os.PathError{Op: "mount bpffs on", Path: dir, Err: err}
	}
	return nil
}
