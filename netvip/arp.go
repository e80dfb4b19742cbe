package netvip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	noMAC        = make(net.HardwareAddr, 6)
)

// arpClaims speaks ARP (RFC 826, RFC 5227). The client of package arp wants an
// interface that has an IPv4 address already; this one does not.
type arpClaims struct {
	addr netip.Addr
	conn *packet.Conn
	buf  [128]byte // of read
}

func openARP(ifi *net.Interface, addr netip.Addr) (*arpClaims, error) {
	// Only frames whose sender has the address wake us: in an ARP frame for
	// Ethernet and IPv4 the sender's protocol address is at byte 14.
	v := addr.As4()
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 14, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(v[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 128},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("ARP filter of %s: %w", addr, err)
	}
	conn, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("ARP socket on %s: %w", ifi.Name, err)
	}
	return &arpClaims{addr: addr, conn: conn}, nil
}

// ask is the ARP probe of RFC 5227: its sender address is 0.0.0.0, so that it
// changes nobody's cache.
func (c *arpClaims) ask(own net.HardwareAddr) error {
	return c.send(arp.OperationRequest, own, netip.IPv4Unspecified(), noMAC)
}

// announce sends both forms of gratuitous ARP: some systems heed only requests,
// others only replies.
func (c *arpClaims) announce(own net.HardwareAddr) error {
	return errors.Join(
		c.send(arp.OperationRequest, own, c.addr, noMAC),
		c.send(arp.OperationReply, own, c.addr, broadcastMAC))
}

func (c *arpClaims) send(op arp.Operation, own net.HardwareAddr, sender netip.Addr, target net.HardwareAddr) error {
	p, err := arp.NewPacket(op, own, sender, target, c.addr)
	if err != nil {
		return err
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return err
	}
	_, err = c.conn.WriteTo(b, &packet.Addr{HardwareAddr: broadcastMAC})
	return err
}

func (c *arpClaims) read() (net.HardwareAddr, error) {
	for {
		n, _, err := c.conn.ReadFrom(c.buf[:])
		if errors.Is(err, unix.ENETDOWN) {
			continue // said once when the link goes down; the socket stays good
		}
		if err != nil {
			return nil, err
		}
		if mac, ok := arpClaim(c.buf[:n], c.addr); ok {
			return mac, nil
		}
	}
}

// arpClaim answers which MAC the frame says has the address.
func arpClaim(b []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	var p arp.Packet
	if p.UnmarshalBinary(b) != nil || p.SenderIP != addr || len(p.SenderHardwareAddr) != 6 {
		return nil, false
	}
	return p.SenderHardwareAddr, true
}

func (c *arpClaims) close() error { return c.conn.Close() }
