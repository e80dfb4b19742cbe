package ha

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"
)

// resources are the named facts of a module, SAFEVAR/modules/AM/resource.db, with
// their history. The goroutine of the module owns values.
type resources struct {
	store  *store
	values map[string]Resource
}

const resourceSchema = `
CREATE TABLE IF NOT EXISTS resource (name TEXT PRIMARY KEY, value TEXT NOT NULL, date INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT NOT NULL, date INTEGER NOT NULL)`

// historyKeep is how many changes resource.db remembers.
const historyKeep = 100_000

func openResources(path string, errs func(string)) (*resources, error) {
	s, err := openStore(path, resourceSchema, errs)
	if err != nil {
		return nil, err
	}
	r := &resources{store: s, values: map[string]Resource{}}
	all, err := query(context.Background(), s.db, "SELECT name, value, date FROM resource", func(rows *sql.Rows) (Resource, error) {
		var v Resource
		var date int64
		err := rows.Scan(&v.Name, &v.Value, &date)
		v.Since = time.UnixMicro(date)
		return v, err
	})
	for _, v := range all {
		r.values[v.Name] = v
	}
	return r, err
}

// set gives resources their values now; the others are forgotten. It says whether
// anything changed.
func (r *resources) set(now time.Time, values map[string]string) bool {
	changed := false
	for name, value := range values {
		if old, ok := r.values[name]; ok && old.Value == value {
			continue
		}
		changed = true
		r.values[name] = Resource{name, value, now}
		r.store.put("INSERT INTO resource (name, value, date) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET value = ?2, date = ?3", name, value, now.UnixMicro())
		r.store.put("INSERT INTO history (name, value, date) VALUES (?, ?, ?)", name, value, now.UnixMicro())
	}
	for name := range r.values {
		if _, ok := values[name]; !ok {
			changed = true
			delete(r.values, name)
			r.store.put("DELETE FROM resource WHERE name = ?", name)
		}
	}
	if changed {
		r.store.put("DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?", historyKeep)
	}
	return changed
}

// list returns the resources by name.
func (r *resources) list() []Resource {
	all := make([]Resource, 0, len(r.values))
	for _, v := range r.values {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b Resource) int { return cmp.Or(strings.Compare(a.Name, b.Name)) })
	return all
}

// resources are what the guide shows of a module with "state -v" (§7.9).
func (s *State) resources(now time.Time) map[string]string {
	r := map[string]string{
		"state.local":  strings.ToLower(s.Role.String()),
		"state.remote": strings.ToLower(s.Remote.Role.String()),
	}
	for i, l := range s.Links {
		v := "init"
		if l != LinkUnknown {
			v = updown(l == LinkUp)
		}
		r["heartbeat."+s.Conf.Heartbeats[i]] = v
	}
	for i, a := range s.Conf.Addresses {
		if a.Check {
			r["ip."+a.Name] = "init"
			if s.Up&PartAddress != 0 {
				r["ip."+a.Name] = updown(!s.Missing.has(i))
			}
		}
	}
	if s.Conf.HasData {
		uptodate := s.Reign && s.Established || s.Role == RoleSecond && s.Fresh || s.Role == RoleWait && s.Why == NoBlock && s.sure()
		v := "init"
		if s.Role != RoleStop {
			v = updown(uptodate)
		}
		r["rfs.uptodate"] = v
		r["rfs.degraded"] = updown(s.Data.Degraded)
		s.syncResources(r)
		if s.Conf.SyncDelta > 0 {
			r["rfs.synced"] = updown(s.recent(now))
		}
		if s.Conf.SyncAt {
			r["rfs.syncat"] = updown(s.SyncDue)
		}
	}
	return r
}
