package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/lbfilter"
)

// errNoNft: nftables is not installed.
var errNoNft = errors.New("nft is not installed (apt-get install nftables)")

// packets measures what a packet costs, in nanoseconds of the sender: on a veth pair
// all that the receiver's kernel does is done before the sender goes on.
func (g *ground) packets(ctx context.Context, row packetRow, way string, n int) (_ float64, err error) {
	p, err := sharingPolicy(row.mode)
	if err != nil {
		return 0, err
	}
	own, other := g.wired.number, g.second.number
	// Every other bucket is the host's own.
	t := lbfilter.Table{Version: 1, Groups: p.Next(nil, nil)}
	for g := range t.Groups {
		for b := range t.Groups[g].Owner {
			t.Groups[g].Owner[b] = []lbfilter.Number{own, other}[b%2]
		}
	}
	t.MACs[own], t.MACs[other] = g.wired.mac, g.second.mac
	client, err := clientOf(p, t.Groups, map[bool]lbfilter.Number{true: own, false: other}[row.owned])
	if err != nil {
		return 0, err
	}
	to := g.wired.mac
	switch {
	case way == noFilter && row.otherHost:
		to = g.second.mac
	case way != noFilter && row.mode == lbfilter.Invisible:
		to = p.DefaultMAC()
	}
	switch way {
	case bySkfs:
		f, err := g.wired.open(p, filepath.Join(g.dir, "wire"), t)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, f.Close(true)) }()
	case byNft:
		if err := g.wired.nft(ctx, nftRules(row, p.DefaultMAC(), g.wired.mac, g.second.mac)); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, g.wired.nft(ctx, "flush ruleset\n")) }()
	}
	// Somebody must want what is accepted, but nobody takes it: the queue is full.
	var sink *net.UDPConn
	if err := g.wired.do(func() (err error) {
		sink, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(sharedAddr, sharedPort)))
		return err
	}); err != nil {
		return 0, err
	}
	defer sink.Close()
	frame := benchFrame(to, g.client.mac, client, row.tcp)
	var ns float64
	err = g.client.do(func() error {
		s, err := newSender("wire", frame)
		if err != nil {
			return err
		}
		defer s.close()
		if _, err := s.send(2000); err != nil { // fills the queue
			return err
		}
		back, err := s.heard()
		if err != nil {
			return err
		}
		if ns, err = s.send(n); err != nil {
			return err
		}
		return s.cameBack(back, n, way != noFilter && row.mode == lbfilter.Directed)
	})
	if err == nil {
		err = full(sink, row.owned || way == noFilter && !row.otherHost)
	}
	return ns, err
}

// cameBack tells whether many of n packets came back since the count was back, or
// few, as they should. On a busy machine some are lost on the way.
func (s *sender) cameBack(back uint64, n int, want bool) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		now, err := s.heard()
		if err != nil {
			return err
		}
		got := now-back > uint64(n)/8
		if got == want {
			return nil
		}
		if got || time.Now().After(deadline) {
			return fmt.Errorf("%d of %d packets came back", now-back, n)
		}
	}
}

// full tells whether datagrams have come to a socket, or have not, as they should.
func full(sink *net.UDPConn, want bool) error {
	patience := 50 * time.Millisecond
	if want {
		patience = 10 * time.Second
	}
	if err := sink.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := sink.Read(make([]byte, 100))
	if got := err == nil; got != want {
		return fmt.Errorf("a packet was accepted: %v, expected %v", got, want)
	}
	return nil
}

// clientOf is a client whose UDP and TCP packets belong to a member.
func clientOf(p *lbfilter.Policy, groups []lbfilter.Ownership, owner lbfilter.Number) (netip.AddrPort, error) {
	for port := uint16(20000); port < 30000; port++ {
		c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 0, 1}), port)
		a, err := p.Who(lbfilter.Query{Proto: lbfilter.UDP, Client: c, Service: netip.AddrPortFrom(sharedAddr, sharedPort)}, groups)
		if err != nil {
			return netip.AddrPort{}, err
		}
		if a.Owner == owner {
			return c, nil
		}
	}
	return netip.AddrPort{}, errors.New("no client of that member")
}

// benchFrame is a datagram, or a TCP segment in the middle of a connection, to the
// shared address.
func benchFrame(to, from lbfilter.MAC, client netip.AddrPort, tcp bool) []byte {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	b = append(b, 8, 0, 0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 17, 0, 0)
	b = append(append(b, client.Addr().AsSlice()...), sharedAddr.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, client.Port())
	b = binary.BigEndian.AppendUint16(b, sharedPort)
	if tcp {
		b[23] = 6
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, 0x10, 1, 0, 0, 0, 0, 0)
	} else {
		b = append(b, 0, 40, 0, 0)
	}
	b = append(b, make([]byte, 14+60-len(b))...)
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum+sum>>16))
	return b
}

// sender sends one frame many times.
type sender struct {
	fd       int
	device   string
	messages []mmsghdr
	frame    []byte
	iov      unix.Iovec
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	sent uint32
	_    [4]byte
}

const burst = 64 // frames of one system call

func newSender(device string, frame []byte) (*sender, error) {
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &sender{fd: fd, device: device, frame: frame, messages: make([]mmsghdr, burst)}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index})); err != nil {
		s.close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s.iov.Base = &s.frame[0]
	s.iov.SetLen(len(frame))
	for i := range s.messages {
		s.messages[i].Iov = &s.iov
		s.messages[i].Iovlen = 1
	}
	return s, nil
}

func (s *sender) close() { unix.Close(s.fd) }

// send returns the median, over bursts, of the nanoseconds a packet.
func (s *sender) send(n int) (float64, error) {
	var each []float64
	for sent := 0; sent < n; {
		began := time.Now()
		k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages[0])), burst, 0, 0, 0)
		took := time.Since(began)
		if errors.Is(errno, unix.ENOBUFS) || errors.Is(errno, unix.EINTR) {
			continue
		}
		if errno != 0 {
			return 0, fmt.Errorf("sendmmsg: %w", errno)
		}
		if k == burst {
			each = append(each, float64(took.Nanoseconds())/burst)
		}
		sent += int(k)
	}
	slices.Sort(each)
	return median(each), nil
}

// heard is how many packets have come in on the device.
func (s *sender) heard() (uint64, error) {
	l, err := netlink.LinkByName(s.device)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Statistics.RxPackets, nil
}

// nft gives nftables commands in the namespace.
func (h *sharer) nft(ctx context.Context, commands string) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return errNoNft
	}
	return h.do(func() error {
		c := exec.CommandContext(ctx, "nft", "-f", "-")
		c.Stdin = strings.NewReader(commands)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// nftRules do for the packets that are measured what the filter does, but that they
// look for no connection: nftables can not, at this place. Its jhash is the same.
func nftRules(row packetRow, vmac, own, other lbfilter.MAC) string {
	var mine, owners []string
	for b := range lbfilter.Buckets {
		owner := other
		if b%2 == 0 {
			mine = append(mine, fmt.Sprint(b))
			owner = own
		}
		owners = append(owners, fmt.Sprintf("%d : %s", b, owner))
	}
	end := "counter drop"
	if row.mode == lbfilter.Directed {
		end = fmt.Sprintf("ether saddr { %s, %s } drop\n    ether daddr set meta mark map @owner ether saddr set %s meta mark set 0 fwd to eth0", own, other, own)
	}
	return fmt.Sprintf(`table netdev farm {
  set mine { type mark; elements = { %s } }
  map owner { type mark : ether_addr; elements = { %s } }
  chain ingress {
    type filter hook ingress device "eth0" priority -100; policy accept;
    ip daddr %s jump shared
    ether daddr %s drop
  }
  chain shared {
    meta l4proto tcp tcp dport %d meta mark set jhash ip saddr . tcp sport mod 256 seed %#x
    meta l4proto udp udp dport %d meta mark set jhash ip saddr . udp sport mod 256 seed %#x
    meta mark @mine meta mark set 0 meta pkttype set host counter accept
    %s
  }
}
`, strings.Join(mine, ", "), strings.Join(owners, ", "), sharedAddr, vmac, sharedPort, lbfilter.Seed, sharedPort, lbfilter.Seed, end)
}
