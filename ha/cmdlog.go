package ha

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// CommandLog is the log of the commands that were run on a node, SAFEVAR/log.db (guide
// §10.9). Each command opens it for itself.
type CommandLog struct{ db *sql.DB }

// CommandEntry is the beginning or the end of a command.
type CommandEntry struct {
	Time   time.Time
	Type   string // "safekit" at the beginning, "" at the end
	Module string // "": not of a module
	PID    int    // of the process that ran it: what ties both together
	End    bool
	Text   string // the arguments; at the end the exit code
}

// String is the entry as the guide shows it.
func (e CommandEntry) String() string {
	kind := "START"
	if e.End {
		kind = "END"
	}
	return fmt.Sprintf("| %s | %9s | %8s | %5d | %5s | %s", e.Time.Local().Format("2006-01-02 15:04:05.000000"), e.Type, e.Module, e.PID, kind, e.Text)
}

const commandSchema = `CREATE TABLE IF NOT EXISTS command (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	date INTEGER NOT NULL, -- microseconds since 1970
	type TEXT NOT NULL,
	module TEXT NOT NULL,
	pid INTEGER NOT NULL,
	end INTEGER NOT NULL, -- 0 START, 1 END
	text TEXT NOT NULL
)`

// The log keeps its last commandKeep entries, none older than commandAge.
const (
	commandKeep = 20_000
	commandAge  = 180 * 24 * time.Hour
)

// OpenCommandLog opens or makes the file at path.
func OpenCommandLog(path string) (*CommandLog, error) {
	db, err := openSQLite(path, commandSchema, nil)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &CommandLog{db}, nil
}

// Add appends an entry, and purges now and then.
func (l *CommandLog) Add(ctx context.Context, e CommandEntry) error {
	r, err := l.db.ExecContext(ctx, "INSERT INTO command (date, type, module, pid, end, text) VALUES (?, ?, ?, ?, ?, ?)",
		e.Time.UnixMicro(), e.Type, e.Module, e.PID, e.End, e.Text)
	if err != nil {
		return err
	}
	if id, err := r.LastInsertId(); err != nil || id%100 != 0 {
		return err
	}
	_, err = l.db.ExecContext(ctx, "DELETE FROM command WHERE id <= (SELECT max(id) FROM command) - ? OR date < ?", commandKeep, e.Time.Add(-commandAge).UnixMicro())
	return err
}

// Tail returns the last n entries, oldest first; only those of a module and of no
// module, if module is set.
func (l *CommandLog) Tail(ctx context.Context, n int, module string) ([]CommandEntry, error) {
	all, err := query(ctx, l.db, "SELECT date, type, module, pid, end, text FROM command WHERE ?1 = '' OR module IN ('', ?1) ORDER BY id DESC LIMIT ?2", func(r *sql.Rows) (CommandEntry, error) {
		var e CommandEntry
		var date int64
		err := r.Scan(&date, &e.Type, &e.Module, &e.PID, &e.End, &e.Text)
		e.Time = time.UnixMicro(date)
		return e, err
	}, module, n)
	slices.Reverse(all)
	return all, err
}

// Close closes the file.
func (l *CommandLog) Close() error { return l.db.Close() }
