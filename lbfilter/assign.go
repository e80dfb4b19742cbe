package lbfilter

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

// Owners says which member has each bucket.
type Owners [Buckets]Number

// Nobody owns every bucket.
func Nobody() (o Owners) {
	for b := range o {
		o[b] = None
	}
	return o
}

// Bitmap of the buckets that n has.
func (o *Owners) Bitmap(n Number) (m Bitmap) {
	for b, owner := range o {
		if owner == n {
			m.Set(uint8(b))
		}
	}
	return m
}

// Bitmap is a set of buckets.
type Bitmap [Buckets / 32]uint32

// Set puts b into the set.
func (m *Bitmap) Set(b uint8) { m[b/32] |= 1 << (b % 32) }

// Has tells whether b is in the set.
func (m Bitmap) Has(b uint8) bool { return m[b/32]>>(b%32)&1 != 0 }

// Len is how many buckets are in the set.
func (m Bitmap) Len() (n int) {
	for _, w := range m {
		n += bits.OnesCount32(w)
	}
	return n
}

// String has the form of §4.3.5: eight hexadecimal words, buckets 0 to 31 first,
// the lowest bucket of each in its lowest bit.
func (m Bitmap) String() string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for i, w := range m {
		if i > 0 {
			s.WriteByte(':')
		}
		for shift := 28; shift >= 0; shift -= 4 {
			s.WriteByte(digits[w>>shift&15])
		}
	}
	return s.String()
}

// Share is a member with its power in a group.
type Share struct {
	Number Number
	Name   string
	Power  int // 0 to MaxPower
}

// Assign gives each bucket to a member: exactly by power (quotas by largest
// remainder, ties by name, at least one bucket where the power is not 0), with as
// few moves from was as that allows, and the same in whatever order the members
// are. was may be nil at a cold start; the result is then a function of the
// members alone. When all powers are 0 nobody has anything.
//
// The way it decides is frozen: members of different releases must agree.
func Assign(members []Share, was *Owners) Owners { return assign(members, was, Bitmap{}) }

// assign prefers to leave busy buckets where they are.
func assign(members []Share, was *Owners, busy Bitmap) Owners {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Share) int { return cmp.Compare(a.Name, b.Name) })
	left := quotas(members)
	o := Nobody()
	if was != nil {
		keep(members, was, busy, left, &o)
	}
	for b := range o {
		if o[b] != None {
			continue
		}
		best := -1
		for i, m := range members {
			if left[i] > 0 && (best < 0 || score(m.Name, b) > score(members[best].Name, b)) {
				best = i
			}
		}
		if best < 0 {
			break // no power
		}
		o[b] = members[best].Number
		left[best]--
	}
	return o
}

// keep lets each member have what it had, up to its quota. What it gives away is
// what the receivers score highest: a member that comes back gets most of its old
// buckets.
func keep(members []Share, was *Owners, busy Bitmap, left []int, o *Owners) {
	had := make([][]int, len(members))
	for b, owner := range was {
		if i := slices.IndexFunc(members, func(m Share) bool { return m.Number == owner }); i >= 0 {
			had[i] = append(had[i], b)
		}
	}
	var receivers []string
	for i, m := range members {
		if len(had[i]) < left[i] {
			receivers = append(receivers, m.Name)
		}
	}
	wanted := func(b int) (best uint64) {
		for _, name := range receivers {
			best = max(best, score(name, b))
		}
		return best
	}
	rank := func(b int) int {
		if busy.Has(uint8(b)) {
			return 0
		}
		return 1
	}
	for i, m := range members {
		slices.SortFunc(had[i], func(a, b int) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(wanted(a), wanted(b)), cmp.Compare(a, b))
		})
		for _, b := range had[i][:min(len(had[i]), left[i])] {
			o[b] = m.Number
			left[i]--
		}
	}
}

// quotas is how many buckets each of the members, which are sorted by name, has.
func quotas(members []Share) []int {
	quota := make([]int, len(members))
	total, free := 0, Buckets
	for _, m := range members {
		total += m.Power
	}
	if total == 0 {
		return quota
	}
	var byRest []int
	for i, m := range members {
		quota[i] = Buckets * m.Power / total
		free -= quota[i]
		if m.Power > 0 {
			byRest = append(byRest, i)
		}
	}
	slices.SortStableFunc(byRest, func(a, b int) int {
		return cmp.Compare(Buckets*members[b].Power%total, Buckets*members[a].Power%total)
	})
	for _, i := range byRest[:free] {
		quota[i]++
	}
	for i, m := range members {
		if m.Power > 0 && quota[i] == 0 {
			most := 0
			for j := range quota {
				if quota[j] > quota[most] {
					most = j
				}
			}
			quota[most]--
			quota[i]++
		}
	}
	return quota
}

// score says how much a member wants a bucket: FNV-1a of name and bucket, then
// the last steps of MurmurHash3, so that one bit changes all.
func score(name string, b int) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h = (h ^ uint64(b)) * 1099511628211
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
