package ha

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite" // and the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// store is an SQLite file that one goroutine writes, in batches. put never
// blocks, so the automaton never waits for this disk.
type store struct {
	db      *sql.DB
	errors  func(string)
	queue   chan statement
	flushes chan chan struct{}
	stopped chan struct{}
	dropped atomic.Int64 // statements that the queue had no room for

	mu      sync.Mutex
	changed chan struct{} // closed and replaced after each commit
}

// statement is one insert or update.
type statement struct {
	query string
	args  []any
}

const (
	storeQueue = 4096
	storeBatch = 512
)

// openStore opens or creates the file at path. A log must not keep a module from being
// watched: a damaged file is kept aside as path.damaged, and when there is no room or no
// access the store is in memory until the daemon ends.
func openStore(path, schema string, errs func(string), added ...column) (*store, error) {
	db, err := openSQLite(path, schema, added)
	if damaged(err) {
		was := err
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if e := os.Rename(path+suffix, path+".damaged"+suffix); e != nil && !errors.Is(e, os.ErrNotExist) {
				was = fmt.Errorf("%w; and it cannot be put aside: %w", was, e)
			}
		}
		errs(fmt.Sprintf("%s could not be read (%v): it is kept as %s.damaged and a new one begins", path, was, path))
		db, err = openSQLite(path, schema, added)
	}
	if err != nil {
		errs(fmt.Sprintf("%s cannot be opened (%v): what belongs there is kept in memory, and lost when the daemon ends; start the daemon again when that is mended", path, err))
		if db, err = openSQLite("", schema, added); err != nil {
			return nil, fmt.Errorf("open a database in memory: %w", err)
		}
	}
	s := &store{db: db, errors: errs, queue: make(chan statement, storeQueue), flushes: make(chan chan struct{}),
		stopped: make(chan struct{}), changed: make(chan struct{})}
	go s.write()
	return s, nil
}

// column is one that a table did not always have: a file without it gets it.
type column struct{ table, name, kind string }

// damaged says that err is of what a file holds, not of its disk.
func damaged(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
		return true
	}
	return false
}

// openSQLite opens a file; "" is a database in memory.
func openSQLite(path, schema string, added []column) (*sql.DB, error) {
	q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)"}}
	name := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
	if path == "" {
		name = ":memory:"
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	if path == "" {
		db.SetMaxOpenConns(1) // each connection would have a database of its own
	}
	if _, err := db.Exec(schema); err != nil {
		db.Close()
		return nil, err
	}
	for _, c := range added {
		if err := addColumn(db, c); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

func addColumn(db *sql.DB, c column) error {
	var n int
	if err := db.QueryRow("SELECT count(*) FROM pragma_table_info(?) WHERE name = ?", c.table, c.name).Scan(&n); err != nil || n > 0 {
		return err
	}
	_, err := db.Exec("ALTER TABLE " + c.table + " ADD COLUMN " + c.name + " " + c.kind)
	return err
}

// put queues a statement; false if there is no room.
func (s *store) put(query string, args ...any) bool {
	select {
	case s.queue <- statement{query, args}:
		return true
	default:
		s.dropped.Add(1)
		return false
	}
}

// room says whether less than half of the queue is taken.
func (s *store) room() bool { return len(s.queue) < cap(s.queue)/2 }

// write commits what is queued until the queue is closed.
func (s *store) write() {
	defer close(s.stopped)
	for {
		select {
		case st, ok := <-s.queue:
			if !ok {
				return
			}
			s.commit(st)
		case done := <-s.flushes:
			for more := true; more; {
				select {
				case st, ok := <-s.queue:
					if more = ok; ok {
						s.commit(st)
					}
				default:
					more = false
				}
			}
			close(done)
		}
	}
}

// commit writes st and what is queued behind it in one transaction.
func (s *store) commit(st statement) {
	err := func() error {
		tx, err := s.db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for n := 0; ; n++ {
			if _, err := tx.Exec(st.query, st.args...); err != nil {
				return err
			}
			if n == storeBatch {
				return tx.Commit()
			}
			select {
			case next, ok := <-s.queue:
				if !ok {
					return tx.Commit()
				}
				st = next
			default:
				return tx.Commit()
			}
		}
	}()
	if err != nil {
		s.errors(fmt.Sprintf("write %q: %v", st.query, err))
	}
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// next is closed after the next commit.
func (s *store) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// flush returns when everything that was put before is committed.
func (s *store) flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case s.flushes <- done:
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close commits what is queued. Nothing may be put any more.
func (s *store) close() error {
	close(s.queue)
	<-s.stopped
	return s.db.Close()
}
