package ha

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// §4.2.9: the primary host is gone at once.
func TestPairPowerOff(t *testing.T) {
	p := newPair(t, true)
	p.up()
	n := len(p.lines(1))
	p.data.kill(0)
	p.close(0)
	p.want("-", "ALONE green")
	p.logged(1, n, "Resource heartbeat.default set to down by heart", "Remote state UNKNOWN grey",
		"Reason of failover: no heartbeat", "Script start_prim", "Local state ALONE green")
}

// R1: a daemon that ends and comes back changes nothing, on neither node.
func TestPairDaemonRestart(t *testing.T) {
	p := newPair(t, true, patient)
	p.up()
	ran := [2]int{len(p.ran(0)), len(p.ran(1))}
	for i := range 2 {
		lines := [2]int{len(p.lines(0)), len(p.lines(1))}
		p.close(i)
		p.open(i)
		p.want("PRIM green", "SECOND green")
		p.logged(i, lines[i], "Resource heartbeat.default set to up by heart")
		for j := range 2 {
			for _, line := range p.lines(j)[lines[j]:] {
				if strings.HasPrefix(line, "Local state") || strings.HasPrefix(line, "Script") || strings.HasPrefix(line, "Action") {
					t.Errorf("daemon of node%d restarted: node%d says %q", i+1, j+1, line)
				}
			}
			if n := len(p.ran(j)); n != ran[j] {
				t.Errorf("daemon of node%d restarted: node%d ran %v", i+1, j+1, p.ran(j)[ran[j]:])
			}
		}
	}
	p.data.mu.Lock()
	starts := 0
	for _, c := range p.data.calls {
		if strings.HasSuffix(c, " start") {
			starts++
		}
	}
	p.data.mu.Unlock()
	if starts != 2 {
		t.Errorf("replicas were started %d times, 2 expected\n%s", starts, p.logs())
	}
	p.do(0, "swap") // both still work
	p.want("SECOND green", "PRIM green")
}

// fifo is a script's way to wait for the test.
func (p *pair) fifo(i int, name string) (path string, release func()) {
	path = filepath.Join(p.dirs[i], name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path, func() {
		p.t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // returns when the script reads
		if err != nil {
			p.t.Fatal(err)
		}
		f.Close()
	}
}

// A daemon that ends while a script runs finds its end, whether it comes before
// the next daemon or after.
func TestPairDaemonRestartInScript(t *testing.T) {
	for _, before := range []bool{true, false} {
		p := newPair(t, true, patient)
		path, release := p.fifo(0, "go")
		p.script(0, "start_prim", `echo start_prim >>"$SAFEVAR/ran"; cat `+path+`; echo ended >>"$SAFEVAR/ran"; exit 7`)
		p.do(0, "prim")
		p.logged(0, 0, "Script start_prim")
		p.close(0)
		if before {
			release()
			for !slices.Contains(p.ran(0), "ended") {
				time.Sleep(time.Millisecond)
			}
		}
		p.open(0)
		if !before {
			if st, _ := p.sups[0].State("mirror"); st.Role != RoleAlone || st.Busy != "start_prim" {
				t.Fatalf("%v %v while start_prim runs", st.Role, st.Busy)
			}
			release()
		}
		p.want("ALONE green", "STOP red")
		p.logged(0, 0, "Script start_prim", "Script start_prim ended with exit code 7", "Local state ALONE green")
		count := 0
		for _, s := range p.ran(0) {
			if s == "start_prim" {
				count++
			}
		}
		if count != 1 {
			t.Errorf("start_prim ran %d times", count)
		}
		p.close(0)
		p.close(1)
	}
}

func TestPairStreamBreaks(t *testing.T) {
	p := newPair(t, true, patient)
	p.up()
	for range 5 {
		n := [2]int{len(p.lines(0)), len(p.lines(1))}
		p.data.breakStream()
		p.logged(0, n[0], "Local state PRIM magenta", "Local state PRIM green")
		p.want("PRIM green", "SECOND green")
	}
	if slices.Contains(p.lines(1), "Reason of failover: remote stop") {
		t.Errorf("the second took over from a primary that lives\n%s", p.logs())
	}
}

// §5.6
func TestPairReplicaDies(t *testing.T) {
	p := newPair(t, true)
	p.up()
	n := [2]int{len(p.lines(0)), len(p.lines(1))}
	p.data.kill(1)
	p.logged(1, n[1], "The replication process has ended", "End of stop", "Local state SECOND green")
	p.want("PRIM green", "SECOND green")

	n = [2]int{len(p.lines(0)), len(p.lines(1))}
	p.data.kill(0)
	p.logged(0, n[0], "Script stop_prim", "Resource rfs.degraded set to up by nfsadmin", "Script start_prim", "Local state ALONE green")
	p.logged(1, n[1], "Action wait from failover rule degraded_server", "Local state WAIT red")
	p.want("ALONE green", "WAIT red")
	st, err := p.sups[0].State("mirror")
	if err != nil || !st.Degraded || !slices.ContainsFunc(st.Resources, func(r Resource) bool { return r.Name == "rfs.degraded" && r.Value == "up" }) {
		t.Errorf("%+v %v", st, err)
	}
	p.do(0, "stop")
	p.want("STOP red", "WAIT red")
	p.do(0, "start")
	p.want("PRIM green", "SECOND green")
}

func TestReplicaCannotStart(t *testing.T) {
	p := newPair(t, true)
	p.data.nodes[0].fail = errors.New("/replicated: no such directory")
	p.do(0, "prim")
	p.logged(0, 0, "The replication process cannot start: /replicated: no such directory", "End of stop", "Local state STOP red")
	p.want("STOP red", "STOP red")
}

// §5.9
func TestPrimOnInconsistentData(t *testing.T) {
	p := newPair(t, true)
	p.data.nodes[0].role, p.data.nodes[0].epoch = "syncing", 2
	p.do(0, "prim")
	p.logged(0, 0, "Data may be inconsistent for replicated directories (stopped during reintegration)",
		"If you are sure that this server has valid data, run safekit primforce to force start as primary",
		"Requested prim start aborted", "End of stop", "Local state STOP red")
	p.want("STOP red", "STOP red")
	p.do(0, "primforce")
	p.want("ALONE green", "STOP red")
}

// A stop script that hangs is killed after its time, and the other node takes
// over only then.
func TestStopScriptHangs(t *testing.T) {
	p := newPair(t, false)
	p.confs[0].niceStop = 200 * time.Millisecond
	path, _ := p.fifo(0, "never")
	p.script(0, "stop_prim", `test "$1" = force || exec cat `+path)
	p.up()
	n := [2]int{len(p.lines(0)), len(p.lines(1))}
	p.do(0, "swap")
	p.want("SECOND green", "PRIM green")
	p.logged(0, n[0], "Begin of Swap", "Script stop_prim", "Script stop_prim: was killed: it took longer than 200ms", "Local state SECOND green")
}

func TestForcestop(t *testing.T) {
	p := newPair(t, false)
	path, _ := p.fifo(0, "never")
	p.script(0, "start_prim", "exec cat "+path)
	p.do(0, "start")
	p.logged(0, 0, "Script start_prim")
	p.do(0, "forcestop")
	p.logged(0, 0, "Action forcestop called by SYSTEM/root", "Script start_prim: was killed: forcestop", "End of stop")
	p.want("STOP red", "STOP red")
}

func TestSwapFromSecond(t *testing.T) {
	p := newPair(t, true)
	p.up()
	n := [2]int{len(p.lines(0)), len(p.lines(1))}
	p.do(1, "swap")
	p.want("SECOND green", "PRIM green")
	p.logged(1, n[1], "Action swap called by SYSTEM/root", "Transition SWAP from SYSTEM", "Begin of Swap", "Script start_prim", "Local state PRIM green")
	n0 := p.logged(0, n[0], "Begin of Swap", "Script stop_prim", "Local state SECOND green")
	for _, line := range p.lines(0)[n[0]:n0] {
		if strings.HasPrefix(line, "Action") || strings.HasPrefix(line, "Transition") || strings.HasPrefix(line, "Reason") {
			t.Errorf("the node that was not asked says %q", line)
		}
	}
}

// Scripts get the arguments and the environment of §14.3, stop scripts are
// called twice, in the order of §14.2.
func TestScripts(t *testing.T) {
	p := newPair(t, false)
	p.confs[0].env = []string{"VARENV=V1"}
	p.script(0, "start_prim", `for v in SAFE SAFEVAR SAFEMODULE SAFEBIN SAFEUSERBIN SAFEUSERVAR VARENV; do eval "echo $v=\$$v"; done; pwd; echo "start_prim $*" >>"$SAFEVAR/ran"`)
	p.do(0, "start")
	p.want("ALONE green", "STOP red")
	p.do(0, "stop")
	p.want("STOP red", "STOP red")
	want := strings.Split(`prestart STOP WAIT start
transition STOP WAIT start
transition WAIT ALONE start
start_both WAIT ALONE start
start_prim WAIT ALONE start
start_sec WAIT ALONE start
stop_sec ALONE WAIT stop
stop_sec force ALONE WAIT stop
stop_prim ALONE WAIT stop
stop_prim force ALONE WAIT stop
stop_both ALONE WAIT stop
stop_both force ALONE WAIT stop
transition ALONE WAIT stop
stop_sec force WAIT STOP stop
stop_prim force WAIT STOP stop
stop_second force WAIT STOP stop
stop_both force WAIT STOP stop
poststop WAIT STOP stop
transition WAIT STOP stop`, "\n")
	if got := p.ran(0); !slices.Equal(got, want) {
		t.Errorf("ran\n%s\nwanted\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	paths := p.paths(0)
	out, err := os.ReadFile(paths.UserLog("mirror"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"SAFE=" + paths.Safe, "SAFEVAR=" + paths.SafeVar, "SAFEMODULE=mirror", "SAFEBIN=" + paths.SafeBin(),
		"SAFEUSERBIN=" + paths.UserBin("mirror"), "SAFEUSERVAR=" + paths.UserVar("mirror"), "VARENV=V1", paths.UserVar("mirror")} {
		if !strings.Contains(string(out), "\n"+line+"\n") {
			t.Errorf("userlog.ulog lacks %q:\n%s", line, out)
		}
	}
}

func TestRefusals(t *testing.T) {
	p := newPair(t, true)
	refused := func(i int, name string, args []string, want string) {
		t.Helper()
		err := p.sups[i].Do(context.Background(), "mirror", Command{Name: name, Args: args})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s on node%d: %v, wanted %q", name, i+1, err, want)
		}
	}
	refused(0, "swap", nil, "STOP red")
	refused(0, "restart", nil, "STOP")
	refused(0, "stopstart", nil, "stopped")
	refused(0, "frobnicate", nil, "no such command")
	refused(0, "second", []string{"quickly"}, "unknown argument")
	p.up()
	refused(0, "start", nil, "started already")
	refused(1, "prim", nil, "stop it first")
	p.do(1, "stop")
	p.want("ALONE green", "STOP red")
	refused(1, "prim", nil, "node1 is primary")
	refused(0, "swap", nil, "ALONE green")
	if err := p.sups[0].Do(context.Background(), "mirro", Command{Name: "start"}); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "mirror") {
		t.Errorf("unknown module: %v", err)
	}
}
