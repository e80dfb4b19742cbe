package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/pair"
)

// says runs a command on host i whose output must contain want.
func (s *scenario) says(i int, want string, command ...string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		out, err := s.Nodes[i].Skfs(ctx, append(command, "-m", pair.Module)...)
		if err == nil && !strings.Contains(out, want) {
			s.t.Errorf("%v on %s says %q, expected %q", command, s.Nodes[i].Name(), out, want)
		}
		return err
	})
}

// §13.6.4.6, 13.6.4.8 and 13.6.4.9: what is to be copied can be asked for, and how
// much it will be.
func TestSyncPolicies(t *testing.T) {
	p := started(t, application)
	s := begin(t, p)
	write := func(i int, name string) {
		t.Helper()
		if err := os.WriteFile(p.Nodes[i].Path("/replicated/"+name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	away := func(name string) {
		t.Helper()
		s.do(1, "stop")
		s.await("ALONE", "STOP")
		s.mark(0)
		s.mark(1)
		write(0, name)
	}
	back := func(want ...string) {
		t.Helper()
		s.await("PRIM", "SECOND")
		s.logged(1, want...)
		same(t, p)
		s.says(0, "policy of module "+pair.Module+": default", "rfssync")
		s.says(1, "policy of module "+pair.Module+": default", "rfssync")
	}
	write(0, "a")

	away("b")
	s.says(0, "new objects                      1", "rfsdiff")
	s.do(1, "second", "fullsync")
	back("Action second called by", "Reintegration ended (synchronize)")

	away("c")
	s.do(0, "rfssync", "full")
	s.says(0, ": full", "rfssync")
	s.do(1, "start")
	back("Reintegration ended (synchronize)")

	away("d")
	s.do(1, "secondforce", "-d", time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05Z"))
	back("Action secondforce called by", "Reintegration ended (synchronize)")

	away("e")
	s.do(1, "rfssync", "external", "second", "copy-1")
	s.do(1, "start")
	s.logged(1, "External synchronization copy-1 cannot be applied: none is set on", "Local state STOP red")
	s.await("ALONE", "STOP")
	s.do(0, "rfssync", "external", "prim", "copy-1")
	write(0, "f")
	s.do(1, "start")
	back("Synchronization policy set to external second copy-1", "Reintegration ended (synchronize)")
}

// §13.6.4.10: a second that is brought up to date at scheduled times only.
func TestScheduledSynchronization(t *testing.T) {
	c := application
	c.RFS = `syncat="0 0 1 1 *"`
	p := newPair(t, c)
	s := begin(t, p)
	s.do(0, "prim")
	s.await("ALONE", "STOP")
	if err := os.WriteFile(p.Nodes[0].Path("/replicated/early"), []byte("early"), 0o644); err != nil {
		t.Fatal(err)
	}
	there := func(name string, want bool) {
		t.Helper()
		if _, err := os.Stat(p.Nodes[1].Path("/replicated/" + name)); (err == nil) != want {
			t.Errorf("%s on the second: %v, expected there=%t", name, err, want)
		}
	}
	s.do(1, "start")
	s.logged(1, "Reintegration ended (synchronize)", "Resource rfs.syncat set to down by nfsadmin", "Action wait from failover rule rfs_syncat_wait", "Local state WAIT red")
	s.await("ALONE", "WAIT")
	there("early", true)

	s.mark(1)
	if err := os.WriteFile(p.Nodes[0].Path("/replicated/late"), []byte("late"), 0o644); err != nil {
		t.Fatal(err)
	}
	there("late", false)
	s.do(1, "set", "-r", "rfs.syncat", "-v", "up")
	s.logged(1, "Resource rfs.syncat set to up by", "Transition WAKEUP from failover rule Implicit_WAKEUP", "Reintegration ended (synchronize)", "Local state WAIT red")
	s.await("ALONE", "WAIT")
	there("late", true)
}

// §13.6.4.4: with syncdelta a host that is alone serves data that is a little old.
func TestRelaxedFailover(t *testing.T) {
	c := application
	c.RFS = `syncdelta="10"`
	p := started(t, c)
	s := begin(t, p)
	s.do(1, "stop")
	s.await("ALONE", "STOP")
	if err := p.Nodes[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	s.logged(1, "Remote state UNKNOWN grey")
	s.do(1, "start")
	s.logged(1, "Resource rfs.uptodate set to up by failover rule rfs_forceuptodate", "Script start_prim", "Local state ALONE green")
}
