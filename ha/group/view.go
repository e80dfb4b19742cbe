package group

import (
	"fmt"
	"math/bits"
)

// MaxMembers is how many a group can have (guide §1.4: a farm of several servers;
// a Set is one word).
const MaxMembers = 32

// Set is a set of members, by their index in Config.Members.
type Set uint32

// Has says that i is in the set.
func (s Set) Has(i int) bool { return s&(1<<i) != 0 }

// With is the set and i.
func (s Set) With(i int) Set { return s | 1<<i }

// Len is the number of members.
func (s Set) Len() int { return bits.OnesCount32(uint32(s)) }

// First is the smallest index in the set, MaxMembers if it is empty.
func (s Set) First() int { return bits.TrailingZeros32(uint32(s)) }

// Indices lists the set in order.
func (s Set) Indices() []int {
	var all []int
	for r := s; r != 0; r &= r - 1 {
		all = append(all, r.First())
	}
	return all
}

// Epoch names a view. It is the greater of two with the greater N; who made it, and
// in which of its lives, tells views apart that were made on both sides of a cut.
type Epoch struct {
	N    uint64 // 0: no view
	By   uint8  // index of the member that made it
	Life uint64 // …and with what incarnation it began
}

// Less says that o is the greater one.
func (e Epoch) Less(o Epoch) bool {
	if e.N != o.N {
		return e.N < o.N
	}
	if e.By != o.By {
		return e.By > o.By // the first by name wins, as everywhere
	}
	return e.Life < o.Life
}

func (e Epoch) String() string { return fmt.Sprintf("%d/%d/%x", e.N, e.By, e.Life) }

// View is what the members act on.
type View struct {
	Epoch   Epoch
	Members Set
	State   string // opaque to the group
}
