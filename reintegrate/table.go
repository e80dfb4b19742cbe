package reintegrate

import (
	"sync"

	"github.com/skfs/skfs/journal"
)

// state is how far an object has come in the pass. States only rise, except where
// an object is started again: by Failed, and in a delta a directory (later, bar) or
// what a list names (suspend).
type state uint8

const (
	pending   state = iota // SECOND may not have it, or not under this identity
	dirNamed               // SECOND has the directory; its names and attributes are pending
	dirListed              // its names are those of PRIM; its attributes are pending
	named                  // SECOND has the object (no directory); data and attributes are pending
	passing                // a regular file in pass: only what its region says is pending
	settled                // everything is as on PRIM
)

// listed says of a directory that live changes of its names are forwarded.
func (s state) listed() bool { return s == dirListed || s == settled }

// table is what the pass knows of each object. Its fields are protected by mu, a
// leaf: nothing is awaited under it. The state of an object changes only under
// the locks of the object itself, or (pending to named) of a directory with a
// name of it; or by the answer to a list (vouch), which then finds nothing missed.
type table struct {
	mu      sync.Mutex
	objects map[journal.FileID]state
	regions map[journal.FileID]*region // of objects that are passing
	rest    state                      // of what objects does not hold: pending; in a delta, from the notes on, settled

	delta bool
	noted map[journal.FileID]*fileRef // delta: whose turn comes after the names; nil from then on

	// Not in a full pass: objects of which a change was not forwarded. What SECOND
	// says of them may be old.
	missed map[journal.FileID]uint8 // the tree

	// Until all directories are listed a name may still be hidden in a pending
	// one. An object that may have such a name must not lose its last known name
	// on SECOND by a deletion.
	walking   bool
	elsewhere map[journal.FileID]struct{} // may have names in pending directories
	nameless  map[journal.FileID]struct{} // born without a name during the pass

	// Made in directories of which SECOND did not have the attributes: what they
	// have inherited there may be wrong. Parents come before their children.
	born []dirRef
}

// takeBorn takes the oldest of born.
func (t *table) takeBorn() (d dirRef, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.born) == 0 {
		t.born = nil
		return d, false
	}
	d, t.born = t.born[0], t.born[1:]
	return d, true
}

func (t *table) hasBorn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.born) > 0
}

func newTable(m Mode) *table {
	t := &table{
		objects: map[journal.FileID]state{}, regions: map[journal.FileID]*region{}, walking: true, delta: m == Delta,
		elsewhere: map[journal.FileID]struct{}{}, nameless: map[journal.FileID]struct{}{},
	}
	if m != Full {
		t.missed = map[journal.FileID]uint8{}
	}
	return t
}

// at is the state of an object. t.mu is held.
func (t *table) at(id journal.FileID) state {
	if s, ok := t.objects[id]; ok {
		return s
	}
	return t.rest
}

func (t *table) get(id journal.FileID) state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at(id)
}

// begin puts a regular file in pass. The region is the caller's until somebody
// else begins or settles the file: Failed may start a file again that is in work.
func (t *table) begin(id journal.FileID, r *region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[id] = passing
	t.regions[id] = r
}

// next returns what is pending of a file from off on, in one zone. False: nothing
// is, or the file is not the caller's any more.
func (t *table) next(id journal.FileID, r *region, off, zoneSize int64) (Range, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.regions[id] != r {
		return Range{}, false
	}
	return r.next(off, zoneSize)
}

// advance says that a file in pass is copied up to there. The last range is locked.
func (t *table) advance(r *region, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.advance(to)
}

// owns says whether a file is still the caller's.
func (t *table) owns(id journal.FileID, r *region) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.regions[id] == r
}

// settle ends the pass of an object.
func (t *table) settle(id journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[id] = settled
	delete(t.regions, id)
	delete(t.missed, id)
}

// mayBeElsewhere notes that id can have a name that SECOND does not know yet.
// t.mu is held.
func (t *table) mayBeElsewhere(id journal.FileID) {
	if t.walking {
		t.elsewhere[id] = struct{}{}
	}
}

// hidden says whether the deletion of a name of id on SECOND could delete more
// than that name: the object with other names in directories that are pending, or
// what SECOND still has in a directory that is. In a delta nobody has counted the
// names of id: until all directories are listed every object is taken for one that
// has more of them. t.mu is held.
func (t *table) hidden(id journal.FileID) bool {
	_, maybe := t.elsewhere[id]
	return maybe || t.delta && t.walking || t.at(id) == dirNamed
}

func (t *table) isWalking() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.walking
}

// endWalk says that all directories are listed: no name is hidden any more.
func (t *table) endWalk() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.walking, t.elsewhere = false, nil
}

// bornNameless says that SECOND has id now, without a name, as PRIM has.
func (t *table) bornNameless(id journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[id] = named
	t.nameless[id] = struct{}{}
}

// meeting is how the pass comes to know an object: what a list names.
type meeting uint8

const (
	metKnown meeting = iota // before: it is, or was, passed anyway
	metNoted                // by its notes: its turn comes when all names are sent
	metNew                  // now. In a delta it waits for what SECOND says of it.
)

// found notes an entry that SECOND has been told of in a listed directory.
func (t *table) found(e *Entry) meeting {
	t.mu.Lock()
	defer t.mu.Unlock()
	isDir := e.Type() == sIFDIR
	if e.Nlink > 1 && !isDir {
		t.mayBeElsewhere(e.ID)
	}
	if t.at(e.ID) != pending {
		return metKnown
	}
	t.objects[e.ID] = named
	if isDir {
		t.objects[e.ID] = dirNamed
	}
	return metNew
}

// suspend comes in a delta before SECOND is told of an entry: of what the pass has
// not met, nothing is forwarded until SECOND has said whether it had it, and as it
// is here. found follows, when SECOND has been told.
func (t *table) suspend(id journal.FileID) meeting {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, met := t.objects[id]
	switch {
	case t.noted[id] != nil:
		return metNoted
	case met && s != pending:
		return metKnown
	}
	t.objects[id] = pending
	return metNew
}

// forget says that SECOND could not be told of an entry after all.
func (t *table) forget(id journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.objects[id]; s == named || s == dirNamed {
		t.objects[id] = pending
	}
}

// vouch settles an object of which SECOND has said that it is there as it is here.
// False: something was changed since, and it has to be passed.
func (t *table) vouch(id journal.FileID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.objects[id]; s != named && s != dirNamed {
		return true // it is being passed already, for another name that it has
	}
	if _, missed := t.missed[id]; missed {
		return false
	}
	t.objects[id] = settled
	return true
}

// list says that SECOND has been told the names of dir.
func (t *table) list(dir journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[dir] = dirListed
	delete(t.noted, dir)
}

// takeMissed takes what was missed so far.
func (t *table) takeMissed() map[journal.FileID]uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.missed
	t.missed = map[journal.FileID]uint8{}
	return m
}

// start makes the table that of a delta: from now on what is not noted is settled.
// Changes wait for a moment, so that none falls between the notes and that.
func (t *table) start(l *loader) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := l.again(t.missed); err != nil {
		return err
	}
	for id, s := range t.objects { // born meanwhile
		l.objects[id] = s
		delete(l.noted, id)
	}
	for id, s := range l.objects {
		if s == passing {
			t.regions[id] = &region{}
		}
	}
	l.end()
	clear(t.missed)
	t.objects, t.noted, t.rest = l.objects, l.noted, settled
	return nil
}

// takeNoted takes what has been noted of an object, nil if its turn has come.
func (t *table) takeNoted(id journal.FileID) *fileRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.noted[id]
	delete(t.noted, id)
	return f
}

// takeAllNoted ends the time before the turn of what is noted.
func (t *table) takeAllNoted() map[journal.FileID]*fileRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.noted
	t.noted = nil
	return n
}

// attrsOnly says of a file whose attributes alone are to be passed that it is so
// still.
func (t *table) attrsOnly(id journal.FileID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.regions[id]
	return t.objects[id] == passing && r != nil && len(r.pending) == 0
}

// demote makes the names of a directory pending again. Its locks are held.
func (t *table) demote(dir journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[dir] = dirNamed
}

// miss notes what a change that is not forwarded changes. t.mu is held.
func (t *table) miss(op *journal.Op) {
	if t.missed == nil {
		return
	}
	switch op.Kind {
	case journal.KindWrite, journal.KindFallocate, journal.KindPunch, journal.KindSetAttr, journal.KindSetXattr, journal.KindRemoveXattr, journal.KindTimes:
		t.missed[op.ID] = op.Tree
	case journal.KindCreate, journal.KindLink, journal.KindUnlink, journal.KindRmdir, journal.KindRename:
		t.missed[op.Parent] = op.Tree
		if op.Kind == journal.KindRename {
			t.missed[op.Parent2] = op.Tree
		}
	}
}
