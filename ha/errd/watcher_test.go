package errd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skfs/skfs/ha/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// watched is a Watcher at work.
type watched struct {
	*Watcher
	t       *testing.T
	reports chan Report
	conf    Conf
}

func watch(t *testing.T, o Options, ws ...Watch) *watched {
	w := &watched{t: t, reports: make(chan Report, 1000), conf: Conf{Poll: time.Hour, Watches: ws}}
	o.Report = func(r Report) { w.reports <- r }
	w.Watcher = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

func (w *watched) enable(classes ...string) {
	on := map[string]time.Time{}
	for _, c := range classes {
		on[c] = time.Now()
	}
	w.Set(w.conf, on)
}

// await waits for a report that says so.
func (w *watched) await(what string) {
	w.t.Helper()
	limit := time.After(patience)
	var seen []string
	for {
		select {
		case r := <-w.reports:
			w.t.Logf("%v: %s", time.Now().Format("05.000000"), describe(r))
			if got := describe(r); strings.Contains(got, what) {
				return
			} else if seen = append(seen, got); strings.Contains(got, "at") && strings.Contains(got, " ") && len(r.Alarms) > 0 {
				w.t.Fatalf("%q, expected %q", got, what)
			}
		case <-limit:
			w.t.Fatalf("no report says %q: %q", what, seen)
		}
	}
}

// run starts a program that sleeps, under a name.
func run(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(sleep, file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// The end of a process is noticed though the next poll is an hour away.
func TestProcessEnds(t *testing.T) {
	name := fmt.Sprintf("errd-%d", os.Getpid()) // as no other test of this machine calls its own
	w := watch(t, Options{}, Watch{Name: name, Class: "prim", Match: process.Filter{Name: name}, AtLeast: 2, AtMax: -1, Action: "restart"})
	first, second, third := run(t, name), run(t, name), run(t, name)
	w.enable("prim")
	w.await(name + "=true")
	if f := w.Found(); len(f) != 1 || !f[0].Enabled || !f[0].Up || f[0].Count != 3 || len(f[0].Running) != 3 {
		t.Errorf("found %+v", f)
	}
	first.Process.Kill() // one is left over
	w.await(name + "=true")
	third.Process.Kill()
	w.await("atleast " + name + "; " + name + "=false")
	second.Process.Kill()
	second.Wait()

	// What is disabled has no alarm. Enabled again, it is looked for in vain until
	// one of each is there.
	w.enable("other")
	w.enable("prim")
	again, more := run(t, name), run(t, name)
	w.await(name + "=true")
	t.Logf("%+v", w.Found())
	again.Process.Kill()
	w.await("atleast " + name + "; " + name + "=false")
	more.Process.Kill()
}

// fakeServices is a systemd in memory.
type fakeServices struct {
	state   chan map[string]bool // of one: what runs; nil: it does not answer
	changed chan struct{}
	closed  chan struct{}
}

func newServices(up map[string]bool) *fakeServices {
	f := &fakeServices{make(chan map[string]bool, 1), make(chan struct{}, 1), make(chan struct{}, 10)}
	f.state <- up
	return f
}

func (f *fakeServices) Running(_ context.Context, name string) (bool, error) {
	up := <-f.state
	f.state <- up
	if up == nil {
		return false, errors.New("it is away")
	}
	return up[name], nil
}

func (f *fakeServices) Changed() <-chan struct{} { return f.changed }
func (f *fakeServices) Close()                   { f.closed <- struct{}{} }

func (f *fakeServices) become(up map[string]bool) {
	<-f.state
	f.state <- up
	f.changed <- struct{}{}
}

func TestServiceEnds(t *testing.T) {
	f := newServices(map[string]bool{"ntpd": true})
	opens := 0
	w := watch(t, Options{Services: func(context.Context) (Services, error) {
		if opens++; opens == 1 {
			return nil, errors.New("systemd does not answer")
		}
		return f, nil
	}}, Watch{Name: "ntpd", Service: true, Class: "prim", AtLeast: 1, AtMax: -1, Action: "stopstart"})
	w.enable("prim")
	w.await("service ntpd: systemd does not answer") // and that is no alarm
	w.kick()
	w.await("ntpd=true")
	f.become(map[string]bool{})
	w.await("atleast ntpd; ntpd=false")
	f.become(map[string]bool{"ntpd": true})
	w.await("ntpd=true")
	f.become(nil)
	w.await("service ntpd: it is away")
	<-f.closed // a connection that failed is not used again
}

// What systemd says of a real unit, where there is a systemd.
func TestSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd does not run on this machine")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	const unit = "skfs-errd-test"
	if out, err := exec.CommandContext(ctx, "systemd-run", "--unit="+unit, "--collect", "sleep", "1000").CombinedOutput(); err != nil {
		t.Skipf("systemd-run: %v %s", err, out)
	}
	defer exec.Command("systemctl", "stop", unit).Run()
	w := watch(t, Options{}, Watch{Name: unit, Service: true, Class: "prim", AtLeast: 1, AtMax: -1, Action: "stopstart"})
	w.enable("prim")
	w.await(unit + "=true")
	if out, err := exec.CommandContext(ctx, "systemctl", "kill", "--signal=KILL", unit).CombinedOutput(); err != nil {
		t.Fatalf("systemctl kill: %v %s", err, out)
	}
	w.await("atleast " + unit)
}
