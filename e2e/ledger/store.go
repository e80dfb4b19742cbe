package ledger

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Store keeps entries. Put may be called concurrently.
type Store interface {
	Put(id uint64) error           // returns when the entry is stored
	All() (map[uint64]bool, error) // every entry, after checking that the store is sound
	Close() error
}

// Open opens the store of a kind, "sql" or "files", in dir.
func Open(kind, dir string) (Store, error) {
	switch kind {
	case "sql":
		return OpenSQL(dir)
	case "files":
		return OpenFiles(dir)
	}
	return nil, fmt.Errorf("ledger: store %q: expected sql or files", kind)
}

type sqlStore struct{ db *sql.DB }

// OpenSQL opens the database ledger.db in dir, and makes it if need be. An entry
// that was put survives a loss of power: with synchronous=FULL the last one may be
// rolled back by a journal whose deletion was not synchronised
// (https://sqlite.org/pragma.html#pragma_synchronous).
func OpenSQL(dir string) (Store, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?_pragma=busy_timeout(60000)&_pragma=synchronous(extra)")
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	db.SetMaxOpenConns(1) // SQLite has one writer; waiting here costs no lock retries
	if _, err := db.Exec("CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, text TEXT NOT NULL)"); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: create table: %w", err), db.Close())
	}
	return &sqlStore{db}, nil
}

func (s *sqlStore) Put(id uint64) error {
	_, err := s.db.Exec("INSERT INTO entry (id, sum, text) VALUES (?, ?, ?)", int64(id), int64(sum(id)), entryText(id))
	return err
}

func (s *sqlStore) All() (map[uint64]bool, error) {
	var verdict string
	if err := s.db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil {
		return nil, fmt.Errorf("ledger: integrity check: %w", err)
	}
	if verdict != "ok" {
		return nil, fmt.Errorf("ledger: integrity check: %s", verdict)
	}
	rows, err := s.db.QueryContext(context.Background(), "SELECT id, sum, text FROM entry")
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	defer rows.Close()
	found := map[uint64]bool{}
	for rows.Next() {
		var id, check int64
		var text string
		if err := rows.Scan(&id, &check, &text); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		if uint32(check) != sum(uint64(id)) || text != entryText(uint64(id)) {
			return nil, fmt.Errorf("ledger: entry %d is damaged", id)
		}
		found[uint64(id)] = true
	}
	return found, rows.Err()
}

func (s *sqlStore) Close() error { return s.db.Close() }

func sum(id uint64) uint32 {
	return crc32.ChecksumIEEE(binary.LittleEndian.AppendUint64(nil, id))
}

// entryText makes an entry some 200 bytes long.
func entryText(id uint64) string { return strings.Repeat(fmt.Sprintf("entry %d ", id), 20) }

// fileStore spreads entries over system calls: which one an entry becomes
// depends on its number.
type fileStore struct {
	dir  string
	logs [4]*os.File // opened to append: each record is one write
}

const recordLen = 64

// OpenFiles opens the store of plain files in dir, and makes it if need be.
func OpenFiles(dir string) (Store, error) {
	s := &fileStore{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "made"), 0o755); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	for i := range s.logs {
		var err error
		if s.logs[i], err = os.OpenFile(s.log(i), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	return s, nil
}

func (s *fileStore) log(i int) string { return filepath.Join(s.dir, fmt.Sprintf("log%d", i)) }

// made is the name of an entry that is a file.
func (s *fileStore) made(id uint64) string { return filepath.Join(s.dir, "made", fmt.Sprint(id)) }

// record is what an entry looks like in a log.
func record(id uint64) []byte {
	b := make([]byte, 0, recordLen)
	b = binary.LittleEndian.AppendUint64(b, id)
	for len(b) < recordLen-4 {
		b = append(b, byte(id)+byte(len(b)))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// Put stores the entry as a record, a new file, a renamed file or a link.
func (s *fileStore) Put(id uint64) error {
	temporary := s.made(id) + ".tmp"
	switch id % 8 {
	case 5: // a new file
		return os.WriteFile(s.made(id), record(id), 0o644)
	case 6: // written beside, then renamed, as careful programs do
		if err := os.WriteFile(temporary, record(id), 0o600); err != nil {
			return err
		}
		return os.Rename(temporary, s.made(id))
	case 7: // a second name for a file, whose first goes
		if err := os.WriteFile(temporary, record(id), 0o600); err != nil {
			return err
		}
		if err := os.Link(temporary, s.made(id)); err != nil {
			return err
		}
		return os.Remove(temporary)
	}
	n, err := s.logs[id%4].Write(record(id))
	if err == nil && n != recordLen {
		err = fmt.Errorf("wrote %d bytes of %d", n, recordLen)
	}
	return err
}

func (s *fileStore) All() (map[uint64]bool, error) {
	found := map[uint64]bool{}
	take := func(where string, b []byte) error {
		id := binary.LittleEndian.Uint64(b)
		if string(b) != string(record(id)) {
			return fmt.Errorf("ledger: %s: the record %x is damaged", where, b)
		}
		if found[id] {
			return fmt.Errorf("ledger: %s: entry %d is there twice", where, id)
		}
		found[id] = true
		return nil
	}
	for i := range s.logs {
		data, err := os.ReadFile(s.log(i))
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		if len(data)%recordLen != 0 {
			return nil, fmt.Errorf("ledger: %s has %d bytes, not a multiple of %d: part of a write", s.log(i), len(data), recordLen)
		}
		for ; len(data) > 0; data = data[recordLen:] {
			if err := take(s.log(i), data[:recordLen]); err != nil {
				return nil, err
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "made"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".tmp") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return nil // the host died after it was made and before it was written: nobody was told
		}
		if len(b) != recordLen {
			return fmt.Errorf("ledger: %s has %d bytes, expected %d", path, len(b), recordLen)
		}
		return take(path, b)
	})
	return found, err
}

func (s *fileStore) Close() error {
	var errs []error
	for _, f := range s.logs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
