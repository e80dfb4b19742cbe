package ha

import (
	"context"
	"database/sql"
	"time"
)

// Change is an entry of the history of a module's resources. Those of the other node
// are called remote.NAME; RemoteGone says that they are unknown from then on. A Value
// of "" says that the resource is not there any more.
type Change struct {
	ID    int64
	Name  string
	Value string
	Time  time.Time
	By    string `json:",omitempty"` // who assigned it; "": the module itself
}

// historyPage is how many entries are read at once.
const historyPage = 1000

// History calls each with every change of a module's resources since a time, oldest
// first. name "" is all resources.
func (s *Supervisor) History(ctx context.Context, module, name string, since time.Time, each func(Change) error) error {
	m, err := s.module(module)
	if err != nil {
		return err
	}
	if err := m.res.store.flush(ctx); err != nil {
		return err
	}
	for after := int64(0); ; {
		page, err := m.res.changes(ctx, after, name, since)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, c := range page {
			if err := each(c); err != nil {
				return err
			}
			after = c.ID
		}
	}
}

// changes reads a page of the history. Any goroutine.
func (r *resources) changes(ctx context.Context, after int64, name string, since time.Time) ([]Change, error) {
	var from int64
	if !since.IsZero() {
		from = since.UnixMicro()
	}
	return query(ctx, r.store.db, "SELECT id, name, value, date, setter FROM history WHERE id > ?1 AND date >= ?2 AND (?3 = '' OR name = ?3) ORDER BY id LIMIT ?4",
		scanChange, after, from, name, historyPage)
}

func scanChange(rows *sql.Rows) (Change, error) {
	var c Change
	var date int64
	err := rows.Scan(&c.ID, &c.Name, &c.Value, &date, &c.By)
	c.Time = time.UnixMicro(date)
	return c, err
}
