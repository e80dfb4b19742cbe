package ha

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/errd"
	"github.com/skfs/skfs/ha/process"
)

// watchedPair is a pair without data whose first node runs a process that errd
// watches, in the given class and with the given action.
type watchedPair struct {
	*pair
	name string
}

func newWatched(t *testing.T, class, action string, tweak ...func(*moduleConf)) *watchedPair {
	t.Helper()
	// As no other process of this machine is called; the kernel keeps 15 bytes.
	w := &watchedPair{name: fmt.Sprintf("e%d-%d", os.Getpid()%1e6, time.Now().UnixNano()%1e6)}
	watch := errd.Watch{Name: w.name, Class: class, Match: process.Filter{Name: w.name}, AtLeast: 1, AtMax: -1, Action: action}
	w.pair = newPair(t, false, append(tweak, func(mc *moduleConf) {
		mc.errd = errd.Conf{Poll: 300 * time.Millisecond, Watches: []errd.Watch{watch}}
	})...)
	t.Cleanup(func() { w.kill() })
	w.script(0, "start_prim", `echo start_prim >>"$SAFEVAR/ran"
ln -sf "$(command -v sleep)" "$SAFEVAR/`+w.name+`"
"$SAFEVAR/`+w.name+`" 100000 &
until [ "$(cat /proc/$!/comm)" = `+w.name+` ]; do sleep 0.01; done`)
	w.script(0, "stop_prim", `echo "stop_prim $1" >>"$SAFEVAR/ran"
for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = `+w.name+` ] && kill ${p#/proc/}; done
exit 0`)
	return w
}

// kill kills the watched processes, and says how many there were.
func (w *watchedPair) kill() int {
	w.t.Helper()
	all, err := process.List()
	if err != nil {
		w.t.Fatal(err)
	}
	some := process.Filter{Name: w.name}.Select(all)
	for _, p := range some {
		if err := p.Signal(unix.SIGKILL); err != nil && err != unix.ESRCH {
			w.t.Fatal(err)
		}
	}
	return len(some)
}

// resource waits for a value of a resource of the first node.
func (w *watchedPair) resource(name, value string) {
	w.t.Helper()
	w.until(0, name+" "+value, func(st ModuleState) bool {
		return slices.ContainsFunc(st.Resources, func(r Resource) bool { return r.Name == name && r.Value == value })
	})
}

// dies kills the process once errd has seen it, and waits for these lines of the log.
func (w *watchedPair) dies(from int, want ...string) int {
	w.t.Helper()
	w.resource("proc."+w.name, "up")
	if n := w.kill(); n != 1 {
		w.t.Fatalf("%d processes run, expected 1\n%s", n, w.logs())
	}
	return w.logged(0, from, want...)
}

// await waits for what no event tells of.
func (w *watchedPair) await(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(waitLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s\n%s", what, w.logs())
		}
	}
}

// §4.4.1: three restarts, then the module stops.
func TestErrdRestart(t *testing.T) {
	w := newWatched(t, "prim", "restart")
	w.do(0, "prim")
	w.want("ALONE green", "-")
	event := "event atleast on proc " + w.name
	n := 0
	for range 3 {
		n = w.dies(n, event, "Action restart called by errd", "Local state ALONE magenta", "Script stop_prim", "Script start_prim", "Local state ALONE green")
	}
	w.dies(n, event, "Stopping loop", "Script stop_prim", "End of stop")
	w.want("STOP red", "-")
	w.resource("proc."+w.name, "init")
}

func TestErrdActions(t *testing.T) {
	for action, want := range map[string][]string{
		"stop":      {"Action stop called by errd", "Script stop_prim", "End of stop", "Local state STOP red"},
		"stopstart": {"Action stopstart called by errd", "Script stop_prim", "End of stop", "Action start called automatically", "Script start_prim", "Local state ALONE green"},
		"noaction":  {"Resource proc." + "NAME" + " set to down by errd"},
	} {
		t.Run(action, func(t *testing.T) {
			w := newWatched(t, "prim", action)
			w.do(0, "prim")
			w.want("ALONE green", "-")
			lines := []string{"event atleast on proc " + w.name}
			for _, l := range want {
				lines = append(lines, strings.ReplaceAll(l, "NAME", w.name))
			}
			w.dies(0, lines...)
		})
	}
}

// Who stops the application by hand suspends the detection.
func TestErrdSuspend(t *testing.T) {
	w := newWatched(t, "prim", "restart")
	w.do(0, "prim")
	w.want("ALONE green", "-")
	w.resource("proc."+w.name, "up")
	w.do(0, "errd", "suspend")
	w.resource("usersetting.errd", "off")
	w.resource("proc."+w.name, "init")
	w.kill()
	from := len(w.lines(0))
	w.do(0, "errd", "resume")
	w.logged(0, from, "event atleast on proc "+w.name, "Action restart called by errd", "Local state ALONE green")
	w.resource("proc."+w.name, "up")
	if n := strings.Count(strings.Join(w.lines(0), "\n"), "event atleast"); n != 1 {
		t.Errorf("%d alarms, expected one\n%s", n, w.logs())
	}
}

// R1: what ends while the daemon is away is noticed when it is back.
func TestErrdDaemonAway(t *testing.T) {
	w := newWatched(t, "prim", "restart")
	w.do(0, "prim")
	w.want("ALONE green", "-")
	w.resource("proc."+w.name, "up")
	w.close(0)
	if n := w.kill(); n != 1 {
		t.Fatalf("%d processes run, expected 1", n)
	}
	w.open(0)
	w.logged(0, 0, "event atleast on proc "+w.name, "Action restart called by errd", "Script start_prim", "Local state ALONE green")
	w.resource("proc."+w.name, "up")
}

// A class of its own is monitored between enable and disable, and across a daemon's
// death; its handler runs once an alarm.
func TestErrdHandler(t *testing.T) {
	w := newWatched(t, "mine", "revive")
	w.script(0, "revive", `echo "revive $*" >>"$SAFEVAR/ran"
until [ -e "$SAFEVAR/code" ]; do sleep 0.01; done
exit $(cat "$SAFEVAR/code")`)
	code := filepath.Join(w.paths(0).SafeVar, "code")
	end := func(c string) {
		t.Helper()
		if err := os.WriteFile(code+".new", []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(code+".new", code); err != nil {
			t.Fatal(err)
		}
	}
	w.do(0, "prim")
	w.want("ALONE green", "-")
	w.resource("proc."+w.name, "init") // nobody has enabled it
	w.do(0, "errd", "enable", "mine")
	w.resource("proc."+w.name, "up")
	w.close(0)
	w.open(0)
	n := w.dies(0, "event atleast on proc "+w.name, "Script revive")
	w.await("the handler to run", func() bool { return slices.Contains(w.ran(0), "revive ALONE ALONE stopstart") })
	// The daemon dies in the middle of the handler.
	w.close(0)
	w.open(0)
	w.do(0, "errd", "disable", "mine")
	end("0")
	w.await("the handler to have ended", func() bool {
		left, err := filepath.Glob(filepath.Join(w.paths(0).UserVar("mirror"), "run", "errd.*"))
		return err == nil && len(left) == 0
	})
	if text := strings.Join(w.lines(0)[n:], "\n"); strings.Contains(text, "stopstart") {
		t.Errorf("a handler that succeeded led to\n%s", text)
	}
	// And while the next one runs that fails.
	if err := os.Remove(code); err != nil {
		t.Fatal(err)
	}
	w.do(0, "restart")
	w.logged(0, n, "Action restart called by SYSTEM/root", "Local state ALONE green")
	w.do(0, "errd", "enable", "mine")
	n = w.dies(n, "Script revive")
	w.close(0)
	end("3")
	w.open(0)
	w.logged(0, n, "Script revive ended with exit code 3", "Action stopstart called by errd", "End of stop", "Action start called automatically", "Local state ALONE green")
	if k := strings.Count(strings.Join(w.ran(0), "\n"), "revive"); k != 2 {
		t.Errorf("the handler ran %d times, expected 2: %q", k, w.ran(0))
	}
	w.resource("proc."+w.name, "init") // the stop has disabled the class
}

// §13.8: what belongs to the primary sees the virtual hostname, the rest the host's.
func TestVirtualHostname(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, false, func(mc *moduleConf) {
		mc.vhost = &conf.VHost{Name: "virtual.example", EnvFile: "vhostenv", When: conf.HostPrim}
	})
	for _, name := range []string{"prestart", "start_both", "start_prim", "start_second", "stop_prim"} {
		p.script(0, name, `echo `+name+` $1 $(uname -n) $(cat /proc/sys/kernel/hostname) >>"$SAFEVAR/ran"`)
		p.script(1, name, `echo `+name+` $1 $(uname -n) $(cat /proc/sys/kernel/hostname) >>"$SAFEVAR/ran"`)
	}
	p.up()
	p.do(0, "stop")
	p.want("STOP red", "ALONE green")
	for i, want := range [][]string{
		{"prestart STOP HOST HOST", "start_both WAIT VIRTUAL VIRTUAL", "start_prim WAIT VIRTUAL VIRTUAL", "stop_prim PRIM VIRTUAL VIRTUAL", "stop_prim force VIRTUAL VIRTUAL"},
		{"prestart STOP HOST HOST", "start_both SECOND HOST HOST", "start_second SECOND HOST HOST", "start_prim SECOND VIRTUAL VIRTUAL"},
	} {
		for _, line := range want {
			line = strings.ReplaceAll(strings.ReplaceAll(line, "HOST", host), "VIRTUAL", "virtual.example")
			if !slices.Contains(p.ran(i), line) {
				t.Errorf("node%d lacks %q: %q", i+1, line, p.ran(i))
			}
		}
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("this process sees %q now, %v", now, err)
	}
}

func TestHostnameIn(t *testing.T) {
	for when, want := range map[conf.HostWhen][]Role{
		conf.HostPrim:   {RoleAlone, RolePrim},
		conf.HostSecond: {RoleSecond},
		conf.HostBoth:   {RoleAlone, RolePrim, RoleSecond, RoleUp},
	} {
		mc := &moduleConf{vhost: &conf.VHost{Name: "v", When: when}}
		for r := RoleStop; r < roleEnd; r++ {
			if got := mc.hostnameIn(r) == "v"; got != slices.Contains(want, r) {
				t.Errorf("when=%s in %v: %v", when, r, got)
			}
		}
	}
}

// The log is emptied under those who write to it; its end is kept.
func TestLimitUserlog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "userlog.ulog")
	if err := limitUserlog(path, 10); err != nil {
		t.Fatal(err) // there is none
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(s string) {
		t.Helper()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	is := func(name, want string) {
		t.Helper()
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %.40q (%d), %v; expected %.40q (%d)", filepath.Base(name), got, len(got), err, want, len(want))
		}
	}
	limit := func(n int64) {
		t.Helper()
		if err := limitUserlog(path, n); err != nil {
			t.Fatal(err)
		}
	}
	write("123456789")
	limit(10)
	limit(0) // none
	is(path, "123456789")
	write("0")
	limit(10)
	is(path, "")
	is(path+".old", "1234567890")
	write("after")
	is(path, "after")
	long := strings.Repeat("x", 3<<20)
	write(long)
	limit(1 << 20)
	is(path, "")
	is(path+".old", long[:userlogKept])
}
