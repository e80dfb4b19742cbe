package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// The virtual addresses of the test: in the subnets of the network "default".
const (
	vip4 = "10.77.0.100"
	vip6 = "fd77::100"
)

const vipTag = `    <vip>
      <interface_list>
        <interface check="off" arpreroute="on">
          <real_interface>
            <virtual_addr addr="` + vip4 + `" where="one_side_alias"/>
            <virtual_addr addr="` + vip6 + `" where="one_side_alias"/>
          </real_interface>
        </interface>
      </interface_list>
    </vip>
    <failover period="100" handle_time="300"/>`

// §4.2.6: clients reach the application at its virtual addresses, wherever it runs.
func TestVirtualAddress(t *testing.T) {
	c := pair.Config{Service: vipTag}
	c.StartPrim, c.StopPrim = ledger.Scripts((&lab.Lab{}).Self(), "files", "/replicated")
	p := newPair(t, c)
	for i, n := range p.Nodes {
		address6(t, n.Host, i+1)
	}
	address6(t, p.Client, 3)
	within(t, patience, p.Start)

	s := begin(t, p)
	holds(t, p, 0)
	seen := watchReach(t, p.Client, ledger.Port, vip4, vip6)
	served(t, p, 0)
	s.marks = [2]pair.Mark{}
	for _, a := range []string{vip4, vip6} {
		s.logged(0, "Virtual IP "+a+" set", "Script start_prim")
		s.notLogged(1, "Virtual IP "+a+" set")
	}

	t.Run("swap", func(t *testing.T) {
		s := begin(t, p)
		from := time.Now()
		s.do(0, "swap")
		s.await("SECOND", "PRIM")
		s.logged(1, "Virtual IP "+vip4+" set", "Script start_prim")
		served(t, p, 1)
		seen.gaps(t, "swap", from)
	})
	t.Run("stop", func(t *testing.T) {
		s := begin(t, p)
		from := time.Now()
		s.do(1, "stop")
		s.await("ALONE", "STOP")
		served(t, p, 0)
		seen.gaps(t, "stop", from)
		s.do(1, "start")
		s.await("PRIM", "SECOND")
		holds(t, p, 0)
	})
	t.Run("the daemon is killed and started again", func(t *testing.T) {
		s := begin(t, p)
		from := time.Now()
		if err := p.Nodes[0].KillDaemon(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, p.Nodes[0].StartDaemon)
		s.await("PRIM", "SECOND")
		served(t, p, 0)
		s.notLogged(0, "Virtual IP")
		if gap := seen.gaps(t, "daemon killed", from); gap > time.Second {
			t.Errorf("the address was away for %v while the daemon was", gap)
		}
	})
	t.Run("the primary's host is paused", func(t *testing.T) {
		s := begin(t, p)
		from := time.Now()
		if err := p.Nodes[0].Pause(); err != nil {
			t.Fatal(err)
		}
		// The daemon sleeps: it is the kernel that takes the addresses away.
		const bound = 3*time.Second + 1250*time.Millisecond // the lease, and how the kernel rounds it
		for held(t, p, 0, vip4) || held(t, p, 0, vip6) {
			if time.Since(from) > bound+time.Second {
				t.Fatalf("the paused host has its addresses after %v, longer than the lease", time.Since(from))
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("the paused host lost its addresses after %v", time.Since(from).Round(time.Millisecond))
		within(t, patience, func(ctx context.Context) error { return p.Nodes[1].Await(ctx, "ALONE") })
		served(t, p, 1)
		seen.gaps(t, "host paused", from)
		if err := p.Nodes[0].Resume(); err != nil {
			t.Fatal(err)
		}
		s.await("SECOND", "PRIM")
		served(t, p, 1)
		for _, a := range []string{vip4, vip6} {
			s.notLogged(0, "Virtual IP "+a+" set") // it never had them again
		}
	})
	t.Run("the primary's host loses its power", func(t *testing.T) {
		s := begin(t, p)
		from := time.Now()
		if err := p.Nodes[1].PowerOff(); err != nil {
			t.Fatal(err)
		}
		s.logged(0, "Reason of failover: no heartbeat", "Virtual IP "+vip4+" set", "Script start_prim")
		within(t, patience, func(ctx context.Context) error { return p.Nodes[0].Await(ctx, "ALONE") })
		served(t, p, 0)
		if gap := seen.gaps(t, "power off", from); gap > 4*time.Second {
			t.Errorf("clients waited for %v after the host died; its heartbeats' timeout is 2.5s", gap)
		}
		within(t, patience, p.Nodes[1].BootNode)
		address6(t, p.Nodes[1].Host, 2)
		s.do(1, "start")
		s.await("PRIM", "SECOND")
		holds(t, p, 0)
	})
	t.Run("both hosts have them, and meet", func(t *testing.T) {
		s := begin(t, p)
		if err := p.Lab.Partition(p.Nodes[0].Host, p.Nodes[1].Host, true); err != nil {
			t.Fatal(err)
		}
		s.await("ALONE", "ALONE")
		for i := range p.Nodes {
			if !held(t, p, i, vip4) || !held(t, p, i, vip6) {
				t.Errorf("%s is cut off and lacks an address", p.Nodes[i].Name())
			}
		}
		from := time.Now()
		if err := p.Lab.Partition(p.Nodes[0].Host, p.Nodes[1].Host, false); err != nil {
			t.Fatal(err)
		}
		s.logged(0, "Split brain recovery: staying alone")
		s.logged(1, "Split brain recovery: exiting alone")
		for held(t, p, 1, vip4) || held(t, p, 1, vip6) {
			if time.Since(from) > patience {
				t.Fatal("both hosts still have the addresses")
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("one host has them %v after they meet", time.Since(from).Round(time.Millisecond))
		s.await("PRIM", "SECOND")
		served(t, p, 0)
	})
	t.Run("somebody removes an address", func(t *testing.T) {
		s, watcher := begin(t, p), begin(t, p) // it and the checker both notice, in any order
		run(t, p.Nodes[0].Host, "ip", "addr", "del", vip4+"/24", "dev", "eth0")
		watcher.logged(0, "removed from eth0 by somebody else")
		s.logged(0, "Resource ip."+vip4+" set to down by ipcheck", "Action stopstart from failover rule ip_failure", "Action start called automatically")
		s.await("SECOND", "PRIM")
		served(t, p, 1)
	})
	within(t, patience, func(ctx context.Context) error {
		return errorOf(p.Nodes[1].Do(ctx, "stop"), p.Nodes[0].Do(ctx, "stop"))
	})
	s.await("STOP", "STOP")
	holds(t, p, -1)
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func run(t *testing.T, h *lab.Host, command ...string) (out string) {
	t.Helper()
	within(t, patience, func(ctx context.Context) (err error) {
		if out, err = h.Run(ctx, command[0], command[1:]...); err != nil {
			err = fmt.Errorf("%s on %s: %w\n%s", strings.Join(command, " "), h.Name(), err, out)
		}
		return err
	})
	return out
}

// address6 gives a host an address in the IPv6 subnet of the virtual one.
func address6(t *testing.T, h *lab.Host, i int) {
	t.Helper()
	run(t, h, "ip", "addr", "add", fmt.Sprintf("fd77::%d/64", i), "dev", "eth0", "nodad")
}

// held says whether an address is on host i.
func held(t *testing.T, p *pair.Pair, i int, addr string) bool {
	t.Helper()
	return strings.Contains(run(t, p.Nodes[i].Host, "ip", "-o", "addr", "show", "dev", "eth0"), " "+addr+"/")
}

// holds says that host i, and no other that is on, has the addresses; -1: none has.
func holds(t *testing.T, p *pair.Pair, i int) {
	t.Helper()
	for k, n := range p.Nodes {
		if !n.On() {
			continue
		}
		for _, a := range []string{vip4, vip6} {
			if has := held(t, p, k, a); has != (k == i) {
				t.Errorf("%s has %s: %v, expected %v", p.Nodes[k].Name(), a, has, k == i)
			}
		}
	}
}

// served says that the client reaches the application on host i at both addresses,
// and has its MAC in its tables.
func served(t *testing.T, p *pair.Pair, i int) {
	t.Helper()
	holds(t, p, i)
	_, mac, _ := strings.Cut(run(t, p.Nodes[i].Host, "ip", "-o", "link", "show", "dev", "eth0"), "link/ether ")
	mac, _, _ = strings.Cut(mac, " ")
	for _, a := range []string{vip4, vip6} {
		deadline := time.Now().Add(patience)
		for {
			entry := run(t, p.Client, "ip", "neigh", "show", "to", a, "dev", "eth0")
			if strings.Contains(entry, mac) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the client has %q for %s, which is at %s (%s)", strings.TrimSpace(entry), a, mac, p.Nodes[i].Name())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

const reachRole = "reach"

// reachHere begins a connection to a host:port every 10 ms, whatever became of those
// before, and writes the moment of each that was made. With a second argument one
// counts when it has brought a byte.
func reachHere(args []string) error {
	d := net.Dialer{Timeout: 100 * time.Millisecond}
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		go func() {
			c, err := d.Dial("tcp", args[0])
			if err != nil {
				return
			}
			defer c.Close()
			if len(args) > 1 {
				c.SetDeadline(time.Now().Add(d.Timeout))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return
				}
			}
			fmt.Println(time.Now().UnixNano())
		}()
	}
}

// reach is what the client saw of each address.
type reach struct {
	addrs []string

	mu   sync.Mutex // guards what follows
	seen map[string][]time.Time
}

// watchReach begins to connect to a port from a host, and returns when it answers at
// all addresses.
func watchReach(t *testing.T, h *lab.Host, port string, addrs ...string) *reach {
	t.Helper()
	return watchServed(t, h, port, false, addrs...)
}

// watchServed is watchReach that, with served, wants more than an open port: a byte.
func watchServed(t *testing.T, h *lab.Host, port string, served bool, addrs ...string) *reach {
	t.Helper()
	r := &reach{addrs: addrs, seen: map[string][]time.Time{}}
	for _, a := range addrs {
		out, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		args := []string{net.JoinHostPort(a, port)}
		if served {
			args = append(args, "served")
		}
		cmd := h.RoleCommand(context.WithoutCancel(t.Context()), reachRole, args...)
		cmd.Stdout, cmd.Stderr = w, os.Stderr
		started, err := h.Start(cmd)
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		first, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				var at int64
				fmt.Sscan(lines.Text(), &at)
				r.mu.Lock()
				moments := append(r.seen[a], time.Unix(0, at))
				// Two that were made in one moment may be written in the wrong order.
				if n := len(moments); n > 1 && moments[n-1].Before(moments[n-2]) {
					moments[n-1] = moments[n-2]
				}
				if r.seen[a] = moments; len(moments) == 1 {
					close(first)
				}
				r.mu.Unlock()
			}
		}()
		t.Cleanup(func() {
			unix.Kill(started.PID(), unix.SIGKILL)
			started.Wait()
			<-ended
			out.Close()
		})
		within(t, patience, func(ctx context.Context) error {
			select {
			case <-first:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("the client does not reach %s: %w", a, ctx.Err())
			}
		})
	}
	return r
}

// gaps waits until all addresses answer again, logs for how long they did not since a
// moment unless what is empty, and returns the longest.
func (r *reach) gaps(t *testing.T, what string, from time.Time) (longest time.Duration) {
	t.Helper()
	now := time.Now()
	for _, a := range r.addrs {
		deadline := time.Now().Add(patience)
		for {
			r.mu.Lock()
			seen := r.seen[a]
			r.mu.Unlock()
			if last := seen[len(seen)-1]; last.After(now) {
				gap := time.Duration(0)
				for i := 1; i < len(seen); i++ {
					if seen[i].After(from) {
						gap = max(gap, seen[i].Sub(seen[i-1]))
					}
				}
				if what != "" {
					t.Logf("%s: %s was away for %v", what, a, gap.Round(time.Millisecond))
				}
				longest = max(longest, gap)
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s does not answer any more", what, a)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return longest
}
