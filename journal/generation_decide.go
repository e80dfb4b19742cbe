package journal

import "fmt"

// View is what one host says of its data when the two meet.
type View struct {
	Standing

	// Clean: it ended in order, everything flushed, after operation Seq of Epoch,
	// and nothing was changed since.
	Clean bool
	Epoch Epoch
	Seq   Seq
}

// Force is what the administrator has asked for.
type Force uint8

// The bits of Force.
const (
	ForceFull    Force = 1 << iota // `second fullsync`: the second's data is to be replaced
	ForcePrimary                   // `prim`, `primforce`: the primary's data is the one that counts
)

// Copy is how the second is brought up to date, the cheapest last.
type Copy uint8

// The ways to copy: see package reintegrate.
const (
	Refuse      Copy = iota // the second may not join
	CopyFull                // everything is compared
	CopyScan                // names are compared, and files that may have changed since Verdict.Since
	CopyDelta               // what the notes of both hosts name
	CopyNothing             // the data is the same
)

func (c Copy) String() string {
	return [...]string{"refuse", "full", "scan", "delta", "nothing"}[c]
}

// Verdict is what becomes of a second that wants to join.
type Verdict struct {
	Copy Copy

	// SplitBrain: the second has changes that the primary never saw. They are given
	// up, but kept aside (R10).
	SplitBrain bool

	// Renew: the primary mints a generation before the copy, unless its Current is
	// of this reign and nobody else's. A second that has not followed from here on
	// cannot be taken for one that has.
	Renew bool

	Since  Time   // with CopyScan: the last checkpoint of both; subtract a grace for the clocks
	Reason string // for the log; of a refusal, with what can be done
}

// relation is how the lines of two hosts lie to each other.
type relation uint8

const (
	unrelated  relation = iota // no generation in common
	fresh                      // the second was never part of a pair
	blank                      // the primary was not, but the second was
	same                       // neither was changed without the other
	behind                     // the primary has changed since, and has notes of it
	ahead                      // the second has, the primary has not
	diverged                   // both have, and both have notes back to a common generation
	ancestor                   // the primary has left the second's generation behind, further than its notes go
	descendant                 // the second has left the primary's behind, further than its notes go
	cousins                    // both have left a common one behind, further than the notes of both go
)

// relate compares two lines. The rules are those of drbd_uuid_compare, in its
// order; where DRBD asks for equality with the bitmap UUID this asks whether the
// notes go back that far, so that an end of a copy that only the second has
// recorded ("missed finish") needs no rules of its own.
func relate(p, s Lineage) relation {
	common := func(a, b func(Generation) bool) bool {
		for _, g := range p.past() {
			if a(g) && b(g) {
				return true
			}
		}
		return false
	}
	switch {
	case s.Current == 0: // just created peer
		return fresh
	case p.Current == 0: // just created self
		return blank
	case p.Current == s.Current: // both off, crashed primary, missed finish
		return same
	case p.since(s.Current): // bitmap self
		return behind
	case s.since(p.Current): // bitmap peer
		return ahead
	case common(p.since, s.since): // bitmap both
		return diverged
	case p.knew(s.Current): // history self
		return ancestor
	case s.knew(p.Current): // history peer
		return descendant
	case common(p.knew, s.knew): // history both
		return cousins
	}
	return unrelated
}

// row is what a relation means.
type row struct {
	best   Copy  // the cheapest copy that the lines allow; what the notes are worth may ask for more
	split  bool  // the second has changes that the primary never saw
	needs  Force // refused without one of these bits
	reason string
}

// table is the whole decision as far as the lines tell.
var table = [...]row{
	// First start: whatever the directory of the second holds is replaced (§5.3).
	fresh: {CopyFull, false, 0, "first synchronization of this node"},
	// A primary that was started on an empty directory, or without its record, must
	// not wipe out a node that has been in service.
	blank: {CopyFull, false, ForceFull, "the primary has never been part of a pair, this node has"},
	// Unanswered changes, what a power cut has taken, what the second had received
	// but not applied: all of it is noted since the last checkpoint.
	same: {CopyDelta, false, 0, "the primary has not been changed alone"},
	// The usual return.
	behind: {CopyDelta, false, 0, "the primary was changed while this node was away"},
	// The second is the newer one. If its data is to be given up all the same,
	// somebody has said so; what only it has is kept.
	ahead: {CopyDelta, true, ForceFull | ForcePrimary, "this node was changed alone, the primary was not"},
	// Both were primary alone. Who is the primary now was decided by the automaton.
	diverged: {CopyDelta, true, 0, "both nodes were changed while they were apart"},
	// A second that missed a whole time of being in sync (it was put back in time,
	// or another one was there meanwhile): the notes of then are cleared.
	ancestor: {CopyFull, false, 0, "this node has data from before the primary's notes begin"},
	// The primary is the one that was put back in time.
	descendant: {CopyFull, true, ForceFull | ForcePrimary, "the primary has data from before this node's notes begin"},
	// Both changed alone, one of them put back in time, or the notes were given up.
	cousins: {CopyFull, true, 0, "both nodes were changed while they were apart, and the notes do not go back to what they had in common"},
	// Another module's directory, another cluster's node. There is no split brain to
	// mend; `second fullsync` says that the data may go.
	unrelated: {CopyFull, false, ForceFull, "the data of this node and that of the primary have nothing in common"},
}

// Decide says how second is brought up to date by primary. Which of the two is
// the primary is not its business.
func Decide(primary, second View, f Force) Verdict {
	rel := relate(primary.Lineage, second.Lineage)
	r := table[rel]
	if r.best == CopyDelta {
		r = weigh(r, rel, primary, second)
	}
	if f&ForceFull != 0 {
		r.best = CopyFull
		r.reason += "; full synchronization was asked for"
	}
	if f&r.needs == 0 && r.needs != 0 {
		how := "`second fullsync` here replaces the data of this node"
		if r.needs&ForcePrimary != 0 {
			how += "; to keep it instead, stop the primary and start this node with `prim`"
		}
		return Verdict{Copy: Refuse, Reason: fmt.Sprintf("%s: %s", r.reason, how)}
	}
	v := Verdict{Copy: r.best, SplitBrain: r.split, Renew: r.best == CopyFull, Reason: r.reason}
	if r.best == CopyScan {
		v.Since = earlier(primary.At, second.At)
	}
	return v
}

// weigh is the rest of the table: what the notes are worth, for relations where
// the notes of both hosts go back to a generation that both had.
func weigh(r row, rel relation, p, s View) row {
	switch {
	// Notes and clocks say nothing of data that nobody has followed.
	case p.Strange:
		r.best, r.reason = CopyFull, "the primary's data is not what its record speaks of, or was made primary by force"
	case s.Strange:
		r.best, r.reason = CopyFull, "the data of this node is not what its record speaks of, or a full synchronization was interrupted"
	// The primary has cleared notes because this checkpoint was on the second's
	// disk; it is not any more: data and record are an earlier copy of themselves.
	case s.Checkpoint < p.Noted:
		r.best, r.reason = CopyFull, fmt.Sprintf("this node was put back to checkpoint %d, the primary's notes begin at %d", s.Checkpoint, p.Noted)
	// The same the other way round: the second has what the primary has forgotten.
	// If the primary has not even been changed since, the second is simply newer.
	case p.Checkpoint < s.Noted:
		r.best, r.split = CopyFull, true
		r.reason = fmt.Sprintf("the primary was put back to checkpoint %d, the notes of this node begin at %d", p.Checkpoint, s.Noted)
		if rel == same {
			r.needs = table[ahead].needs
		}
	// Both ended in order at the same operation.
	case rel == same && p.Clean && s.Clean && p.Epoch == s.Epoch && p.Seq == s.Seq:
		r.best, r.reason = CopyNothing, "nothing was changed since both nodes were in sync"
	// What each host has and the other lacks is in its own notes.
	case !p.Lost && !s.Lost:
	// Everything that was changed in sync since both disks were the same is in the
	// notes of one; what was changed alone is in the notes of who did it, always.
	case p.covers(s.Standing), s.covers(p.Standing):
	// Both have lost some: ctimes tell, since the last checkpoint of both.
	default:
		r.best, r.reason = CopyScan, r.reason+"; the notes of both nodes may be incomplete"
	}
	return r
}

func earlier(a, b Time) Time {
	if b.Sec < a.Sec || b.Sec == a.Sec && b.Nsec < a.Nsec {
		return b
	}
	return a
}
