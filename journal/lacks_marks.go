package journal

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sys/unix"
)

// noteKind is what a note says the peer may lack of its object.
type noteKind uint8

const (
	noteNames noteKind = 1 + iota
	noteAttrs
	noteWhole
	noteZones // zones first to last
	noteTail  // zones from first on
	noteKindEnd
)

func (k noteKind) String() string {
	return [...]string{"invalid", "names", "attrs", "whole", "zones", "tail"}[min(k, noteKindEnd)%noteKindEnd]
}

// note is one thing that the peer may lack: what is written down at a first
// touch.
type note struct {
	id          FileID
	first, last int64 // of noteZones; first of noteTail; else 0
	tree        uint8
	kind        noteKind
}

func (n note) String() string {
	s := fmt.Sprintf("%s of %v in tree %d", n.kind, n.id, n.tree)
	switch n.kind {
	case noteZones:
		s += fmt.Sprintf(" (%d-%d)", n.first, n.last)
	case noteTail:
		s += fmt.Sprintf(" (from %d)", n.first)
	}
	return s
}

// zoneNote is the note of zones first to last of a file.
func zoneNote(tree uint8, id FileID, first, last int64) note {
	if last > int64(MaxZone) {
		return note{tree: tree, id: id, kind: noteTail, first: first}
	}
	return note{tree: tree, id: id, kind: noteZones, first: first, last: last}
}

// rescaled is n where zones have another size: all zones that hold any of it.
func (n note) rescaled(from, to int64) note {
	if from == to {
		return n
	}
	switch n.kind {
	case noteTail:
		n.first = mulClamped(n.first, from) / to
	case noteZones:
		return zoneNote(n.tree, n.id, mulClamped(n.first, from)/to, (mulClamped(n.last+1, from)-1)/to)
	}
	return n
}

// mulClamped is a*b, or the greatest offset there is if that is less.
func mulClamped(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// notesOf appends to notes what an operation changes. An object that it makes
// comes last, as noteWhole, and born says so.
func notesOf(op *Op, zoneSize int64, notes []note) (_ []note, born bool, err error) {
	object := func(kind noteKind, id FileID) note { return note{tree: op.Tree, id: id, kind: kind} }
	switch op.Kind {
	case KindCreate:
		return append(notes, object(noteNames, op.Parent), object(noteWhole, op.ID)), true, nil
	case KindTmpfile:
		return append(notes, object(noteWhole, op.ID)), true, nil
	case KindLink, KindUnlink, KindRmdir:
		return append(notes, object(noteNames, op.Parent)), false, nil
	case KindRename:
		notes = append(notes, object(noteNames, op.Parent))
		if op.Parent2 != op.Parent {
			notes = append(notes, object(noteNames, op.Parent2))
		}
		return notes, false, nil
	case KindWrite:
		return appendRange(notes, op, int64(len(op.Data)), zoneSize), false, nil
	case KindFallocate:
		if op.Flags&(unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE) != 0 { // all behind it moves
			n := object(noteTail, op.ID)
			n.first = max(op.Off, 0) / zoneSize
			return append(notes, n), false, nil
		}
		return appendRange(notes, op, op.Len, zoneSize), false, nil
	case KindPunch:
		return appendRange(notes, op, op.Len, zoneSize), false, nil
	case KindSetAttr:
		if op.Valid&SetSize != 0 {
			n := object(noteTail, op.ID)
			n.first = max(op.Off, 0) / zoneSize
			return append(notes, n), false, nil
		}
		return append(notes, object(noteAttrs, op.ID)), false, nil
	case KindSetXattr, KindRemoveXattr, KindTimes:
		return append(notes, object(noteAttrs, op.ID)), false, nil
	case KindFsync, KindRelease, KindSyncBegin, KindSyncDir, KindSyncHash, KindSyncAttrs, KindSyncEnd,
		KindMark, KindCheckpoint, KindLacks, KindSyncList:
		return notes, false, nil // change nothing, or bring what the other node has
	}
	return notes, false, fmt.Errorf("note an operation: nothing is known of kind %v", op.Kind)
}

// appendRange appends the zones of n bytes at op.Off.
func appendRange(notes []note, op *Op, n, zoneSize int64) []note {
	if n <= 0 || op.Off < 0 {
		return notes
	}
	last := op.Off + n - 1
	if last < 0 { // behind the end of any file
		last = math.MaxInt64
	}
	return append(notes, zoneNote(op.Tree, op.ID, op.Off/zoneSize, last/zoneSize))
}

// marks are the notes of one object. Most files have one zone: it costs no
// bitmap.
type marks struct {
	names, attrs, whole, one bool
	zone                     Zone  // if one
	tail                     int64 // NoTail: none
	zones                    *roaring.Bitmap
}

func noMarks() marks { return marks{tail: NoTail} }

func (m *marks) empty() bool {
	return !m.names && !m.attrs && !m.whole && !m.one && m.tail < 0 && m.zones == nil
}

// covers says whether n adds nothing to m.
func (m *marks) covers(n *note) bool {
	if m.whole {
		return true
	}
	switch n.kind {
	case noteNames:
		return m.names
	case noteAttrs:
		return !m.empty()
	case noteZones:
		first, last := n.first, n.last
		if m.tail >= 0 && last >= m.tail {
			last = m.tail - 1
		}
		switch {
		case first > last:
			return true
		case first < last:
			return m.zones != nil && m.zones.CardinalityInRange(uint64(first), uint64(last)+1) == uint64(last-first+1)
		case m.zones != nil:
			return m.zones.Contains(uint32(first))
		default:
			return m.one && int64(m.zone) == first
		}
	case noteTail:
		return m.tail >= 0 && m.tail <= n.first
	}
	return false
}

func (m *marks) add(n *note) {
	switch n.kind {
	case noteNames:
		m.names = true
	case noteAttrs:
		m.attrs = true
	case noteWhole:
		m.whole = true
	case noteTail:
		if m.tail < 0 || n.first < m.tail {
			m.tail = n.first
		}
	case noteZones:
		if m.zones == nil && !m.one && n.first == n.last {
			m.one, m.zone = true, Zone(n.first)
			return
		}
		if n.first == n.last {
			m.bitmap().Add(uint32(n.first))
		} else {
			m.bitmap().AddRange(uint64(n.first), uint64(n.last)+1)
		}
	}
}

// bitmap returns the zones as a bitmap that m owns.
func (m *marks) bitmap() *roaring.Bitmap {
	if m.zones == nil {
		m.zones = roaring.New()
	}
	if m.one {
		m.zones.Add(uint32(m.zone))
		m.one = false
	}
	return m.zones
}

// union adds o, which stays as it is and shares nothing with m.
func (m *marks) union(o *marks) {
	m.names = m.names || o.names
	m.attrs = m.attrs || o.attrs
	m.whole = m.whole || o.whole
	if o.tail >= 0 && (m.tail < 0 || o.tail < m.tail) {
		m.tail = o.tail
	}
	if o.one {
		m.add(&note{kind: noteZones, first: int64(o.zone), last: int64(o.zone)})
	}
	if o.zones != nil {
		m.bitmap().Or(o.zones)
	}
}

// addTo adds m to what the peer may lack.
func (m *marks) addTo(l *Lack) {
	if m.empty() {
		return
	}
	l.Union(Lack{Names: m.names, Attrs: true, Whole: m.whole, Zones: m.zones, Tail: m.tail})
	if m.one {
		if l.Zones == nil {
			l.Zones = roaring.New()
		}
		l.Zones.Add(uint32(m.zone))
	}
}

// appendNotes appends what says the same as l.
func (l *Lack) appendNotes(tree uint8, id FileID, notes []note) []note {
	n := note{tree: tree, id: id}
	for _, f := range []struct {
		set  bool
		kind noteKind
	}{{l.Names, noteNames}, {l.Attrs, noteAttrs}, {l.Whole, noteWhole}} {
		if f.set {
			n.kind = f.kind
			notes = append(notes, n)
		}
	}
	if l.Zones != nil {
		for a, b := range l.Zones.Ranges() {
			notes = append(notes, zoneNote(tree, id, int64(a), int64(b)-1))
		}
	}
	if l.Tail >= 0 {
		n.kind, n.first = noteTail, l.Tail
		notes = append(notes, n)
	}
	return notes
}
