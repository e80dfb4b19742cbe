package lbfilter

import (
	"fmt"
	"slices"
)

// Ownership is who has the buckets of a group, and who had them.
type Ownership struct {
	Owner Owners
	// Prev is the member that had the bucket and may still have connections of it;
	// None when there is no such member. While it is set, the owner leaves segments
	// of connections that it does not know to Prev.
	Prev Owners
}

// Table is what the members of a farm agree on. All of it takes effect at once.
type Table struct {
	// Epoch and Version order the tables of a farm: a later one has a higher Epoch,
	// or the same and a higher Version.
	Epoch, Version uint64
	// MACs are the hardware addresses of the members on the interface, by number.
	// Frames are sent on to them, and what comes from one of them is known as sent
	// on. A member whose address is zero is not sent anything. Apply fills in that of
	// this host itself.
	MACs [MaxMembers]MAC
	// Groups has an Ownership for each of Policy.Groups.
	Groups []Ownership
}

// Later tells whether t comes after o.
func (t *Table) Later(o *Table) bool {
	return t.Epoch > o.Epoch || t.Epoch == o.Epoch && t.Version > o.Version
}

// check tells what is wrong with t for p.
func (t *Table) check(p *Policy) error {
	if len(t.Groups) != len(p.groups) {
		return fmt.Errorf("table %d.%d has %d groups, expected %d", t.Epoch, t.Version, len(t.Groups), len(p.groups))
	}
	for g, o := range t.Groups {
		for b := range o.Owner {
			for _, n := range []Number{o.Owner[b], o.Prev[b]} {
				if n >= MaxMembers && n != None {
					return fmt.Errorf("table %d.%d: bucket %d of group %d is of member %d, expected 0 to %d", t.Epoch, t.Version, b, g, n, MaxMembers-1)
				}
			}
		}
	}
	return nil
}

// Next is the ownership of every group once the farm consists of members. was is
// what held before: nil at a cold start. A bucket that moves from a member that is
// still there has it as Prev. A bucket whose Prev is still set moves only when its
// owner is gone, or has nothing else to give.
func (p *Policy) Next(was []Ownership, members []Member) []Ownership {
	next := make([]Ownership, len(p.groups))
	for i, g := range p.groups {
		var before *Ownership
		if i < len(was) {
			before = &was[i]
		}
		next[i] = before.next(g.shares(members), members)
	}
	return next
}

// shares are the powers of members, where one that is draining counts only if
// nobody else does.
func (g Group) shares(members []Member) []Share {
	var shares []Share
	others := slices.ContainsFunc(members, func(m Member) bool { return !m.Draining && g.Power(m.Name) > 0 })
	for _, m := range members {
		s := Share{m.Number, m.Name, g.Power(m.Name)}
		if m.Draining && others {
			s.Power = 0
		}
		shares = append(shares, s)
	}
	return shares
}

func (o *Ownership) next(shares []Share, members []Member) Ownership {
	if o == nil {
		return Ownership{Owner: Assign(shares, nil), Prev: Nobody()}
	}
	there := func(n Number) bool {
		return slices.ContainsFunc(members, func(m Member) bool { return m.Number == n })
	}
	var busy Bitmap
	for b, prev := range o.Prev {
		if there(prev) {
			busy.Set(uint8(b))
		}
	}
	n := Ownership{Owner: assign(shares, &o.Owner, busy), Prev: Nobody()}
	for b := range n.Owner {
		switch was := o.Owner[b]; {
		case n.Owner[b] != was && there(was):
			n.Prev[b] = was
		case busy.Has(uint8(b)) && o.Prev[b] != n.Owner[b]:
			n.Prev[b] = o.Prev[b]
		}
	}
	return n
}

// Settle clears Prev of the buckets that n had and has no connections of any
// more; held are those that it still has (Filter.Held). It tells whether anything
// changed.
func (o *Ownership) Settle(n Number, held Bitmap) bool {
	changed := false
	for b, prev := range o.Prev {
		if prev == n && !held.Has(uint8(b)) {
			o.Prev[b] = None
			changed = true
		}
	}
	return changed
}
