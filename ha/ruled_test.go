package ha

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// solo is a module of one node whose tasks end at once, unless they are held up.
type solo struct {
	t     *testing.T
	s     State
	now   time.Time
	open  map[uint64]Task // under way
	block string          // the script that does not end
	log   []string
	did   []string // scripts and other tasks, as they were begun
}

func newSolo(t *testing.T, c Conf) *solo {
	if c.MaxLoop == 0 {
		c.MaxLoop, c.LoopInterval = 3, 24*time.Hour
	}
	c.Node = "a"
	return &solo{t: t, now: modelNow, open: map[uint64]Task{}, s: State{Role: RoleStop, Colour: Red, Conf: c, Links: make([]Link, len(c.Heartbeats))}}
}

// give gives events, and ends all tasks that follow.
func (o *solo) give(events ...Event) *solo {
	for _, e := range events {
		next, actions := Step(o.s, e, o.now)
		o.s = next
		for _, a := range actions {
			switch a := a.(type) {
			case Say:
				o.log = append(o.log, a.Text)
			case Run:
				o.did = append(o.did, strings.TrimSpace(a.Task.name()+" "+map[bool]string{true: "force"}[a.Task.Force]))
				o.open[a.ID] = a.Task
			}
		}
		o.finish()
	}
	return o
}

func (o *solo) finish() {
	for id, task := range o.open {
		if o.block == "" || task.name() != o.block {
			delete(o.open, id)
			o.give(Done{ID: id})
		}
	}
}

func (o *solo) command(name string, args ...string) *solo {
	return o.give(Asked{Command{Name: name, Args: args}})
}

func (o *solo) as(identity, name string) *solo {
	c := Command{Name: name, Identity: identity}
	if err := o.s.Refusal(c); err != nil {
		o.t.Fatal(err)
	}
	return o.give(Asked{c})
}

func (o *solo) is(r Role, c Colour) *solo {
	o.t.Helper()
	if o.s.Role != r || o.s.Colour != c {
		o.t.Fatalf("it is %v %v, not %v %v\n%s", o.s.Role, o.s.Colour, r, c, strings.Join(o.log, "\n"))
	}
	return o
}

// says checks that these lines are next in the log, with others between them, and
// forgets all.
func (o *solo) says(lines ...string) *solo {
	o.t.Helper()
	all := slices.Clone(o.log)
	for _, l := range lines {
		i := slices.Index(o.log, l)
		if i < 0 {
			o.t.Fatalf("the log lacks %q in\n%s", l, strings.Join(all, "\n"))
		}
		o.log = o.log[i+1:]
	}
	o.log = nil
	return o
}

func (o *solo) ran(tasks ...string) *solo {
	o.t.Helper()
	if !slices.Equal(o.did, tasks) {
		o.t.Fatalf("ran\n%s\nnot\n%s", strings.Join(o.did, "\n"), strings.Join(tasks, "\n"))
	}
	o.did = nil
	return o
}

func TestLightModule(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light})
	o.command("start").is(RoleUp, Green).says("Action start called by SYSTEM/root", "Local state WAIT magenta", "Local state UP magenta", "Local state UP green").
		ran("prestart", "transition", "transition", "start_both")
	o.command("restart").is(RoleUp, Green).says("Action restart called by SYSTEM/root", "Local state UP magenta", "Local state UP green").
		ran("stop_both", "stop_both force", "transition", "start_both")
	o.command("stop").is(RoleStop, Red).says("End of stop", "Local state STOP red").
		ran("stop_both", "stop_both force", "transition", "stop_sec force", "stop_prim force", "stop_second force", "stop_both force", "poststop", "transition")
	for _, name := range mirrorOnly {
		if err := o.s.Refusal(Command{Name: name}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestFarmModuleSharesItsAddress(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Farm})
	o.command("start").is(RoleUp, Green).ran("prestart", "transition", "transition", "share address", "start_both")
	o.command("restart").is(RoleUp, Green).ran("stop_both", "stop_both force", "transition", "start_both")
	o.give(Ruled{"ping_failure", "wait"}).is(RoleWait, Red).ran("stop_both", "stop_both force", "unshare address", "transition")
	o.give(Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Green).ran("transition", "share address", "start_both")
}

func TestRules(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light})
	o.give(Ruled{"custom_failure", "wait"}).is(RoleStop, Red).command("start").is(RoleUp, Green)
	o.log, o.did = nil, nil
	o.give(Ruled{"custom_failure", "restart"}).is(RoleUp, Green).
		says("Action restart from failover rule custom_failure", "Transition RESTART from failover rule custom_failure", "Local state UP green").
		ran("stop_both", "stop_both force", "transition", "start_both")
	o.give(Ruled{"custom_failure", "wait"}).is(RoleWait, Red).
		says("Action wait from failover rule custom_failure", "Transition WAIT_TR from failover rule custom_failure", "Local state WAIT red").
		ran("stop_both", "stop_both force", "transition")
	if o.s.Loops != 2 {
		t.Errorf("%d loops are counted", o.s.Loops)
	}
	// Again, or another one: it waits already.
	o.give(Ruled{"custom_failure", "wait"}, Ruled{"ping_failure", "wait"}, Ruled{"x", "restart"}).is(RoleWait, Red).ran()
	o.give(Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Green).
		says("Transition WAKEUP from failover rule Implicit_WAKEUP", "Local state UP green").ran("transition", "start_both")
	o.give(Ruled{"custom_failure", "stopstart"}).is(RoleUp, Green).
		says("Action stopstart from failover rule custom_failure", "Transition STOPSTART from failover rule custom_failure", "End of stop", "Action start called automatically", "Local state UP green")
	o.give(Ruled{"custom_failure", "restart"}).is(RoleStop, Red).says("Stopping loop", "End of stop")
	o.command("start").is(RoleUp, Green)
	o.give(Ruled{"custom_failure", "stop"}).is(RoleStop, Red).says("Action stop from failover rule custom_failure", "End of stop")
}

// A rule may fire while scripts run.
func TestRulesWhileScriptsRun(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light})
	o.block = "start_both"
	o.command("start").is(RoleUp, Magenta).give(Ruled{"r", "restart"})
	if o.s.Loops != 0 || o.s.Order != NoOrder {
		t.Error("a restart is ordered while the application starts")
	}
	o.give(Ruled{"r", "wait"}).is(RoleUp, Magenta)
	o.block = ""
	o.finish()
	o.is(RoleWait, Red).says("Action wait from failover rule r")

	// It is over before the module waits.
	o.block = "stop_both"
	o.give(Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Green).give(Ruled{"r", "wait"}, Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Magenta)
	o.block = ""
	o.finish()
	o.is(RoleUp, Green)

	// A module that is being stopped does what it was told.
	o.block = "stop_both"
	o.command("stop").give(Ruled{"r", "wait"}, Ruled{"r", "stopstart"}, Ruled{"r", "restart"})
	o.block = ""
	o.finish()
	o.is(RoleStop, Red)
	if o.s.Held != "" {
		t.Error("a stopped module is held")
	}
}

func TestCommandsOfDetectors(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light}).command("start").is(RoleUp, Green)
	o.as("errd", "restart").is(RoleUp, Green).says("Action restart called by errd", "Local state UP green")
	o.as("customscript", "stopstart").is(RoleUp, Green).says("Action stopstart called by customscript", "Action start called automatically")
	if slices.ContainsFunc(o.log, func(l string) bool { return strings.HasPrefix(l, "Transition") }) {
		t.Error("a command is logged as the transition of a rule")
	}
	o.as("script", "stopwait").is(RoleWait, Red).give(Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Green)
	if !o.s.loopCount().Reached(o.now) || o.s.loopCount().Exceeded(o.now) {
		t.Errorf("after 3 of 3: %+v", o.s.loopCount())
	}
	o.command("restart") // of an administrator
	if o.s.Loops != 0 {
		t.Errorf("%d loops after a command of an administrator", o.s.Loops)
	}
	for range 4 {
		o.command("incloop")
	}
	if !o.s.loopCount().Exceeded(o.now) {
		t.Error("incloop does not count")
	}
	o.now = o.now.Add(25 * time.Hour)
	if o.s.loopCount().Reached(o.now) {
		t.Error("the counter does not expire")
	}
	o.as("errd", "restart").is(RoleUp, Green)
	if o.s.Loops != 1 {
		t.Errorf("%d loops in a new interval", o.s.Loops)
	}
	o.command("resetloop")
	if o.s.Loops != 0 {
		t.Error("resetloop does not reset")
	}
}

func TestNoLoopInterval(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light, MaxLoop: 3}).command("start")
	for range 10 {
		o.as("errd", "restart").is(RoleUp, Green)
	}
}

func TestAutomaticReboot(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light, Reboot: true}).command("start").is(RoleUp, Green)
	o.did = nil
	o.command("stopstart").is(RoleUp, Green)
	if slices.Contains(o.did, "reboot") {
		t.Error("the command of an administrator reboots")
	}
	o.as("errd", "stopstart").is(RoleStop, Red)
	if o.did[len(o.did)-1] != "reboot" || !o.s.Rebooted {
		t.Fatalf("no reboot: %v", o.did)
	}
	loops := o.s.Loops
	o.give(Adopted{Reboot: true}, Asked{Command{Name: "start", By: AtBoot}}).is(RoleUp, Green)
	if o.s.Loops != loops || o.s.Rebooted {
		t.Errorf("after the reboot: %d loops, %d before", o.s.Loops, loops)
	}
	o.as("errd", "stopstart").give(Adopted{Reboot: true}, Asked{Command{Name: "start", By: AtBoot}})
	o.as("errd", "stopstart").give(Adopted{Reboot: true}, Asked{Command{Name: "start", By: AtBoot}})
	o.as("errd", "stopstart").is(RoleStop, Red).says("Stopping loop")
}

func TestRebootFails(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light, Reboot: true}).command("start")
	o.block = "reboot"
	o.as("errd", "stopstart").is(RoleStop, Magenta)
	for id := range o.open {
		delete(o.open, id)
		o.give(Done{ID: id, Err: ErrRefused})
	}
	o.is(RoleUp, Green).says("The server cannot be rebooted: refused", "Action start called automatically")
}

func TestClasses(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light})
	want := func(pre, both bool) {
		t.Helper()
		for class, want := range map[string]bool{"pre": pre, "both": both, "prim": false, "second": false, "sec": false, "mine": false} {
			if o.s.checking(class) != want || o.s.detecting(class) != want {
				t.Errorf("%v: class %s: %v, %v, expected %v", o.s.Cur.name(), class, o.s.checking(class), o.s.detecting(class), want)
			}
		}
	}
	stop := func(at string, command func(), pre, both bool) {
		t.Helper()
		o.block = at
		command()
		if o.s.Cur.name() != at {
			t.Fatalf("it is at %s", o.s.Cur.name())
		}
		want(pre, both)
		o.block = ""
	}
	want(false, false)
	stop("prestart", func() { o.command("start") }, false, false)
	stop("start_both", o.finish, true, false)
	o.finish()
	want(true, true)
	stop("stop_both", func() { o.as("x", "restart") }, true, false)
	o.finish()
	want(true, true)
	stop("stop_both", func() { o.give(Ruled{"r", "wait"}) }, true, false)
	o.finish()
	o.is(RoleWait, Red)
	want(true, false)
	stop("poststop", func() { o.command("stop") }, false, false)
	o.finish()
	o.command("start").command("checker", "off")
	if o.s.checking("both") || !o.s.detecting("both") {
		t.Error("checker off")
	}
	o.command("checker", "on").command("errd", "suspend")
	if !o.s.checking("both") || o.s.detecting("both") {
		t.Error("errd suspend")
	}
	o.command("stopstart").is(RoleUp, Green)
	if o.s.detecting("both") {
		t.Error("errd is watching again after a stopstart")
	}
	o.command("stop").command("start")
	want(true, true)
}

// With checkers of class pre, a module does not start its application before they
// have spoken.
func TestGate(t *testing.T) {
	o := newSolo(t, Conf{Mode: conf.Light, Gate: true}).command("start").is(RoleWait, Magenta)
	o.give(Checked{}).is(RoleUp, Green).command("stop").command("start").is(RoleWait, Magenta)
	o.give(Ruled{"module_failure", "wait"}).is(RoleWait, Red).give(Checked{}).is(RoleWait, Red).give(Ruled{ImplicitWakeup, "wakeup"}).is(RoleUp, Green)
}
