package reintegrate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// Target is SECOND's end of a pass.
type Target struct {
	sinks map[uint8]Sink

	mu     sync.Mutex
	parts  map[journal.FileID][]Entry // of directories of which more parts are to come
	since  map[uint8]*journal.Time    // by tree: what a scan of it begins with; nil: no scan
	failed map[uint8][]failure        // by tree: operations of the pass, since the last SyncBegin or SyncEnd
	lost   map[uint8]int64            // those that were too many
}

// dropAtOnce bounds the names that one SyncEnd deletes: the stream waits for it.
const dropAtOnce = 2000

// NewTarget returns the applier of the reintegration of trees.
func NewTarget(trees []Sink) *Target {
	t := &Target{
		sinks: map[uint8]Sink{}, parts: map[journal.FileID][]Entry{}, since: map[uint8]*journal.Time{},
		failed: map[uint8][]failure{}, lost: map[uint8]int64{},
	}
	for _, s := range trees {
		t.sinks[s.Tree()] = s
	}
	return t
}

// Apply carries out an operation of the kinds KindSyncBegin to KindPunch. All
// other kinds, KindWrite included, are for the ordinary applier. SyncBegin,
// SyncDir and SyncEnd come alone; SyncHash comes beside anything else; the others
// in order for one object.
func (t *Target) Apply(op *journal.Op) journal.Result {
	data, err := t.apply(op)
	if err != nil {
		e := errno(err)
		if op.Kind != journal.KindSyncDir || op.Flags&DirVouch == 0 { // PRIM waits for that answer
			t.note(op, e)
		}
		return journal.Result{Seq: op.Seq, Errno: e}
	}
	return journal.Result{Seq: op.Seq, Data: data}
}

// Around returns an applier that carries out the operations of reintegrations and
// leaves the others to next. Of those that are a pass's own it notes the failures:
// PRIM hears of them at the end of the pass.
func (t *Target) Around(next journal.Applier) journal.Applier { return &around{t, next} }

type around struct {
	t    *Target
	next journal.Applier
}

func (a *around) Apply(op *journal.Op) journal.Result {
	if op.Kind >= journal.KindSyncBegin && op.Kind <= journal.KindPunch {
		return a.t.Apply(op)
	}
	r := a.next.Apply(op)
	if r.Errno != 0 && op.Flags&FlagPass != 0 {
		a.t.note(op, r.Errno)
	}
	return r
}

// note keeps a failure for the answer to SyncEnd.
func (t *Target) note(op *journal.Op, e syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failed[op.Tree]) >= maxFailures {
		t.lost[op.Tree]++
		return
	}
	t.failed[op.Tree] = append(t.failed[op.Tree], failure{op.Seq, op.Kind, op.Flags, op.ID, e})
}

// end deletes what is held, and says what failed.
func (t *Target) end(s Sink) ([]byte, error) {
	n, more, err := s.DropHeld(dropAtOnce)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tree := s.Tree()
	e := ending{dropped: int64(n), more: more, lost: t.lost[tree], failed: t.failed[tree]}
	delete(t.failed, tree)
	delete(t.lost, tree)
	return appendEnding(nil, &e), nil
}

// errno is what travels of an error.
func errno(err error) syscall.Errno {
	var e syscall.Errno
	switch {
	case errors.As(err, &e) && e != 0:
		return e
	case errors.Is(err, errPayload):
		return syscall.EBADMSG
	}
	return syscall.EIO
}

func (t *Target) apply(op *journal.Op) ([]byte, error) {
	s := t.sinks[op.Tree]
	if s == nil {
		return nil, fmt.Errorf("tree %d: %w", op.Tree, syscall.ENXIO)
	}
	switch op.Kind {
	case journal.KindSyncBegin:
		return nil, t.begin(s, op)
	case journal.KindSyncDir:
		return t.applyDir(s, op)
	case journal.KindSyncHash:
		return answerHashes(s, op.Data)
	case journal.KindSyncAttrs:
		a, err := parseAttrs(op.Data)
		if err != nil {
			return nil, err
		}
		return nil, s.SetAttrs(op.ID, a)
	case journal.KindSyncEnd:
		return t.end(s)
	case journal.KindPunch:
		return nil, s.Punch(op.ID, op.Off, op.Len)
	}
	return nil, fmt.Errorf("%s is no operation of a reintegration: %w", op.Kind, syscall.EBADMSG)
}

func (t *Target) begin(s Sink, op *journal.Op) error {
	since, err := parseSince(op.Data)
	if err == nil && op.Flags&^(BeginKeep|BeginDelta) != 0 {
		err = fmt.Errorf("%w: flags %#x of a beginning", errPayload, op.Flags)
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	clear(t.parts) // what was left of an earlier pass
	t.since[op.Tree] = since
	delete(t.failed, op.Tree)
	delete(t.lost, op.Tree)
	t.mu.Unlock()
	if err := s.Quarantine(op.Flags&BeginKeep != 0); err != nil {
		return err
	}
	if op.Flags&BeginDelta != 0 {
		return nil
	}
	return s.Begin()
}

func (t *Target) applyDir(s Sink, op *journal.Op) ([]byte, error) {
	t.mu.Lock()
	c := certificate{asked: op.Flags&DirVouch != 0, since: t.since[op.Tree]}
	t.mu.Unlock()
	switch op.Flags &^ DirVouch {
	case DirKeep:
		return nil, s.Keep(op.ID)
	case DirTake:
		return nil, takeNames(s, op)
	case DirPut:
		entries, err := parseEntries(op.Data)
		if err != nil {
			return nil, err
		}
		return putNames(s, c, op.ID, entries)
	case 0, DirMore:
	default:
		return nil, fmt.Errorf("%w: flags %#x of names", errPayload, op.Flags)
	}
	entries, err := parseEntries(op.Data)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if before := t.parts[op.ID]; before != nil {
		entries = append(before, entries...)
		delete(t.parts, op.ID)
	}
	if op.Flags&DirMore != 0 {
		t.parts[op.ID] = entries
	}
	t.mu.Unlock()
	if op.Flags&DirMore != 0 {
		return nil, nil
	}
	return setNames(s, c, op.ID, entries)
}

func takeNames(s Sink, op *journal.Op) error {
	ts, err := parseTaken(op.Data)
	if err != nil {
		return err
	}
	for _, t := range ts {
		e, err := s.Lookup(op.ID, t.Name)
		if errors.Is(err, syscall.ENOENT) || err == nil && e.ID != t.ID {
			continue // it is not there as it is
		}
		if err == nil {
			err = s.Hold(op.ID, t.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// certificate is what SECOND says of an object that it has: whether it can be what
// PRIM has, by what a pass sends last and every change changes.
type certificate struct {
	asked bool          // DirVouch
	since *journal.Time // of a scan
}

// of compares what was there before the pass came to it.
func (c certificate) of(have, e *Entry) (said byte) {
	if !c.asked {
		return 0
	}
	if have.Mode != e.Mode || have.UID != e.UID || have.GID != e.GID || have.Mtime != e.Mtime || have.Xattrs != e.Xattrs ||
		have.Type() == sIFREG && have.Size != e.Size {
		said |= entryDiffers
	}
	if c.since != nil && after(have.Ctime, *c.since) {
		said |= entrySuspect
	}
	if have.ID.IsZero() || have.Type() == sIFREG && have.Mode&^sIFMT == stubMode {
		said |= entryStub
	}
	return said
}

// stub is the entry that an object which SECOND does not have is made from.
func stub(e *Entry) *Entry {
	if e.Type() != sIFREG {
		return e
	}
	s := *e
	s.Mode = sIFREG | stubMode
	return &s
}

// putNames makes single names, whatever is in their way.
func putNames(s Sink, c certificate, dir journal.FileID, entries []Entry) ([]byte, error) {
	said := make([]byte, len(entries))
	for i := range entries {
		e := &entries[i]
		have, err := s.Lookup(dir, e.Name)
		switch {
		case err == nil && have.ID == e.ID && same(&have, e):
			said[i] = c.of(&have, e)
			continue
		case err == nil:
			if err := s.Hold(dir, e.Name); err != nil {
				return nil, err
			}
		case !errors.Is(err, syscall.ENOENT):
			return nil, err
		}
		if said[i], err = makeName(s, c, dir, e); err != nil {
			return nil, err
		}
	}
	return said, nil
}

// setNames makes the names of dir exactly the entries. First everything that does
// not belong goes to the holding area, so that nothing is in the way of what comes:
// names may have been swapped, a directory may have become a file.
func setNames(s Sink, c certificate, dir journal.FileID, entries []Entry) ([]byte, error) {
	have, err := s.List(dir)
	if err != nil {
		return nil, err
	}
	want := make(map[string]int, len(entries)) // index of what is still to be made
	for i := range entries {
		want[entries[i].Name] = i
	}
	if len(want) != len(entries) {
		return nil, fmt.Errorf("%w: a name twice in directory %s", errPayload, dir)
	}
	said := make([]byte, len(entries))
	slices.SortFunc(have, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	for k := range have {
		h := &have[k]
		i, wanted := want[h.Name]
		if wanted {
			kept, named, err := keepName(s, dir, h, &entries[i])
			if err != nil {
				return nil, err
			}
			if kept {
				said[i] = c.of(h, &entries[i])
				if named { // what it is below its name, nobody has vouched for
					said[i] |= entryDiffers | entryStub
				}
				delete(want, h.Name)
				continue
			}
		}
		if err := s.Hold(dir, h.Name); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		if _, missing := want[entries[i].Name]; !missing {
			continue
		}
		if said[i], err = makeName(s, c, dir, &entries[i]); err != nil {
			return nil, err
		}
	}
	return said, nil
}

// keepName says whether what is there stays for an entry of the same name: it is
// the object, or it can become it, since it has no identity and no other object
// has this one (named). Then its content is compared later instead of copied.
func keepName(s Sink, dir journal.FileID, have, e *Entry) (kept, named bool, err error) {
	if !same(have, e) {
		return false, false, nil
	}
	if have.ID.IsZero() && have.Nlink > 1 {
		// Another name of it may have been kept since the directory was read.
		now, err := s.Lookup(dir, have.Name)
		if err != nil {
			return false, false, err
		}
		have = &now
	}
	if !have.ID.IsZero() {
		return have.ID == e.ID, false, nil
	}
	if _, err := s.Find(e.ID); !errors.Is(err, syscall.ENOENT) {
		return false, false, err
	}
	return true, true, s.Identify(dir, e.Name, e.ID)
}

// makeName makes a name that is free: for the object if there is one, or for a
// new one.
func makeName(s Sink, c certificate, dir journal.FileID, e *Entry) (said byte, err error) {
	switch there, err := s.Find(e.ID); {
	case err == nil && same(&there, e):
		return c.of(&there, e), s.Place(e.ID, dir, e.Name)
	case err == nil:
		// What an object is never changes: an identity on something else is a
		// fault (of a repaired file system, say). Take it away.
		if err := s.Disown(e.ID); err != nil {
			return 0, err
		}
	case !errors.Is(err, syscall.ENOENT):
		return 0, err
	}
	return entryCreated, s.Create(dir, stub(e))
}

// same says whether what is there can be the object of an entry, by what never
// changes of an object.
func same(have, e *Entry) bool {
	switch {
	case have.Type() != e.Type():
		return false
	case e.Type() == sIFLNK:
		return have.Target == e.Target
	case e.Type() == sIFCHR, e.Type() == sIFBLK:
		return have.Rdev == e.Rdev
	}
	return true
}

// opener opens a regular file for reading.
type opener interface {
	Open(id journal.FileID) (SinkFile, error)
}

// answerHashes answers questions. A file that is not there or cannot be read is
// answered as unknown: PRIM sends all of it, and a bad block is written anew.
func answerHashes(o opener, data []byte) ([]byte, error) {
	bs, qs, err := parseQuestions(data)
	if err != nil {
		return nil, err
	}
	var answer []byte
	for _, q := range qs {
		hs, err := hashFile(o, q, bs)
		answer = appendHashes(answer, hs, err == nil)
	}
	return answer, nil
}

func hashFile(o opener, q question, blockSize int) ([]blockHash, error) {
	f, err := o.Open(q.ID)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return hashRange(f, q.Off, q.Len, blockSize)
}
