package ha

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skfs/skfs/conf"
)

// resources are the named facts of a module, SAFEVAR/modules/AM/resource.db, with
// their history. The automaton gives some (State.resources), checkers, scripts and
// commands assign the others. The goroutine of the module owns values and own.
type resources struct {
	store  *store
	values map[string]Resource
	own    map[string]bool // what the automaton gives
	remote []Resource      // the other node's, as it said last; nil: unknown
	fresh  bool            // values changed since publish
	since  int             // changes since the history was purged last
	limits limits
}

const resourceSchema = `
CREATE TABLE IF NOT EXISTS resource (name TEXT PRIMARY KEY, value TEXT NOT NULL, date INTEGER NOT NULL, setter TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT NOT NULL, date INTEGER NOT NULL, setter TEXT NOT NULL DEFAULT '')`

// resourceColumns came after the first version of the tables.
var resourceColumns = []column{{"resource", "setter", "TEXT NOT NULL DEFAULT ''"}, {"history", "setter", "TEXT NOT NULL DEFAULT ''"}}

// limits bound the history: the last changes of figures that change all the time, the
// last of everything else, and none that is older than Age.
type limits struct {
	Figures, Others int
	Age             time.Duration
}

var historyLimits = limits{Figures: 30_000, Others: 100_000, Age: 90 * 24 * time.Hour}

// historyPurge is after how many changes the history is purged.
const historyPurge = 500

func openResources(path string, errs func(string)) (*resources, error) {
	s, err := openStore(path, resourceSchema, errs, resourceColumns...)
	if err != nil {
		return nil, err
	}
	r := &resources{store: s, values: map[string]Resource{}, own: map[string]bool{}, since: historyPurge, limits: historyLimits}
	all, err := query(context.Background(), s.db, "SELECT name, value, date, setter FROM resource", scanResource)
	for _, v := range all {
		r.values[v.Name] = v
		r.own[v.Name] = v.By == ""
	}
	return r, err
}

func scanResource(rows *sql.Rows) (Resource, error) {
	var v Resource
	var date int64
	err := rows.Scan(&v.Name, &v.Value, &date, &v.By)
	v.Since = time.UnixMicro(date)
	return v, err
}

// set takes what the automaton gives now. What it gave before and gives no longer is
// forgotten; what was assigned stays.
func (r *resources) set(now time.Time, values map[string]string) {
	for name, value := range values {
		r.put(Resource{Name: name, Value: value, Since: now}, historyChanges)
	}
	for name, own := range r.own {
		if _, ok := values[name]; own && !ok {
			r.forget(name)
		}
	}
}

// history says which assignments the history notes.
type history uint8

const (
	historyChanges history = iota // those that change the value
	historyNever
	historyAlways
)

// put gives a resource a value; false: it has it already (historyAlways: and is given it
// anew).
func (r *resources) put(v Resource, h history) bool {
	old, ok := r.values[v.Name]
	same := ok && old.Value == v.Value && (old.By == "") == (v.By == "")
	if same && h != historyAlways {
		return false
	}
	if h != historyNever {
		r.note(v)
	}
	r.fresh = true
	r.values[v.Name] = v
	r.own[v.Name] = v.By == ""
	r.store.put("INSERT INTO resource (name, value, date, setter) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET value = ?2, date = ?3, setter = ?4",
		v.Name, v.Value, v.Since.UnixMicro(), v.By)
	return !same
}

// note adds an entry to the history.
func (r *resources) note(v Resource) {
	r.store.put("INSERT INTO history (name, value, date, setter) VALUES (?, ?, ?, ?)", v.Name, v.Value, v.Since.UnixMicro(), v.By)
	if r.since++; r.since >= historyPurge {
		r.since = 0
		r.purge(v.Since)
	}
}

// purge takes away what the limits leave no room for (guide §7.17).
func (r *resources) purge(now time.Time) {
	const figure = "(name LIKE '%!_bandwidth' ESCAPE '!' OR name LIKE 'connections.%')" // see gauge
	const last = "DELETE FROM history WHERE %[1]s AND id <= (SELECT id FROM history WHERE %[1]s ORDER BY id DESC LIMIT 1 OFFSET ?)"
	r.store.put(fmt.Sprintf(last, figure), r.limits.Figures)
	r.store.put(fmt.Sprintf(last, "NOT "+figure), r.limits.Others)
	r.store.put("DELETE FROM history WHERE date < ?", now.Add(-r.limits.Age).UnixMicro())
}

// RemoteGone is the resource that the history notes when the other node falls silent,
// with the value unknown; those that it had are called remote.NAME there.
const RemoteGone = "remote"

// setRemote takes what the other node says of its resources; nil: it is silent.
func (r *resources) setRemote(now time.Time, all []Resource) {
	old := map[string]string{}
	for _, v := range r.remote {
		old[v.Name] = v.Value
	}
	if all == nil && r.remote != nil {
		r.note(Resource{Name: RemoteGone, Value: "unknown", Since: now})
	}
	for _, v := range all {
		value, ok := old[v.Name]
		delete(old, v.Name)
		if !(ok && value == v.Value) && !gauge(v.Name) {
			r.note(Resource{Name: RemoteGone + "." + v.Name, Value: v.Value, Since: now})
		}
	}
	for name := range old {
		if all != nil && !gauge(name) {
			r.note(Resource{Name: RemoteGone + "." + name, Since: now})
		}
	}
	slices.SortFunc(all, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	r.fresh = r.fresh || !slices.Equal(r.remote, all) || (all == nil) != (r.remote == nil)
	r.remote = all
}

// gauge says that a resource is a figure that changes all the time.
func gauge(name string) bool {
	return strings.HasSuffix(name, "_bandwidth") || strings.HasPrefix(name, "connections.")
}

// forget takes a resource away; its history stays, and notes the end with no value.
func (r *resources) forget(name string) {
	r.fresh = true
	r.note(Resource{Name: name, Since: time.Now()})
	delete(r.values, name)
	delete(r.own, name)
	r.store.put("DELETE FROM resource WHERE name = ?", name)
}

// list returns the resources by name.
func (r *resources) list() []Resource {
	all := make([]Resource, 0, len(r.values))
	for _, v := range r.values {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// resources are what the guide shows of a module with "state -v" (§7.9).
func (s *State) resources(now time.Time) map[string]string {
	r := map[string]string{"state.local": strings.ToLower(s.Role.String())}
	if s.Conf.mirror() {
		r["state.remote"] = strings.ToLower(s.Remote.Role.String())
	}
	r[loopResource] = s.loopSince()
	s.settingResources(r)
	for i, l := range s.Links {
		v := "init"
		if l != LinkUnknown {
			v = updown(l == LinkUp)
		}
		r["heartbeat."+s.Conf.Heartbeats[i]] = v
	}
	if s.Conf.Witness {
		r[conf.SplitUptodate] = "init"
		if s.Role != RoleStop {
			r[conf.SplitUptodate] = updown(!s.Split)
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
