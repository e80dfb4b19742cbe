package ha

import (
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

func ruled(t *testing.T, text string) func(*moduleConf) {
	own := parseRules(t, text)
	return func(mc *moduleConf) {
		mc.rules = conf.Failover{Period: 50 * time.Millisecond, HandleTime: 50 * time.Millisecond, Rules: own}
	}
}

// TestRuleWaitsAndWakes: §4.4.7. A resource that a script sets takes the primary to
// WAIT, where it stays until the resource is up; the other one serves meanwhile.
func TestRuleWaitsAndWakes(t *testing.T) {
	for _, data := range []bool{true, false} {
		p := newPair(t, data, ruled(t, "customid_failure: if (custom.id == down) then wait();"))
		p.up()
		p.do(0, "set", "custom.id", "down")
		p.want("WAIT red", "ALONE green")
		n := p.logged(0, 0, "Resource custom.id set to down by SYSTEM/root", "Action wait from failover rule customid_failure",
			"Transition WAIT_TR from failover rule customid_failure", "Script stop_prim", "Local state WAIT red")
		p.until(0, "the rule as the reason", func(st ModuleState) bool { return st.Why == "customid_failure" })
		p.do(0, "set", "custom.id", "up")
		p.want("SECOND green", "PRIM green")
		p.logged(0, n, "Resource custom.id set to up by SYSTEM/root", "Transition WAKEUP from failover rule Implicit_WAKEUP", "Local state SECOND green")
	}
}

// TestRuleOnce: a rule restarts the application once for a cause, and again for the
// next one, until there were too many.
func TestRuleOnce(t *testing.T) {
	p := newPair(t, false, ruled(t, "app: if (custom.app == down) then restart();"))
	p.do(0, "prim")
	p.want("ALONE green", "-")
	count := func(text string) int {
		n := 0
		for _, l := range p.lines(0) {
			if l == text {
				n++
			}
		}
		return n
	}
	const action = "Action restart from failover rule app"
	from := 0
	for i := range 3 {
		p.do(0, "set", "custom.app", "down")
		from = p.logged(0, from, "Resource custom.app set to down by SYSTEM/root", action, "Transition RESTART from failover rule app",
			"Script stop_prim", "Script start_prim", "Local state ALONE green")
		p.periods(0, 4)
		if n := count(action); n != i+1 {
			t.Fatalf("%d restarts for %d causes\n%s", n, i+1, p.logs())
		}
		p.do(0, "set", "custom.app", "up")
		from = p.logged(0, from, "Resource custom.app set to up by SYSTEM/root")
		p.periods(0, 2)
	}
	p.do(0, "set", "custom.app", "down")
	p.logged(0, from, "Stopping loop", "End of stop")
	p.want("STOP red", "-")
}

// periods returns after the rules of node i were judged at least n times more for the
// time that has passed.
func (p *pair) periods(i, n int) {
	p.t.Helper()
	m := p.sups[i].modules["mirror"]
	for range n {
		done := make(chan struct{})
		if err := m.post(p.t.Context(), func() { m.judging.unjudged = true; close(done) }); err != nil {
			p.t.Fatal(err)
		}
		<-done
		time.Sleep(m.judging.machine.period) // what does not happen can only be waited for
	}
}

// TestResetAtStart: what was found out before the module was stopped says nothing.
func TestResetAtStart(t *testing.T) {
	p := newPair(t, false, ruled(t, "disk: if (custom.disk == down) then stop();"))
	p.do(0, "set", "custom.disk", "down")
	p.do(0, "prim")
	p.want("ALONE green", "-")
	p.logged(0, 0, "Resource custom.disk set to down by SYSTEM/root", "Resource custom.disk set to init by heart", "Local state ALONE green")
	p.do(0, "set", "custom.disk", "down")
	p.want("STOP red", "-")
	p.logged(0, 0, "Action stop from failover rule disk", "End of stop")
}

// TestRuleAssigns: rules that assign lead to others, and those that lead to each other
// do not keep the module from anything.
func TestRuleAssigns(t *testing.T) {
	p := newPair(t, false, ruled(t, `low: if (custom.level == "low") then custom.alarm = down;
		alarm: if (custom.alarm == down) then stopstart();
		ping: if (custom.ball == "left") then custom.ball = "right";
		pong: if (custom.ball == "right") then custom.ball = "left";`))
	p.do(0, "prim")
	p.want("ALONE green", "-")
	p.do(0, "set", "custom.ball", "left")
	p.logged(0, 0, "Resource custom.ball set to right by failover rule ping", "Resource custom.ball set to left by failover rule pong")
	p.do(0, "set", "custom.level", "low")
	p.logged(0, 0, "Resource custom.level set to low by SYSTEM/root", "Resource custom.alarm set to down by failover rule low",
		"Action stopstart from failover rule alarm", "Action start called automatically")
	for _, l := range p.lines(0) {
		if strings.HasPrefix(l, "Rule alarm applied because of custom.alarm=down") {
			return
		}
	}
	t.Errorf("the log does not say why\n%s", p.logs())
}

// TestRuleAfterRestartOfDaemon: who is held in WAIT by a rule is so after its daemon
// was started again, and wakes up (R1).
func TestRuleAfterRestartOfDaemon(t *testing.T) {
	p := newPair(t, true, ruled(t, "disk: if (custom.disk == down) then wait();"))
	p.do(0, "prim")
	p.want("ALONE green", "-")
	p.do(0, "set", "custom.disk", "down")
	p.want("WAIT red", "-")
	p.close(0)
	p.open(0)
	p.periods(0, 3)
	p.want("WAIT red", "-")
	p.do(0, "set", "custom.disk", "up")
	p.want("ALONE green", "-")
	if n := strings.Count(strings.Join(p.lines(0), "\n"), "Action wait from"); n != 1 {
		t.Errorf("%d times wait\n%s", n, p.logs())
	}
}
