package ha

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// heart exchanges the heartbeats of one module. One goroutine on a thread of its own
// sends, receives and watches the time (heartloop.go). It touches neither disk nor log
// nor any lock but mu, which is never held over a system call; so a hung disk delays no
// heartbeat.
//
// A verdict is LinkDown after timeout without a message, LinkUp with the first
// message. A node that was late itself (its thread woke up late by a quarter of
// the timeout: paused, starved) has no right to a verdict: it begins the window
// again.
//
// A message counts if it is sealed with the cluster's key, newer than all that came
// before of its incarnation, and said after this heart was opened: it names what its
// sender heard of this node, and that is of now. So what was recorded earlier is worth
// nothing when it is sent again. Only who says that it does not hear this node cannot
// show that it speaks now: it is believed while nobody else is heard.
type heart struct {
	module, node, peer string
	incarnation        uint64
	beats              []*heartbeat
	kick               waker         // a new beat is to be sent now
	wake               chan struct{} // there is something to take

	mu      sync.Mutex // guards what follows and the mutable fields of heartbeat
	say     Beat
	seals   seals
	config  uint64   // signature of this node's configuration
	peerI   uint64   // incarnation of the peer
	peerS   uint64   // newest sequence of that incarnation
	old     []uint64 // incarnations of the peer that are over
	since   uint64   // what the peer says counts if it has heard a message that was sent later; see doubt
	got     Beat     // the newest beat of the peer
	fresh   bool     // got was not taken yet
	odd     remark   // about the peer's configuration
	key     remark   // about the peer's key
	sharing sharing
}

// waker makes the thread of a heart send at once.
type waker interface{ signal() }

// remark is something for the log, which is said when it begins or becomes another.
type remark struct{ text, said string }

// heartbeat is one network.
type heartbeat struct {
	conf      heartbeatConf
	socket    int
	to        unix.Sockaddr
	last      time.Duration // boottime of the last message, or of the beginning of the window
	from      uint64        // incarnation of the newest message here
	newest    uint64        // …and its sequence
	heard     uint64        // incarnation heard here, 0: none
	echo      uint64        // …and the newest sequence of it
	hearsMe   bool          // the peer hears this node here
	deaf      time.Duration // since when it says that it does not; 0: it hears
	link      Link
	told      Link          // what was taken of link
	shared    time.Duration // when this node's resources were sent last, and which set
	sharedSet uint64
	wrong     remark // what is wrong with what arrives or is sent
}

// heartbeatConf is what is configured of a heartbeat.
type heartbeatConf struct {
	Ident          string
	Local, Remote  string // host:port
	Pulse, Timeout time.Duration
	PermanentARP   bool
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

// tell sets what every heartbeat says from now on, and sends one at once if it
// differs from what was said before.
func (h *heart) tell(b Beat) {
	h.mu.Lock()
	same := h.say == b
	h.say = b
	h.mu.Unlock()
	if !same {
		h.kick.signal()
	}
}

// trust sets the cluster's key. The one from before counts until the peer has been
// heard with the new one, so that a change of the key is no loss of heartbeats.
func (h *heart) trust(s seals) {
	h.mu.Lock()
	h.seals = h.seals.then(s)
	h.mu.Unlock()
}

// configured sets the signature of this node's configuration.
func (h *heart) configured(config uint64) {
	h.mu.Lock()
	h.config = config
	h.mu.Unlock()
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
		wrong = hb.wrong.take(wrong)
	}
	wrong = h.key.take(h.odd.take(wrong))
	b, ok, h.fresh = h.got, h.fresh, false
	return links, b, ok, wrong
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// silences are how long nothing was heard on each network.
func (h *heart) silences() []Silence {
	now := boottime()
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]Silence, len(h.beats))
	for i, b := range h.beats {
		all[i] = Silence{b.conf.Ident, b.link == LinkUp, max(now-b.last, 0), b.conf.Timeout}
	}
	return all
}

// heard says on which networks this node and the peer hear each other.
func (h *heart) heard() []bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	up := make([]bool, len(h.beats))
	for i, b := range h.beats {
		up[i] = b.link == LinkUp && b.hearsMe
	}
	return up
}

// take appends the text to what is to be said, if it is new.
func (r *remark) take(to []string) []string {
	if r.text != r.said {
		if r.said = r.text; r.text != "" {
			to = append(to, r.text)
		}
	}
	return to
}

// remark sets r to text. Caller holds mu.
func (h *heart) remark(r *remark, text string) {
	if r.text = text; text != r.said {
		signal(h.wake)
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
		b.link, b.told, b.last, b.hearsMe, b.deaf = LinkUnknown, LinkUnknown, now, false, 0
	}
	h.mu.Unlock()
	h.kick.signal()
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
			b.link, b.heard, b.echo, b.hearsMe, b.deaf = LinkDown, 0, 0, false, 0
			signal(h.wake)
		}
	}
}

// hear takes a message. Messages come over several networks and may overtake
// each other: only a newer one of the same incarnation counts, and a new
// incarnation ends the one before for ever.
func (h *heart) hear(b *heartbeat, m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.old, m.Incarnation) {
		return
	}
	proven := m.Heard == h.incarnation
	if proven && m.Echo < h.since {
		return
	}
	if m.Incarnation != h.peerI {
		if !proven && slices.ContainsFunc(h.beats, func(b *heartbeat) bool { return b.link == LinkUp }) {
			return
		}
		if h.peerI != 0 {
			if h.old = append(h.old, h.peerI); len(h.old) > 16 {
				h.old = h.old[1:]
			}
		}
		h.peerI, h.peerS = m.Incarnation, 0
	}
	if m.Incarnation == b.from && m.Seq <= b.newest {
		return // again, or overtaken
	}
	up := b.link != LinkUp
	if up {
		h.kick.signal() // so that it hears that it is heard
	}
	b.from, b.newest = m.Incarnation, m.Seq
	b.last, b.heard, b.echo, b.hearsMe, b.link = boottime(), m.Incarnation, m.Seq, proven, LinkUp
	wrong := ""
	if b.hearsMe {
		b.deaf = 0
	} else if b.deaf == 0 {
		b.deaf = b.last
	}
	// What it said before it could hear that it is heard tells nothing.
	if b.deaf != 0 && b.last-b.deaf >= 2*b.conf.Pulse {
		wrong = fmt.Sprintf("%s does not hear this node on heartbeat %s", h.peer, b.conf.Ident)
	}
	h.remark(&b.wrong, wrong)
	if m.Seq <= h.peerS && !up {
		return
	}
	h.peerS = max(h.peerS, m.Seq)
	odd := ""
	if m.Config != h.config && m.Config != 0 && h.config != 0 {
		odd = fmt.Sprintf("The configuration of module %s is not the same on %s: compare \"skfs confinfo -m %s\" of both nodes and apply it again", h.module, h.peer, h.module)
	}
	h.remark(&h.odd, odd)
	for _, b := range h.beats {
		m.Beat.HearsMe = m.Beat.HearsMe || b.link == LinkUp && b.hearsMe
	}
	if up || h.got != m.Beat {
		h.got, h.fresh = m.Beat, true
		signal(h.wake)
	}
}
