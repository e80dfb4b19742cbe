package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// A Message on the wire, big endian, one datagram; what vouches that it is whole and
// not forged is put around it by who sends it.
//
//	offset  size  field
//	0       4     magic "SKGR"
//	4       1     version, 1
//	5       1     index of the sender
//	6       1     number of rows: of members
//	7       1     flags: 1 there is a state
//	8       4     crc32c of the names of the members, each followed by a newline
//	12      1+n   name of the group: length, bytes
//	…             rows, by index:
//	        8       incarnation, 0: nothing is known, and the row ends here
//	        8       counter
//	        1       flags: 1 left
//	        4       whom it hears, bit i for index i
//	        8       its view: epoch
//	        1       …made by
//	        8       …in the life
//	        4       …members
//	        2+n     what it says of itself
//	…       4+n   the state, if there is one
const (
	wireMagic   = "SKGR"
	wireVersion = 1
	wireHead    = 12
)

// MaxInfo is how long an Info can be, bytes.
const MaxInfo = 1<<16 - 1

var errWire = errors.New("bad membership message")

// Name is what a group is known by on the wire: messages of another name, or of
// another list of members, are not for it.
type Name struct {
	group string // at most 255 bytes
	sum   uint32
	n     int
}

// NewName is of a group with these members, as in Config.
func NewName(group string, members []string) Name {
	group = group[:min(len(group), 255)]
	return Name{group, crc32.Checksum([]byte(strings.Join(members, "\n")+"\n"), castagnoli), len(members)}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode is m on the wire.
func (g Name) Encode(m Message) []byte {
	be := binary.BigEndian
	b := append([]byte(wireMagic), wireVersion, byte(m.From), byte(len(m.Rows)), 0)
	if m.State != nil {
		b[7] = 1
	}
	b = be.AppendUint32(b, g.sum)
	b = append(append(b, byte(len(g.group))), g.group...)
	for _, r := range m.Rows {
		b = be.AppendUint64(b, r.Inc)
		if r.Inc == 0 {
			continue
		}
		b = be.AppendUint64(b, r.Ctr)
		left := byte(0)
		if r.Left {
			left = 1
		}
		b = be.AppendUint32(append(b, left), uint32(r.Hears))
		b = be.AppendUint64(b, r.Epoch.N)
		b = be.AppendUint64(append(b, r.Epoch.By), r.Epoch.Life)
		b = be.AppendUint32(b, uint32(r.View))
		b = append(be.AppendUint16(b, uint16(len(r.Info))), r.Info...)
	}
	if m.State != nil {
		b = append(be.AppendUint32(b, uint32(len(*m.State))), *m.State...)
	}
	return b
}

// Decode reads a message of this group.
func (g Name) Decode(b []byte) (Message, error) {
	bad := func(format string, args ...any) (Message, error) {
		return Message{}, fmt.Errorf("%w: %s", errWire, fmt.Sprintf(format, args...))
	}
	switch {
	case len(b) < wireHead+1:
		return bad("%d bytes, at least %d expected", len(b), wireHead+1)
	case string(b[:4]) != wireMagic:
		return bad("magic %q", b[:4])
	case b[4] != wireVersion:
		return bad("version %d, this node speaks %d", b[4], wireVersion)
	}
	from, rows, flags, sum := int(b[5]), int(b[6]), b[7], binary.BigEndian.Uint32(b[8:])
	r := reader{b: b[wireHead:]}
	name := string(r.take(int(r.num(1))))
	switch {
	case r.short:
		return bad("it is cut off")
	case name != g.group:
		return bad("it is of %q, not of %q: check that module ids are the same on all nodes", name, g.group)
	case sum != g.sum || rows != g.n:
		return bad("its sender has another list of members: check that cluster.xml and the module's networks are the same on all nodes")
	case from >= rows || flags > 1:
		return bad("sender %d of %d, flags %#x", from, rows, flags)
	}
	m := Message{From: from, Rows: make([]Row, rows)}
	all := Set(uint64(1)<<rows - 1)
	for i := range m.Rows {
		w := &m.Rows[i]
		if w.Inc = r.num(8); w.Inc == 0 {
			continue
		}
		w.Ctr = r.num(8)
		left := r.num(1)
		w.Left, w.Hears = left == 1, Set(r.num(4))
		w.Epoch = Epoch{N: r.num(8), By: uint8(r.num(1)), Life: r.num(8)}
		w.View = Set(r.num(4))
		w.Info = string(r.take(int(r.num(2))))
		if left > 1 || (w.Hears|w.View)&^all != 0 || int(w.Epoch.By) >= rows {
			return bad("row %d is not possible", i)
		}
	}
	if flags == 1 {
		state := string(r.take(int(r.num(4))))
		m.State = &state
	}
	switch {
	case r.short:
		return bad("it is cut off")
	case len(r.b) > 0:
		return bad("%d bytes after its end", len(r.b))
	case m.Rows[from].Inc == 0:
		return bad("it says nothing of its sender")
	}
	return m, nil
}

// reader takes fields from b; short says that there were not enough bytes.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n < 0 || len(r.b) < n {
		r.short = true
		return nil
	}
	t := r.b[:n]
	r.b = r.b[n:]
	return t
}

// num is an unsigned number of n bytes, 0 when they are not there.
func (r *reader) num(n int) uint64 {
	var v uint64
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}
