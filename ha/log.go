package ha

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Log is the log of one module, SAFEVAR/modules/AM/log.db. Writing never blocks.
type Log struct {
	store *store
	mu    sync.RWMutex // held for reading while a line is put, for writing by close
	ended bool
	lost  int64 // lines that were dropped and not yet spoken of; under mu
	puts  int   // lines since the last purge; under mu
}

const logSchema = `CREATE TABLE IF NOT EXISTS log (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	date INTEGER NOT NULL, -- microseconds since 1970
	level INTEGER NOT NULL, -- 0 E, 1 I, 2 D
	source TEXT NOT NULL,
	text TEXT NOT NULL
);` + transitionSchema

// The log keeps its last logKeep lines, none older than logAge, and looks every
// logPurge lines (§7.17 of the guide has a job for it).
const (
	logKeep  = 200_000
	logAge   = 180 * 24 * time.Hour
	logPurge = 2_000
)

var breaks = strings.NewReplacer("\r\n", "; ", "\n", "; ", "\r", "; ")

func openLog(path string, errs func(string)) (*Log, error) {
	s, err := openStore(path, logSchema, errs)
	if err != nil {
		return nil, err
	}
	return &Log{store: s, puts: logPurge}, nil
}

func (l *Log) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	return l.store.close()
}

// Write adds a line. When the writer cannot keep up, debug lines are dropped
// first, and a line says how many were. Breaks within text, which joined errors have,
// become "; ".
func (l *Log) Write(level Level, source, text string) {
	text = breaks.Replace(strings.TrimRight(text, "\r\n"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if level == LevelDebug && !l.store.room() {
		l.lost++
		return
	}
	const insert = "INSERT INTO log (date, level, source, text) VALUES (?, ?, ?, ?)"
	now := time.Now().UnixMicro()
	if l.lost > 0 && l.store.room() && l.store.put(insert, now, int(LevelEvent), "heart", fmt.Sprintf("%d lines were lost: the log could not be written fast enough", l.lost)) {
		l.lost = 0
	}
	if !l.store.put(insert, now, int(level), source, text) {
		l.lost++
	}
	if l.puts++; l.puts >= logPurge && l.store.room() {
		l.puts = 0
		l.store.put("DELETE FROM log WHERE id <= (SELECT max(id) FROM log) - ? OR date < ?", logKeep, time.Now().Add(-logAge).UnixMicro())
	}
}

// Tail returns the last n lines of a level up to max, oldest first.
func (l *Log) Tail(ctx context.Context, n int, max Level) ([]Line, error) {
	if err := l.store.flush(ctx); err != nil {
		return nil, err
	}
	lines, err := l.lines(ctx, "WHERE level <= ? ORDER BY id DESC LIMIT ?", int(max), n)
	slices.Reverse(lines)
	return lines, err
}

// Follow calls each with every line after the line of ID after, as they come,
// until ctx ends or each fails.
func (l *Log) Follow(ctx context.Context, after int64, max Level, each func(Line) error) error {
	for {
		next := l.store.next()
		lines, err := l.lines(ctx, "WHERE id > ? AND level <= ? ORDER BY id LIMIT 1000", after, int(max))
		if err != nil {
			return err
		}
		for _, line := range lines {
			if err := each(line); err != nil {
				return err
			}
			after = line.ID
		}
		if len(lines) > 0 {
			continue
		}
		select {
		case <-next:
		case <-l.store.stopped:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Save writes the lines to w in the guide's form.
func (l *Log) Save(ctx context.Context, w io.Writer, max Level) error {
	if err := l.store.flush(ctx); err != nil {
		return err
	}
	for after := int64(0); ; {
		lines, err := l.lines(ctx, "WHERE id > ? AND level <= ? ORDER BY id LIMIT 1000", after, int(max))
		if err != nil || len(lines) == 0 {
			return err
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
			after = line.ID
		}
	}
}

func (l *Log) lines(ctx context.Context, where string, args ...any) ([]Line, error) {
	return query(ctx, l.store.db, "SELECT id, date, level, source, text FROM log "+where, func(r *sql.Rows) (Line, error) {
		var line Line
		var date int64
		err := r.Scan(&line.ID, &date, &line.Level, &line.Source, &line.Text)
		line.Time = time.UnixMicro(date)
		return line, err
	}, args...)
}

// query gathers the rows of a query.
func query[T any](ctx context.Context, db *sql.DB, q string, scan func(*sql.Rows) (T, error), args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
