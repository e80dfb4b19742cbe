package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// load reads the store. All that is there is old.
func (l *Lacks) load() error {
	zoneSize := int64(0)
	switch record, closer, err := l.db.Get(recordKey); {
	case err == nil:
		zoneSize, err = parseRecord(record)
		if err = errors.Join(err, closer.Close()); err != nil {
			return err
		}
	case !errors.Is(err, pebble.ErrNotFound):
		return err
	}
	it, err := l.db.NewIter(nil)
	if err != nil {
		return err
	}
	old, n, err := l.scan(it, zoneSize)
	if err = errors.Join(err, it.Close()); err != nil {
		return err
	}
	if zoneSize == 0 && n > 0 {
		return badNotes("record", "there is none, and the number of notes", n, 0)
	}
	if len(old) > 0 {
		l.olds = append(l.olds, old)
	}
	if zoneSize == l.zoneSize {
		return nil
	}
	return l.restate(old)
}

// scan reads all notes of a store with zones of that size.
func (l *Lacks) scan(it *pebble.Iterator, zoneSize int64) (all map[FileID]*noted, n int, err error) {
	all = map[FileID]*noted{}
	for ok := it.First(); ok; ok = it.Next() {
		if slices.Equal(it.Key(), recordKey) {
			continue
		}
		generation, note, err := parseNoteKey(it.Key())
		if err != nil {
			return nil, n, err
		}
		if n++; zoneSize > 0 {
			note = note.rescaled(zoneSize, l.zoneSize)
		}
		o := all[note.id]
		if o == nil {
			o = &noted{tree: note.tree, hard: noMarks()}
			all[note.id] = o
		}
		if o.tree != note.tree {
			return nil, n, badNotes(fmt.Sprintf("key %x", it.Key()), "tree", note.tree, o.tree)
		}
		o.hard.add(&note)
		l.generation = max(l.generation, generation+1)
	}
	return all, n, it.Error()
}

// restate writes the record, and all notes anew, in one step.
func (l *Lacks) restate(all map[FileID]*noted) error {
	b := l.batch()
	l.b.pending = nil
	err := b.DeleteRange([]byte{notePrefix}, []byte{noteEnd}, nil)
	var key []byte
	for id, o := range all {
		lack := Lack{Tail: NoTail}
		o.addTo(&lack)
		for _, n := range lack.appendNotes(o.tree, id, nil) {
			key = appendNoteKey(key[:0], l.generation-1, &n)
			err = errors.Join(err, b.Set(key, nil, nil))
		}
	}
	if err = errors.Join(err, b.Set(recordKey, appendRecord(nil, l.zoneSize), nil)); err != nil {
		return err
	}
	return l.apply(b, true)
}
