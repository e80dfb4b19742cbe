package ha

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/rules"
)

// newLight is a light module on two nodes that know nothing of each other.
func newLight(t *testing.T, tweak ...func(*moduleConf)) *pair {
	return newPair(t, false, append([]func(*moduleConf){func(mc *moduleConf) {
		mc.beats = nil
		mc.conf.Mode, mc.conf.Peer, mc.conf.Heartbeats, mc.conf.Failover = conf.Light, "", nil, false
	}}, tweak...)...)
}

// patient has heartbeats that a busy machine does not lose, for tests of what the nodes
// tell each other.
func patient(mc *moduleConf) { mc.beats[0].Timeout = waitLimit }

// reboot is what a host does that goes down in order or not: the daemon ends, all
// processes with it, and another boot begins.
func (p *pair) reboot(i int) {
	p.t.Helper()
	p.close(i)
	path := p.paths(i).HAState("mirror")
	boot, err := bootID()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := readNewest(path, boot); err != nil {
		p.t.Fatal(err)
	}
	was, err := readSaved(path) // what was flushed is all that is left
	if err != nil {
		p.t.Fatal(err)
	}
	was.Boot = "an earlier boot"
	if err := os.WriteFile(path, encodeSaved(was), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := ignoreMissing(os.Remove(runSaved(path))); err != nil { // of that boot, which its file does not say
		p.t.Fatal(err)
	}
	p.open(i)
}

// A daemon that is killed while start_both runs leaves it running; the next one waits
// for it and runs nothing twice (R1).
func TestLightDaemonRestart(t *testing.T) {
	p := newLight(t)
	fifo := filepath.Join(p.dirs[0], "go")
	p.script(0, "start_both", `echo "start_both $*" >>"$SAFEVAR/ran"; while [ ! -e `+fifo+` ]; do sleep 0.02; done`)
	p.do(0, "start")
	p.until(0, "start_both", func(st ModuleState) bool { return st.Busy == "start_both" })
	p.close(0)
	p.open(0)
	p.want("UP magenta", "STOP red")
	if err := os.WriteFile(fifo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.want("UP green", "STOP red")
	p.close(0)
	p.open(0)
	p.want("UP green")
	if got, want := p.ran(0), []string{"prestart STOP WAIT start", "transition STOP WAIT start", "transition WAIT UP start", "start_both WAIT UP start"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// The settings of boot (§13.2.3), each after a reboot with the module started and with
// it stopped.
func TestBoot(t *testing.T) {
	for _, c := range []struct {
		boot             conf.Boot
		started, stopped bool // whether the module starts
	}{{conf.BootOn, true, true}, {conf.BootOff, false, false}, {conf.BootAuto, true, false}} {
		t.Run(string(c.boot), func(t *testing.T) {
			p := newLight(t, func(mc *moduleConf) { mc.boot = c.boot })
			p.do(0, "start")
			p.want("UP green", "STOP red")
			for i, starts := range []bool{c.started, c.stopped} {
				p.reboot(i)
				if starts {
					p.until(i, "UP green", func(st ModuleState) bool { return st.Role == RoleUp && st.Colour == Green })
					p.logged(i, 0, "Action start called at boot time")
					continue
				}
				// It would have been started before it answers, as the delay is 0.
				for range 3 {
					if err := p.sups[i].Ping(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
				if st, err := p.sups[i].State("mirror"); err != nil || st.Role != RoleStop {
					t.Errorf("node %d: %v %v", i+1, st.Role, err)
				}
			}
			p.logged(0, 0, "Previous halt unexpected")
		})
	}
}

// boot="auto" after a host that went down in order, which stops the module: it starts
// again, but not if an administrator stopped it.
func TestBootAfterShutdown(t *testing.T) {
	p := newLight(t, func(mc *moduleConf) { mc.boot = conf.BootAuto })
	for i, command := range []string{"shutdown", "stop"} {
		p.do(i, "start")
		p.until(i, "UP green", func(st ModuleState) bool { return st.Role == RoleUp && st.Colour == Green })
		p.do(i, command)
		p.until(i, "STOP red", func(st ModuleState) bool { return st.Role == RoleStop && st.Colour == Red })
		p.reboot(i)
	}
	p.want("UP green")
	p.logged(0, 0, "End of stop", "Action start called at boot time", "Local state UP green")
	if st, err := p.sups[1].State("mirror"); err != nil || st.Role != RoleStop {
		t.Errorf("what an administrator stopped is %v, %v", st.Role, err)
	}
}

// boot_delay outlives the daemon, and another start of the host; what an administrator
// asks for meanwhile counts instead.
func TestBootDelay(t *testing.T) {
	delay := 2 * time.Second
	p := newLight(t, func(mc *moduleConf) { mc.boot, mc.delay = conf.BootAuto, delay })
	p.do(0, "start")
	p.do(1, "start")
	p.want("UP green", "UP green")
	p.reboot(0)
	p.close(0)
	p.open(0)
	p.logged(0, 0, "Previous halt unexpected", "Action start called at boot time", "Local state UP green")
	p.want("UP green")

	due := func(i int) bool {
		t.Helper()
		boot, err := bootID()
		if err != nil {
			t.Fatal(err)
		}
		p.close(i)
		was, err := readNewest(p.paths(i).HAState("mirror"), boot)
		if err != nil {
			t.Fatal(err)
		}
		p.open(i)
		return was.StartAt != 0
	}
	if due(0) {
		t.Error("it is to be started once more")
	}
	p.confs[1].delay = time.Hour
	p.reboot(1)
	p.reboot(1)
	if !due(1) {
		t.Error("a host that was started twice in a row has forgotten to start the module")
	}
	p.do(1, "start")
	p.want("-", "UP green")
	p.do(1, "stop")
	p.want("-", "STOP red")
	if due(1) {
		t.Error("a module that was stopped is to be started")
	}
}

// automatic_reboot: a detector's stopstart stops the module in order, and reboots its
// host; with boot="auto" the module starts again, and the loop counter is kept.
func TestAutomaticRebootOfTheHost(t *testing.T) {
	p := newLight(t, func(mc *moduleConf) { mc.boot, mc.conf.Reboot, mc.conf.MaxLoop = conf.BootAuto, true, 1 })
	p.do(0, "start")
	p.want("UP green")
	detect := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		if err := p.sups[0].Do(ctx, "mirror", Command{Name: "stopstart", Identity: "errd"}); err != nil {
			t.Fatal(err)
		}
	}
	detect()
	select {
	case <-p.boots:
	case <-time.After(waitLimit):
		t.Fatalf("no reboot\n%s", p.logs())
	}
	if ran := p.ran(0); !strings.HasPrefix(ran[len(ran)-2], "poststop ") {
		t.Errorf("the host is rebooted before the module has stopped: %q", ran)
	}
	p.logged(0, 0, "Action stopstart called by errd", "Automatic reboot of the server", "End of stop")
	p.reboot(0)
	p.want("UP green")
	p.logged(0, 0, "End of stop", "Action start called at boot time", "Local state UP green")
	detect()
	p.want("STOP red")
	p.logged(0, 0, "Action start called at boot time", "Stopping loop")
	if len(p.boots) > 0 {
		t.Error("it is rebooted more than maxloop times")
	}
}

// §5.7: with failover="off", or after the command, the second waits for its primary.
func TestFailoverOff(t *testing.T) {
	for _, data := range []bool{true, false} {
		t.Run(map[bool]string{true: "data", false: "no data"}[data], func(t *testing.T) {
			p := newPair(t, data, patient)
			p.up()
			for i := range 2 {
				p.do(i, "failover", "off")
			}
			p.do(0, "stop")
			p.want("STOP red", "WAIT red")
			n := p.logged(1, 0, "Action failover off called by SYSTEM/root", "Failover-off configured", "Action stopstart called by failover-off",
				"Transition STOPSTART from failover-off", "Local state WAIT red")
			p.do(0, "start")
			p.want("PRIM green", "SECOND green")

			// It is a setting of the module, not of this run of it.
			p.do(0, "failover", "on")
			p.do(1, "failover", "on")
			p.until(1, "a primary that is green", func(st ModuleState) bool { return st.RemoteCol == Green })
			p.do(0, "stop")
			p.want("STOP red", "ALONE green")
			p.logged(1, n, "Action failover on called by SYSTEM/root", "Reason of failover: remote stop", "Local state ALONE green")
		})
	}
}

// Rules through the driver, on a pair: a primary that has to wait hands over, and comes
// back as second; meanwhile its daemon is started again.
func TestRuleOnAPair(t *testing.T) {
	p := newPair(t, true, patient, func(mc *moduleConf) {
		mc.rules = conf.Failover{Period: 50 * time.Millisecond, HandleTime: 50 * time.Millisecond, Rules: rules.Extend(nil, true)}
	})
	p.up()
	p.do(0, "set", "ping.router", "down")
	p.want("WAIT red", "ALONE green")
	p.logged(0, 0, "Action wait from failover rule ping_failure", "Transition WAIT_TR from failover rule ping_failure", "Local state WAIT red")
	if slices.ContainsFunc(p.ran(0), func(s string) bool { return strings.HasPrefix(s, "poststop") }) {
		t.Error("poststop ran")
	}
	if st, err := p.sups[0].State("mirror"); err != nil || st.Why != "ping_failure" {
		t.Errorf("it waits because of %q, %v", st.Why, err)
	}
	p.close(0)
	p.open(0)
	p.want("WAIT red", "ALONE green")
	p.do(0, "set", "ping.router", "up")
	p.want("SECOND green", "PRIM green")
	p.logged(0, 0, "Transition WAKEUP from failover rule Implicit_WAKEUP", "Local state SECOND green")
}

// A module that a rule holds keeps nobody else from starting.
func TestHeldPeer(t *testing.T) {
	p := newPair(t, false, patient, func(mc *moduleConf) {
		mc.rules = conf.Failover{Period: 50 * time.Millisecond, HandleTime: 50 * time.Millisecond, Rules: rules.Extend(nil, true)}
	})
	p.up()
	for _, i := range []int{1, 0} {
		p.do(i, "stop")
	}
	p.want("STOP red", "STOP red")
	p.do(0, "start")
	p.want("ALONE green")
	p.do(0, "set", "ping.router", "down")
	p.want("WAIT red")
	p.do(1, "start")
	p.want("WAIT red", "ALONE green")
}
