package ha

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/check"
	"github.com/skfs/skfs/ha/rules"
	"github.com/skfs/skfs/netvip"
)

// service is a TCP service that can be switched off and on.
type service struct {
	t    *testing.T
	addr string
	l    net.Listener
}

func newService(t *testing.T) *service {
	for range 100 {
		// Below the ports that the kernel gives by itself: nobody takes it while it is off.
		s := &service{t: t, addr: fmt.Sprintf("127.0.0.1:%d", 20000+rand.Intn(12000))}
		var err error
		if s.l, err = net.Listen("tcp", s.addr); err == nil {
			t.Cleanup(func() { s.l.Close() })
			return s
		}
	}
	t.Fatal("no port is free")
	return nil
}

func (s *service) on() {
	s.t.Helper()
	var err error
	if s.l, err = net.Listen("tcp", s.addr); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) off() { s.l.Close() }

// checker is a tcp checker of it.
func (s *service) checker(ident string, when conf.When) conf.Checker {
	return conf.Checker{Kind: conf.CheckTCP, Ident: ident, When: when, Addr: "127.0.0.1", Port: s.l.Addr().(*net.TCPAddr).Port,
		Interval: 20 * time.Millisecond, Timeout: waitLimit}
}

// checkPair is a pair whose first node has these checkers.
func checkPair(t *testing.T, checkers ...conf.Checker) *pair {
	return newPair(t, false, func(mc *moduleConf) {
		if !mc.conf.Second {
			mc.checkers = checkers
			mc.conf.Gate = mc.gates()
		}
	})
}

// value waits until a resource of node 0 has a value.
func (p *pair) is(name, want string) {
	p.t.Helper()
	p.until(0, name+" "+want, func(st ModuleState) bool { return resource(st, name) == want })
}

func resource(st ModuleState, name string) string {
	for _, r := range st.Resources {
		if r.Name == name {
			return r.Value
		}
	}
	return ""
}

func (p *pair) now(i int) ModuleState {
	p.t.Helper()
	st, err := p.sups[i].State("mirror")
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// Checkers work as long as their part of the module does, and are ended before its
// stop scripts.
func TestCheckersOfClasses(t *testing.T) {
	s := newService(t)
	var all []conf.Checker
	for _, when := range []conf.When{conf.WhenPre, conf.WhenBoth, conf.WhenPrim, conf.WhenSecond} {
		all = append(all, s.checker(string(when), when))
	}
	p := checkPair(t, all...)
	values := func(i int) string {
		st := p.now(i)
		return fmt.Sprint(resource(st, "tcp.pre"), " ", resource(st, "tcp.both"), " ", resource(st, "tcp.prim"), " ", resource(st, "tcp.second"))
	}
	if got := values(0); got != "init init init init" {
		t.Errorf("of a stopped module: %s", got)
	}
	p.do(0, "prim")
	p.want("ALONE green")
	for _, r := range []string{"tcp.pre", "tcp.both", "tcp.prim"} {
		p.is(r, check.Up)
	}
	if got := values(0); got != "up up up init" {
		t.Errorf("ALONE: %s", got)
	}
	n := p.logged(0, 0, "Resource tcp.pre set to up by tcpcheck", "Script start_prim", "Resource tcp.prim set to up by tcpcheck")
	p.do(1, "second")
	p.want("PRIM green", "SECOND green")
	p.do(0, "swap")
	p.want("SECOND green", "PRIM green")
	p.is("tcp.second", check.Up)
	if got := values(0); got != "up up init up" {
		t.Errorf("SECOND: %s", got)
	}
	p.do(0, "stop")
	p.want("STOP red")
	if got := values(0); got != "init init init init" {
		t.Errorf("STOP: %s", got)
	}
	p.logged(0, n, "Begin of Swap", "Resource tcp.second set to up by tcpcheck", "End of stop")
	// The application is stopped for others than its checker.
	lines := p.lines(0)
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, "set to down by tcpcheck") }); i >= 0 {
		t.Errorf("a checker looked at what was stopped: %q", lines[i])
	}
}

// A start waits for the first verdict of the checkers of class pre.
func TestGateOfCheckers(t *testing.T) {
	never := conf.Checker{Kind: conf.CheckCustom, Ident: "never", When: conf.WhenPre, Exec: "watch"}
	p := checkPair(t, never)
	p.script(0, "watch", `echo "$*" >>"$SAFEVAR/watching"; while :; do sleep 1; done`)
	p.do(0, "prim")
	p.until(0, "WAIT", func(st ModuleState) bool { return st.Role == RoleWait })
	watching := filepath.Join(p.paths(0).SafeVar, "watching")
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(10 * time.Millisecond) {
		if data, _ := os.ReadFile(watching); string(data) == "mirror custom.never\n" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the program of the checker was called so: %q\n%s", data, p.logs())
		}
	}
	p.is("custom.never", check.Init)
	p.do(0, "set", "custom.never", "up")
	p.want("ALONE green")
	lines := p.lines(0)
	verdict := slices.Index(lines, "Resource custom.never set to up by SYSTEM/root")
	alone := slices.Index(lines, "Script start_prim")
	if verdict < 0 || alone < verdict {
		t.Errorf("the module did not wait for the verdict:\n%s", strings.Join(lines, "\n"))
	}
	p.do(0, "stop")
	p.want("STOP red")
	p.is("custom.never", check.Init)
}

// A second that is started while the checkers of the other node have not spoken waits
// for it.
func TestSecondOfGated(t *testing.T) {
	p := checkPair(t, conf.Checker{Kind: conf.CheckCustom, Ident: "slow", When: conf.WhenPre, Exec: "watch"})
	p.script(0, "watch", "sleep 1000")
	p.do(0, "prim")
	p.until(0, "WAIT", func(st ModuleState) bool { return st.Role == RoleWait })
	p.until(1, "a remote that waits", func(st ModuleState) bool { return st.Remote == RoleWait })
	p.do(1, "second")
	p.until(1, "an idle WAIT", func(st ModuleState) bool { return st.Role == RoleWait && st.Busy == "" })
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(p.paths(0).UserVar("mirror"), "checkers", "custom.slow")); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the program of the checker does not start\n%s", p.logs())
		}
	}
	p.do(0, "set", "custom.slow", "up")
	p.want("PRIM green", "SECOND green")
}

// The application is noted to have been started again, be there a script for it or not.
func TestStarted(t *testing.T) {
	p := newPair(t, false)
	os.Remove(filepath.Join(p.paths(0).UserBin("mirror"), "start_prim"))
	os.Remove(filepath.Join(p.paths(0).UserBin("mirror"), "start_both"))
	p.do(0, "prim")
	p.want("ALONE green")
	first := p.now(0).Started
	if first.IsZero() {
		t.Fatal("when the application was started is not known")
	}
	p.do(0, "restart")
	p.until(0, "another start", func(st ModuleState) bool { return st.Started.After(first) })
}

// A daemon that is started again goes on with what the last one has found out.
func TestCheckersAfterKill(t *testing.T) {
	s := newService(t)
	p := checkPair(t, s.checker("prim", conf.WhenPrim))
	p.do(0, "prim")
	p.is("tcp.prim", check.Up)
	n := len(p.lines(0))
	p.close(0)
	s.off()
	p.open(0)
	p.is("tcp.prim", check.Down)
	p.want("ALONE green")
	lines := p.lines(0)[n:]
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Resource tcp.prim") }); i < 0 || lines[i] != "Resource tcp.prim set to down by tcpcheck" {
		t.Errorf("the new daemon says %q", lines)
	}
	s.on()
	p.is("tcp.prim", check.Up)
}

// §4.4.3: a module waits as long as a service that it needs is away.
func TestWaitForService(t *testing.T) {
	s := newService(t)
	p := newPair(t, false, func(mc *moduleConf) {
		own, err := rules.Parse("ext_failure: if (tcp.ext == down) then wait();", conf.Nearest)
		if err != nil {
			t.Fatal(err)
		}
		mc.rules = conf.Failover{Period: 50 * time.Millisecond, HandleTime: 50 * time.Millisecond, Rules: rules.Extend(own, true)}
		if !mc.conf.Second {
			mc.checkers = []conf.Checker{s.checker("ext", conf.WhenPre)}
			mc.conf.Gate = mc.gates()
		}
	})
	s.off()
	p.do(0, "start")
	p.want("WAIT red")
	n := p.logged(0, 0, "Script prestart", "Resource tcp.ext set to down by tcpcheck", "Action wait from failover rule ext_failure")
	s.on()
	p.want("ALONE green")
	n = p.logged(0, n, "Resource tcp.ext set to up by tcpcheck", "Transition WAKEUP from failover rule Implicit_WAKEUP", "Script start_prim")
	p.do(1, "start")
	p.want("PRIM green", "SECOND green")
	s.off()
	p.want("WAIT red", "ALONE green")
	n = p.logged(0, n, "Resource tcp.ext set to down by tcpcheck", "Action wait from failover rule ext_failure",
		"Transition WAIT_TR from failover rule ext_failure", "Script stop_prim")
	s.on()
	p.want("SECOND green", "PRIM green")
	p.logged(0, n, "Resource tcp.ext set to up by tcpcheck", "Transition WAKEUP from failover rule Implicit_WAKEUP")
	if i := slices.Index(p.lines(0), "Script poststop"); i >= 0 {
		t.Error("a module that waits ran poststop")
	}
}

// §13.17: a second that lost its primary and does not reach the witness waits, until it
// hears the primary again.
func TestSecondWithoutWitness(t *testing.T) {
	var away atomic.Bool
	p := newPair(t, true, func(mc *moduleConf) {
		mc.rules = conf.Failover{Period: time.Second, HandleTime: time.Second, Rules: rules.Extend(nil, true)}
		mc.checkers = []conf.Checker{{Kind: conf.CheckSplitbrain, Ident: "witness", When: conf.WhenPre, Addr: "127.0.0.1", Interval: time.Hour, Timeout: waitLimit}}
		mc.conf.Witness = true
		mc.ping = func(context.Context, string, time.Duration) error {
			if away.Load() {
				return errors.New("it does not answer")
			}
			return nil
		}
	})
	p.up()
	away.Store(true)
	p.close(0)
	p.want("-", "WAIT red")
	n := p.logged(1, 0, "Resource heartbeat.default set to down by heart", "Resource splitbrain.witness set to down by splitbraincheck", "Resource splitbrain.uptodate set to down by splitbraincheck",
		"Action wait from failover rule splitbrain_failure", "Transition WAIT_TR from failover rule splitbrain_failure", "Local state WAIT red")
	p.open(0)
	p.want("PRIM green", "SECOND green")
	n = p.logged(1, n, "Resource splitbrain.uptodate set to up by splitbraincheck", "Transition WAKEUP from failover rule Implicit_WAKEUP")
	away.Store(false)
	p.close(0)
	p.want("-", "ALONE green")
	p.logged(1, n, "Reason of failover: no heartbeat")
	p.open(0) // it has to be there for the end of the test
}

// noHost has no addresses, and finds them all on an interface that is not there.
type noHost struct{}

func (noHost) Tell(netvip.Address) error { return netvip.ErrNoInterface }

func (noHost) Add(context.Context, netvip.Address, netvip.Options) (heldAddress, error) {
	return nil, errors.New("it cannot be set")
}
func (noHost) Adopt(netvip.Address, netvip.Options) (heldAddress, error) { return nil, netvip.ErrGone }
func (noHost) Drop(netvip.Address, bool) error                           { return nil }
func (noHost) Close() error                                              { return nil }
func (noHost) Find(a netvip.Address) (netvip.Place, error) {
	return netvip.Place{Interface: "skfs-none", Prefix: netip.PrefixFrom(a.Addr, 24)}, nil
}

// <interface check="on">, §15.10; a module that waits for its interface goes on to when
// its daemon is killed.
func TestInterfaceOfAddress(t *testing.T) {
	p := newPair(t, false, func(mc *moduleConf) {
		mc.rules = conf.Failover{Period: time.Second, HandleTime: time.Second, Rules: rules.Extend(nil, true)}
		mc.lease = 10 * time.Second
		mc.conf.Addresses = []VirtualAddress{{Name: "192.0.2.77"}}
		mc.vips = []vipConf{{name: "192.0.2.77", checkIntf: true}}
		mc.conf.Gate = mc.gates()
	})
	p.close(0)
	p.hosts[0] = noHost{}
	p.open(0)
	p.do(0, "start")
	p.want("WAIT red")
	p.is("intf.192.0.2.0", check.Down)
	n := p.logged(0, 0, "intf.192.0.2.0: there is no interface skfs-none", "Resource intf.192.0.2.0 set to down by intfcheck", "Action wait from failover rule interface_failure")
	p.close(0)
	p.open(0)
	m := p.logged(0, n, "intf.192.0.2.0: there is no interface skfs-none") // so says the new one
	for _, l := range p.lines(0)[n:m] {
		if strings.HasPrefix(l, "Transition") || strings.HasPrefix(l, "Resource intf") {
			t.Errorf("the new daemon did not go on with what the last one knew: %q", l)
		}
	}
	p.want("WAIT red")
}

// Command checker, §9.4; and <check> can be changed while the module runs.
func TestCheckerOff(t *testing.T) {
	s := newService(t)
	p := checkPair(t, s.checker("a", conf.WhenPre), s.checker("b", conf.WhenPrim))
	p.do(0, "prim")
	p.want("ALONE green")
	p.is("tcp.a", check.Up)
	p.is("tcp.b", check.Up)
	p.do(0, "checker", "off")
	p.is("tcp.a", check.Init)
	p.is("tcp.b", check.Init)
	p.is("usersetting.checker", "off")
	p.do(0, "checker", "on")
	p.is("tcp.a", check.Up)
	p.is("tcp.b", check.Up)

	fresh := *p.confs[0]
	fresh.checkers = []conf.Checker{s.checker("c", conf.WhenPrim), s.checker("b", conf.WhenPrim)}
	m := p.sups[0].modules["mirror"]
	if err := m.post(context.Background(), func() { m.reconfigure(m.ctx, m.ctx, &fresh) }); err != nil {
		t.Fatal(err)
	}
	p.is("tcp.c", check.Up)
	p.is("tcp.a", "")
	p.is("tcp.b", check.Up)
}
