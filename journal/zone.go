package journal

import (
	"fmt"
	"math"

	"github.com/RoaringBitmap/roaring/v2"
)

// Zone numbers the pieces of a file that are noted and copied as one, from 0
// (ruzone_blocksize bytes each, the last one shorter).
type Zone uint32

// MaxZone is the last zone with a number. What lies behind it is noted as a
// tail.
const MaxZone Zone = math.MaxUint32

// NoTail is Lack.Tail of an object that lacks none.
const NoTail int64 = -1

// Lack is what the peer may lack of one object. An object of which it may lack
// anything may lack its attributes too: what Lacks returns says so in Attrs.
//
// Its zero value lacks all data, as Tail is 0: begin with Lack{Tail: NoTail}.
type Lack struct {
	Names bool            // of a directory: its list of names
	Attrs bool            // mode, owner, times, xattrs, size
	Whole bool            // everything of it; not of what lies below a directory
	Zones *roaring.Bitmap // of Zone numbers; may be nil
	Tail  int64           // every zone from this one on too; NoTail: none
}

// Empty says whether the peer lacks nothing.
func (l *Lack) Empty() bool { return !l.Names && !l.Attrs && !l.HasData() }

// HasData says whether the peer may lack bytes of a file.
func (l *Lack) HasData() bool {
	return l.Whole || l.Tail >= 0 || l.Zones != nil && !l.Zones.IsEmpty()
}

// HasZone says whether the peer may lack bytes of zone z.
func (l *Lack) HasZone(z Zone) bool {
	return l.Whole || l.Tail >= 0 && int64(z) >= l.Tail || l.Zones != nil && l.Zones.Contains(uint32(z))
}

// Union adds o to l. Afterwards they still share nothing.
func (l *Lack) Union(o Lack) {
	l.Names = l.Names || o.Names
	l.Attrs = l.Attrs || o.Attrs
	l.Whole = l.Whole || o.Whole
	if o.Tail >= 0 && (l.Tail < 0 || o.Tail < l.Tail) {
		l.Tail = o.Tail
	}
	switch {
	case o.Zones == nil:
	case l.Zones == nil:
		l.Zones = o.Zones.Clone()
	default:
		l.Zones.Or(o.Zones)
	}
}

// Ranges calls f with the ranges of bytes that the peer may lack of a file of
// size bytes, in order, not touching each other.
func (l *Lack) Ranges(size, zoneSize int64, f func(off, end int64)) {
	if size <= 0 {
		return
	}
	zones := (size-1)/zoneSize + 1 // of the file
	first, end := int64(0), int64(0)
	emit := func() {
		switch {
		case first == end:
		case end == zones:
			f(first*zoneSize, size)
		default:
			f(first*zoneSize, end*zoneSize)
		}
	}
	next := func(a, b int64) { // zones a to b-1, a not before the last one
		if a, b = max(a, 0), min(b, zones); a >= b {
			return
		}
		if a > end || first == end {
			emit()
			first = a
		}
		end = max(end, b)
	}
	if l.Whole {
		next(0, zones)
	} else {
		tail := zones
		if l.Tail >= 0 {
			tail = min(tail, l.Tail)
		}
		if l.Zones != nil {
			for a, b := range l.Zones.Ranges() {
				if int64(a) >= tail {
					break
				}
				next(int64(a), min(int64(b), tail))
			}
		}
		next(tail, zones)
	}
	emit()
}

// String is for the log and for tests.
func (l *Lack) String() string {
	s := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{l.Names, " names"}, {l.Attrs, " attrs"}, {l.Whole, " whole"}} {
		if f.set {
			s += f.name
		}
	}
	if l.Zones != nil && !l.Zones.IsEmpty() {
		s += " zones"
		for a, b := range l.Zones.Ranges() {
			if s += fmt.Sprintf(" %d", a); b > uint64(a)+1 {
				s += fmt.Sprintf("-%d", b-1)
			}
		}
	}
	if l.Tail >= 0 {
		s += fmt.Sprintf(" tail %d", l.Tail)
	}
	if s == "" {
		return "nothing"
	}
	return s[1:]
}
