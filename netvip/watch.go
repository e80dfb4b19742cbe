package netvip

import (
	"errors"
	"net"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchLoop follows what the kernel tells of interfaces and addresses until the
// Manager is closed.
func (m *Manager) watchLoop() {
	for {
		messages, from, err := m.watch.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // it told more than the socket could hold
			m.resync()
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil: // closed
			return
		case from.Pid != 0: // not the kernel
			continue
		}
		for _, message := range messages {
			m.heard(message)
		}
	}
}

func (m *Manager) heard(message syscall.NetlinkMessage) {
	switch kind := message.Header.Type; kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		s, ok := parseAddr(message.Data)
		if !ok {
			return
		}
		if h := m.holder(s); h != nil {
			h.kernelSays(s, kind == unix.RTM_NEWADDR)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Messages of bridge ports (AF_BRIDGE) carry the index of the port too, but
		// not all of its state.
		if len(message.Data) < unix.SizeofIfInfomsg || message.Data[0] != unix.AF_UNSPEC {
			return
		}
		header := unix.NlMsghdr(message.Header)
		l, err := netlink.LinkDeserialize(&header, message.Data)
		if err != nil {
			return
		}
		m.linkIs(linkOf(l), kind == unix.RTM_NEWLINK)
	}
}

// linkIs keeps the MACs, has announced anew what is on a link that came back or got
// another MAC, and takes away what is not to be on one that lost its carrier.
func (m *Manager) linkIs(l link, there bool) {
	var cut []*Held
	defer func() {
		for _, h := range cut {
			h.cutOff()
		}
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !there {
		delete(m.macs, l.index)
		return
	}
	m.macs[l.index] = l.mac
	for _, h := range m.held {
		if h.place.Index == l.index {
			if h.linkIs(l.running(), l.mac); !l.running() {
				cut = append(cut, h)
			}
		}
	}
}

func (m *Manager) holder(s setAddr) *Held {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.held[s.prefix.Addr()]; h != nil && h.place.Index == s.index {
		return h
	}
	return nil
}

// resync finds out what was missed.
func (m *Manager) resync() {
	addrs, err := m.kernel.addresses()
	if err != nil {
		return // the next renewal finds out
	}
	m.mu.Lock()
	all := make([]*Held, 0, len(m.held))
	for _, h := range m.held {
		all = append(all, h)
	}
	m.mu.Unlock()
	for _, h := range all {
		h.sync(addrs)
	}
	links, err := m.kernel.links()
	if err != nil {
		return
	}
	m.mu.Lock()
	m.macs = make(map[int]net.HardwareAddr)
	m.mu.Unlock()
	for _, l := range links {
		m.linkIs(l, true)
	}
}

// sync compares with a listing that began after the address was set.
func (h *Held) sync(addrs []setAddr) {
	i := slices.IndexFunc(addrs, func(s setAddr) bool {
		return s.index == h.place.Index && s.prefix == h.place.Prefix
	})
	if i >= 0 {
		h.kernelSays(addrs[i], true)
	} else {
		h.kernelSays(setAddr{}, false)
	}
}
