package journal

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Page encodes notes for the wire: as many as fit in max bytes, at least one,
// from a cursor on (nil: from the start). If next is nil that was all. Pages are
// read from the store: a note that had been made when the first was asked for is
// on one of them, if it was not cleared before its turn. Objects that were born
// are not.
func (l *Lacks) Page(cursor []byte, max int) (page, next []byte, err error) {
	l.users.RLock()
	defer l.users.RUnlock()
	if err := l.failed(); err != nil {
		return nil, nil, err
	}
	from := []byte{notePrefix}
	if len(cursor) > 0 {
		if _, _, err := parseNoteKey(cursor); err != nil {
			return nil, nil, fmt.Errorf("a page of notes: the cursor: %w", err)
		}
		from = cursor
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{noteEnd}})
	if err != nil {
		return nil, nil, fmt.Errorf("a page of notes: %w", err)
	}
	w := newPageWriter(l.zoneSize)
	for ok := it.First(); ok; ok = it.Next() {
		_, n, err := parseNoteKey(it.Key())
		if err != nil {
			it.Close()
			return nil, nil, fmt.Errorf("a page of notes: %w", err)
		}
		if !w.add(n, max) {
			next = bytes.Clone(it.Key())
			break
		}
	}
	if err := it.Close(); err != nil { // with what went wrong while reading
		err = fmt.Errorf("a page of notes: %w", err)
		l.fail(err)
		return nil, nil, err
	}
	return w.page(), next, nil
}

// Merge adds the notes of a page, all or, if it returns an error, none of them.
// They survive the process; the caller calls Sync when they are to survive more.
// Zones of another size become all zones that hold any of them.
func (l *Lacks) Merge(page []byte) error {
	zoneSize, notes, err := parsePage(page)
	if err != nil {
		return fmt.Errorf("merge notes: %w", err)
	}
	for i := range notes {
		notes[i] = notes[i].rescaled(zoneSize, l.zoneSize)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enterAll(notes, false); err != nil {
		return fmt.Errorf("merge notes: %w", err)
	}
	return nil
}
