package netvip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The marks of an address that skfs set. The protocol number (ip address show:
// "proto 0x5a") is kept by kernels since 5.18, older ones ignore it; the label is
// for them and for ifconfig, IPv4 only, and left out where it does not fit.
const (
	ifaProto = 0x5a // IFA_PROTO; the kernel's own end at 3
	attrIfa  = 11   // the attribute IFA_PROTO of linux/if_addr.h
	labelEnd = ":skfs"
)

// Numbers of linux/if_link.h and linux/ip.h.
const (
	iflaInetConf              = 1  // IFLA_INET_CONF
	devconfPromoteSecondaries = 20 // IPV4_DEVCONF_PROMOTE_SECONDARIES
)

// netlinkTimeout is how long the kernel may take to answer: far more than it ever
// does, so that no caller hangs.
const netlinkTimeout = 5 * time.Second

// setAddr is an address as the kernel has it.
type setAddr struct {
	index  int
	prefix netip.Prefix
	flags  uint32 // IFA_F_*
	proto  uint8
	label  string
	valid  uint32 // seconds; forever: 1<<32-1
}

func (s setAddr) ours() bool {
	return s.proto == ifaProto || strings.HasSuffix(s.label, labelEnd)
}

// kernel is this network namespace by netlink. Its sockets are opened once, so
// that every later call concerns the namespace of the thread that opened it.
type kernel struct {
	handle  *netlink.Handle
	sockets map[int]*nl.SocketHandle
}

func openKernel() (*kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	k := &kernel{handle: handle, sockets: make(map[int]*nl.SocketHandle)}
	if err := handle.SetSocketTimeout(netlinkTimeout); err != nil {
		k.close()
		return nil, fmt.Errorf("netlink socket: timeout: %w", err)
	}
	timeout := unix.NsecToTimeval(netlinkTimeout.Nanoseconds())
	for _, family := range []int{unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG} {
		s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), family)
		if err != nil {
			k.close()
			return nil, fmt.Errorf("netlink socket of family %d: %w", family, err)
		}
		k.sockets[family] = &nl.SocketHandle{Socket: s}
		if err := errors.Join(s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout), s.SetExtAck(true)); err != nil {
			k.close()
			return nil, fmt.Errorf("netlink socket of family %d: %w", family, err)
		}
	}
	return k, nil
}

func (k *kernel) close() {
	k.handle.Close()
	for _, s := range k.sockets {
		s.Close()
	}
}

func (k *kernel) request(kind, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = k.sockets
	return r
}

// dump repeats a listing that the kernel says was changed under way.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for try := 0; ; try++ {
		all, err := list()
		if err == nil || !errors.Is(err, netlink.ErrDumpInterrupted) || try == 10 {
			return all, err
		}
	}
}

func (k *kernel) links() ([]link, error) {
	all, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list of the interfaces: %w", err)
	}
	links := make([]link, len(all))
	for i, l := range all {
		links[i] = linkOf(l)
	}
	return links, nil
}

func linkOf(l netlink.Link) link {
	a := l.Attrs()
	return link{index: a.Index, name: a.Name, flags: a.RawFlags, mac: a.HardwareAddr}
}

func (k *kernel) addresses() ([]setAddr, error) {
	all, err := dump(func() ([]setAddr, error) {
		r := k.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		r.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		messages, err := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if err != nil {
			return nil, err
		}
		var out []setAddr
		for _, m := range messages {
			if s, ok := parseAddr(m); ok {
				out = append(out, s)
			}
		}
		return out, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list of the addresses: %w", err)
	}
	return all, nil
}

// parseAddr reads the body of RTM_NEWADDR or RTM_DELADDR. ok is false of a
// message that tells of no IP address.
func parseAddr(m []byte) (s setAddr, ok bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return s, false
	}
	msg := nl.DeserializeIfAddrmsg(m)
	s.index, s.flags, s.valid = int(msg.Index), uint32(msg.Flags), 1<<32-1
	var local, address netip.Addr
	for kind, v := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_LABEL:
			s.label = strings.TrimRight(string(v), "\x00")
		case unix.IFA_FLAGS:
			if len(v) >= 4 {
				s.flags = binary.NativeEndian.Uint32(v)
			}
		case unix.IFA_CACHEINFO: // struct ifa_cacheinfo: preferred, valid, …
			if len(v) >= 8 {
				s.valid = binary.NativeEndian.Uint32(v[4:])
			}
		case attrIfa:
			if len(v) >= 1 {
				s.proto = v[0]
			}
		}
	}
	if !local.IsValid() { // IPv6 without a peer has only IFA_ADDRESS
		local = address
	}
	if !local.IsValid() || int(msg.Prefixlen) > local.BitLen() {
		return s, false
	}
	s.prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
	return s, true
}

// attributes walks over netlink attributes: length and kind, two bytes each,
// then the value, padded to four. It ends where a length cannot be.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			length := int(binary.NativeEndian.Uint16(b))
			if length < 4 || length > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// set gives the address to its interface, or, with replace, a new lifetime to
// one that is there. The kernel has no request that only does the latter: see
// Held.Renew.
//
// IPv4: preferred as long as valid. IPv6: valid but not preferred, so that the
// host's own connections start from its own addresses, not from one that moves.
func (k *kernel) set(p Place, lease time.Duration, noDAD, replace bool) error {
	mode := unix.NLM_F_EXCL
	if replace {
		mode = unix.NLM_F_REPLACE
	}
	r := k.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_ACK|mode)
	addAddress(r, p)
	seconds := leaseSeconds(lease)
	info := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: seconds}}
	var flags uint32
	if a := p.Prefix.Addr(); a.Is4() {
		info.Prefered = seconds
		if p.Prefix.Bits() < 31 {
			r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p.Prefix)))
		}
		if label := p.Interface + labelEnd; len(label) < unix.IFNAMSIZ {
			r.AddData(nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(label)))
		}
	} else {
		if noDAD {
			flags |= unix.IFA_F_NODAD
		}
		if p.Covered { // else the kernel would give the subnet's route our lifetime
			flags |= unix.IFA_F_NOPREFIXROUTE
		}
	}
	r.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info.Serialize()))
	r.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	r.AddData(nl.NewRtAttr(attrIfa, []byte{ifaProto}))
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// unset takes the address away; one that is not there is no error.
func (k *kernel) unset(p Place) error {
	r := k.request(unix.RTM_DELADDR, unix.NLM_F_ACK)
	addAddress(r, p)
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// promoteSecondaries keeps the other addresses of the subnet when the virtual
// address goes: if it came first, they are its secondaries, which the kernel
// would remove with it.
func (k *kernel) promoteSecondaries(p Place) error {
	r := k.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(p.Index)
	r.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet := spec.AddRtAttr(unix.AF_INET, nil)
	inet.AddRtAttr(iflaInetConf, nil).AddRtAttr(devconfPromoteSecondaries, nl.Uint32Attr(1))
	r.AddData(spec)
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func addAddress(r *nl.NetlinkRequest, p Place) {
	a := p.Prefix.Addr()
	msg := nl.NewIfAddrmsg(unix.AF_INET6)
	if a.Is4() {
		msg.Family = unix.AF_INET
	}
	msg.Prefixlen, msg.Index = uint8(p.Prefix.Bits()), uint32(p.Index)
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | 1<<(32-p.Bits()) - 1
	return binary.BigEndian.AppendUint32(nil, v)
}

// route is a direct.
func (k *kernel) route(a netip.Addr) (int, string) {
	routes, err := k.handle.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return 0, fmt.Sprintf("there is no route to it (%v)", err)
	}
	r := routes[0]
	if len(r.Gw) != 0 || r.Via != nil {
		return 0, fmt.Sprintf("the route to it goes through a gateway, %v", r.Gw)
	}
	if r.Type != unix.RTN_UNICAST {
		return 0, fmt.Sprintf("the route to it is of type %d, not to a neighbour", r.Type)
	}
	return r.LinkIndex, "the route to it leads to no interface that can hold it"
}
