package ha

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// openHeart binds the sockets. On error everything is closed again.
func openHeart(module, node, peer string, incarnation uint64, s seals, config uint64, confs []heartbeatConf) (*heart, error) {
	kick, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	now := boottime()
	h := &heart{module: module, node: node, peer: peer, incarnation: incarnation, seals: s, config: config,
		since: uint64(now), kick: eventfd(kick), wake: make(chan struct{}, 1)}
	for _, c := range confs {
		b := &heartbeat{conf: c, last: now}
		if err := b.open(); err != nil {
			h.close()
			return nil, err
		}
		h.beats = append(h.beats, b)
	}
	return h, nil
}

// eventfd is the waker of a heart that runs.
type eventfd int

func (e eventfd) signal() { unix.Write(int(e), binary.NativeEndian.AppendUint64(nil, 1)) } // full: it is signalled

func (e eventfd) clear() {
	var b [8]byte
	unix.Read(int(e), b[:])
}

// open makes the socket. It is not the runtime's: the thread of the heart waits in
// poll(2) for all of its sockets, and needs nobody to be woken.
func (b *heartbeat) open() error {
	local, err := net.ResolveUDPAddr("udp", b.conf.Local)
	var remote *net.UDPAddr
	if err == nil {
		remote, err = net.ResolveUDPAddr("udp", b.conf.Remote)
	}
	var here unix.Sockaddr
	if err == nil {
		here, err = sockaddr(local)
	}
	if err == nil {
		b.to, err = sockaddr(remote)
	}
	if err == nil {
		b.socket, err = udpSocket(here)
	}
	if err != nil {
		return fmt.Errorf("heartbeat %s from %s to %s: %w", b.conf.Ident, b.conf.Local, b.conf.Remote, err)
	}
	return nil
}

func sockaddr(a *net.UDPAddr) (unix.Sockaddr, error) {
	ap := a.AddrPort()
	ip := ap.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: a.Port, Addr: ip.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: a.Port, Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("zone %s of %s: %w", zone, ip, err)
		}
		sa.ZoneId = uint32(i.Index)
	}
	return sa, nil
}

func udpSocket(at unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	if _, ok := at.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, at); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// senderOf is the address of a datagram's sender, for messages.
func senderOf(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return "an unknown address"
}

// close frees what openHeart took, after run and after the last call of any method.
func (h *heart) close() {
	for _, b := range h.beats {
		unix.Close(b.socket)
	}
	unix.Close(int(h.kick.(eventfd)))
}

// run exchanges heartbeats until ctx ends.
func (h *heart) run(ctx context.Context) {
	// The thread ends with the goroutine: nobody inherits its priority.
	runtime.LockOSThread()
	first()
	signalled := make(chan struct{})
	context.AfterFunc(ctx, func() { h.kick.signal(); close(signalled) })
	h.exchange(ctx)
	<-signalled
}

// first asks that this thread runs before everything that has no real-time priority:
// a machine that is busy is not dead. Where that is not allowed it runs as others do.
func first() {
	unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0)
}

func (h *heart) exchange(ctx context.Context) {
	pulse, timeout := h.beats[0].conf.Pulse, h.beats[0].conf.Timeout
	kick := h.kick.(eventfd)
	fds := []unix.PollFd{{Fd: int32(kick), Events: unix.POLLIN}}
	for _, b := range h.beats {
		pulse, timeout = min(pulse, b.conf.Pulse), min(timeout, b.conf.Timeout)
		fds = append(fds, unix.PollFd{Fd: int32(b.socket), Events: unix.POLLIN})
	}
	due := make([]time.Duration, len(h.beats))
	buf := make([]byte, datagramMax+1)
	expected := boottime()
	for ctx.Err() == nil {
		now := boottime()
		for _, b := range h.beats {
			h.receive(b, buf)
		}
		h.judge(now, now-expected > timeout/4)
		kicked := fds[0].Revents != 0
		if kicked {
			kick.clear()
		}
		next := now + pulse
		for i, b := range h.beats {
			if kicked || now >= due[i] {
				h.sendOn(b, now)
				due[i] = now + b.conf.Pulse
			}
			h.sendResources(b, now)
			next = min(next, due[i])
		}
		next = min(next, h.deadline(next))
		expected = next
		wait := unix.NsecToTimespec(max(next-boottime(), 0).Nanoseconds())
		if _, err := unix.Ppoll(fds, &wait, nil); err != nil {
			for i := range fds {
				fds[i].Revents = 0 // EINTR: nothing is known
			}
		}
	}
}

// receive takes what has arrived, at most as much as one round should.
func (h *heart) receive(b *heartbeat, buf []byte) {
	for range 32 {
		n, from, err := unix.Recvfrom(b.socket, buf, 0)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier send
		}
		h.datagram(b, buf[:n], senderOf(from))
	}
}

// datagram takes one that has arrived.
func (h *heart) datagram(b *heartbeat, data []byte, from string) {
	h.mu.Lock()
	s := h.seals
	h.mu.Unlock()
	body, with, err := s.open(data)
	var m message
	if err == nil && isPart(body) {
		if err := h.hearResources(body); err != nil {
			h.complain(b, fmt.Sprintf("heartbeat %s from %s: %v", b.conf.Ident, from, err))
		}
		return
	}
	if err == nil {
		m, err = decodeMessage(body)
	}
	switch {
	case err != nil:
		h.complain(b, fmt.Sprintf("heartbeat %s from %s: %v", b.conf.Ident, from, err))
	case m.Module != h.module || m.Node != h.peer:
		h.complain(b, fmt.Sprintf("heartbeat %s from %s is of node %q of module %q, not of node %q of module %q: check that module ids and cluster.xml are the same on all nodes", b.conf.Ident, from, m.Node, m.Module, h.peer, h.module))
	default:
		h.keyOf(s, with)
		h.hear(b, m)
	}
}

// keyOf notes with which of the keys s the peer has signed.
func (h *heart) keyOf(s seals, with int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seals) < 2 || h.seals[0] != s[0] {
		return
	}
	if with == 0 {
		h.seals = h.seals[:1]
		h.remark(&h.key, "")
		return
	}
	h.remark(&h.key, fmt.Sprintf("%s still uses the former cluster key: apply SAFEVAR/cluster/cluster.zip there", h.peer))
}

func (h *heart) sendOn(b *heartbeat, now time.Duration) {
	h.mu.Lock()
	m := message{Module: h.module, Node: h.node, Incarnation: h.incarnation, Seq: uint64(now), Heard: b.heard, Echo: b.echo, Config: h.config, Beat: h.say}
	s := h.seals
	h.mu.Unlock()
	switch err := unix.Sendto(b.socket, s.seal(m.encode()), 0, b.to); err {
	case nil, unix.ECONNREFUSED:
	default:
		h.complain(b, fmt.Sprintf("heartbeat %s cannot be sent: %v", b.conf.Ident, err))
	}
}

func (h *heart) complain(b *heartbeat, text string) {
	h.mu.Lock()
	h.remark(&b.wrong, text)
	h.mu.Unlock()
}
