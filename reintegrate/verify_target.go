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

// Reader is one replicated directory, on either host, as a verification reads it:
// beside changes, and without holding them up. The methods are called concurrently.
// Errors are, or wrap, a syscall.Errno; ENOENT: it is not there.
type Reader interface {
	Tree() uint8
	// List and Lookup are those of Sink.
	List(dir journal.FileID) ([]Entry, error)
	Lookup(dir journal.FileID, name string) (Entry, error)
	// Find describes an object as Lookup does, without Name.
	Find(id journal.FileID) (Entry, error)
	// Xattrs returns what Attrs.Xattrs holds, in any order.
	Xattrs(id journal.FileID) ([]Xattr, error)
	// Open opens a regular file for reading.
	Open(id journal.FileID) (SinkFile, error)
}

// VerifyTarget answers, on SECOND, the questions of a verification. It changes
// nothing. It is not safe to use with the stream of a reintegration, whose
// questions expect the names to stand still.
type VerifyTarget struct {
	readers map[uint8]Reader

	mu    sync.Mutex
	lists map[listed][]Entry // sorted, of which a part has been sent
}

type listed struct {
	tree uint8
	dir  journal.FileID
}

// NewVerifyTarget returns the applier of a verification of trees.
func NewVerifyTarget(trees []Reader) *VerifyTarget {
	t := &VerifyTarget{readers: map[uint8]Reader{}, lists: map[listed][]Entry{}}
	for _, r := range trees {
		t.readers[r.Tree()] = r
	}
	return t
}

// Apply implements journal.Applier for KindSyncList and KindSyncHash.
func (t *VerifyTarget) Apply(op *journal.Op) journal.Result {
	data, err := t.apply(op)
	if err != nil {
		return journal.Result{Seq: op.Seq, Errno: errno(err)}
	}
	return journal.Result{Seq: op.Seq, Data: data}
}

func (t *VerifyTarget) apply(op *journal.Op) ([]byte, error) {
	r := t.readers[op.Tree]
	if r == nil {
		return nil, fmt.Errorf("tree %d: %w", op.Tree, syscall.ENXIO)
	}
	switch {
	case op.Kind == journal.KindSyncHash:
		return answerHashes(r, op.Data)
	case op.Kind != journal.KindSyncList:
	case op.Flags == listPage:
		return t.page(r, op)
	case op.Flags == listNames:
		return answerNames(r, op)
	case op.Flags == listObjects:
		return answerObjects(r, op.Data)
	}
	return nil, fmt.Errorf("%w: %s with flags %#x in a verification", errPayload, op.Kind, op.Flags)
}

// page reads a directory once for all its pages.
func (t *VerifyTarget) page(r Reader, op *journal.Op) ([]byte, error) {
	names, err := parseNames(op.Data)
	if err != nil {
		return nil, err
	}
	if len(names) > 1 {
		return nil, fmt.Errorf("%w: a page after %d names, expected one or none", errPayload, len(names))
	}
	key := listed{op.Tree, op.ID}
	t.mu.Lock()
	list := t.lists[key]
	delete(t.lists, key)
	t.mu.Unlock()
	if len(names) == 0 || list == nil {
		if list, err = r.List(op.ID); err != nil {
			return nil, err
		}
		slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	}
	if len(names) == 1 {
		i, found := slices.BinarySearchFunc(list, names[0], func(e Entry, name string) int { return strings.Compare(e.Name, name) })
		if found {
			i++
		}
		list = list[i:]
	}
	b := []byte{0}
	for i := range list {
		if len(b) > maxPart {
			b[0] = 1
			t.mu.Lock()
			t.lists[key] = list[i:]
			t.mu.Unlock()
			break
		}
		if h := haveOf(r, &list[i]); h.there {
			b = appendHave(b, &h)
		}
	}
	return b, nil
}

func answerNames(r Reader, op *journal.Op) (b []byte, err error) {
	names, err := parseNames(op.Data)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var h have
		switch e, err := r.Lookup(op.ID, name); {
		case err == nil:
			h = haveOf(r, &e)
		case !errors.Is(err, syscall.ENOENT):
			return nil, err
		}
		b = appendHave(b, &h)
	}
	return b, nil
}

func answerObjects(r Reader, data []byte) (b []byte, err error) {
	ids, err := parseIDs(data)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		var h have
		switch e, err := r.Find(id); {
		case err == nil && e.Nlink == 0: // deleted behind skfs's back, and in use
		case err == nil:
			e.Name, e.ID = "", id
			h = haveOf(r, &e)
		case !errors.Is(err, syscall.ENOENT):
			return nil, err
		}
		b = appendHave(b, &h)
	}
	return b, nil
}
