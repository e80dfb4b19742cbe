package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/skfs/skfs/conf"
)

// What a daemon leaves running is known without it, whatever the module is made of;
// what ended with its host is not.
func TestLeftRunning(t *testing.T) {
	p := newLight(t)
	want := func(want bool) {
		t.Helper()
		if got, err := LeftRunning(p.paths(0), "mirror"); err != nil || got != want {
			t.Errorf("%v %v, expected %v", got, err, want)
		}
	}
	if got, err := LeftRunning(p.paths(0), "another"); err != nil || got {
		t.Errorf("a module that was never started: %v %v", got, err)
	}
	want(false)
	p.do(0, "start")
	p.want("UP green")
	p.close(0)
	want(true)
	p.open(0)
	p.want("UP green")
	p.do(0, "stop")
	p.want("STOP red")
	p.close(0)
	want(false)
	p.open(0)
}

// A cluster configuration that comes while a module is PRIM or SECOND is taken up when
// the module is STOP or ALONE: at the latest both nodes use it when one was stopped.
func TestConfigurationWaits(t *testing.T) {
	p := newPair(t, false, patient)
	p.up()
	port := freePorts(t)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	at := func(i int) string {
		t.Helper()
		m := p.sups[i].modules["mirror"]
		found := make(chan string, 1)
		if err := m.post(ctx, func() { found <- m.mc.beats[0].Local }); err != nil {
			t.Fatal(err)
		}
		return <-found
	}
	var fresh [2]string
	for i := range 2 {
		mc := *p.confs[i]
		mc.beats = append([]heartbeatConf(nil), mc.beats...)
		fresh[i] = fmt.Sprintf("127.0.0.%d:%d", i+1, port)
		mc.beats[0].Local, mc.beats[0].Remote = fresh[i], fmt.Sprintf("127.0.0.%d:%d", 2-i, port)
		if err := p.sups[i].take(ctx, p.sups[i].modules["mirror"], &mc); !errors.Is(err, ErrRefused) {
			t.Fatalf("node%d: %v, expected a refusal", i+1, err)
		}
		if got := at(i); got != p.confs[i].beats[0].Local {
			t.Errorf("node%d is at %s while it is paired", i+1, got)
		}
	}
	p.want("PRIM green", "SECOND green")
	p.do(1, "stop")
	p.want("ALONE green", "STOP red")
	for i := range 2 {
		for at(i) != fresh[i] && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	p.do(1, "start")
	p.want("PRIM green", "SECOND green")
}

// A configuration that is taken up while the module runs reaches its replica.
func TestConfigurationReachesReplica(t *testing.T) {
	p := newPair(t, true)
	p.do(0, "prim")
	p.want("ALONE green")
	mc := *p.confs[0]
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := p.sups[0].take(ctx, p.sups[0].modules["mirror"], &mc); err != nil {
		t.Fatal(err)
	}
	for ; ; time.Sleep(time.Millisecond) {
		p.data.mu.Lock()
		told := slices.Contains(p.data.calls, "0 configure")
		p.data.mu.Unlock()
		if told {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the replica was not told\n%s", p.logs())
		}
	}
}

// A module that could not be supervised when the daemon started is tried again, and one
// without a cluster says what it lacks.
func TestBrokenAgain(t *testing.T) {
	p := conf.Paths{Safe: filepath.Join(t.TempDir(), "s"), SafeVar: filepath.Join(t.TempDir(), "v")}
	tree := fstest.MapFS{"conf/userconfig.xml": {Data: []byte(`<safe><service mode="light"><user/></service></safe>`)}}
	var safe bytes.Buffer
	if err := conf.WriteSafe(&safe, tree); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.safe")
	if err := os.WriteFile(file, safe.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster := []byte(`<cluster><lans><lan name="default"><node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/></lan></lans></cluster>`)
	c, err := p.ApplyCluster("cluster.xml", cluster, conf.KeepLock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Install("app", file, conf.InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply("app", c, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.DropCluster(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Safe: p.Safe, SafeVar: p.SafeVar, Node: "node1", Errors: func(text string) { t.Log(text) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.State("app"); err == nil || !strings.Contains(err.Error(), conf.ErrNoCluster.Error()) {
		t.Errorf("without a cluster: %v", err)
	}
	if _, err := p.ApplyCluster("cluster.xml", cluster, conf.KeepLock); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.HAState("app"), 0o700); err != nil { // what cannot be read for a while
		t.Fatal(err)
	}
	ctx := context.Background()
	s.try(ctx, "app")
	if _, err := s.State("app"); !errors.Is(err, ErrNoModule) {
		t.Errorf("without its state: %v", err)
	}
	if err := os.Remove(p.HAState("app")); err != nil {
		t.Fatal(err)
	}
	if got := s.left(); !slices.Equal(got, []string{"app"}) {
		t.Fatalf("%q are left, expected app", got)
	}
	s.try(ctx, "app")
	if st, err := s.State("app"); err != nil || st.Role != RoleStop {
		t.Errorf("%v %v", st.Role, err)
	}
	if got := s.left(); len(got) != 0 {
		t.Errorf("%q are left", got)
	}
}

// A log of scripts that cannot be opened keeps none from running, and so no application
// from being stopped.
func TestScriptsRunWithoutUserlog(t *testing.T) {
	p := newLight(t)
	if err := os.Mkdir(p.paths(0).UserLog("mirror"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.do(0, "start")
	p.want("UP green")
	p.do(0, "stop")
	p.want("STOP red")
	if ran := p.ran(0); !slices.Contains(ran, "start_both WAIT UP start") || !slices.Contains(ran, "stop_both UP WAIT stop") {
		t.Errorf("ran %q", ran)
	}
}
