package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/pair"
)

// twoProcesses is a module whose application is two processes; errd watches both. The
// hosts see each other as node1 and node2, their application is called the same.
var twoProcesses = pair.Config{
	StartPrim: `echo "start on $(uname -n), $(cat /proc/sys/kernel/hostname)"
for name in appli.exe other.exe; do
	ln -sf "$(command -v sleep)" /run/$name
	/run/$name 1000000 &
	until [ "$(cat /proc/$!/comm)" = $name ]; do sleep 0.01; done
done`,
	StopPrim: `$SAFE/safekit kill -name=appli.exe -level=terminate
$SAFE/safekit kill -name=other.exe -level=terminate`,
	MaxLoop: 3,
	Service: `    <errd polltimer="1">
      <proc name="appli.exe" atleast="1" action="restart" class="prim"/>
      <proc name="other.exe" atleast="1" action="stopstart" class="prim"/>
    </errd>
    <vhost><virtualhostname name="virtual" envfile="vhostenv"/></vhost>`,
}

// ends kills a process of the application, which errd on host i has seen since the mark.
func (s *scenario) ends(i int, name string) {
	s.t.Helper()
	s.logged(i, "Resource proc."+name+" set to up by errd")
	s.mark(i)
	within(s.t, patience, func(ctx context.Context) error {
		out, err := s.Nodes[i].Skfs(ctx, "kill", "-name="+name, "-level=9")
		if err == nil && strings.Count(out, "\n") != 1 {
			s.t.Errorf("killed %q, expected one process", out)
		}
		return err
	})
}

// §4.4.1, with the daemon's death in between.
func TestErrd(t *testing.T) {
	p := newPair(t, twoProcesses)
	s := begin(t, p)
	within(t, patience, p.Start)
	restarted := []string{"event atleast on proc appli.exe", "Action restart called by errd", "magenta", "Script stop_prim", "Script start_prim", "green"}

	t.Run("restart", func(t *testing.T) {
		s.t = t
		s.ends(0, "appli.exe")
		s.logged(0, restarted...)
		s.await("PRIM", "SECOND")
		s.notLogged(1, "Local state PRIM")
	})
	t.Run("the process ends while the daemon is dead", func(t *testing.T) {
		s.t = t
		s.logged(0, "Resource proc.appli.exe set to up by errd")
		if err := p.Nodes[0].KillDaemon(); err != nil {
			t.Fatal(err)
		}
		// No daemon, no mark: the log is read from where it was.
		run(t, p.Nodes[0].Host, skfs, "kill", "-name=appli.exe", "-level=9")
		within(t, patience, p.Nodes[0].StartDaemon)
		s.logged(0, append(append([]string{}, restarted...), restarted...)...)
		s.await("PRIM", "SECOND")
	})
	t.Run("stopstart", func(t *testing.T) {
		s.t = t
		s.mark(0)
		s.mark(1)
		s.do(0, "resetloop")
		s.do(0, "restart")
		s.ends(0, "other.exe")
		s.logged(0, "event atleast on proc other.exe", "Action stopstart called by errd", "Script stop_prim", "End of stop", "Action start called automatically", "Local state SECOND green")
		s.logged(1, "Reason of failover: remote stop", "Script start_prim", "Local state PRIM green")
		s.await("SECOND", "PRIM")
	})
	t.Run("four times", func(t *testing.T) {
		s.t = t
		for range 3 {
			s.ends(1, "appli.exe")
			s.logged(1, restarted...)
		}
		s.ends(1, "appli.exe")
		s.logged(1, "event atleast on proc appli.exe", "Stopping loop", "Script stop_prim", "End of stop", "Local state STOP red")
		s.await("ALONE", "STOP")
	})
	// §13.8: the application of both hosts saw one name.
	for i, n := range p.Nodes {
		out := run(t, n.Host, "cat", pair.SafeVar+"/modules/"+pair.Module+"/userlog.ulog")
		if !strings.Contains(out, "start on virtual, virtual\n") || strings.Contains(out, "start on node") {
			t.Errorf("node%d: userlog.ulog has\n%s", i+1, out)
		}
		if out := run(t, n.Host, "uname", "-n"); strings.TrimSpace(out) != n.Name() {
			t.Errorf("%s calls itself %s", n.Name(), out)
		}
	}
}

// The template that shows what errd does (§15.7), as it is installed.
func TestSofterrd(t *testing.T) {
	p := newPair(t, pair.Config{})
	const am = "softerrd"
	on := func(i int, command ...string) (out string) {
		t.Helper()
		within(t, patience, func(ctx context.Context) (err error) {
			out, err = p.Nodes[i].Skfs(ctx, append(command, "-m", am)...)
			return err
		})
		return out
	}
	// logged waits for messages in this order, from the beginning.
	logged := func(i int, want ...string) {
		t.Helper()
		within(t, patience, func(ctx context.Context) error {
			for {
				out, err := p.Nodes[i].Skfs(ctx, "log", "-m", am, "-I", "-s", "1000")
				if err != nil {
					return err
				}
				rest, found := out, true
				for _, w := range want {
					if _, rest, found = strings.Cut(rest, w); !found {
						break
					}
				}
				if found {
					return nil
				}
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
					return fmt.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
	for i := range p.Nodes {
		on(i, "module", "install")
		on(i, "config")
	}
	on(0, "prim")
	on(1, "second")
	on(0, "waitstate", "PRIM")
	on(1, "waitstate", "SECOND")
	seen := "set to up by errd"
	logged(0, "proc.myappli "+seen)
	on(0, "kill", "-name=myappli", "-level=9")
	again := []string{"event atleast on proc myappli", "Script restart_myappli", "proc.myappli " + seen}
	logged(0, again...)
	logged(0, "proc.mybin "+seen)
	on(0, "kill", "-name=mybin", "-level=9")
	logged(0, append(again, "event atleast on proc mybin", "Action restart called by errd", "Local state PRIM green")...)
	logged(1, "proc.myotherbin "+seen)
	on(1, "kill", "-name=myotherbin", "-level=9")
	logged(1, "event atleast on proc myotherbin", "Action stop called by errd", "End of stop")
	on(1, "waitstate", "STOP")
	on(0, "waitstate", "ALONE")
	on(0, "stop")
	on(0, "waitstate", "STOP")
	for i, n := range p.Nodes {
		if left := run(t, n.Host, skfs, "-r", "processtree", "list", "all", "my(bin|appli|otherbin)"); left != "" {
			t.Errorf("node%d: left running:\n%s", i+1, left)
		}
	}
}
