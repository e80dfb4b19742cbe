package journal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// Generation names the data between two moments at which its line may fork: as
// long as two hosts have the same Current, neither has been changed without the
// other.
type Generation uint64

// NewGeneration returns a random one, never 0, which is none.
func NewGeneration() Generation {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails, see crypto/rand
		if g := Generation(binary.LittleEndian.Uint64(b[:])); g != 0 {
			return g
		}
	}
}

func (g Generation) String() string { return fmt.Sprintf("%016x", uint64(g)) }

// Lineage is where the data of a host comes from, as DRBD's generation
// identifiers (DRBD user's guide, "Generation Identifiers"; drbd_uuid_compare in
// drbd_receiver.c: current, bitmap and history UUIDs).
//
//	History[1]   History[0]      Current
//	────●─────────────●─────────────●─────▶ changes
//	    └ Base: what the peer had last; the notes go back to it
//
// Invariants:
//
//   - Current is minted before a change is answered that was made while no second
//     was in sync, and belongs to the changes of one reign of one host. So a host
//     with the same Current, or one that the line has left behind, has made no such
//     change.
//   - Base is 0 while the peer is known to have Current (or there was none); else
//     the notes of this host hold every change since the end of Base.
//   - History is the line behind Current, the latest first, without those that no
//     other host can have. A Base that is not in it any more is older than all of it.
type Lineage struct {
	Current Generation
	Base    Generation
	History [4]Generation
	Shared  bool // the peer may have recorded Current as its own
}

// Mint begins generation g: call it at the first change without a second in sync
// since the process began or since a second was in sync. One that replaces a
// Current that was this host's alone leaves no trace of it: History is spent on
// what a peer may come back with.
func (l Lineage) Mint(g Generation) Lineage {
	if l.Shared {
		if l.Base == 0 {
			l.Base = l.Current
		}
		copy(l.History[1:], l.History[:])
		l.History[0] = l.Current
	}
	l.Current, l.Shared = g, false
	return l
}

// since says whether the notes of l's host go back to the end of g, or further.
func (l Lineage) since(g Generation) bool {
	if l.Base == 0 || g == 0 {
		return false
	}
	for _, h := range l.History {
		if h == l.Base {
			break
		}
		if h == g {
			return true
		}
	}
	return g == l.Base
}

// knew says whether l has left g behind.
func (l Lineage) knew(g Generation) bool {
	if g == 0 {
		return false
	}
	for _, h := range l.History {
		if h == g {
			return true
		}
	}
	return g == l.Base
}

// past are the generations that l has left behind.
func (l Lineage) past() []Generation { return append(l.History[:], l.Base) }

// Standing is what the record of a host says of its data besides the role. Its
// methods are the steps by which it changes; each result must be on disk before
// what its comment says. The order of the steps is that of the figure:
//
//	primary                                     second
//	Secured, Mint (first change alone; a full copy)
//	                                            Secured
//	flushes; Flushed(m)
//	Merged: the notes of both are on its disk
//	                                            Begun(m): before the first byte changes
//	    ─────────── the copy ───────────▶
//	flushes; Offered(n)
//	    ─────────── it is in sync ──────▶       flushes; Adopted(n); clears its notes
//	    ◀─────────── recorded ───────────
//	Met(n); clears the notes from before Offered
//
//	    then, every few seconds: a checkpoint n: both note apart what comes after it
//	flushes; Flushed(n)                         flushes; Flushed(n)
//	Cleared(n) when the second's is on disk     Cleared(n) when the primary's is on disk
//
// A second that lacks nothing goes the same way from Offered on; it
// records Adopted before it receives anything. So no two times of being in sync
// have a checkpoint in common, and a host that is put back in time betrays itself;
// unless it is a primary that is put back to a moment of the very copy whose
// interruption the second still shows: then `second fullsync` is needed.
//
// Everything that this host had executed, sent or applied before checkpoint
// Checkpoint is on its disk; everything since checkpoint Noted is in its notes,
// unless Lost. The peer's Checkpoint is never less than this host's Noted, unless
// one of the two was put back in time. Both hosts number checkpoints with Next.
type Standing struct {
	Lineage
	Checkpoint uint64 // the last one that is on this host's disk; 0 none
	Noted      uint64 // the one from which the notes of this host are complete
	At         Time   // when Checkpoint was taken (its beginning), by this host's clock

	// Loose: notes are made without a flush, because a second is in sync or this
	// host is one. A power cut may take them.
	Loose bool

	// Lost: while the hosts were in sync, something was changed that this host's
	// notes may not hold: they were loose and the power was cut, or this host was
	// the second and ended without having applied all it had received, or it is
	// being brought up to date.
	Lost bool

	// Strange: the data is no generation's: a full copy ended in the middle, the
	// directory is not the one that the record speaks of (another disk, a restored
	// backup), or the data was made primary although it was not consistent. Only a
	// full copy ends it.
	Strange bool
}

// Mint is Lineage.Mint; on disk before the change is answered.
func (s Standing) Mint(g Generation) Standing {
	s.Lineage = s.Lineage.Mint(g)
	return s
}

// Next numbers the checkpoint that is to come, above all that either host knows.
func (s Standing) Next(peer Standing) uint64 {
	return max(s.Checkpoint, s.Noted, peer.Checkpoint, peer.Noted) + 1
}

// Restarted is what a process finds that begins with this record. booted: the
// host has booted since; second: it was in sync with a primary, and did not end in
// order.
func (s Standing) Restarted(booted, second bool) Standing {
	s.Lost = s.Lost || second || booted && s.Loose
	return s
}

// Secured is a host that has flushed its notes: before it records that it goes on
// alone, is made primary, ends in order or is brought up to date.
func (s Standing) Secured() Standing {
	s.Loose = false
	return s
}

// Merged is the primary that has made the notes of second durable among its own:
// before the second records Begun, which makes the second's notes count no more.
func (s Standing) Merged(second Standing) Standing {
	switch {
	case !s.Lost && !second.Lost:
		s.Noted = min(s.Noted, second.Noted)
	case second.covers(s):
		s.Lost, s.Noted = false, second.Noted
	}
	return s
}

// covers says whether the notes of a alone tell all that was changed while a and b
// were in sync and may be on one disk only.
func (a Standing) covers(b Standing) bool {
	return !a.Lost && a.Noted <= min(a.Checkpoint, b.Checkpoint)
}

// Begun is the second before the copy changes its first byte; n is the primary's
// Checkpoint, new for this copy. Its lineage stays: if the copy is interrupted, it
// still tells what only this host has. A primary that comes back from before n
// does not know what was copied.
func (s Standing) Begun(c Copy, n uint64) Standing {
	s.Lost, s.Noted = true, n // what the primary does from now on is noted there alone
	s.Strange = s.Strange || c == CopyFull
	return s
}

// Offered is the primary whose trees are flushed, before it tells the second that
// its data is Current's. From now on the second may come back with Current.
func (s Standing) Offered(n uint64, at Time) Standing {
	s.Shared = true
	return s.Flushed(n, at)
}

// Adopted is the second whose trees hold all that primary has, flushed, before it
// says so; then it clears its notes from before the copy ended.
func (s Standing) Adopted(primary Standing, n uint64, at Time) Standing {
	return Standing{
		Lineage:    Lineage{Current: primary.Current, History: primary.History, Shared: true},
		Checkpoint: n, Noted: n, At: at, Loose: true,
	}
}

// Met is the primary after the second has recorded Adopted, before it clears the
// notes from before Offered. Until here its notes are durable before a change is,
// as if it were alone: the second's do not count yet.
func (s Standing) Met(n uint64) Standing {
	s.Base, s.Loose, s.Lost, s.Strange = 0, true, false, false
	return s.Cleared(n)
}

// Flushed is a host on whose disk checkpoint n is, before it tells the other.
func (s Standing) Flushed(n uint64, at Time) Standing {
	s.Checkpoint, s.At = n, at
	return s
}

// Cleared is a host before it clears the notes from before checkpoint n, which is
// on the other's disk.
func (s Standing) Cleared(n uint64) Standing {
	s.Noted = n
	return s
}
