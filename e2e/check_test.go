package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

const listenRole = "listen"

// listenHere is a TCP service: it writes its number into the file that is its first
// argument once it listens on the address that is its second, and goes on for ever.
func listenHere(args []string) error {
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[0]+".new", []byte(fmt.Sprint(os.Getpid())), 0o644); err != nil {
		return err
	}
	if err := os.Rename(args[0]+".new", args[0]); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		c.Close()
	}
}

// tcpApplication is start_prim and stop_prim of services on these ports, /run/PORT
// each. start_prim ends when all listen: a checker looks from then on.
func tcpApplication(ports ...int) (start, stop string) {
	var a, o strings.Builder
	for _, port := range ports {
		serve := lab.RoleShell((&lab.Lab{}).Self(), listenRole, fmt.Sprintf("/run/%d", port), fmt.Sprintf(":%d", port))
		fmt.Fprintf(&a, "%s </dev/null >>\"$SAFEUSERVAR/app.log\" 2>&1 &\npid=$!\n", serve)
		fmt.Fprintf(&a, "while [ ! -e /run/%d ]; do kill -0 $pid || exit 1; sleep 0.02; done\n", port)
		fmt.Fprintf(&o, "[ -e /run/%d ] && { kill -9 $(cat /run/%d); rm -f /run/%d; }\n", port, port, port)
	}
	return a.String(), o.String() + "rm -f /run/app.broken; true"
}

// customScript is a checker of §13.15: its resource is down while the file that is its
// argument exists.
const customScript = `#!/bin/sh
last=
while :; do
  if [ -e "$3" ]; then now=down; else now=up; fi
  if [ $now != "$last" ]; then
    "$SAFE/safekit" set -r "$2" -v $now -i customscript -m "$1" && last=$now
  fi
  sleep 0.1
done
`

// commandScript is a checker that acts by itself (§4.4.8.2).
const commandScript = `#!/bin/sh
"$SAFE/safekit" set -r "$2" -v up -i customscript -m "$1"
while :; do
  if [ -e "$3" ]; then
    rm "$3"
    "$SAFE/safekit" restart -i customscript -m "$1"
  fi
  sleep 0.1
done
`

// deviceAddr is that of the fourth host, the device that is pinged.
const deviceAddr = "10.77.0.4"

// The checkers look more often than the guide's default, and the rules act sooner.
const checkTags = `
    <vip>
      <interface_list>
        <interface check="on"><real_interface><virtual_addr addr="` + vip4 + `" where="one_side_alias"/></real_interface></interface>
      </interface_list>
    </vip>
    <check>
      <tcp ident="id" when="prim"><to addr="` + vip4 + `" port="8080" interval="1"/></tcp>
      <tcp ident="two" when="prim"><to addr="` + vip4 + `" port="8082" interval="1"/></tcp>
      <tcp ident="ext" when="pre"><to addr="10.77.0.3" port="8081" interval="1"/></tcp>
      <ping ident="id" when="pre"><to addr="` + deviceAddr + `" interval="1"/></ping>
      <custom ident="id" when="pre" exec="customscript" arg="/run/broken"/>
      <custom ident="app" when="prim" exec="customscript" arg="/run/app.broken"/>
      <custom ident="cmd" when="prim" exec="commandscript" arg="/run/restart"/>
    </check>
    <failover period="100" handle_time="300"><![CDATA[
      tcptwo_failure: if (tcp.two == down) then stopstart();
      tcpext_failure: if (tcp.ext == down) then wait();
      customid_failure: if (custom.id == down) then wait();
      customapp_failure: if (custom.app == down) then restart();
    ]]></failover>`

// listens starts a TCP service on a host and returns what ends it.
func listens(t *testing.T, h *lab.Host, addr string) (end func()) {
	t.Helper()
	ready := "/run/listens"
	os.Remove(h.Path(ready))
	service, err := h.Start(h.RoleCommand(context.WithoutCancel(t.Context()), listenRole, ready, addr))
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			unix.Kill(service.PID(), unix.SIGKILL)
			service.Wait() // that it was killed is no news
		}
	}
	t.Cleanup(end)
	untilFile(t, h, ready)
	return end
}

func untilFile(t *testing.T, h *lab.Host, path string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(h.Path(path)); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%s: %s does not come", h.Name(), path)
		}
	}
}

func put(t *testing.T, h *lab.Host, path string) {
	t.Helper()
	if err := os.WriteFile(h.Path(path), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, h *lab.Host, path string) {
	t.Helper()
	if err := os.Remove(h.Path(path)); err != nil {
		t.Fatal(err)
	}
}

// paired waits until the pair is PRIM and SECOND, and returns which host is PRIM. It
// forgets the logs so far.
func (s *scenario) paired() (prim int) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		for {
			var states [2]string
			for i := range s.Nodes {
				st, err := s.Nodes[i].State(ctx)
				if err != nil {
					return err
				}
				states[i] = st.State
			}
			for i := range states {
				if states[i] == "PRIM green" && states[1-i] == "SECOND green" {
					prim = i
					return nil
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the hosts are %v: %w\n%s", states, ctx.Err(), s.Logs())
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	for i := range s.Nodes {
		s.mark(i)
	}
	return prim
}

// state waits for one host to be stable in a state.
func (s *scenario) state(i int, role string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].Await(ctx, role) })
}

// waits is what the guide says of an action wait: the host goes to WAIT, the other one
// serves, and it comes back when the resource is up again.
func (s *scenario) waits(i int, resource, by, rule string, broken, mended func()) {
	s.t.Helper()
	broken()
	s.logged(i, "Resource "+resource+" set to down by "+by, "Action wait from failover rule "+rule, "Transition WAIT_TR from failover rule "+rule)
	s.state(i, "WAIT")
	s.state(1-i, "ALONE")
	mended()
	s.logged(i, "Resource "+resource+" set to up by "+by, "Transition WAKEUP from failover rule Implicit_WAKEUP")
}

// §4.4.2 to §4.4.8: the checkers, all on one pair.
func TestCheckers(t *testing.T) {
	c := pair.Config{Service: checkTags, Programs: map[string]string{"customscript": customScript, "commandscript": commandScript}}
	c.StartPrim, c.StopPrim = tcpApplication(8080, 8082)
	p := newPair(t, c)
	device, err := p.Lab.AddHost(lab.HostSpec{Name: "device"})
	if err != nil {
		t.Fatal(err)
	}
	if got := device.Addr("default").String(); got != deviceAddr {
		t.Fatalf("the device is at %s, not at %s", got, deviceAddr)
	}
	whole := t
	endExternal := listens(t, p.Client, ":8081")
	within(t, patience, p.Start)
	first := begin(t, p)
	first.marks = [2]pair.Mark{}
	first.logged(0, "Resource tcp.id set to up by tcpcheck")
	for _, r := range []string{"intf.10.77.0.0 set to up by intfcheck", "ping.id set to up by pingcheck", "tcp.ext set to up by tcpcheck", "custom.id set to up by customscript"} {
		first.logged(0, "Resource "+r)
		first.logged(1, "Resource "+r)
	}
	first.logged(0, "Resource ip."+vip4+" set to up by ipcheck")
	first.notLogged(1, "Resource tcp.id set to up")

	// After a failure the pair is in no state to go on with.
	part := func(name string, do func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, do)
		}
	}
	kill := func(h *lab.Host, port int) {
		t.Helper()
		pid, err := os.ReadFile(h.Path(fmt.Sprintf("/run/%d", port)))
		if err != nil {
			t.Fatal(err)
		}
		run(t, h, "kill", "-9", string(pid))
	}
	part("4.4.2 tcp, restart", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		kill(p.Nodes[i].Host, 8080)
		s.logged(i, "Resource tcp.id set to down by tcpcheck", "Action restart from failover rule tcp_failure", "Transition RESTART from failover rule tcp_failure",
			"Local state PRIM magenta", "Script stop_prim", "Script start_prim", "Local state PRIM green", "Resource tcp.id set to up by tcpcheck")
		if again := s.paired(); again != i {
			t.Errorf("a restart moved the application to %s", p.Nodes[again].Name())
		}
	})
	part("4.4.2 tcp, stopstart", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		kill(p.Nodes[i].Host, 8082)
		s.logged(i, "Resource tcp.two set to down by tcpcheck", "Action stopstart from failover rule tcptwo_failure", "End of stop", "Action start called automatically")
		if again := s.paired(); again != 1-i {
			t.Errorf("a stopstart left the application on %s", p.Nodes[i].Name())
		}
	})
	part("4.4.3 tcp of an external service, wait", func(t *testing.T) {
		s := begin(t, p)
		s.paired()
		endExternal()
		for i := range p.Nodes {
			s.logged(i, "Resource tcp.ext set to down by tcpcheck", "Action wait from failover rule tcpext_failure")
		}
		s.await("WAIT", "WAIT")
		listens(whole, p.Client, ":8081")
		for i := range p.Nodes {
			s.logged(i, "Resource tcp.ext set to up by tcpcheck", "Transition WAKEUP from failover rule Implicit_WAKEUP")
		}
		s.paired()
	})
	part("4.4.4 interface", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		h := p.Nodes[i].Host
		s.waits(i, "intf.10.77.0.0", "intfcheck", "interface_failure",
			func() { must(t, h.LinkDown("default")) }, func() { must(t, h.LinkUp("default")) })
		s.paired()
	})
	part("4.4.5 ping", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		h := p.Nodes[i].Host
		s.waits(i, "ping.id", "pingcheck", "ping_failure",
			func() { must(t, p.Lab.Drop(device, h, "default", true)) }, func() { must(t, p.Lab.Drop(device, h, "default", false)) })
		s.paired()
	})
	part("4.4.7 custom, wait", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		h := p.Nodes[1-i].Host // on the second, for once
		put(t, h, "/run/broken")
		s.logged(1-i, "Resource custom.id set to down by customscript", "Action wait from failover rule customid_failure", "Transition WAIT_TR from failover rule customid_failure")
		s.state(1-i, "WAIT")
		s.state(i, "ALONE")
		take(t, h, "/run/broken")
		s.logged(1-i, "Resource custom.id set to up by customscript", "Transition WAKEUP from failover rule Implicit_WAKEUP")
		if again := s.paired(); again != i {
			t.Errorf("the application moved to %s", p.Nodes[again].Name())
		}
	})
	part("4.4.8.1 custom, restart by a rule", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		put(t, p.Nodes[i].Host, "/run/app.broken") // stop_prim mends it
		s.logged(i, "Resource custom.app set to down by customscript", "Action restart from failover rule customapp_failure",
			"Transition RESTART from failover rule customapp_failure", "Local state PRIM green", "Resource custom.app set to up by customscript")
		s.paired()
	})
	part("4.4.8.2 custom, restart by a command", func(t *testing.T) {
		s := begin(t, p)
		i := s.paired()
		put(t, p.Nodes[i].Host, "/run/restart")
		s.logged(i, "Action restart called by customscript", "Local state PRIM magenta", "Script start_prim", "Local state PRIM green")
		s.paired()
	})
	part("checker off", func(t *testing.T) { // §9.4
		s := begin(t, p)
		i := s.paired()
		s.do(i, "checker", "off")
		s.logged(i, "Action checker off called by", "Resource tcp.id set to init by tcpcheck")
		kill(p.Nodes[i].Host, 8080)
		s.do(i, "restart") // by hand
		s.logged(i, "Script start_prim", "Local state PRIM green")
		s.do(i, "checker", "on")
		s.logged(i, "Resource tcp.id set to up by tcpcheck")
		s.notLogged(i, "Resource tcp.id set to down")
	})
	part("4.4.6 module", func(t *testing.T) { moduleChecker(t, p) })
	if t.Failed() {
		return
	}
	within(t, patience, func(ctx context.Context) error {
		return errorOf(p.Nodes[1].Do(ctx, "stop"), p.Nodes[0].Do(ctx, "stop"))
	})
	begin(t, p).await("STOP", "STOP")
	for _, n := range p.Nodes {
		if left, err := n.Leftovers(); err != nil || len(left) > 0 {
			t.Errorf("%s: a stopped module has left %q, %v", n.Name(), left, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// other is a second module of a host.
type other struct {
	t    *testing.T
	n    *pair.Node
	name string
	seen int // lines of its log
}

// install gives a host a light module.
func install(t *testing.T, n *pair.Node, name, tags string) *other {
	t.Helper()
	o := &other{t: t, n: n, name: name}
	o.do("module", "install", "mirror.safe") // for its scripts
	config := "<safe><service mode=\"light\">" + tags + "<user/></service></safe>"
	path := n.Path(filepath.Join("/opt/skfs/modules", name, "conf/userconfig.xml"))
	must(t, os.WriteFile(path, []byte(config), 0o644))
	o.do("config")
	return o
}

func (o *other) do(command ...string) (out string) {
	o.t.Helper()
	within(o.t, patience, func(ctx context.Context) (err error) {
		out, err = o.n.Skfs(ctx, append(command, "-m", o.name)...)
		return err
	})
	return out
}

// logged waits until the log of the module goes on with messages that contain these
// texts in this order.
func (o *other) logged(want ...string) {
	o.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		lines := strings.Split(strings.TrimSpace(o.do("log", "-I", "-s", "100000")), "\n")
		left := want
		for i := o.seen; i < len(lines); i++ {
			if len(left) > 0 && strings.Contains(lines[i], left[0]) {
				if left = left[1:]; len(left) == 0 {
					o.seen = i + 1
					return
				}
			}
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("%s: the log of %s does not get %q:\n%s", o.n.Name(), o.name, left[0], strings.Join(lines, "\n"))
		}
	}
}

// moduleChecker is §4.4.6: a module that depends on another one of its node (§15.13),
// and what maxloop makes of it.
func moduleChecker(t *testing.T, p *pair.Pair) {
	var leaders, followers []*other
	for _, n := range p.Nodes {
		leaders = append(leaders, install(t, n, "leader", ""))
		followers = append(followers, install(t, n, "follower", `
			<check><module name="leader"><to addr="127.0.0.1" interval="1"/></module></check>
			<failover period="100" handle_time="300"/>`))
	}
	for _, f := range followers {
		f.do("start")
		f.logged("Resource module.leader_127.0.0.1 set to down by modulecheck", "Action wait from failover rule module_failure")
		f.do("waitstate", "WAIT")
	}
	for i, l := range leaders {
		l.do("start")
		followers[i].logged("Resource module.leader_127.0.0.1 set to up by modulecheck", "Transition WAKEUP from failover rule Implicit_WAKEUP")
		followers[i].do("waitstate", "UP")
	}
	for range 3 {
		leaders[0].do("restart")
		followers[0].logged("Action stopstart called by modulecheck", "End of stop", "Action start called automatically",
			"Resource module.leader_127.0.0.1 set to up by modulecheck")
		followers[0].do("waitstate", "UP")
	}
	leaders[0].do("restart")
	followers[0].logged("Stopping loop", "End of stop")
	followers[0].do("waitstate", "STOP")
	leaders[1].do("stop")
	followers[1].logged("Resource module.leader_127.0.0.1 set to down by modulecheck", "Action wait from failover rule module_failure", "Transition WAIT_TR from failover rule module_failure")
	followers[1].do("waitstate", "WAIT")
	followers[1].do("stop")
	leaders[0].do("stop")
	for _, m := range append(leaders, followers...) {
		m.do("waitstate", "STOP")
	}
}

// §13.17: of two hosts that are cut from each other the one that reaches the witness
// serves, and the other one waits; nothing that was answered is lost.
func TestWitnessDecides(t *testing.T) {
	c := application
	c.Service = `<check><splitbrain ident="SBtest" exec="ping" arg="10.77.0.3"/></check>`
	p := started(t, c)
	cutOff := func(i int, on bool) {
		t.Helper()
		for _, network := range []string{"default", "repli"} {
			if on {
				must(t, p.Nodes[i].LinkDown(network))
			} else {
				must(t, p.Nodes[i].LinkUp(network))
			}
		}
	}
	for _, who := range []string{"second", "primary"} {
		t.Run("the "+who+" is cut off", func(t *testing.T) {
			s := begin(t, p)
			prim := s.paired()
			off := prim
			if who == "second" {
				off = 1 - prim
			}
			cutOff(off, true)
			s.logged(off, "set to down by heart", "Resource splitbrain.uptodate set to down by splitbraincheck",
				"Action wait from failover rule splitbrain_failure", "Transition WAIT_TR from failover rule splitbrain_failure")
			s.state(off, "WAIT")
			s.state(1-off, "ALONE")
			if off == 0 {
				s.runs(false, true)
			} else {
				s.runs(true, false)
			}
			cutOff(off, false)
			s.logged(off, "Resource splitbrain.uptodate set to up by splitbraincheck", "Transition WAKEUP from failover rule Implicit_WAKEUP")
			if now := s.paired(); now != 1-off {
				t.Errorf("%s is primary after it was cut off", p.Nodes[now].Name())
			}
		})
	}
	same(t, p)
}
