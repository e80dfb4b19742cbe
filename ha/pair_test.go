package ha

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skfs/skfs/conf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two nodes in this process: real scripts, real heartbeats over
// loopback, data in memory.
type pair struct {
	t     *testing.T
	data  *fakeData
	confs [2]*moduleConf
	sups  [2]*Supervisor
	stop  [2]context.CancelFunc
	ended [2]chan struct{}
	dirs  [2]string
	hosts [2]addressHost // nil: the real one
	boots chan int       // nodes that are to be rebooted, once each
}

// waitLimit is how long a test waits for something that must come.
const waitLimit = 20 * time.Second

func newPair(t *testing.T, data bool, tweak ...func(*moduleConf)) *pair {
	p := &pair{t: t, data: &fakeData{}, boots: make(chan int, 100)}
	ports := freePorts(t)
	for i := range 2 {
		p.dirs[i] = t.TempDir()
		me, other := fmt.Sprintf("127.0.0.%d:%d", i+1, ports), fmt.Sprintf("127.0.0.%d:%d", 2-i, ports)
		p.confs[i] = &moduleConf{name: "mirror", id: 1, scripts: true, logging: true, flow: other,
			niceStop: 10 * time.Second, forceStop: 10 * time.Second,
			conf: Conf{Node: fmt.Sprintf("node%d", i+1), Peer: fmt.Sprintf("node%d", 2-i), Second: i == 1, HasData: data,
				Failover: true, Heartbeats: []string{"default"}, MaxLoop: 3, LoopInterval: time.Hour},
			beats: []heartbeatConf{{Ident: "default", Local: me, Remote: other, Pulse: 50 * time.Millisecond, Timeout: 500 * time.Millisecond}}}
		for _, f := range tweak {
			f(p.confs[i])
		}
		for _, name := range []string{"prestart", "poststop", "transition", "start_both", "stop_both", "start_prim", "stop_prim", "start_second", "stop_second", "start_sec", "stop_sec"} {
			p.script(i, name, `echo "$0 $*" | sed 's,.*/,,' >>"$SAFEVAR/ran"`)
		}
		p.open(i)
	}
	t.Cleanup(func() {
		p.close(0)
		p.close(1)
	})
	return p
}

func freePorts(t *testing.T) int {
	for range 100 {
		a, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		port := a.LocalAddr().(*net.UDPAddr).Port
		b, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: port})
		a.Close()
		if err == nil {
			b.Close()
			return port
		}
	}
	t.Fatal("no UDP port is free on 127.0.0.1 and 127.0.0.2")
	return 0
}

func (p *pair) paths(i int) conf.Paths {
	return conf.Paths{Safe: filepath.Join(p.dirs[i], "safe"), SafeVar: filepath.Join(p.dirs[i], "var")}
}

func (p *pair) script(i int, name, body string) {
	p.t.Helper()
	bin := p.paths(i).UserBin("mirror")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// open starts a daemon on node i.
func (p *pair) open(i int) {
	p.t.Helper()
	paths := p.paths(i)
	s := &Supervisor{o: Options{Launcher: fakeLauncher{p.data, i}, Reboot: func() error { p.boots <- i; return nil }, Errors: func(text string) { p.t.Logf("node%d: %s", i+1, text) }},
		paths: paths, modules: map[string]*supervised{}, broken: map[string]string{}, begun: make(chan struct{}), host: p.hosts[i]}
	if err := s.add(p.confs[i]); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.sups[i], p.stop[i], p.ended[i] = s, cancel, make(chan struct{})
	go func() {
		defer close(p.ended[i])
		s.Run(ctx)
	}()
	for s.Ping(context.Background()) != nil || !s.running() {
		time.Sleep(time.Millisecond)
	}
}

// close ends the daemon of node i.
func (p *pair) close(i int) {
	if p.sups[i] == nil {
		return
	}
	p.stop[i]()
	<-p.ended[i]
	if err := p.sups[i].Close(); err != nil {
		p.t.Error(err)
	}
	p.sups[i] = nil
}

// running says that Run has begun.
func (s *Supervisor) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx != nil
}

func (p *pair) do(i int, name string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := p.sups[i].Do(ctx, "mirror", Command{Name: name, Args: args}); err != nil {
		p.t.Fatalf("node%d: %v\n%s", i+1, err, p.logs())
	}
}

// want waits until both nodes are in these states, "-": any.
func (p *pair) want(states ...string) {
	p.t.Helper()
	for i, want := range states {
		if want == "-" {
			continue
		}
		p.until(i, want, func(st ModuleState) bool { return fmt.Sprintf("%s %s", st.Role, st.Colour) == want })
	}
}

// until waits until the state of node i is what ok wants.
func (p *pair) until(i int, what string, ok func(ModuleState) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	var last ModuleState
	for st := range p.sups[i].Watch(ctx, "mirror") {
		if last = st; ok(st) {
			return
		}
	}
	p.t.Fatalf("node%d is %s %s (%s), wanted %s\n%s", i+1, last.Role, last.Colour, last.Busy, what, p.logs())
}

func (p *pair) lines(i int) []string {
	l, err := p.sups[i].Log("mirror")
	if err != nil {
		p.t.Fatal(err)
	}
	lines, err := l.Tail(context.Background(), 10000, LevelDebug)
	if err != nil {
		p.t.Fatal(err)
	}
	var texts []string
	for _, line := range lines {
		texts = append(texts, line.Text)
	}
	return texts
}

func (p *pair) logs() string {
	var b strings.Builder
	for i := range 2 {
		if p.sups[i] == nil {
			continue
		}
		fmt.Fprintf(&b, "--- log of node%d\n%s\n", i+1, strings.Join(p.lines(i), "\n"))
	}
	p.data.mu.Lock()
	fmt.Fprintf(&b, "--- calls\n%s\n", strings.Join(p.data.calls, "\n"))
	p.data.mu.Unlock()
	return b.String()
}

// logged checks that the lines are in the log of node i, in this order, after
// the first from lines. It returns how many lines there are now.
func (p *pair) logged(i, from int, want ...string) int {
	p.t.Helper()
	l, err := p.sups[i].Log("mirror")
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	n, left := 0, want
	l.Follow(ctx, 0, LevelDebug, func(line Line) error {
		if n++; n > from && len(left) > 0 && line.Text == left[0] {
			left = left[1:]
		}
		if len(left) == 0 {
			return io.EOF
		}
		return nil
	})
	if len(left) > 0 {
		p.t.Fatalf("the log of node%d lacks %q (in this place)\n%s", i+1, left[0], p.logs())
	}
	return n
}

// ran are the scripts that ran on node i so far.
func (p *pair) ran(i int) []string {
	data, err := os.ReadFile(filepath.Join(p.paths(i).SafeVar, "ran"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// up brings both nodes to PRIM and SECOND, and each has heard so of the other.
func (p *pair) up() {
	p.t.Helper()
	p.do(0, "prim")
	p.want("ALONE green", "STOP red")
	p.do(1, "second")
	p.want("PRIM green", "SECOND green")
	for i := range 2 {
		p.until(i, "a remote that is green", func(st ModuleState) bool { return st.RemoteCol == Green })
	}
}

func TestPairStartStop(t *testing.T) {
	for _, data := range []bool{true, false} {
		t.Run(fmt.Sprintf("data=%v", data), func(t *testing.T) {
			p := newPair(t, data)
			if data {
				p.do(0, "start")
				p.do(1, "start")
				p.want("WAIT red", "WAIT red")
				p.logged(0, 0, "Data may be not uptodate for replicated directories (wait for the start of the remote server)",
					"Action wait from failover rule notuptodate_server",
					"If you are sure that this server has valid data, run safekit prim to force start as primary",
					"Local state WAIT red")
				p.do(0, "stop")
				p.do(1, "stop")
				p.want("STOP red", "STOP red")
			}
			p.up()
			n0 := p.logged(0, 0, "Action prim called by SYSTEM/root", "Script start_prim", "Local state ALONE green", "Remote state SECOND green", "Local state PRIM green")
			n1 := p.logged(1, 0, "Action second called by SYSTEM/root", "Local state SECOND green", "Remote state PRIM green")

			p.do(0, "stop") // §4.2.2
			p.want("STOP red", "ALONE green")
			n0 = p.logged(0, n0, "Action stop called by SYSTEM/root", "Script stop_prim", "End of stop", "Local state STOP red")
			n1 = p.logged(1, n1, "Reason of failover: remote stop", "Script start_prim", "Local state ALONE green")

			p.do(0, "start") // §4.2.3
			p.want("SECOND green", "PRIM green")

			p.do(1, "restart") // §4.2.4
			p.want("SECOND green", "PRIM green")
			n1 = p.logged(1, n1, "Action restart called by SYSTEM/root", "Script stop_prim", "Script start_prim")

			p.do(1, "swap") // §4.2.5
			p.want("PRIM green", "SECOND green")
			p.logged(1, n1, "Action swap called by SYSTEM/root", "Transition SWAP from SYSTEM", "Begin of Swap", "Script stop_prim")
			p.logged(0, n0, "Begin of Swap", "Script start_prim")
		})
	}
}
