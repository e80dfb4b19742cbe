package e2e

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/pair"
)

// process is a module whose application is a process that does nothing, and whose
// scripts leave its number in /run/application.
var process = pair.Config{
	StartPrim: "setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $! >/run/application",
	StopPrim:  "test -e /run/application && kill -9 $(cat /run/application); rm -f /run/application",
	Service:   oneAddress,
}

// oneAddress is a <vip> with vip4 only: the hosts need no address of their own for it.
const oneAddress = `    <vip>
      <interface_list>
        <interface check="off" arpreroute="on">
          <real_interface>
            <virtual_addr addr="` + vip4 + `" where="one_side_alias"/>
          </real_interface>
        </interface>
      </interface_list>
    </vip>`

// applicationOf says which process of host i is the application.
func applicationOf(t *testing.T, n *pair.Node) string {
	t.Helper()
	pid, err := os.ReadFile(n.Path("/run/application"))
	if err != nil {
		t.Fatalf("the application does not run on %s: %v", n.Name(), err)
	}
	return strings.TrimSpace(string(pid))
}

// alive says that a process of the host lives, and is the application.
func alive(t *testing.T, n *pair.Node, pid string) {
	t.Helper()
	if out := run(t, n.Host, "cat", "/proc/"+pid+"/cmdline"); !strings.HasPrefix(out, "sleep\x00") {
		t.Fatalf("process %s of %s is %q, not the application", pid, n.Name(), out)
	}
}

// R1: a daemon that is killed and started again, on the primary, on the second or on
// both, while it does something or not, changes nothing: the application is the same
// process, no script runs, no state changes, the address stays.
func TestDaemonKilled(t *testing.T) {
	seed := randomSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 2))
	p := started(t, process)
	s := begin(t, p)
	pid := applicationOf(t, p.Nodes[0])
	n := rounds(t, 8, 100)
	for round := range n {
		victims := [][]int{{0}, {1}, {0, 1}}[round%3]
		for _, v := range victims {
			if err := p.Nodes[v].KillDaemon(); err != nil {
				t.Fatal(err)
			}
		}
		// Away for less than the heartbeats' timeout, which is 2.5 s.
		time.Sleep(time.Duration(rnd.IntN(700)) * time.Millisecond)
		for _, v := range victims {
			within(t, patience, p.Nodes[v].StartDaemon)
		}
		if round%4 == 3 {
			continue // killed again before it has settled
		}
		s.await("PRIM", "SECOND")
		alive(t, p.Nodes[0], pid)
		holdsOne(t, p, 0)
	}
	s.await("PRIM", "SECOND")
	if now := applicationOf(t, p.Nodes[0]); now != pid {
		t.Errorf("the application is process %s, it was %s", now, pid)
	}
	alive(t, p.Nodes[0], pid)
	for i := range p.Nodes {
		s.notLogged(i, "Script ")
		s.notLogged(i, "Local state ")
		s.notLogged(i, "Virtual IP ")
	}
	s.shows(0, "PRIM green", "SECOND green")
	s.shows(1, "SECOND green", "PRIM green")
	same(t, p)
	t.Logf("%d times a daemon or both were killed", n)
}

// holdsOne says that host i, and not the other, has the IPv4 address.
func holdsOne(t *testing.T, p *pair.Pair, i int) {
	t.Helper()
	for k, n := range p.Nodes {
		if n.On() && held(t, p, k, vip4) != (k == i) {
			t.Fatalf("%s has %s: %v, expected %v", n.Name(), vip4, k != i, k == i)
		}
	}
}
