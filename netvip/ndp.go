package netvip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

var allNodes = netip.MustParseAddr("ff02::1")

// ndpClaims speaks neighbour discovery (RFC 4861).
type ndpClaims struct {
	addr  netip.Addr
	index int
	conn  *ndp.Conn
}

func openNDP(ifi *net.Interface, addr netip.Addr) (*ndpClaims, error) {
	// Unspecified: the kernel chooses the source of what is sent, which works
	// while the link-local address is not there yet.
	conn, _, err := ndp.Listen(ifi, ndp.Unspecified)
	if err != nil {
		return nil, fmt.Errorf("NDP socket on %s: %w", ifi.Name, err)
	}
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	if err := errors.Join(conn.SetICMPFilter(&only), conn.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("NDP socket on %s: %w", ifi.Name, err)
	}
	return &ndpClaims{addr: addr, index: ifi.Index, conn: conn}, nil
}

// ask is the solicitation of an address that somebody wants to talk to. That of
// duplicate address detection, from ::, would make a host that is just taking
// the address give it up.
func (c *ndpClaims) ask(own net.HardwareAddr) error {
	group, err := ndp.SolicitedNodeMulticast(c.addr)
	if err != nil {
		return err
	}
	return c.conn.WriteTo(&ndp.NeighborSolicitation{
		TargetAddress: c.addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: own}},
	}, nil, group)
}

// announce is the unsolicited advertisement with the override flag (RFC 4861
// §7.2.6): all who know the address replace the MAC.
func (c *ndpClaims) announce(own net.HardwareAddr) error {
	return c.conn.WriteTo(&ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: c.addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: own}},
	}, nil, allNodes)
}

func (c *ndpClaims) read() (net.HardwareAddr, error) {
	for {
		m, cm, _, err := c.conn.ReadFrom()
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Hop limit 255: it came from this link, through no router.
		if cm == nil || cm.IfIndex != c.index || cm.HopLimit != ndp.HopLimit {
			continue
		}
		if mac, ok := ndpClaim(m, c.addr); ok {
			return mac, nil
		}
	}
}

// ndpClaim answers which MAC the message says has the address; nil: it does not
// say which.
func ndpClaim(m ndp.Message, addr netip.Addr) (net.HardwareAddr, bool) {
	na, ok := m.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress != addr {
		return nil, false
	}
	for _, o := range na.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
			return l.Addr, true
		}
	}
	return nil, true
}

func (c *ndpClaims) close() error { return c.conn.Close() }
