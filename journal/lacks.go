package journal

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// DefaultZoneSize is the size of a zone in bytes (ruzone_blocksize).
	DefaultZoneSize = 8 << 20
	// DefaultMaxBorn is how many objects may be born while the peer is away.
	DefaultMaxBorn = 1 << 20
)

// maxGenerations is how many generations of old notes are kept apart in memory.
const maxGenerations = 8

// LacksOptions are the choices of Lacks.
type LacksOptions struct {
	ZoneSize int64  // bytes; default DefaultZoneSize
	MaxBorn  int    // default DefaultMaxBorn
	FS       vfs.FS // default the one of the host
}

// Lacks keeps notes of what the peer may lack: in memory, and in a store on
// disk. A note is made before the change that it stands for. A note that is
// there already costs a look-up, a new one a write, and a flush if it is to be
// durable.
//
// Notes grow old together (Rotate), and old notes go together (Clear). A note
// that is made again in between is new again.
//
// An error of the store is final: every later call returns it.
type Lacks struct {
	dir      string
	zoneSize int64
	maxBorn  int
	db       *pebble.DB

	lazy  atomic.Bool // see storeFS; owned by apply
	err   atomic.Pointer[error]
	users sync.RWMutex // held for reading by who reads the store, for writing by Close

	mu         sync.Mutex // the rest; not held while the store writes
	wake       sync.Cond  // a batch was written
	b          noteBatches
	generation uint64              // that of cur
	cur        map[FileID]*noted   // noted since the last rotation
	olds       []map[FileID]*noted // before, oldest first; these maps never change
	mark       uint64              // of the last rotation, 0 if it is of no use
	away       bool                // between Unknow and Know
	closed     bool
	born       map[FileID]uint8 // made while away, which the peer does not know; and their trees
}

// noted are the notes of an object in one generation.
type noted struct {
	tree uint8
	hard marks  // on disk
	soft *marks // perhaps not yet; may be nil
	in   uint64 // the batch in which the newest of soft is
}

// OpenLacks opens the notes in dir, which it makes if need be. If they were
// made with zones of another size, every zone that holds anything of a noted one
// is noted. An error that wraps ErrNotes says that they are of no use.
func OpenLacks(dir string, o LacksOptions) (*Lacks, error) {
	l := &Lacks{dir: dir, zoneSize: o.ZoneSize, maxBorn: o.MaxBorn, generation: 1,
		cur: map[FileID]*noted{}, born: map[FileID]uint8{}, b: noteBatches{next: 1}}
	if l.zoneSize == 0 {
		l.zoneSize = DefaultZoneSize
	}
	if l.zoneSize < 0 {
		return nil, fmt.Errorf("open the notes of what the peer lacks: ZoneSize is %d, expected a number of bytes", l.zoneSize)
	}
	if l.maxBorn == 0 {
		l.maxBorn = DefaultMaxBorn
	}
	l.wake.L = &l.mu
	var err error
	if l.db, err = pebble.Open(dir, storeOptions(o.FS, &l.lazy, l.fail)); err != nil {
		return nil, fmt.Errorf("open the notes of what the peer lacks in %s: %w", dir, err)
	}
	if err = l.load(); err == nil {
		err = l.failed()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the notes of what the peer lacks in %s: %w", dir, err), l.db.Close())
	}
	return l, nil
}

// Note notes what op is about to change, on disk if durable is set when it
// returns; otherwise where a kill of the process leaves it.
//
// The caller keeps the operations of one object in order, and does not carry op
// out before Note has returned.
func (l *Lacks) Note(op *Op, durable bool) error {
	var room [3]note
	notes, born, err := notesOf(op, l.zoneSize, room[:0])
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	var in uint64
	for i := range notes {
		n := &notes[i]
		if l.isBorn(n.id) {
			continue
		}
		// What leads to op.ID, the list of its directory, was noted just now, if
		// the directory was not born itself.
		if born && n.kind == noteWhole && durable && l.bear(n) {
			continue
		}
		m, err := l.enter(n)
		if err != nil {
			return err
		}
		in = max(in, m)
	}
	return l.settle(in, durable)
}

func (l *Lacks) isBorn(id FileID) bool {
	if len(l.born) == 0 {
		return false
	}
	_, ok := l.born[id]
	return ok
}

// bear lets the object of n be born, if that is possible. l.mu is held.
func (l *Lacks) bear(n *note) bool {
	if !l.away || len(l.born) >= l.maxBorn || l.knows(n.id) {
		return false
	}
	l.born[n.id] = n.tree
	return true
}

// knows says whether anything is noted of id.
func (l *Lacks) knows(id FileID) bool {
	if l.cur[id] != nil {
		return true
	}
	for _, old := range l.olds {
		if old[id] != nil {
			return true
		}
	}
	return false
}

// enter makes a note and returns the batch in which it is. l.mu is held.
func (l *Lacks) enter(n *note) (in uint64, err error) {
	o := l.cur[n.id]
	if o == nil {
		o = &noted{tree: n.tree, hard: noMarks()}
		l.cur[n.id] = o
	}
	if o.tree != n.tree {
		return 0, fmt.Errorf("what the peer lacks: %v is noted in tree %d already", *n, o.tree)
	}
	if o.soft != nil && o.in <= l.b.synced {
		if o.hard.empty() {
			o.hard = *o.soft
		} else {
			o.hard.union(o.soft)
		}
		o.soft = nil
	}
	if o.hard.covers(n) {
		return 0, nil
	}
	if o.soft == nil {
		soft := noMarks()
		o.soft = &soft
	} else if o.soft.covers(n) {
		return o.in, nil
	}
	var room [maxKey]byte
	if err := l.batch().Set(appendNoteKey(room[:0], l.generation, n), nil, nil); err != nil {
		l.fail(err)
		return 0, l.failed()
	}
	o.soft.add(n)
	o.in = l.b.next
	return o.in, nil
}

// Add notes that the peer may lack what of an object.
func (l *Lacks) Add(tree uint8, id FileID, what Lack, durable bool) error {
	notes := what.appendNotes(tree, id, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isBorn(id) {
		return l.failed()
	}
	return l.enterAll(notes, durable)
}

// enterAll makes notes, all or none of them. l.mu is held.
func (l *Lacks) enterAll(notes []note, durable bool) error {
	if err := l.failed(); err != nil {
		return err
	}
	trees := map[FileID]uint8{}
	for i := range notes {
		n := &notes[i]
		if o := l.cur[n.id]; o != nil {
			trees[n.id] = o.tree
		} else if _, ok := trees[n.id]; !ok {
			trees[n.id] = n.tree
		}
		if trees[n.id] != n.tree {
			return badNotes(fmt.Sprintf("note %d", i), "tree of "+n.id.String(), n.tree, trees[n.id])
		}
	}
	var in uint64
	for i := range notes {
		m, err := l.enter(&notes[i])
		if err != nil {
			return err
		}
		in = max(in, m)
	}
	return l.settle(in, durable)
}

// Sync returns when all notes so far are on disk.
func (l *Lacks) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.b.next - 1
	if l.b.pending != nil {
		last = l.b.next
	}
	return l.settle(last, true)
}

// Unknow says that the peer is away: an object that is made from now on is
// born, which means that the peer does not know it. Of such an object nothing is
// noted, as the note of its directory leads to it.
func (l *Lacks) Unknow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = true
}

// Know is called before a peer that was away hears of any change: the objects
// born meanwhile are noted as Whole, on disk when it returns, and no more are
// born until Unknow, which is not called meanwhile.
func (l *Lacks) Know() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	l.away = false
	// In pieces, so that the calls of applications need not wait for all of it.
	// What is left in born is as good as noted until Know returns.
	const piece = 1024
	var last uint64
	n := 0
	for id, tree := range l.born {
		in, err := l.enter(&note{tree: tree, id: id, kind: noteWhole})
		if err != nil {
			return err
		}
		delete(l.born, id)
		last = max(last, in)
		if n++; n%piece == 0 {
			if err := l.settle(last, false); err != nil {
				return err
			}
		}
	}
	l.born = map[FileID]uint8{} // a map does not shrink
	return l.settle(last, true)
}

// Rotate makes all notes so far old. Notes that are being made count as old.
// The mark is for Clear; it is 0, and nothing happens, while the peer is away.
func (l *Lacks) Rotate() (mark uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return 0
	}
	if len(l.cur) > 0 {
		if len(l.olds) == maxGenerations {
			l.olds = []map[FileID]*noted{joined(l.olds)}
		}
		l.olds = append(l.olds, l.cur)
		l.cur = map[FileID]*noted{}
	}
	l.generation++
	l.mark = l.generation
	return l.mark
}

// joined is the union of generations, which stay as they are.
func joined(generations []map[FileID]*noted) map[FileID]*noted {
	all := maps.Clone(generations[0])
	for _, g := range generations[1:] {
		for id, o := range g {
			both := o
			if before := all[id]; before != nil {
				both = &noted{tree: o.tree, hard: noMarks()}
				for _, m := range []*marks{&before.hard, before.soft, &o.hard, o.soft} {
					if m != nil {
						both.hard.union(m)
					}
				}
			}
			all[id] = both
		}
	}
	return all
}

// Clear forgets the notes that the last rotation made old, if mark is its mark,
// else nothing. A power cut soon afterwards can bring them back, whole or not at
// all.
func (l *Lacks) Clear(mark uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	if mark == 0 || mark != l.mark {
		return nil
	}
	if l.mark = 0; len(l.olds) == 0 {
		return nil
	}
	l.olds = nil
	return l.remove(generationKey(mark))
}

// ClearAll forgets everything, as Clear does. Notes that are being made meanwhile
// are forgotten too.
func (l *Lacks) ClearAll() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	l.olds, l.cur, l.born = nil, map[FileID]*noted{}, map[FileID]uint8{}
	return l.remove([]byte{noteEnd})
}

// remove deletes all notes whose keys are before end. l.mu is held.
func (l *Lacks) remove(end []byte) error {
	in := l.b.next
	if err := l.batch().DeleteRange([]byte{notePrefix}, end, nil); err != nil {
		l.fail(err)
		return l.failed()
	}
	return l.settle(in, false)
}

// Close waits for the notes that are being made, and puts all on disk. Calling
// it again does nothing.
func (l *Lacks) Close() error {
	l.mu.Lock()
	for l.b.writing {
		l.wake.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	err := l.failed()
	if err == nil {
		closed := errLacksClosed // for those whose notes wait in the next batch
		l.err.CompareAndSwap(nil, &closed)
	}
	l.mu.Unlock()
	l.users.Lock()
	defer l.users.Unlock()
	return errors.Join(err, l.db.Close())
}
