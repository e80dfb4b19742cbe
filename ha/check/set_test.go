package check

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skfs/skfs/conf"
)

// owner is a Sink with the goroutine of a module's loop: the test's, in step.
type owner struct {
	t      *testing.T
	posted chan func()
	wg     sync.WaitGroup
	values map[string]string
	lines  []string
}

func newOwner(t *testing.T, e Env, confs ...conf.Checker) (*owner, *Set) {
	o := &owner{t: t, posted: make(chan func()), values: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	s := NewSet(ctx, o, func(f func()) { o.wg.Go(f) })
	t.Cleanup(func() { cancel(); o.wg.Wait() })
	s.Configure(confs, e)
	return o, s
}

func (o *owner) Post(ctx context.Context, f func()) error {
	select {
	case o.posted <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *owner) Assign(resource, value, by string) {
	if o.values[resource] != value {
		o.values[resource] = value
		o.lines = append(o.lines, resource+" "+value+" "+by)
	}
}

func (o *owner) Note(by, text string)          { o.lines = append(o.lines, by+": "+text) }
func (o *owner) Restarted(resource, by string) { o.lines = append(o.lines, resource+" restarted") }

// until runs what is posted until ok.
func (o *owner) until(what string, ok func() bool) {
	o.t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case f := <-o.posted:
			f()
		case <-deadline:
			o.t.Fatalf("%s does not come; so far %q", what, o.lines)
		}
	}
}

func (o *owner) untilValue(resource, value string) {
	o.t.Helper()
	o.until(resource+" "+value, func() bool { return o.values[resource] == value })
}

func in(when ...conf.When) func(conf.When) bool {
	return func(w conf.When) bool { return strings.Contains(fmt.Sprint(when), string(w)) }
}

// listener is a TCP service on the loopback, and its checker.
func listener(t *testing.T, ident string, when conf.When) (net.Listener, conf.Checker) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no loopback: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l, conf.Checker{Kind: conf.CheckTCP, Ident: ident, When: when, Addr: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port,
		Interval: often, Timeout: patience}
}

// Checkers work while their part runs, and their resources are init otherwise.
func TestSwitch(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		plug(t) // for its loopback
	}
	service, pre := listener(t, "pre", conf.WhenPre)
	_, prim := listener(t, "prim", conf.WhenPrim)
	o, s := newOwner(t, Env{}, pre, prim)
	s.Reset(func(conf.Checker) bool { return false })
	s.Switch(in(conf.WhenPre), true)
	o.untilValue("tcp.pre", Up)
	s.Switch(in(conf.WhenPre, conf.WhenPrim), true)
	o.untilValue("tcp.prim", Up)
	service.Close()
	o.untilValue("tcp.pre", Down)
	s.Switch(in(conf.WhenPrim), true)
	if o.values["tcp.pre"] != Init {
		t.Errorf("the checker was ended, its resource is %s", o.values["tcp.pre"])
	}
	// What is still on its way of the ended one does not count.
	for range 5 {
		o.untilValue("tcp.prim", Up)
		(<-o.posted)()
	}
	if o.values["tcp.pre"] != Init {
		t.Errorf("an ended checker told %s", o.values["tcp.pre"])
	}
	want := []string{"tcp.pre init tcpcheck", "tcp.prim init tcpcheck", "tcp.pre up tcpcheck", "tcp.prim up tcpcheck",
		"tcpcheck: tcp.pre: no connection to 127.0.0.1:" + strconv.Itoa(pre.Port) + ": connect: connection refused",
		"tcp.pre down tcpcheck", "tcp.pre init tcpcheck"}
	if d := cmp.Diff(want, o.lines); d != "" {
		t.Error(d)
	}
	// Another daemon's value stays until there is a result.
	o.values["tcp.pre"] = Up
	s.Switch(in(conf.WhenPre), false)
	if o.values["tcp.pre"] != Up {
		t.Errorf("the value of before is %s", o.values["tcp.pre"])
	}
	o.untilValue("tcp.pre", Down)
}

// One that never comes to an end by itself holds up nobody.
func TestHangingChecker(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		plug(t)
	}
	_, fine := listener(t, "fine", conf.WhenPre)
	hangs := conf.Checker{Kind: conf.CheckModule, Ident: "m", When: conf.WhenPre, Module: "m", Addr: "127.0.0.1", Interval: often, Timeout: time.Hour}
	looking, release := make(chan struct{}), make(chan struct{})
	o, s := newOwner(t, Env{LocalModule: func(string) (Module, error) {
		close(looking)
		<-release
		return Module{Role: "UP", Colour: "green"}, nil
	}}, hangs, fine)
	s.Switch(in(conf.WhenPre), true)
	<-looking
	for range 5 {
		(<-o.posted)()
	}
	o.untilValue("tcp.fine", Up)
	s.Switch(in(), true)
	if o.values["tcp.fine"] != Init || o.values["module.m"] != Init {
		t.Errorf("after the end: %v", o.values)
	}
	close(release)
}

func TestConfigure(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		plug(t)
	}
	_, a := listener(t, "a", conf.WhenPre)
	_, b := listener(t, "b", conf.WhenPre)
	o, s := newOwner(t, Env{}, a, b)
	s.Switch(in(conf.WhenPre), true)
	o.untilValue("tcp.a", Up)
	o.untilValue("tcp.b", Up)
	other := b
	other.Port = 1 // nobody
	if gone := s.Configure([]conf.Checker{other}, Env{}); len(gone) != 1 || gone[0] != "tcp.a" {
		t.Errorf("gone: %v", gone)
	}
	s.Switch(in(conf.WhenPre), true)
	o.untilValue("tcp.b", Down)
}

// customScript writes a program that tells its group and arguments, and goes on as
// then says.
func customScript(t *testing.T, then string) (Env, string) {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	check(t, os.WriteFile(filepath.Join(dir, "prog"), []byte("#!/bin/sh\necho \"$$ $* $TOLD\" >>"+out+"\n"+then+"\n"), 0o755))
	return Env{Name: "app", Dir: dir, Var: dir, Run: filepath.Join(dir, "run"), Vars: []string{"TOLD=env"}, Log: filepath.Join(dir, "log")}, out
}

var customConf = conf.Checker{Kind: conf.CheckCustom, Ident: "x", When: conf.WhenPrim, Exec: "prog", Args: []string{"one", "two"}}

func started(out string) []string {
	data, _ := os.ReadFile(out)
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// polled waits for what no event tells of: the doings of another process.
func polled(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come", what)
		}
	}
}

func groupOf(t *testing.T, out string) int {
	t.Helper()
	polled(t, "the program", func() bool { return started(out)[0] != "" })
	pid, err := strconv.Atoi(strings.Fields(started(out)[0])[0])
	check(t, err)
	return pid
}

// groupGone says that no process of the group lives; whom nobody has reaped does not.
func groupGone(group int) bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, _ := os.ReadFile(file)
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(f) > 2 && f[0] != "Z" && f[2] == strconv.Itoa(group) {
			return false
		}
	}
	return true
}

func TestProgram(t *testing.T) {
	env, out := customScript(t, "trap '' TERM; sleep 1000 & wait; sleep 1000")
	o, s := newOwner(t, env, customConf)
	s.Switch(in(conf.WhenPrim), true)
	group := groupOf(t, out)
	if want := fmt.Sprintf("%d app custom.x one two env", group); started(out)[0] != want {
		t.Errorf("the program was called so: %q, expected %q", started(out)[0], want)
	}
	if _, err := os.Stat(filepath.Join(env.Run, "custom.x")); err != nil {
		polled(t, "the note", func() bool { _, err := os.Stat(filepath.Join(env.Run, "custom.x")); return err == nil })
	}
	o.Assign("custom.x", Down, "prog") // as the command set does
	s.Switch(in(), true)
	if o.values["custom.x"] != Init {
		t.Errorf("the resource of an ended checker is %s", o.values["custom.x"])
	}
	o.Assign("custom.x", Down, "prog") // its last word
	o.untilValue("custom.x", Init)     // is not the last
	polled(t, "the end of the program and of what it started", func() bool { return groupGone(group) })
}

// A program that ends is started again.
func TestProgramEnds(t *testing.T) {
	env, out := customScript(t, "sleep 1000 & exit 3")
	o, s := newOwner(t, env, customConf)
	s.Switch(in(conf.WhenPrim), true)
	o.until("a second start", func() bool { return len(started(out)) >= 2 })
	if want := "customcheck: custom.x: prog ended with exit code 3; it is started again in 1s"; len(o.lines) < 2 || o.lines[1] != want {
		t.Errorf("told %q, expected %q", o.lines, want)
	}
	polled(t, "the end of what it left", func() bool { return groupGone(groupOf(t, out)) })
}

func TestProgramMissing(t *testing.T) {
	env, _ := customScript(t, "")
	missing := customConf
	missing.Exec = "nothing"
	o, s := newOwner(t, env, missing)
	s.Switch(in(conf.WhenPrim), true)
	o.until("the reason", func() bool { return len(o.lines) == 2 })
	if !strings.Contains(o.lines[1], "nothing cannot be started: ") || !strings.Contains(o.lines[1], "no such file") {
		t.Errorf("told %q", o.lines[1])
	}
}

// What a killed daemon left is ended by the next; a process that has its number is not.
func TestSweep(t *testing.T) {
	env, out := customScript(t, "sleep 1000")
	p := &program{conf: customConf, env: env}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.once(ctx) }()
	group := groupOf(t, out)
	note := filepath.Join(env.Run, "custom.x")
	polled(t, "the note", func() bool { _, err := os.ReadFile(note); return err == nil })
	data, err := os.ReadFile(note)
	check(t, err)
	// Another life of the number:
	check(t, os.WriteFile(note, []byte(fmt.Sprintf("%s%d 1 other\n", programHeader, group)), 0o600))
	check(t, Sweep(env.Run))
	if groupGone(group) {
		t.Fatal("a process that only has the number was ended")
	}
	check(t, os.WriteFile(note, data, 0o600))
	check(t, Sweep(env.Run))
	<-done
	cancel()
	polled(t, "the end of the program", func() bool { return groupGone(group) })
	check(t, os.WriteFile(note, []byte("rubbish"), 0o600))
	if err := Sweep(env.Run); err == nil {
		t.Error("a damaged note is not told of")
	}
	check(t, Sweep(env.Run))
	check(t, Sweep(filepath.Join(env.Run, "nowhere")))
}
