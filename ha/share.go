package ha

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A node tells its peer its resources over the same sockets as its heartbeats, once a
// second on each network that is up, and at once when one changes. A set of resources
// that is too large for one datagram goes in parts, big endian:
//
//	offset  size  field
//	0       4     magic "SKHR"
//	4       2     version, 1
//	6       2     length of the whole datagram without its seal
//	8       8     incarnation of the sender
//	16      8     set: nanoseconds of CLOCK_BOOTTIME, grows within an incarnation
//	24      1     part, from 0
//	25      1     parts of the set, from 1 to shareMax
//	26      2     resources in this part
//	28      1+n   module: length, bytes
//	…       1+n   node: length, bytes
//	…             resources: 8 bytes date (µs since 1970), 1+n name, 1+n value
//
// A set counts when all of its parts have come, if it is newer than the one before and
// of the incarnation whose heartbeats are heard. What got lost comes again a second later.
const (
	shareMagic   = "SKHR"
	shareVersion = 1
	shareFixed   = 28
	shareMax     = 32   // parts: some 800 resources
	datagramMax  = 1232 // with the seal; no network splits it (IPv6's least MTU without headers)
	shareEvery   = time.Second
)

// part is one datagram of a set.
type part struct {
	Module, Node string
	Incarnation  uint64
	Set          uint64
	Part, Parts  uint8
	Resources    []Resource // Name, Value and Since
}

func (p *part) encode() []byte {
	b := make([]byte, shareFixed, datagramMax)
	be := binary.BigEndian
	copy(b, shareMagic)
	be.PutUint16(b[4:], shareVersion)
	be.PutUint64(b[8:], p.Incarnation)
	be.PutUint64(b[16:], p.Set)
	b[24], b[25] = p.Part, p.Parts
	be.PutUint16(b[26:], uint16(len(p.Resources)))
	for _, s := range []string{p.Module, p.Node} {
		b = append(append(b, byte(len(s))), s...)
	}
	for _, r := range p.Resources {
		b = be.AppendUint64(b, uint64(r.Since.UnixMicro()))
		for _, s := range []string{r.Name, r.Value} {
			b = append(append(b, byte(len(s))), s...)
		}
	}
	be.PutUint16(b[6:], uint16(len(b)))
	return b
}

// isPart says that a datagram is a part of a set of resources.
func isPart(b []byte) bool { return bytes.HasPrefix(b, []byte(shareMagic)) }

var errPart = errors.New("bad resources")

func decodePart(b []byte) (part, error) {
	var p part
	bad := func(format string, args ...any) (part, error) {
		return part{}, fmt.Errorf("%w: %s", errPart, fmt.Sprintf(format, args...))
	}
	be := binary.BigEndian
	switch {
	case len(b) < shareFixed:
		return bad("%d bytes, at least %d expected", len(b), shareFixed)
	case !isPart(b):
		return bad("magic %q", b[:4])
	case be.Uint16(b[4:]) != shareVersion:
		return bad("version %d, this node speaks %d", be.Uint16(b[4:]), shareVersion)
	case int(be.Uint16(b[6:])) != len(b):
		return bad("%d bytes, its length field says %d", len(b), be.Uint16(b[6:]))
	}
	p.Incarnation, p.Set, p.Part, p.Parts = be.Uint64(b[8:]), be.Uint64(b[16:]), b[24], b[25]
	if p.Parts < 1 || p.Parts > shareMax || p.Part >= p.Parts {
		return bad("part %d of %d", p.Part, p.Parts)
	}
	n := int(be.Uint16(b[26:]))
	rest := b[shareFixed:]
	text := func() (string, bool) {
		if len(rest) < 1 || len(rest)-1 < int(rest[0]) {
			return "", false
		}
		s := string(rest[1 : 1+rest[0]])
		rest = rest[1+len(s):]
		return s, true
	}
	var ok bool
	if p.Module, ok = text(); ok {
		p.Node, ok = text()
	}
	if !ok {
		return bad("a name is cut off")
	}
	for range n {
		if len(rest) < 8 {
			return bad("it ends before its last resource")
		}
		r := Resource{Since: time.UnixMicro(int64(be.Uint64(rest)))}
		rest = rest[8:]
		if r.Name, ok = text(); ok {
			r.Value, ok = text()
		}
		if !ok {
			return bad("a resource is cut off")
		}
		p.Resources = append(p.Resources, r)
	}
	if len(rest) > 0 {
		return bad("%d bytes after the resources", len(rest))
	}
	return p, nil
}

// split packs resources into parts; left says how many had no room.
func split(head part, all []Resource) (parts [][]byte, left int) {
	room := datagramMax - sealSize - shareFixed - 2 - len(head.Module) - len(head.Node)
	var groups [][]Resource
	used := math.MaxInt
	for i, r := range all {
		size := 8 + 2 + len(r.Name) + len(r.Value)
		if len(r.Name) > math.MaxUint8 || len(r.Value) > math.MaxUint8 {
			left++ // none that may be set is so long
			continue
		}
		if used > room-size {
			if len(groups) == shareMax {
				left += len(all) - i
				break
			}
			groups, used = append(groups, nil), 0
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], r)
		used += size
	}
	for i, g := range groups {
		p := head
		p.Part, p.Parts, p.Resources = uint8(i), uint8(len(groups)), g
		parts = append(parts, p.encode())
	}
	return parts, left
}

// sharing is what a heart knows of resources; under heart.mu.
type sharing struct {
	set   uint64   // of this node's; 0: none yet
	parts [][]byte // …encoded

	from    uint64 // incarnation of the peer that theirs are of
	theirs  uint64 // their newest set
	arrived [shareMax][]Resource
	have    uint32 // which parts of it have arrived, as bits
	ready   bool   // all have, and it was not taken yet
}

// share sets the resources that the peer is told. It says how many had no room.
func (h *heart) share(all []Resource) (left int) {
	head := part{Module: h.module, Node: h.node, Incarnation: h.incarnation, Set: uint64(boottime())}
	parts, left := split(head, all)
	h.mu.Lock()
	h.sharing.set, h.sharing.parts = head.Set, parts
	h.mu.Unlock()
	h.kick.signal()
	return left
}

// sendResources tells the peer on one network, if it is time to.
func (h *heart) sendResources(b *heartbeat, now time.Duration) {
	h.mu.Lock()
	parts, s := h.sharing.parts, h.seals
	due := b.link == LinkUp && len(parts) > 0 && (b.sharedSet != h.sharing.set || now-b.shared >= shareEvery)
	if due {
		b.shared, b.sharedSet = now, h.sharing.set
	} else if b.link != LinkUp {
		b.sharedSet = 0
	}
	h.mu.Unlock()
	if !due {
		return
	}
	for _, p := range parts {
		// A seal is written behind what it seals, which other networks seal too.
		if err := unix.Sendto(b.socket, s.seal(slices.Clip(p)), 0, b.to); err != nil {
			return // the next heartbeat tells why
		}
	}
}

// hearResources takes a part of the peer's.
func (h *heart) hearResources(body []byte) error {
	p, err := decodePart(body)
	if err != nil {
		return err
	}
	if p.Module != h.module || p.Node != h.peer {
		return fmt.Errorf("%w: they are of node %q of module %q", errPart, p.Node, p.Module)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.sharing
	if p.Incarnation != h.peerI || p.Incarnation == s.from && p.Set < s.theirs {
		return nil // nobody whose heartbeats are heard, or overtaken
	}
	if p.Incarnation != s.from || p.Set != s.theirs {
		s.from, s.theirs, s.have, s.ready = p.Incarnation, p.Set, 0, false
	}
	bit := uint32(1) << p.Part
	if s.have&bit != 0 {
		return nil // on another network
	}
	s.have |= bit
	s.arrived[p.Part] = p.Resources
	if s.have == 1<<p.Parts-1 {
		s.ready = true
		signal(h.wake)
	}
	return nil
}

// takeResources returns the peer's resources if they are new.
func (h *heart) takeResources() (all []Resource, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.sharing
	if !s.ready {
		return nil, false
	}
	s.ready = false
	for i := range s.arrived {
		if s.have&(1<<i) != 0 {
			all = append(all, s.arrived[i]...)
		}
	}
	return all, true
}

// forgetTheirs: the peer is silent; what it says next is new whatever it says.
func (h *heart) forgetTheirs() {
	h.mu.Lock()
	h.sharing.theirs, h.sharing.have, h.sharing.ready = 0, 0, false
	h.mu.Unlock()
}

// tellResources tells the peer this node's resources.
func (m *module) tellResources() {
	if m.heart == nil {
		return
	}
	left := m.heart.share(m.res.list())
	if left > 0 && m.unshared == 0 {
		m.log.Write(LevelInfo, "heart", fmt.Sprintf("%d resources are not told to the other node: there are too many", left))
	}
	m.unshared = left
}

// hearOfPeer takes over what the peer says of its resources. What comes before its
// first heartbeat counts is left until then: it is not said twice.
func (m *module) hearOfPeer() {
	switch {
	case m.state.heard():
		all, ok := m.heart.takeResources()
		if !ok {
			return
		}
		m.res.setRemote(time.Now(), all)
	case m.res.remote != nil && m.state.silent():
		m.heart.forgetTheirs()
		m.res.setRemote(time.Now(), nil)
	default:
		return
	}
	m.publish()
}
