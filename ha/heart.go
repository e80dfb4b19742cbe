package ha

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// heart exchanges the heartbeats of one module: a goroutine that sends and
// watches the time, on a thread of its own, and one per network that receives.
// They touch neither disk nor log nor any lock but mu, which is never held over
// a system call; so a hung disk delays no heartbeat.
//
// A verdict is LinkDown after timeout without a message, LinkUp with the first
// message. A node that was late itself (its sender woke up late by a quarter of
// the timeout: paused, starved) has no right to a verdict: it begins the window
// again.
type heart struct {
	module, node, peer string
	incarnation        uint64
	beats              []*heartbeat
	kick               chan struct{} // a new beat is to be sent now
	wake               chan struct{} // there is something to take

	mu    sync.Mutex // guards what follows and the mutable fields of heartbeat
	say   Beat
	peerI uint64   // incarnation of the peer
	peerS uint64   // newest sequence of that incarnation
	old   []uint64 // incarnations of the peer that are over
	since uint64   // what the peer says counts if it has heard a message that was sent later; see doubt
	got   Beat     // the newest beat of the peer
	fresh bool     // got was not taken yet
}

// heartbeat is one network.
type heartbeat struct {
	conf    heartbeatConf
	conn    *net.UDPConn
	to      *net.UDPAddr
	last    time.Duration // boottime of the last message, or of the beginning of the window
	heard   uint64        // incarnation heard here
	echo    uint64        // …and the newest sequence of it
	hearsMe bool          // the peer hears this node here
	link    Link
	told    Link   // what was taken of link
	wrong   string // what is wrong with what arrives or is sent, for the log
	said    string // what was taken of wrong
}

// heartbeatConf is what is configured of a heartbeat.
type heartbeatConf struct {
	Ident          string
	Local, Remote  string // host:port
	Pulse, Timeout time.Duration
}

// boottime is CLOCK_BOOTTIME: it goes on while the machine is suspended.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime(CLOCK_BOOTTIME): %v", err)) // cannot fail on Linux ≥ 2.6.39
	}
	return time.Duration(ts.Nano())
}

// newIncarnation is never 0.
func newIncarnation() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return binary.BigEndian.Uint64(b[:]) | 1
}

// openHeart binds the sockets. On error everything is closed again.
func openHeart(module, node, peer string, incarnation uint64, confs []heartbeatConf) (*heart, error) {
	h := &heart{module: module, node: node, peer: peer, incarnation: incarnation,
		kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	now := boottime()
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

func (b *heartbeat) open() error {
	local, err := net.ResolveUDPAddr("udp", b.conf.Local)
	if err == nil {
		b.to, err = net.ResolveUDPAddr("udp", b.conf.Remote)
	}
	if err == nil {
		b.conn, err = net.ListenUDP("udp", local)
	}
	if err != nil {
		return fmt.Errorf("heartbeat %s from %s to %s: %w", b.conf.Ident, b.conf.Local, b.conf.Remote, err)
	}
	return nil
}

func (h *heart) close() {
	for _, b := range h.beats {
		b.conn.Close()
	}
}

// run exchanges heartbeats until ctx ends, then closes the sockets.
func (h *heart) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, b := range h.beats {
		wg.Go(func() { h.receive(b) })
	}
	h.send(ctx)
	h.close()
	wg.Wait()
}

// tell sets what every heartbeat says from now on, and sends one at once if it
// differs from what was said before.
func (h *heart) tell(b Beat) {
	h.mu.Lock()
	same := h.say == b
	h.say = b
	h.mu.Unlock()
	if !same {
		signal(h.kick)
	}
}

// take returns what is new: verdicts by index, the newest beat if ok, and
// complaints for the log.
func (h *heart) take() (links map[int]Link, b Beat, ok bool, wrong []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, hb := range h.beats {
		if hb.link != hb.told {
			if links == nil {
				links = map[int]Link{}
			}
			links[i], hb.told = hb.link, hb.link
		}
		if hb.wrong != hb.said {
			if hb.said = hb.wrong; hb.wrong != "" {
				wrong = append(wrong, hb.wrong)
			}
		}
	}
	b, ok, h.fresh = h.got, h.fresh, false
	return links, b, ok, wrong
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (h *heart) send(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pulse, timeout := h.beats[0].conf.Pulse, h.beats[0].conf.Timeout
	for _, b := range h.beats {
		pulse, timeout = min(pulse, b.conf.Pulse), min(timeout, b.conf.Timeout)
	}
	due := make([]time.Duration, len(h.beats))
	tick := time.NewTimer(0)
	defer tick.Stop()
	expected := boottime()
	for {
		kicked := false
		select {
		case <-ctx.Done():
			return
		case <-h.kick:
			kicked = true
		case <-tick.C:
		}
		now := boottime()
		h.judge(now, now-expected > timeout/4)
		next := now + pulse
		for i, b := range h.beats {
			if kicked || now >= due[i] {
				h.sendOn(b, now)
				due[i] = now + b.conf.Pulse
			}
			next = min(next, due[i])
		}
		next = min(next, h.deadline(next))
		expected = next
		tick.Reset(max(next-boottime(), 0))
	}
}

// doubt is for a host that did not run for a while: what it heard until now is
// worth nothing, nor is what waits in its sockets. Verdicts begin anew, and a message
// counts if the peer had heard what is sent from now on, or says that it hears
// nothing.
func (h *heart) doubt() {
	now := boottime()
	h.mu.Lock()
	h.since, h.got, h.fresh = uint64(now), Beat{}, false
	for _, b := range h.beats {
		b.link, b.told, b.last, b.hearsMe = LinkUnknown, LinkUnknown, now, false
	}
	h.mu.Unlock()
	signal(h.kick)
}

// deadline is the earliest moment before max at which a verdict is due.
func (h *heart) deadline(max time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.beats {
		if b.link != LinkDown {
			max = min(max, b.last+b.conf.Timeout)
		}
	}
	return max
}

// judge passes verdicts on silence.
func (h *heart) judge(now time.Duration, late bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.beats {
		switch {
		case b.link == LinkDown:
		case late:
			b.last = now
		case now-b.last >= b.conf.Timeout:
			b.link, b.heard, b.echo, b.hearsMe = LinkDown, 0, 0, false
			signal(h.wake)
		}
	}
}

func (h *heart) sendOn(b *heartbeat, now time.Duration) {
	h.mu.Lock()
	m := message{Module: h.module, Node: h.node, Incarnation: h.incarnation, Seq: uint64(now), Heard: b.heard, Echo: b.echo, Beat: h.say}
	h.mu.Unlock()
	_, err := b.conn.WriteToUDP(m.encode(), b.to)
	switch {
	case err == nil, errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNREFUSED):
	default:
		h.complain(b, fmt.Sprintf("heartbeat %s cannot be sent: %v", b.conf.Ident, err))
	}
}

func (h *heart) complain(b *heartbeat, text string) {
	h.mu.Lock()
	if b.wrong != text {
		b.wrong = text
		signal(h.wake)
	}
	h.mu.Unlock()
}

func (h *heart) receive(b *heartbeat) {
	buf := make([]byte, beatMax+1)
	for {
		n, from, err := b.conn.ReadFromUDP(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier send
		}
		m, err := decodeMessage(buf[:n])
		switch {
		case err != nil:
			h.complain(b, fmt.Sprintf("heartbeat %s from %v: %v", b.conf.Ident, from, err))
		case m.Module != h.module || m.Node != h.peer:
			h.complain(b, fmt.Sprintf("heartbeat %s from %v is of node %q of module %q, not of node %q of module %q: check that module ids and cluster.xml are the same on all nodes", b.conf.Ident, from, m.Node, m.Module, h.peer, h.module))
		default:
			h.hear(b, m)
		}
	}
}

// hear takes a message. Messages come over several networks and may overtake
// each other: only a newer one of the same incarnation counts, and a new
// incarnation ends the one before for ever.
func (h *heart) hear(b *heartbeat, m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.old {
		if i == m.Incarnation {
			return
		}
	}
	if m.Incarnation != h.peerI {
		if h.peerI != 0 {
			if h.old = append(h.old, h.peerI); len(h.old) > 16 {
				h.old = h.old[1:]
			}
		}
		h.peerI, h.peerS = m.Incarnation, 0
	}
	if m.Heard == h.incarnation && m.Echo < h.since {
		return
	}
	up := b.link != LinkUp
	if m.Incarnation != b.heard {
		b.echo = 0
	}
	b.echo = max(b.echo, m.Seq)
	b.last, b.heard, b.hearsMe, b.link = boottime(), m.Incarnation, m.Heard == h.incarnation, LinkUp
	wrong := ""
	if !b.hearsMe && !up {
		wrong = fmt.Sprintf("%s does not hear this node on heartbeat %s", h.peer, b.conf.Ident)
	}
	if b.wrong = wrong; wrong != b.said {
		signal(h.wake)
	}
	if m.Seq <= h.peerS && !up {
		return
	}
	h.peerS = max(h.peerS, m.Seq)
	for _, b := range h.beats {
		m.Beat.HearsMe = m.Beat.HearsMe || b.link == LinkUp && b.hearsMe
	}
	if up || h.got != m.Beat {
		h.got, h.fresh = m.Beat, true
		signal(h.wake)
	}
}
