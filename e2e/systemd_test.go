package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// underSystemd is a module whose application is a process and a service of systemd.
var underSystemd = pair.Config{
	TimeoutMs: 30_000, // what follows an order comes at once; a busy machine is no loss of a peer
	// The process would tell systemd of itself if it could.
	StartPrim: `echo "start notify=$NOTIFY_SOCKET watchdog=$WATCHDOG_USEC"
for name in appli.exe other.exe; do
	ln -sf "$(command -v sleep)" /run/$name
	setsid /run/$name 1000000 &
	until [ "$(cat /proc/$!/comm)" = $name ]; do sleep 0.01; done
done
systemctl start web`,
	StopPrim: `echo "stop $1" >>/replicated/stops
$SAFE/safekit kill -name=appli.exe -level=terminate
$SAFE/safekit kill -name=other.exe -level=terminate
systemctl stop web`,
	Attrs: `boot="on" boot_delay="2" automatic_reboot="on"`,
	Service: `    <errd polltimer="600">
      <proc name="web" service="yes" atleast="1" action="restart" class="prim"/>
      <proc name="other.exe" atleast="1" action="stopstart" class="prim"/>
    </errd>`,
}

const (
	webUnit = `[Service]
ExecStart=/bin/sleep 1000000
`
	// The network goes when networking is stopped, which is after what comes after
	// network.target has been stopped.
	networkUnit = `[Unit]
Before=network.target
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=ip link set eth0 down
ExecStop=ip link set eth1 down
[Install]
WantedBy=multi-user.target
`
)

// installLines are the commands by which README installs skfs, without the build.
func installLines(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "    make build && ")
	if !ok {
		t.Fatal("README.md does not say how skfs is installed: no line begins with make build")
	}
	lines, _, _ := strings.Cut(rest, "\n\n")
	return lines
}

// stage is a directory that looks like the repository after make build.
func stage(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(skfs), "stage")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	packaging, err := filepath.Abs("../packaging")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Link(skfs, filepath.Join(dir, "bin/skfs")), os.Symlink(packaging, filepath.Join(dir, "packaging"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What packaging and README say, on hosts that boot systemd: which of what systemd does
// leaves a module running (R1), and which stops it in order, or starts it.
func TestSystemd(t *testing.T) {
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	if why := lab.NoSystemd(); why != "" {
		t.Skip(why)
	}
	install := fmt.Sprintf("set -e\ncd %s\n%s\n", stage(t), installLines(t))
	for name, text := range map[string]string{"web": webUnit, "networking": networkUnit} {
		install += fmt.Sprintf("cat >/etc/systemd/system/%s.service <<X\n%sX\n", name, text)
	}
	install += "systemctl daemon-reload && systemctl enable --now networking\n"
	p := newPairOf(t, pair.Options{Config: underSystemd, Install: install})
	s := begin(t, p)
	for am, boot := range bootModules {
		configureLight(t, p.Nodes[0], am, boot)
	}
	within(t, patience, p.Start)
	within(t, patience, func(ctx context.Context) error {
		_, err := p.Nodes[0].Skfs(ctx, "start", "-m", "auto")
		return err
	})

	t.Run("the daemon is killed", s.sub(func() {
		was := s.alive(0)
		s.mark(0)
		for range 6 { // more often than systemd puts up with by default
			within(s.t, patience, func(ctx context.Context) error { return killUnit(ctx, p.Nodes[0]) })
		}
		s.undisturbed(0, was)
	}))
	t.Run("the unit is restarted", s.sub(func() {
		was := s.alive(0)
		s.mark(0)
		run(s.t, p.Nodes[0].Host, "systemctl", "restart", "skfs")
		s.undisturbed(0, was)
	}))
	t.Run("a service ends", s.sub(func() {
		// Noticed by its event: the poll would come after ten minutes.
		for _, how := range [][]string{{"systemctl", "kill", "-s", "KILL", "web"}, {"systemctl", "stop", "web"}} {
			s.watched(0, "web")
			s.mark(0)
			run(s.t, p.Nodes[0].Host, how...)
			s.logged(0, "event atleast on proc web", "Action restart called by errd", "Script stop_prim", "Script start_prim", "Local state PRIM green")
			s.await("PRIM", "SECOND")
			run(s.t, p.Nodes[0].Host, "systemctl", "is-active", "web")
		}
	}))
	t.Run("the unit is stopped", s.sub(func() {
		s.mark(0)
		s.mark(1)
		run(s.t, p.Nodes[0].Host, "systemctl", "stop", "skfs")
		s.leftNothing(0)
		s.logged(1, "Reason of failover: remote stop", "Script start_prim", "Local state ALONE green")
		run(s.t, p.Nodes[0].Host, "systemctl", "start", "skfs")
		s.logged(0, "Action shutdown called by SYSTEM", "Script stop_prim", "End of stop")
		s.do(0, "start")
		s.await("SECOND", "PRIM")
	}))
	t.Run("the system is rebooted", s.sub(func() {
		s.do(0, "swap")
		s.await("PRIM", "SECOND")
		s.mark(0)
		s.mark(1)
		run(s.t, p.Nodes[0].Host, "systemctl", "--no-block", "reboot")
		within(s.t, patience, p.Nodes[0].Reboot)
		s.logged(1, "Reason of failover: remote stop", "Script start_prim", "Local state ALONE green")
		s.notLogged(1, "no heartbeat")
		// boot_delay is not over: a daemon that dies now forgets nothing.
		within(s.t, patience, func(ctx context.Context) error { return killUnit(ctx, p.Nodes[0]) })
		s.logged(0, "Action shutdown called by SYSTEM", "Script stop_prim", "End of stop", "Action start called at boot time", "Local state SECOND green")
		s.notLogged(0, "Previous halt unexpected")
		s.notLogged(0, "event atleast")
		s.await("SECOND", "PRIM")
		for am, boot := range bootModules {
			s.isAfterBoot(0, am, boot.starts)
		}
	}))
	t.Run("automatic_reboot", s.sub(func() {
		s.mark(0)
		s.mark(1)
		s.watched(1, "other.exe")
		run(s.t, p.Nodes[1].Host, skfs, "kill", "-name=other.exe", "-level=9")
		within(s.t, patience, p.Nodes[1].Reboot)
		s.logged(1, "event atleast on proc other.exe", "Action stopstart called by errd", "Automatic reboot of the server", "Script stop_prim", "End of stop",
			"Action start called at boot time", "Local state SECOND green")
		s.logged(0, "Reason of failover: remote stop", "Local state ALONE green", "Local state PRIM green")
		s.await("PRIM", "SECOND")
	}))
	if t.Failed() {
		return
	}
	for i, n := range p.Nodes {
		out := run(t, n.Host, "cat", pair.SafeVar+"/modules/"+pair.Module+"/userlog.ulog")
		if !strings.Contains(out, "start notify= watchdog=\n") || regexp.MustCompile("notify=.*/").MatchString(out) {
			t.Errorf("node%d: the application is given what systemd says to skfs:\n%s", i+1, out)
		}
	}
	same(t, p)
}

// sub is a part of the scenario with a test of its own. Parts go on where the one before
// ended: one that fails is the last.
func (s *scenario) sub(do func()) func(*testing.T) {
	whole := s.t
	return func(t *testing.T) {
		if whole.Failed() {
			t.Skip("a part before this one failed")
		}
		s.t = t
		do()
	}
}

// watched waits until errd of host i has seen that a process or service runs.
func (s *scenario) watched(i int, name string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		for {
			out, err := s.Nodes[i].Skfs(ctx, "errd", "list", "-m", pair.Module)
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); slices.Contains(f, name) && slices.Contains(f, "up") {
					return nil
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("errd does not see %s: %w\n%s", name, ctx.Err(), out)
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// alive names what must go on: the replica and the application.
func (s *scenario) alive(i int) []string {
	s.t.Helper()
	all, err := s.Nodes[i].Processes()
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, p := range all {
		if name := p.String(); strings.Contains(name, "skfs replica") || strings.Contains(name, ".exe") || strings.Contains(name, "sleep 1000000") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) != 4 {
		s.t.Fatalf("expected a replica, appli.exe, other.exe and the service, found %q", names)
	}
	return names
}

// undisturbed says that the daemon is back, and that since the mark nothing has happened
// to the module of host i.
func (s *scenario) undisturbed(i int, was []string) {
	s.t.Helper()
	within(s.t, patience, s.Nodes[i].Active)
	s.await("PRIM", "SECOND")
	if is := s.alive(i); !slices.Equal(is, was) {
		s.t.Errorf("running was %q, is %q", was, is)
	}
	for _, unwanted := range []string{"Script ", "Local state", "Action "} {
		s.notLogged(i, unwanted)
	}
}

// leftNothing says that neither skfs nor the application runs on host i, and nothing is
// mounted.
func (s *scenario) leftNothing(i int) {
	s.t.Helper()
	all, err := s.Nodes[i].Processes()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range all {
		if name := p.String(); strings.Contains(name, "/skfs ") || strings.Contains(name, ".exe") || strings.Contains(name, "sleep") {
			s.t.Errorf("node%d: %s is left", i+1, name)
		}
	}
	mounts, err := s.Nodes[i].Mounts()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.FS, "fuse") {
			s.t.Errorf("node%d: %s is left mounted", i+1, m.Path)
		}
	}
}

// killUnit kills the daemon and returns when systemd has started another one.
func killUnit(ctx context.Context, n *pair.Node) error {
	was, err := n.DaemonPID()
	if err != nil {
		return err
	}
	if err := unix.Kill(was, unix.SIGKILL); err != nil {
		return err
	}
	for {
		pid, err := n.DaemonPID()
		if err == nil && pid != was {
			if err = n.Active(ctx); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon of %s does not come back: %w: %w", n.Name(), ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bootModules are light modules by how they are told to start with the host (§13.2.3).
var bootModules = map[string]struct {
	attr, command string
	starts        bool
}{
	"off":      {attr: `boot="off"`, command: "on"}, // which means nothing then
	"ignore":   {attr: `boot="ignore"`},
	"ignoreon": {attr: `boot="ignore"`, command: "on", starts: true},
	"auto":     {attr: `boot="auto"`, starts: true}, // it is started before
}

func configureLight(t *testing.T, n *pair.Node, am string, boot struct {
	attr, command string
	starts        bool
}) {
	t.Helper()
	on := func(args ...string) {
		t.Helper()
		run(t, n.Host, append(append([]string{skfs}, args...), "-m", am)...)
	}
	on("module", "install", "/opt/skfs/Application_Modules/light.safe")
	config := fmt.Sprintf(`<safe><service mode="light" %s><user/></service></safe>`, boot.attr)
	if err := os.WriteFile(n.Path("/opt/skfs/modules/"+am+"/conf/userconfig.xml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if boot.command != "" {
		on("boot", boot.command)
	}
	on("config")
}

// isAfterBoot waits until a module that starts with the host has, and says whether
// another one has not.
func (s *scenario) isAfterBoot(i int, am string, starts bool) {
	s.t.Helper()
	if starts {
		run(s.t, s.Nodes[i].Host, skfs, "waitstate", "UP", "-m", am, "--timeout", "60s")
		return
	}
	// boot_delay of the module that was waited for is longer than this one's.
	if out := run(s.t, s.Nodes[i].Host, skfs, "state", "-m", am); !strings.Contains(out, "STOP") {
		s.t.Errorf("module %s is started with the host: %s", am, out)
	}
}
