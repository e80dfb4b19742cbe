package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha/process"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/replica"
	"github.com/skfs/skfs/web"
)

// The test binary is skfs and safekit for the scripts.
func TestMain(m *testing.M) {
	run := func() {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		os.Exit(Main(ctx, os.Args, os.Stdout, os.Stderr))
	}
	names := map[string]func(){"skfs": run, "safekit": run}
	for name := range (&App{}).specials() {
		names[name] = run // by its link in SAFEBIN
	}
	testscript.Main(m, names)
}

// TestScripts runs testdata/script: the command line against a real daemon.
// Each script has an installation of its own in SAFE and SAFEVAR.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Sockets have short paths; the work directory has a long one.
			dir, err := os.MkdirTemp("", "skfs")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Defer(func() { killBelow(dir) })
			e.Setenv("SAFE", filepath.Join(dir, "safe"))
			e.Setenv("SAFEVAR", filepath.Join(dir, "var"))
			e.Setenv("SKFS_NODE", "node1")
			// Names for processes of the script that no other of this machine has.
			for _, v := range []string{"A", "B"} {
				e.Setenv(v, fmt.Sprintf("cli-%s%d", v, os.Getpid()))
			}
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command sleeps for a second
			e.Values[daemonKey] = &daemonProcess{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": expectStatus,
			"daemon": controlDaemon,
		},
	})
}

// killBelow kills the programs below a directory that a script that failed left.
func killBelow(dir string) {
	all, err := process.List()
	if err != nil {
		return
	}
	for _, p := range all {
		if len(p.Args) > 0 && strings.HasPrefix(p.Args[0], dir+"/") {
			p.Signal(unix.SIGKILL)
		}
	}
}

// expectStatus runs a command that must end with an exit code: status 3 skfs …
func expectStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARG]...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		code = strings.TrimPrefix(exit.String(), "exit status ")
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// controlDaemon runs the daemon of the script: "daemon start" returns when it has
// told systemd, here the test, that it is ready; "daemon kill"; "daemon stop",
// which must end in order.
func controlDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: daemon start|kill|stop")
	}
	running, _ := ts.Value(daemonKey).(*daemonProcess)
	switch args[0] {
	case "start":
		ts.Check(running.start(ts))
	case "kill":
		ts.Check(running.cmd.Process.Kill())
		running.cmd.Wait() // killed: that is its error
	case "stop":
		ts.Check(running.cmd.Process.Signal(unix.SIGTERM))
		ts.Check(running.cmd.Wait())
	default:
		ts.Fatalf("daemon %s: expected start, kill or stop", args[0])
	}
}

type daemonProcess struct{ cmd *exec.Cmd }

// daemonKey is where the environment of a script has its daemonProcess.
const daemonKey = "daemon"

func (d *daemonProcess) start(ts *testscript.TestScript) error {
	path := filepath.Join(filepath.Dir(ts.Getenv("SAFE")), "notify")
	os.Remove(path)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer l.Close()
	out, err := os.OpenFile(ts.MkAbs("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	var self string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if f := filepath.Join(dir, "skfs"); self == "" {
			if _, err := os.Stat(f); err == nil {
				self = f
			}
		}
	}
	d.cmd = exec.Command(self, "daemon")
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.Env = []string{"NOTIFY_SOCKET=" + path}
	for _, v := range []string{"SAFE", "SAFEVAR", "SKFS_NODE", "PATH", "HOME"} {
		d.cmd.Env = append(d.cmd.Env, v+"="+ts.Getenv(v))
	}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	cmd := d.cmd
	ts.Defer(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	b := make([]byte, 256)
	n, err := l.Read(b)
	if err == nil && string(b[:n]) != "READY=1" {
		err = fmt.Errorf("the daemon notified %q", b[:n])
	}
	if err != nil {
		said, _ := os.ReadFile(out.Name())
		err = fmt.Errorf("%w; it said %s", err, said)
	}
	return err
}

func testApp(t *testing.T) (*App, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	return &App{out: &out, err: &out, name: "skfs"}, &out
}

func TestNormalise(t *testing.T) {
	a, _ := testApp(t)
	for in, want := range map[string]string{
		"start -m AM":                      "start -m AM",
		"-m AM start":                      "start -m AM",
		"second fullsync -m AM":            "second -m AM -- fullsync",
		"-m AM second fullsync":            "second -m AM -- fullsync",
		"state -lq -m AM":                  "state -lq -m AM",
		"waitstate -m AM PRIM":             "waitstate -m AM -- PRIM",
		"log -s 5 -m AM -A":                "log -s 5 -m AM -A",
		"log -s=5":                         "log -s=5",
		"module install -m AM -r x.safe":   "module install -m AM -r -- x.safe",
		"module -m AM install -M 3 x.safe": "module install -m AM -M 3 -- x.safe",
		"printi –m AM words":               "printi -m AM -- words",
		"printe -m AM -- -x":               "printe -m AM -- -x",
		"-r cmd -m x":                      "run -- cmd -m x",
		"set -r x -v up -m AM":             "set -r x -v up -m AM",
		"-m AM set -v up -r x":             "set -m AM -v up -r x",
		"state -v -m AM":                   "state -v -m AM",
		"rfssync -d prim U -m AM":          "rfssync -d prim -m AM -- U",
		"-p":                               "-p",
		"":                                 "",
		"strat -m x":                       "-- strat",
		"module instal -m x":               "module -- instal",
		"start -m":                         "start -m",
	} {
		got := strings.Join(normalise(a.commands(), append([]string{"skfs"}, strings.Fields(in)...))[1:], " ")
		if got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// No flag takes a value in one command of a group and none in another: normalise
// could not tell which word follows.
func TestFlagsAreUnambiguous(t *testing.T) {
	a, _ := testApp(t)
	var walk func(group *cli.Command, cs []*cli.Command)
	walk = func(group *cli.Command, cs []*cli.Command) {
		for _, c := range cs {
			g := group
			if g == nil {
				g = c
			}
			values := valueFlags([]*cli.Command{g})
			for _, f := range c.Flags {
				if _, isBool := f.(*cli.BoolFlag); isBool {
					for _, n := range f.Names() {
						if values[n] || n == "m" {
							t.Errorf("-%s of %s takes no value, but one of another command does", n, c.Name)
						}
					}
				}
			}
			walk(g, c.Subcommands)
		}
	}
	walk(nil, a.commands())
}

func TestPrintStates(t *testing.T) {
	a, out := testApp(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	err := a.printStates([]web.Module{
		{Name: "mirror", Configured: true, State: ha.ModuleState{
			Role: ha.RolePrim, Colour: ha.Green, Since: at, Peer: "node2", Remote: ha.RoleSecond, RemoteCol: ha.Magenta,
			Progress: ha.ReplicaProgress{FilesDone: 3, FilesLeft: 1, BytesDone: 3 << 20, BytesLeft: 1 << 20, Rate: 1 << 19, Left: 2 * time.Second},
		}},
		{Name: "new"},
		{Name: "odd", Problem: "lan repli is not in cluster.xml"},
		{Name: "w", Configured: true, State: ha.ModuleState{Role: ha.RoleWait, Colour: ha.Red, Since: at, Why: "no data"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `Module  State           Since                Remote  Remote state
mirror  PRIM (green)    2026-01-02 03:04:05  node2   SECOND (magenta)
new     not configured  -                    -       -
odd     cannot run      -                    -       -
w       WAIT (red)      2026-01-02 03:04:05  -       -
mirror: synchronising: 3 of 4 files, 3.0 MiB of 4.0 MiB, 512.0 KiB/s, 2s left
odd: lan repli is not in cluster.xml
w: no data
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

// What the waits take for the end (§9.4).
func TestWaitsEnd(t *testing.T) {
	for _, c := range []struct {
		role            ha.Role
		colour          ha.Colour
		start, startsOK bool
		stop            bool
	}{
		{ha.RoleStop, ha.Red, true, false, true},
		{ha.RoleStop, ha.Magenta, false, false, false},
		{ha.RoleWait, ha.Magenta, false, false, false},
		{ha.RoleWait, ha.Red, true, false, false},
		{ha.RoleAlone, ha.Green, true, true, false},
		{ha.RoleSecond, ha.Magenta, false, false, false},
	} {
		s := ha.ModuleState{Role: c.role, Colour: c.colour}
		if ended, ok := startEnded(s); ended != c.start || ok && ended != c.startsOK {
			t.Errorf("start ended in %v %v: %t %t", c.role, c.colour, ended, ok)
		}
		if ended, _ := stopEnded(s); ended != c.stop {
			t.Errorf("stop ended in %v %v: %t", c.role, c.colour, ended)
		}
	}
}

func TestParseDate(t *testing.T) {
	local := time.FixedZone("here", 3600)
	was := time.Local
	time.Local = local
	defer func() { time.Local = was }()
	for in, want := range map[string]time.Time{
		"2016-03-01":           time.Date(2016, 3, 1, 0, 0, 0, 0, local),
		"2016-03-01Z":          time.Date(2016, 3, 1, 0, 0, 0, 0, time.UTC),
		"2016-03-01 12:00:00":  time.Date(2016, 3, 1, 12, 0, 0, 0, local),
		"2016-03-01 12:00:00Z": time.Date(2016, 3, 1, 12, 0, 0, 0, time.UTC),
		"2016-03-01T12:00:00":  time.Date(2016, 3, 1, 12, 0, 0, 0, local),
		"2016-03-01T12:00:00Z": time.Date(2016, 3, 1, 12, 0, 0, 0, time.UTC),
	} {
		if got, err := parseDate(in); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "Z", "1.3.2016", "2016-02-30", "2016-03-01T25:00:00", "2016-03-01T12:00:00+01:00", "12:00:00"} {
		if got, err := parseDate(in); err == nil {
			t.Errorf("%q is taken as %v", in, got)
		}
	}
}

func TestPrintDiff(t *testing.T) {
	for _, c := range []struct {
		d    replica.Diff
		want string
	}{
		{replica.Diff{All: true}, "Module m was never synchronized: the other node lacks everything\n"},
		{replica.Diff{Peer: "node2", Files: 3, Bytes: 50 << 20, Directories: 2, Attributes: 4, Born: 1, Limit: 25 << 20}, `What node2 lacks of module m:
  files with changed data          3
  size to compare, at most to copy 50.0 MiB
  directories with changed names   2
  objects with changed attributes  4
  new objects                      1
Estimated duration: 2s at 25.0 MiB/s (reiallowedbw)
`},
		{replica.Diff{Peer: "node2", Connected: true, Files: 1, Bytes: 8 << 20}, `What node2 lacks of module m:
  files with changed data          1
  size to compare, at most to copy 8.0 MiB
  directories with changed names   0
  objects with changed attributes  0
  new objects                      0
Estimated duration: 80ms at 100.0 MiB/s (assumed)
node2 is connected: it is being brought up to date, or lacks only what is not yet on its disk
`},
	} {
		var b bytes.Buffer
		if err := printDiff(&b, "m", c.d); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, b.String()); d != "" {
			t.Error(d)
		}
	}
}
