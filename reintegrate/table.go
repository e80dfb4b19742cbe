package reintegrate

import (
	"math"
	"sync"

	"github.com/skfs/skfs/journal"
)

// state is how far an object has come in the pass. An object that the table does
// not hold is pending altogether: SECOND may not have it, or not under this
// identity. States only rise, except where Failed starts an object again.
type state uint8

const (
	pending   state = iota
	dirNamed        // SECOND has the directory; its names and attributes are pending
	dirListed       // its names are those of PRIM; its attributes are pending
	named           // SECOND has the object (no directory); data and attributes are pending
	passing         // a regular file in pass: only what its region says is pending
	settled         // everything is as on PRIM
)

// listed says of a directory that live changes of its names are forwarded.
func (s state) listed() bool { return s == dirListed || s == settled }

// region is the part of a file in pass that is pending: SECOND's bytes there do
// not change before the copy changes them, so what was asked about them stays
// true. Everything outside is forwarded. It is empty if end <= frontier.
type region struct{ frontier, end int64 }

// cut says that the file now ends at size: nothing beyond is pending, since
// SECOND cuts its file too.
func (r *region) cut(size int64) { r.end = min(r.end, size) }

// outside returns the parts of [off, off+n) that are to be forwarded, at most two.
func (r *region) outside(off, n int64) (parts [2]Range, count int) {
	end := off + n
	if n > math.MaxInt64-off {
		end = math.MaxInt64
	}
	if r.end <= r.frontier {
		parts[0] = Range{Off: off, End: end}
		return parts, 1
	}
	if below := (Range{Off: off, End: min(end, r.frontier)}); below.Off < below.End {
		parts[count] = below
		count++
	}
	if above := (Range{Off: max(off, r.end), End: end}); above.Off < above.End {
		parts[count] = above
		count++
	}
	return parts, count
}

// table is what the pass knows of each object. Its fields are protected by mu, a
// leaf: nothing is awaited under it. The state of an object changes only under
// the locks of the object itself, or (pending to named) of a directory with a
// name of it.
type table struct {
	mu      sync.Mutex
	objects map[journal.FileID]state
	regions map[journal.FileID]*region // of objects that are passing

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

func newTable() *table {
	return &table{
		objects: map[journal.FileID]state{}, regions: map[journal.FileID]*region{}, walking: true,
		elsewhere: map[journal.FileID]struct{}{}, nameless: map[journal.FileID]struct{}{},
	}
}

func (t *table) get(id journal.FileID) state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.objects[id]
}

// begin puts a regular file of that size in pass, from its start. The region is
// the caller's until somebody else begins or settles the file: Failed may start a
// file again that is in work.
func (t *table) begin(id journal.FileID, size int64) *region {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &region{end: size}
	t.objects[id] = passing
	t.regions[id] = r
	return r
}

// next returns the end of what is pending of a file from off on, of at most n
// bytes. False: nothing is, or the file is not the caller's any more.
func (t *table) next(id journal.FileID, r *region, off, n int64) (end int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.regions[id] != r || r.end <= off {
		return 0, false
	}
	return min(r.end, off+n), true
}

// advance moves the frontier of a file in pass. The range up to it is locked.
func (t *table) advance(r *region, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.frontier = to
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
// what SECOND still has in a directory that is. t.mu is held.
func (t *table) hidden(id journal.FileID) bool {
	_, maybe := t.elsewhere[id]
	return maybe || t.objects[id] == dirNamed
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

// found notes an entry that SECOND has been told of in a listed directory, and
// says whether it was not known before: its turn is to come.
func (t *table) found(e *Entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	isDir := e.Type() == sIFDIR
	if e.Nlink > 1 && !isDir {
		t.mayBeElsewhere(e.ID)
	}
	if t.objects[e.ID] != pending {
		return false
	}
	t.objects[e.ID] = named
	if isDir {
		t.objects[e.ID] = dirNamed
	}
	return true
}

// list says that SECOND has been told the names of dir.
func (t *table) list(dir journal.FileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[dir] = dirListed
}
