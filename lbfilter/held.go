package lbfilter

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Connection is a TCP connection of a virtual address on this host.
type Connection struct {
	Client, Service netip.AddrPort
}

// Connections are those of the virtual addresses on this host that still have
// something to say or to hear: not those in TIME_WAIT.
func (f *Filter) Connections() ([]Connection, error) {
	const ( // include/net/tcp_states.h
		timeWait = 6
		closed   = 7
		listen   = 10
	)
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := f.nl.SocketDiagTCP(family)
		if err != nil {
			return nil, f.errorf("list the connections of", err)
		}
		for _, s := range sockets {
			if s.State == timeWait || s.State == closed || s.State == listen {
				continue
			}
			own, _ := netip.AddrFromSlice(s.ID.Source)
			peer, _ := netip.AddrFromSlice(s.ID.Destination)
			if own = own.Unmap(); !slices.Contains(f.config.Policy.addrs, own) {
				continue
			}
			all = append(all, Connection{netip.AddrPortFrom(peer.Unmap(), s.ID.DestinationPort), netip.AddrPortFrom(own, s.ID.SourcePort)})
		}
	}
	return all, nil
}

// Held says of each group in which buckets this host has connections: what
// Ownership.Settle wants to know of a member.
func (f *Filter) Held() ([]Bitmap, error) {
	all, err := f.Connections()
	if err != nil {
		return nil, err
	}
	return f.config.Policy.Held(all)
}

// Held puts connections into the buckets of their groups.
func (p *Policy) Held(all []Connection) ([]Bitmap, error) {
	held := make([]Bitmap, len(p.groups))
	for _, c := range all {
		addr := slices.Index(p.addrs, c.Service.Addr())
		if addr < 0 || c.Client.Addr().Is4() != c.Service.Addr().Is4() {
			return nil, fmt.Errorf("connection of %s to %s: not to a virtual address", c.Client, c.Service)
		}
		r := p.rules[p.find(uint8(addr), TCP, c.Service.Port())]
		bucket, _ := r.bucket(Query{Proto: TCP, Client: c.Client})
		held[r.group].Set(bucket)
	}
	return held, nil
}
