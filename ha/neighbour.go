package ha

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbours fixes the link addresses of the peer for permanent_arp (guide §13.3.3): a
// host that is busy, or a network that loses broadcasts, then keeps no heartbeat from
// being sent. A fixed address is no longer found out when it changes, so it is fixed
// only while the peer is heard and says that it hears this node.
//
// Kernel calls, but no thread of a heart makes them.
type neighbours struct {
	mu    sync.Mutex // held over the calls
	fixed map[string]*netlink.Neigh
	over  bool // closed: nothing is fixed any more
}

// neighbourEvery is how often they are looked at.
const neighbourEvery = 10 * time.Second

// keep fixes the address of the host, or lets it go; a host that is not on a network
// of its own needs no fixing.
func (n *neighbours) keep(host string, fix bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !fix || n.over {
		return n.release(host)
	}
	ip := net.ParseIP(host)
	if ip == nil {
		a, err := net.ResolveIPAddr("ip", host)
		if err != nil {
			return fmt.Errorf("permanent_arp of %s: %w", host, err)
		}
		ip = a.IP
	}
	entry, err := neighbourOf(ip)
	if err != nil {
		return fmt.Errorf("permanent_arp of %s: %w", host, err)
	}
	if entry == nil {
		return nil
	}
	if entry.State != unix.NUD_PERMANENT {
		entry.State = unix.NUD_PERMANENT
		if err := netlink.NeighSet(entry); err != nil {
			return fmt.Errorf("permanent_arp of %s: set neighbour %s %s: %w", host, ip, entry.HardwareAddr, err)
		}
	}
	// One that is permanent already was left by a daemon that was killed.
	if n.fixed == nil {
		n.fixed = map[string]*netlink.Neigh{}
	}
	n.fixed[host] = entry
	return nil
}

// release lets the kernel find out the address of host by itself again. Caller holds mu.
func (n *neighbours) release(host string) error {
	entry := n.fixed[host]
	if entry == nil {
		return nil
	}
	delete(n.fixed, host)
	if err := netlink.NeighDel(entry); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("permanent_arp of %s: remove: %w", host, err)
	}
	return nil
}

// close lets all go.
func (n *neighbours) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.over = true
	var errs []error
	for host := range n.fixed {
		errs = append(errs, n.release(host))
	}
	return errors.Join(errs...)
}

// neighbourOf is what the kernel knows of an address on one of its networks; nil: it is
// behind a router or on this host, or not known yet.
func neighbourOf(ip net.IP) (*netlink.Neigh, error) {
	routes, err := netlink.RouteGet(ip)
	if err != nil {
		return nil, err
	}
	if len(routes) == 0 || routes[0].Gw != nil || routes[0].Type == unix.RTN_LOCAL {
		return nil, nil
	}
	family := netlink.FAMILY_V4
	if ip.To4() == nil {
		family = netlink.FAMILY_V6
	}
	all, err := netlink.NeighList(routes[0].LinkIndex, family)
	if err != nil {
		return nil, err
	}
	const known = unix.NUD_PERMANENT | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	for _, e := range all {
		if e.IP.Equal(ip) && e.State&known != 0 && len(e.HardwareAddr) > 0 {
			return &e, nil
		}
	}
	return nil, nil
}

// fixNeighbours begins a look at the peer's addresses, if none is under way.
func (m *module) fixNeighbours(ctx context.Context, now time.Time) {
	if m.fixing || m.heart == nil || now.Sub(m.fixedAt).Abs() < neighbourEvery {
		return
	}
	m.fixing, m.fixedAt = true, now
	n, heard, beats := m.neigh, m.heart.heard(), m.mc.beats
	m.tasks.Go(func() {
		var errs []error
		for i, b := range beats {
			host, _, err := net.SplitHostPort(b.Remote)
			if err == nil {
				err = n.keep(host, heard[i] && b.PermanentARP)
			}
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		m.post(ctx, func() {
			m.fixing = false
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != m.fixFault && text != "" {
				m.log.Write(LevelInfo, "heart", text)
			}
			m.fixFault = text
		})
	})
}

// freeNeighbours lets the peer's addresses go.
func (m *module) freeNeighbours() {
	n := m.neigh
	m.neigh, m.fixedAt = &neighbours{}, time.Time{}
	if err := n.close(); err != nil {
		m.log.Write(LevelInfo, "heart", err.Error())
	}
}
