package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/ha/errd"
	"github.com/skfs/skfs/ha/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSupervisor has the modules in states and notes what it is asked.
type fakeSupervisor struct {
	mu       sync.Mutex
	states   map[string]ha.ModuleState
	watchers []chan ha.ModuleState
	calls    []string
	refuse   error // what Do answers
}

func (f *fakeSupervisor) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// took returns the calls since the last time.
func (f *fakeSupervisor) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

func (f *fakeSupervisor) set(am string, r ha.Role, c ha.Colour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[am] = ha.ModuleState{Module: am, Role: r, Colour: c}
	for _, w := range f.watchers {
		w <- f.states[am]
	}
}

func (f *fakeSupervisor) Do(_ context.Context, am string, c ha.Command) error {
	f.note("%s %s %v by %q", c.Name, am, c.Args, c.By)
	return f.refuse
}

func (f *fakeSupervisor) Farm(context.Context, string) (ha.FarmView, error) {
	return ha.FarmView{Node: "node1", Epoch: 7}, nil
}

func (f *fakeSupervisor) FarmWho(_ context.Context, am string, q ha.FarmQuery) (ha.FarmAnswer, error) {
	return ha.FarmAnswer{Node: "node2", Why: am + " " + q.Client.String()}, nil
}

func (f *fakeSupervisor) FarmDrain(_ context.Context, am, node string, on bool) error {
	f.note("drain %s %s %t", am, node, on)
	return nil
}

func (f *fakeSupervisor) State(am string) (ha.ModuleState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.states[am]; ok {
		return s, nil
	}
	return ha.ModuleState{}, ha.ErrNoModule
}

func (f *fakeSupervisor) Rules(_ context.Context, am string) (ha.RulesView, error) {
	return ha.RulesView{Module: am, Rules: []ha.RuleView{{Label: "disk"}}}, nil
}

func (f *fakeSupervisor) History(_ context.Context, am, name string, since time.Time, each func(ha.Change) error) error {
	f.note("history of %s %q since %v", am, name, since.UTC())
	for _, v := range []string{"up", "down"} {
		if err := each(ha.Change{Name: name, Value: v}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeSupervisor) Errd(am string) (ha.Detection, error) {
	w := errd.Watch{Name: "appli", Class: "prim", Match: process.Filter{ArgRegex: regexp.MustCompilePOSIX("x+")}, AtLeast: 1, AtMax: -1, Action: "restart"}
	return ha.Detection{Suspended: true, Procs: []errd.Found{{Watch: w, Count: 2}}}, nil
}

func (f *fakeSupervisor) Watch(ctx context.Context, am string) <-chan ha.ModuleState {
	ch := make(chan ha.ModuleState, 16)
	f.mu.Lock()
	defer f.mu.Unlock()
	ch <- f.states[am]
	f.watchers = append(f.watchers, ch)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, w := range f.watchers {
			if w == ch {
				f.watchers = append(f.watchers[:i], f.watchers[i+1:]...)
			}
		}
		close(ch)
	})
	return ch
}

func (f *fakeSupervisor) Reload(context.Context) error { f.note("reload"); return nil }

func (f *fakeSupervisor) Configure(_ context.Context, am string) error {
	f.note("configure %s", am)
	return nil
}

// fakeLog keeps lines in memory.
type fakeLog struct {
	mu    sync.Mutex
	lines []ha.Line
	more  chan struct{} // closed and replaced at each line
}

func (l *fakeLog) Write(level ha.Level, source, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, ha.Line{ID: int64(len(l.lines) + 1), Level: level, Source: source, Text: text})
	close(l.more)
	l.more = make(chan struct{})
}

func (l *fakeLog) after(id int64, max ha.Level) ([]ha.Line, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ha.Line
	for _, x := range l.lines {
		if x.ID > id && x.Level <= max {
			out = append(out, x)
		}
	}
	return out, l.more
}

func (l *fakeLog) Transitions(_ context.Context, n int) ([]ha.Transition, error) {
	return []ha.Transition{{ID: int64(n), Cause: ha.Cause{Event: "test"}}}, nil
}

func (l *fakeLog) Tail(_ context.Context, n int, max ha.Level) ([]ha.Line, error) {
	out, _ := l.after(0, max)
	return out[len(out)-min(n, len(out)):], nil
}

func (l *fakeLog) Follow(ctx context.Context, id int64, max ha.Level, each func(ha.Line) error) error {
	for {
		lines, more := l.after(id, max)
		for _, x := range lines {
			if err := each(x); err != nil {
				return err
			}
			id = x.ID
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const clusterXML = `<cluster><lans>
	<lan name="default"><node name="node1" addr="10.0.0.1"/><node name="node2" addr="10.0.0.2"/></lan></lans></cluster>`

const userconfig = `<safe><service mode="mirror"><heart><heartbeat name="default" ident="flow"/></heart>
	<rfs><replicated dir="/srv/x"/></rfs></service></safe>`

type fixture struct {
	*Client
	sup   *fakeSupervisor
	log   *fakeLog
	paths conf.Paths
	stop  func() error
}

// serve starts a service on a node with a cluster and the installed module "app",
// which the supervisor does not know yet.
func serve(t *testing.T) *fixture {
	t.Helper()
	p := conf.Paths{Safe: filepath.Join(t.TempDir(), "s"), SafeVar: filepath.Join(t.TempDir(), "v")}
	if _, err := p.ApplyCluster("c", []byte(clusterXML), conf.KeepLock); err != nil {
		t.Fatal(err)
	}
	var zip bytes.Buffer
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(tree, "conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "conf/userconfig.xml"), []byte(userconfig), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := conf.WriteSafe(&zip, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.safe")
	if err := os.WriteFile(file, zip.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Install("app", file, conf.InstallOptions{}); err != nil {
		t.Fatal(err)
	}

	f := &fixture{
		Client: NewClient(p),
		sup:    &fakeSupervisor{states: map[string]ha.ModuleState{}},
		log:    &fakeLog{more: make(chan struct{})},
		paths:  p,
	}
	s := NewServer(Options{
		Supervisor: f.sup, Paths: p, Node: func() Node { return Node{Name: "node1", Version: "v"} },
		Log: func(string) (Log, error) { return f.log, nil },
		Now: func() time.Time { return time.Unix(1e9, 0) },
	})
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	f.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		f.Close()
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestSocketIsPrivate(t *testing.T) {
	f := serve(t)
	st, err := os.Stat(f.paths.DaemonSocket())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	if n, err := f.Node(t.Context()); err != nil || n.Name != "node1" {
		t.Fatalf("%+v, %v", n, err)
	}
}

func TestNoDaemon(t *testing.T) {
	f := serve(t)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Node(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Fatalf("%v", err)
	}
	long := conf.Paths{SafeVar: "/" + strings.Repeat("x", 120)}
	if _, err := NewClient(long).Node(t.Context()); err == nil || !strings.Contains(err.Error(), "choose a shorter SAFEVAR") {
		t.Fatalf("%v", err)
	}
}

func TestCommands(t *testing.T) {
	f := serve(t)
	ctx := t.Context()
	if err := f.Do(ctx, "app", Command{Name: "start"}); !errors.Is(err, ha.ErrNoModule) || !strings.Contains(err.Error(), `run "config -m app" first`) {
		t.Errorf("a module without configuration: %v", err)
	}
	if err := f.Do(ctx, "ap", Command{Name: "start"}); !errors.Is(err, ha.ErrNoModule) || !strings.Contains(err.Error(), "did you mean app?") {
		t.Errorf("an unknown module: %v", err)
	}
	if err := f.Do(ctx, "../x", Command{Name: "start"}); err == nil || !strings.Contains(err.Error(), "no valid name") {
		t.Errorf("a name that is a path: %v", err)
	}
	if calls := f.sup.took(); len(calls) > 0 {
		t.Errorf("the supervisor was asked: %v", calls)
	}
	f.sup.set("app", ha.RoleStop, ha.Red)
	if err := f.Do(ctx, "app", Command{Name: "second", Args: []string{"fullsync"}, By: "me"}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{`second app [fullsync] by "me"`}, f.sup.took()); d != "" {
		t.Error(d)
	}
	f.sup.refuse = fmt.Errorf("%w: the other server is primary", ha.ErrRefused)
	if err := f.Do(ctx, "app", Command{Name: "prim"}); !errors.Is(err, ha.ErrRefused) || err.Error() != "refused: the other server is primary" {
		t.Errorf("a refusal: %v", err)
	}
}

func TestModules(t *testing.T) {
	f := serve(t)
	ms, err := f.Modules(t.Context())
	if d := cmp.Diff([]Module{{Name: "app", ID: 1}}, ms); d != "" || err != nil {
		t.Fatal(d, err)
	}
	f.sup.set("app", ha.RolePrim, ha.Green)
	m, err := f.Module(t.Context(), "app")
	want := Module{Name: "app", ID: 1, Configured: true, State: ha.ModuleState{Module: "app", Role: ha.RolePrim, Colour: ha.Green}}
	if d := cmp.Diff(want, m); d != "" || err != nil {
		t.Fatal(d, err)
	}
}

func TestErrd(t *testing.T) {
	f := serve(t)
	if _, err := f.Errd(t.Context(), "ap"); !errors.Is(err, ha.ErrNoModule) {
		t.Errorf("an unknown module: %v", err)
	}
	f.sup.set("app", ha.RoleAlone, ha.Green)
	d, err := f.Errd(t.Context(), "app")
	if err != nil || !d.Suspended || len(d.Procs) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	if p := d.Procs[0]; p.Name != "appli" || p.Count != 2 || p.AtMax != -1 || p.Match.ArgRegex.String() != "x+" || p.Match.NameRegex != nil {
		t.Errorf("%+v", p)
	}
}

func TestWatch(t *testing.T) {
	f := serve(t)
	f.sup.set("app", ha.RoleWait, ha.Magenta)
	next := []ha.Role{ha.RoleAlone, ha.RolePrim}
	enough := errors.New("enough")
	var seen []ha.Role
	err := f.Watch(t.Context(), "app", func(s ha.ModuleState) error {
		seen = append(seen, s.Role)
		if len(next) == 0 {
			return enough
		}
		f.sup.set("app", next[0], ha.Green)
		next = next[1:]
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if d := cmp.Diff([]ha.Role{ha.RoleWait, ha.RoleAlone, ha.RolePrim}, seen); d != "" {
		t.Fatal(d)
	}
	// A daemon that ends ends the watch.
	err = f.Watch(t.Context(), "app", func(ha.ModuleState) error { go f.stop(); return nil })
	if err != nil && !strings.Contains(err.Error(), "broke off") {
		t.Fatal(err)
	}
}

func TestLog(t *testing.T) {
	f := serve(t)
	f.sup.set("app", ha.RoleAlone, ha.Green)
	ctx := t.Context()
	for i, level := range []ha.Level{ha.LevelEvent, ha.LevelInfo, ha.LevelDebug, ha.LevelEvent} {
		if err := f.WriteLog(ctx, "app", Message{level, "user", fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n int, level ha.Level) string {
		var out []string
		if err := f.Log(ctx, "app", n, level, false, func(l ha.Line) error { out = append(out, l.Text); return nil }); err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		n     int
		level ha.Level
		want  string
	}{{300, ha.LevelEvent, "0 3"}, {300, ha.LevelInfo, "0 1 3"}, {300, ha.LevelDebug, "0 1 2 3"}, {2, ha.LevelDebug, "2 3"}, {0, ha.LevelDebug, ""}} {
		if got := read(c.n, c.level); got != c.want {
			t.Errorf("last %d of %v: %q, want %q", c.n, c.level, got, c.want)
		}
	}
	if ts, err := f.Transitions(ctx, "app", 7); err != nil || len(ts) != 1 || ts[0].ID != 7 || ts[0].Cause.Event != "test" {
		t.Errorf("transitions %+v, %v", ts, err)
	}
	// Following goes on after the last line, none twice, none lost.
	var seen []string
	enough := errors.New("enough")
	err := f.Log(ctx, "app", 1, ha.LevelEvent, true, func(l ha.Line) error {
		seen = append(seen, l.Text)
		if len(seen) == 1 {
			f.log.Write(ha.LevelDebug, "user", "hidden")
			f.log.Write(ha.LevelEvent, "user", "4")
			f.log.Write(ha.LevelEvent, "user", "5")
		}
		if len(seen) == 3 {
			return enough
		}
		return nil
	})
	if d := cmp.Diff([]string{"3", "4", "5"}, seen); d != "" || !errors.Is(err, enough) {
		t.Fatal(d, err)
	}
}

// What may be configured in which state (§9.6).
func TestConfigure(t *testing.T) {
	static := strings.ReplaceAll(userconfig, "/srv/x", "/srv/y")
	dynamic := strings.ReplaceAll(userconfig, "<rfs>", `<rfs nbrei="5">`)
	wrong := strings.ReplaceAll(userconfig, "<rfs>", `<rfs nbre="5">`)
	for _, c := range []struct {
		role   ha.Role
		colour ha.Colour
		src    string
		want   string // part of the error; "": none
	}{
		{ha.RoleStop, ha.Red, static, ""},
		{ha.RoleStop, ha.Magenta, static, "refused"},
		{ha.RoleAlone, ha.Green, dynamic, ""},
		{ha.RoleAlone, ha.Green, static, "rfs can only change while the module is stopped"},
		{ha.RoleWait, ha.Red, dynamic, ""},
		{ha.RoleWait, ha.Magenta, dynamic, "refused"},
		{ha.RolePrim, ha.Green, dynamic, "refused"},
		{ha.RoleSecond, ha.Green, dynamic, "refused"},
		{ha.RoleStop, ha.Red, wrong, "userconfig.xml:2:7: <rfs> has no attribute nbre; did you mean nbrei?"},
	} {
		t.Run(fmt.Sprint(c.role, c.colour, c.want), func(t *testing.T) {
			f := serve(t)
			if r, err := f.Configure(t.Context(), "app"); err != nil || r.Signature == "" || r.Date.Unix() != 1e9 {
				t.Fatalf("%+v, %v", r, err)
			}
			f.sup.took()
			f.sup.set("app", c.role, c.colour)
			before, err := f.paths.Info("app")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(f.paths.ModuleDir("app"), "conf/userconfig.xml"), []byte(c.src), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err = f.Configure(t.Context(), "app")
			after, ierr := f.paths.Info("app")
			if ierr != nil {
				t.Fatal(ierr)
			}
			if c.want == "" {
				if err != nil || after.Active == before.Active {
					t.Errorf("not in force: %v", err)
				}
				if d := cmp.Diff([]string{"configure app"}, f.sup.took()); d != "" {
					t.Error(d)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if after.Active != before.Active {
				t.Error("a configuration that was refused is in force")
			}
		})
	}
}

func TestUninstall(t *testing.T) {
	f := serve(t)
	f.sup.set("app", ha.RoleAlone, ha.Green)
	for _, remove := range []func(context.Context, string) error{f.Uninstall, f.Deconfigure} {
		if err := remove(t.Context(), "app"); !errors.Is(err, ha.ErrRefused) {
			t.Fatalf("of a running module: %v", err)
		}
	}
	f.sup.set("app", ha.RoleStop, ha.Red)
	if err := f.Uninstall(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if ms, err := f.paths.Installed(); len(ms) > 0 || err != nil {
		t.Fatal(ms, err)
	}
	if d := cmp.Diff([]string{"configure app"}, f.sup.took()); d != "" {
		t.Error(d)
	}
}

func TestCluster(t *testing.T) {
	f := serve(t)
	ctx := t.Context()
	if _, err := f.Configure(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	f.sup.took()
	_, err := f.ConfigureCluster(ctx, ClusterConfig{File: "/tmp/c.xml", Data: []byte("<cluster/>")})
	var ps conf.Problems
	if !errors.As(err, &ps) || ps[0].File != "/tmp/c.xml" || len(f.sup.took()) > 0 {
		t.Fatalf("a wrong cluster.xml: %v", err)
	}
	// A module that is paired takes it up later; another key it takes up at once.
	f.sup.set("app", ha.RolePrim, ha.Green)
	more := strings.Replace(clusterXML, "<lans>", "<lans><!-- edited -->", 1)
	for _, want := range []string{"module app is PRIM: it takes the new configuration of the cluster up when", ""} {
		r, err := f.ConfigureCluster(ctx, ClusterConfig{File: "c", Data: []byte(more)})
		if got := strings.Join(r.Warnings, ";"); err != nil || !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Fatalf("%q, %v; expected %q", got, err, want)
		}
	}
	f.sup.set("app", ha.RoleStop, ha.Red)
	f.sup.took()
	other := strings.ReplaceAll(clusterXML, `"default"`, `"other"`)
	r, err := f.ConfigureCluster(ctx, ClusterConfig{File: "c", Data: []byte(other)})
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "module app does not fit the cluster any more") {
		t.Fatalf("%+v, %v", r, err)
	}
	if d := cmp.Diff([]string{"reload"}, f.sup.took()); d != "" {
		t.Error(d)
	}
	f.sup.set("app", ha.RoleAlone, ha.Green)
	if err := f.DropCluster(ctx); !errors.Is(err, ha.ErrRefused) {
		t.Fatalf("drop below a running module: %v", err)
	}
	f.sup.set("app", ha.RoleStop, ha.Red)
	if err := f.DropCluster(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Configure(ctx, "app"); err == nil || !strings.Contains(err.Error(), "cluster is not configured") {
		t.Fatalf("config without a cluster: %v", err)
	}
}

// Garbage on the socket is answered or dropped, and hurts nobody else.
func TestGarbage(t *testing.T) {
	f := serve(t)
	f.sup.set("app", ha.RoleStop, ha.Red)
	for _, raw := range []string{
		"\x00\x01\x02\n\n",
		"POST /v1/modules/app/command HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{x}",
		"POST /v1/modules/app/command HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"Name\":\"a\",\"Q\":1}  ",
		"GET /v1/nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/modules/app/log?n=-1&level=E HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/modules/app/log?n=1&level=Q HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c, err := net.Dial("unix", f.paths.DaemonSocket())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		n, err := c.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 40") {
			t.Errorf("%q is answered by %q, %v", raw, b[:n], err)
		}
		c.Close()
	}
	if calls := f.sup.took(); len(calls) > 0 {
		t.Errorf("the supervisor was asked: %v", calls)
	}
	if _, err := f.Node(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRulesAndHistory(t *testing.T) {
	f := serve(t)
	f.sup.set("app", ha.RoleStop, ha.Red)
	v, err := f.Rules(t.Context(), "app")
	if err != nil || v.Module != "app" || len(v.Rules) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	var values []string
	since := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	if err := f.History(t.Context(), "app", "custom.x", since, func(c ha.Change) error {
		values = append(values, c.Name+"="+c.Value)
		return nil
	}); err != nil || fmt.Sprint(values) != "[custom.x=up custom.x=down]" {
		t.Errorf("%v, %v", values, err)
	}
	if got := f.sup.took(); len(got) != 1 || got[0] != fmt.Sprintf("history of app \"custom.x\" since %v", since) {
		t.Errorf("asked %q", got)
	}
	if _, err := f.Rules(t.Context(), "other"); err == nil {
		t.Error("the rules of a module that is not there")
	}
}
