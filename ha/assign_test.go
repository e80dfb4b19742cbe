package ha

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func openTestResources(t *testing.T, path string) *resources {
	t.Helper()
	r, err := openResources(path, func(text string) { t.Error(text) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAssignedResourcesStay: what the automaton gives replaces what it gave before,
// never what was assigned; both survive the daemon.
func TestAssignedResourcesStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resource.db")
	r := openTestResources(t, path)
	now := time.Now()
	r.set(now, map[string]string{"state.local": "stop", "rfs.uptodate": "init"})
	if !r.put(Resource{"custom.disk", "down", now, "diskcheck"}, historyChanges) {
		t.Error("a new value is said to be no change")
	}
	if r.put(Resource{"custom.disk", "down", now, "diskcheck"}, historyChanges) {
		t.Error("the same value again is said to be a change")
	}
	r.set(now, map[string]string{"state.local": "wait"})
	check := func(want ...string) {
		t.Helper()
		var got []string
		for _, v := range r.list() {
			got = append(got, v.Name+"="+v.Value+" "+v.By)
		}
		if !slices.Equal(got, want) {
			t.Errorf("resources %q, want %q", got, want)
		}
	}
	check("custom.disk=down diskcheck", "state.local=wait ")
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
	r = openTestResources(t, path)
	check("custom.disk=down diskcheck", "state.local=wait ")
	r.set(now, nil)
	check("custom.disk=down diskcheck")
	r.forget("custom.disk")
	check()
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
}

// TestHistoryOptions: -n notes nothing, -l notes what is no change.
func TestHistoryOptions(t *testing.T) {
	r := openTestResources(t, filepath.Join(t.TempDir(), "resource.db"))
	now := time.Now()
	r.put(Resource{"custom.a", "up", now, "x"}, historyChanges)
	r.put(Resource{"custom.a", "down", now, "x"}, historyNever)
	r.put(Resource{"custom.a", "down", now, "x"}, historyAlways)
	r.put(Resource{"custom.a", "down", now, "x"}, historyChanges)
	if err := r.store.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	all, err := query(context.Background(), r.store.db, "SELECT name, value, date, setter FROM history ORDER BY id", scanResource)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range all {
		got = append(got, v.Value)
	}
	if want := []string{"up", "down"}; !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
}

// TestHistoryPurged: by age, and by number; figures do not push out what happens
// seldom.
func TestHistoryPurged(t *testing.T) {
	r := openTestResources(t, filepath.Join(t.TempDir(), "resource.db"))
	r.limits = limits{Figures: 20, Others: 10, Age: time.Hour}
	now := time.Now()
	r.put(Resource{"custom.a", "up", now.Add(-2 * time.Hour), "x"}, historyChanges)
	r.put(Resource{"custom.b", "up", now, "x"}, historyChanges)
	for i := range 60 {
		r.put(Resource{"rfs.netout_bandwidth", fmt.Sprint(i), now, ""}, historyChanges)
	}
	count := func() (figures, others int, first string) {
		t.Helper()
		r.purge(now)
		if err := r.store.flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		all, err := r.changes(context.Background(), 0, "", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if gauge(c.Name) {
				figures++
			} else if others++; others == 1 {
				first = c.Name + "=" + c.Value
			}
		}
		return figures, others, first
	}
	if f, o, first := count(); f != 20 || o != 1 || first != "custom.b=up" {
		t.Errorf("%d figures and %d others are left, the first is %s", f, o, first)
	}
	for i := range 30 {
		r.put(Resource{"custom.c", fmt.Sprint(i), now, "x"}, historyChanges)
	}
	if f, o, first := count(); f != 20 || o != 10 || first != "custom.c=20" {
		t.Errorf("%d figures and %d others are left, the first is %s", f, o, first)
	}
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
}

// TestResourceFileOfFirstVersion: a file without setters is read.
func TestResourceFileOfFirstVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resource.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		"CREATE TABLE resource (name TEXT PRIMARY KEY, value TEXT NOT NULL, date INTEGER NOT NULL)",
		"CREATE TABLE history (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT NOT NULL, date INTEGER NOT NULL)",
		"INSERT INTO resource VALUES ('state.local', 'stop', 1000000)",
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	r := openTestResources(t, path)
	if l := r.list(); len(l) != 1 || l[0].Name != "state.local" || l[0].By != "" {
		t.Errorf("read %v", l)
	}
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
}

func TestMayAssign(t *testing.T) {
	s := &State{}
	for _, c := range []struct{ name, value, want string }{
		{"custom.disk", "down", ""},
		{"ip.fd00::1", "init", ""},
		{"module.other_10.0.0.1", "up", ""},
		{"custom.level", "73 percent", ""},
		{"custom", "down", "expected class.name"},
		{"Custom.x", "down", "expected class.name"},
		{"custom.x", "", "expected up, down, init"},
		{"custom.x", "a\nb", "expected up, down, init"},
		{"custom.x", strings.Repeat("x", 200), "at most 128"},
		{"remote.custom", "up", "without remote."},
		{"rfs.uptodate", "up", "set by skfs itself"},
		{"rfs.syncat", "up", "has no syncat"},
		{"rfs.syncat", "down", "to up only"},
		{"heartbeat.default", "down", "set by skfs itself"},
	} {
		got := s.mayAssign(Command{Name: "set", Args: []string{c.name, c.value}})
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("set %s to %q: %q, want %q", c.name, c.value, got, c.want)
		}
	}
	if got := s.mayAssign(Command{Name: "set", Args: []string{"custom.x", "up", "often"}}); got == "" {
		t.Error("a third argument that is not known is accepted")
	}
}

// TestAssign: what is assigned is in the log, in the state, and outlives what the
// automaton says of its own.
func TestAssign(t *testing.T) {
	p := newPair(t, false)
	value := func(name, want string) {
		t.Helper()
		p.until(0, name+"="+want, func(st ModuleState) bool {
			i := slices.IndexFunc(st.Resources, func(r Resource) bool { return r.Name == name })
			return i < 0 && want == "" || i >= 0 && st.Resources[i].Value == want
		})
	}
	p.do(0, "set", "custom.disk", "down")
	value("custom.disk", "down")
	n := p.logged(0, 0, "Resource custom.disk set to down by SYSTEM/root")
	p.do(0, "set", "custom.disk", "down")
	p.do(0, "set", "custom.disk", "up", "nolog")
	value("custom.disk", "up")
	m := p.sups[0].modules["mirror"]
	if err := m.report(t.Context(), "custom.disk", "init", "diskcheck"); err != nil {
		t.Fatal(err)
	}
	value("custom.disk", "init")
	p.logged(0, n, "Resource custom.disk set to init by diskcheck")
	for i, line := range p.lines(0) {
		if i >= n && (strings.HasSuffix(line, "set to up by SYSTEM/root") || strings.HasSuffix(line, "set to down by SYSTEM/root")) {
			t.Errorf("line %d, %q: it was no change, or not to be logged", i, line)
		}
	}
	p.do(0, "prim")
	p.want("ALONE green", "-")
	value("custom.disk", "init")
	if err := m.post(t.Context(), func() { m.forgetResources("custom.disk", "state.local") }); err != nil {
		t.Fatal(err)
	}
	value("custom.disk", "")
	value("state.local", "alone")
	p.refused(0, "set by skfs itself", "set", "state.local", "up")
}
