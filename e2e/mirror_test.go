package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/pair"
)

// scenario is a pair under one of the guide's tests: it remembers where the logs
// of both hosts were when the test began, and reads on from there.
type scenario struct {
	*pair.Pair
	t     *testing.T
	marks [2]pair.Mark
}

// begin starts a scenario of the guide.
func begin(t *testing.T, p *pair.Pair) *scenario {
	t.Helper()
	s := &scenario{Pair: p, t: t}
	for i := range p.Nodes {
		s.mark(i)
	}
	return s
}

// mark forgets what host i has logged so far.
func (s *scenario) mark(i int) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) (err error) {
		s.marks[i], err = s.Nodes[i].Mark(ctx)
		return err
	})
}

// do gives a command for the module to host i.
func (s *scenario) do(i int, command ...string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].Do(ctx, command...) })
}

// await waits for both hosts to be stable in these states.
func (s *scenario) await(first, second string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Await(ctx, first, second) })
}

// logged waits until the log of host i has these messages in this order.
func (s *scenario) logged(i int, want ...string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].AwaitLog(ctx, s.marks[i], want...) })
}

// notLogged says that the log of host i has nothing of the kind.
func (s *scenario) notLogged(i int, unwanted string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].Absent(ctx, s.marks[i], unwanted) })
}

// shows waits until host i names this state and this one of the other host. What it
// says of the other comes with the next heartbeat.
func (s *scenario) shows(i int, state, remote string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		for {
			got, err := s.Nodes[i].State(ctx)
			if err == nil && got.State == state && got.Remote == remote {
				return nil
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s is %s and sees %s (%w); expected %s and %s", s.Nodes[i].Name(), got.State, got.Remote, errors.Join(err, ctx.Err()), state, remote)
			}
		}
	})
}

// application is a module whose scripts leave traces of the application: a
// pretended process that the script of each side starts and stops, seen in
// running, and a line for every script in the directory that both share.
var application = pair.Config{
	StartPrim: "echo start $(hostname) >>/replicated/scripts; touch /run/application",
	StopPrim:  "test \"$1\" = force || echo stop $(hostname) >>/replicated/scripts; rm -f /run/application",
}

// runs says on which hosts the application runs.
func (s *scenario) runs(want ...bool) {
	s.t.Helper()
	for i, w := range want {
		if !s.Nodes[i].On() {
			continue
		}
		_, err := os.Stat(s.Nodes[i].Path("/run/application"))
		if got := err == nil; got != w {
			s.t.Errorf("the application runs on %s: %v, expected %v", s.Nodes[i].Name(), got, w)
		}
	}
}

// fixed waits until host i has, or does not have, a permanent entry for the link
// address of the other one on a network (§13.3.3, permanent_arp).
func (s *scenario) fixed(i int, network string, want bool) {
	s.t.Helper()
	n := s.Nodes[i]
	within(s.t, patience, func(ctx context.Context) error {
		for {
			table, err := n.Run(ctx, "cat", "/proc/net/arp")
			if err != nil {
				return err
			}
			got := false
			for line := range strings.Lines(table) {
				f := strings.Fields(line)
				got = got || len(f) > 2 && f[0] == n.Peer().Addr(network).String() && f[2] == "0x6"
			}
			if got == want {
				return nil
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("the link address of %s on %s is permanent on %s: %v; expected %v\n%s", n.Peer().Name(), network, n.Name(), got, want, table)
			}
		}
	})
}

// The guide's tests of a mirror module as it writes them, one after the other on one
// pair (§4.2.1 to §4.2.10; the virtual address of §4.2.6 is TestVirtualAddress). Each
// begins with PRIM and SECOND, and ends so.
func TestMirrorModule(t *testing.T) {
	p := newPair(t, application)
	within(t, patience, func(ctx context.Context) error { // for §4.2.8 and §4.2.9
		for _, n := range p.Nodes {
			if _, err := n.Skfs(ctx, "boot", "-m", pair.Module, "on"); err != nil {
				return err
			}
		}
		return nil
	})

	t.Run("4.2.1 start on both hosts", func(t *testing.T) {
		s := begin(t, p)
		s.do(0, "start")
		s.do(1, "start")
		// New data: nobody can know which side is right, so the first is told (§5.3).
		s.await("WAIT", "WAIT")
		for i := range p.Nodes {
			s.logged(i, "Action start called by SYSTEM/root",
				"Data may be not uptodate for replicated directories (wait for the start of the remote server)",
				"Action wait from failover rule notuptodate_server",
				"If you are sure that this server has valid data, run safekit prim to force start as primary",
				"Local state WAIT red")
		}
		s.do(0, "prim")
		s.await("PRIM", "SECOND")
		s.logged(0, "Action prim called by SYSTEM/root", "Script start_prim", "Remote state SECOND green", "Local state PRIM green")
		s.logged(1, "Local state SECOND green", "Remote state PRIM green")
		s.notLogged(1, "Script start_prim")
		s.shows(0, "PRIM green", "SECOND green")
		s.shows(1, "SECOND green", "PRIM green")
		s.runs(true, false)
		for i := range p.Nodes {
			s.fixed(i, "default", true)
			s.fixed(i, "repli", true)
		}
	})
	t.Run("4.2.2 stop on the primary", func(t *testing.T) {
		s := begin(t, p)
		s.do(0, "stop")
		s.await("STOP", "ALONE")
		s.logged(0, "Action stop called by SYSTEM/root", "Script stop_prim", "End of stop", "Local state STOP red")
		s.logged(1, "Reason of failover: remote stop", "Script start_prim", "Local state ALONE green")
		s.runs(false, true)
	})
	t.Run("4.2.3 start of the stopped host", func(t *testing.T) {
		s := begin(t, p)
		s.do(0, "start")
		s.await("SECOND", "PRIM")
		s.logged(0, "Action start called by SYSTEM/root", "Local state SECOND green")
		s.notLogged(0, "Script start_prim")
		s.notLogged(1, "Script") // the application goes on
		s.runs(false, true)
	})
	t.Run("4.2.4 restart on the primary", func(t *testing.T) {
		s := begin(t, p)
		s.do(1, "restart")
		s.logged(1, "Action restart called by SYSTEM/root", "Local state PRIM magenta", "Script stop_prim", "Script start_prim", "Local state PRIM green")
		s.await("SECOND", "PRIM")
		s.notLogged(0, "Local state")
		s.runs(false, true)
	})
	t.Run("4.2.5 swap", func(t *testing.T) {
		s := begin(t, p)
		s.do(1, "swap")
		s.logged(1, "Action swap called by SYSTEM/root", "Transition SWAP from SYSTEM", "Begin of Swap", "Script stop_prim")
		s.logged(0, "Begin of Swap", "Script start_prim")
		s.await("PRIM", "SECOND")
		s.notLogged(0, "Action swap")
		s.notLogged(0, "Transition SWAP")
		s.runs(true, false)
	})
	t.Run("swap asked of the second", func(t *testing.T) {
		s := begin(t, p)
		s.do(1, "swap")
		s.await("SECOND", "PRIM")
		s.logged(1, "Action swap called by", "Begin of Swap", "Script start_prim")
		s.logged(0, "Begin of Swap", "Script stop_prim")
		s.runs(false, true)
	})
	t.Run("scripts alternated", func(t *testing.T) {
		same(t, p)
		got, err := os.ReadFile(p.Nodes[1].Path("/replicated/scripts"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"start node1", "stop node1", "start node2", "stop node2", "start node2", "stop node2", "start node1", "stop node1", "start node2"}
		if lines := strings.Split(strings.TrimSpace(string(got)), "\n"); strings.Join(lines, ";") != strings.Join(want, ";") {
			t.Errorf("scripts ran in the order %q, expected %q", lines, want)
		}
	})
	if t.Failed() {
		return
	}
	t.Run("4.2.7 file replication", func(t *testing.T) { fileReplication(t, p) })
	if t.Failed() {
		return
	}
	t.Run("4.2.8 shutdown of the primary", func(t *testing.T) { shutdown(t, p) })
	if t.Failed() {
		return
	}
	t.Run("4.2.9 power-off of the primary", func(t *testing.T) { powerOff(t, p) })
	if t.Failed() {
		return
	}
	t.Run("4.2.10 split brain", func(t *testing.T) { splitBrain(t, p) })
}

// fileReplication is §4.2.7: what replication does with files, and what reintegration
// does. The second node is the primary.
func fileReplication(t *testing.T, p *pair.Pair) {
	s := begin(t, p)
	write := func(i int, name, content string) {
		t.Helper()
		if err := os.WriteFile(p.Nodes[i].Path(filepath.Join("/replicated", name)), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(i int, name, content string) {
		t.Helper()
		got, err := os.ReadFile(p.Nodes[i].Path(filepath.Join("/replicated", name)))
		if err != nil || string(got) != content {
			t.Errorf("%s has %q in %s (%v), expected %q", p.Nodes[i].Name(), got, name, err, content)
		}
	}
	write(1, "file1.txt", "one")
	same(t, p)
	expect(0, "file1.txt", "one")
	if err := os.Remove(p.Nodes[0].Path("/replicated/file1.txt")); !errors.Is(err, unix.EROFS) {
		t.Errorf("removing a file on the second: %v, expected %v", err, unix.EROFS)
	}

	s.do(1, "stop")
	s.await("ALONE", "STOP")
	big := strings.Repeat("replicated data ", 8<<20/16)
	write(0, "file2.txt", big)
	if err := os.Remove(p.Nodes[0].Path("/replicated/file1.txt")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Nodes[1].Path("/replicated/file2.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stopped host got file2.txt: %v", err)
	}

	s.mark(1)
	s.do(1, "start")
	s.logged(1, "Local state SECOND magenta", "Updating directory tree from /replicated", "Copied ", "Reintegration ended (synchronize)", "Local state SECOND green")
	s.await("PRIM", "SECOND")
	same(t, p)
	expect(1, "file2.txt", big)
	if _, err := os.Stat(p.Nodes[1].Path("/replicated/file1.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file removed meanwhile is back: %v", err)
	}
}

// shutdown is §4.2.8: the primary's host, the first, is shut down in order.
func shutdown(t *testing.T, p *pair.Pair) {
	s := begin(t, p)
	within(t, patience, func(ctx context.Context) error {
		_, err := p.Nodes[0].Skfs(ctx, "shutdown")
		return err
	})
	s.logged(0, "Action shutdown called by SYSTEM", "Script stop_prim", "End of stop")
	if err := p.Nodes[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	s.logged(1, "Reason of failover: remote stop", "Script start_prim")
	within(t, patience, func(ctx context.Context) error { return p.Nodes[1].Await(ctx, "ALONE") })
	s.runs(false, true)
	within(t, patience, p.Nodes[0].BootNode)
	s.logged(0, "End of stop", "Action start called at boot time")
	s.await("SECOND", "PRIM")
	s.notLogged(0, "Previous halt unexpected")
	same(t, p)
}

// powerOff is §4.2.9: the primary's host, the second, loses its power.
func powerOff(t *testing.T, p *pair.Pair) {
	s := begin(t, p)
	if err := os.WriteFile(p.Nodes[1].Path("/replicated/file"), []byte("acknowledged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Nodes[1].PowerOff(); err != nil {
		t.Fatal(err)
	}
	s.logged(0, "Resource heartbeat.default set to down by heart")
	s.logged(0, "Resource heartbeat.flow set to down by heart")
	s.logged(0, "Remote state UNKNOWN grey", "Reason of failover: no heartbeat", "Script start_prim", "Local state ALONE green")
	within(t, patience, func(ctx context.Context) error { return p.Nodes[0].Await(ctx, "ALONE") })
	s.shows(0, "ALONE green", "UNKNOWN grey")
	s.runs(true, false)
	s.fixed(0, "default", false)
	if got, err := os.ReadFile(p.Nodes[0].Path("/replicated/file")); string(got) != "acknowledged" {
		t.Fatalf("after the takeover the file has %q, %v", got, err)
	}
	explained(t, p.Nodes[0], "SECOND green -> ", "heartbeat default lost, silent for ", "heartbeat flow lost, silent for ",
		"Reason of failover: no heartbeat", "-> ALONE green", "start_prim ", "from the last heartbeat to the end of the start scripts")
	within(t, patience, p.Nodes[1].BootNode)
	s.logged(1, "Previous halt unexpected", "Action start called at boot time")
	s.await("PRIM", "SECOND")
	s.runs(true, false)
	same(t, p)
}

// splitBrain is §4.2.10: all networks are cut, and heal. The first node is the primary.
func splitBrain(t *testing.T, p *pair.Pair) {
	s := begin(t, p)
	cut := func(on bool) {
		t.Helper()
		if err := p.Lab.Partition(p.Nodes[0].Host, p.Nodes[1].Host, on); err != nil {
			t.Fatal(err)
		}
	}
	cut(true)
	s.await("ALONE", "ALONE")
	for i := range p.Nodes {
		s.logged(i, "Resource heartbeat.default set to down by heart")
		s.logged(i, "Resource heartbeat.flow set to down by heart")
		s.logged(i, "Remote state UNKNOWN grey", "Local state ALONE green")
		s.shows(i, "ALONE green", "UNKNOWN grey")
	}
	s.logged(1, "Reason of failover: no heartbeat", "Script start_prim")
	s.notLogged(0, "Script start_prim") // it serves all the time
	s.runs(true, true)
	if err := os.WriteFile(p.Nodes[1].Path("/replicated/sacrificed"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Nodes[0].Path("/replicated/kept"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	cut(false)
	s.logged(0, "Remote state ALONE green", "Split brain recovery: staying alone")
	s.logged(1, "Remote state ALONE green", "Split brain recovery: exiting alone", "Script stop_prim", "Local state SECOND green")
	s.await("PRIM", "SECOND")
	s.notLogged(0, "Script stop_prim")
	s.runs(true, false)
	same(t, p)
	if _, err := os.Stat(p.Nodes[0].Path("/replicated/kept")); err != nil {
		t.Errorf("what the former primary wrote: %v", err)
	}
	within(t, patience, func(ctx context.Context) error {
		out, err := p.Nodes[1].Skfs(ctx, "splitbrain", "list", "-m", pair.Module)
		if err == nil && !strings.Contains(out, "/replicated") {
			err = fmt.Errorf("what only the sacrificed node had is not listed:\n%s", out)
		}
		return err
	})
}

// explained says that the last episode of a host has these texts in this order.
func explained(t *testing.T, n *pair.Node, want ...string) {
	t.Helper()
	within(t, patience, func(ctx context.Context) error {
		out, err := n.Skfs(ctx, "explain", "-m", pair.Module, "-s", "1")
		if err != nil {
			return err
		}
		rest := out
		for _, w := range want {
			_, after, found := strings.Cut(rest, w)
			if !found {
				return fmt.Errorf("explain of %s lacks %q (of %q, in this order):\n%s", n.Name(), w, want, out)
			}
			rest = after
		}
		return nil
	})
}
