package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/echo"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// Five modules on three hosts (§1.5): two farms on all of them, two mirrors that back up
// each other's host, and an application that follows one of the mirrors.
//
//	          node1     node2     node3
//	web       UP        UP        UP       vmac_invisible
//	api       UP        UP        UP       vmac_directed
//	books     PRIM      SECOND
//	leader    SECOND    PRIM
//	follower  STOP      UP                 started and stopped by leader
type five struct {
	*pair.Cluster
	t       *testing.T
	modules map[string]*one
}

// one is a module of the five.
type one struct {
	name  string
	nodes []*pair.Node
	addr  string // virtual; "": it has none of its own
	port  string // of its application; "": it has none
	to    string // where clients find that, host:port
}

func farmOf(mode, addr, port string) pair.FarmConfig {
	c := pair.FarmConfig{Farm: farmTag, VIP: `<vip><interface_list><interface check="off" arpreroute="on">
  <virtual_interface type="` + mode + `"><virtual_addr addr="` + addr + `" where="alias" check="off"/></virtual_interface></interface></interface_list>
<loadbalancing_list><group name="FarmProto"><rule port="` + port + `" proto="tcp" filter="on_port"/></group></loadbalancing_list></vip>`}
	c.Start, c.Stop = echo.Scripts((&lab.Lab{}).Self(), port)
	return c
}

func mirrorOf(dir, addr string) pair.Config {
	return pair.Config{Dirs: []string{dir}, Lans: [2]string{"cross", "crossrepli"},
		Service: `<vip><interface_list><interface check="off" arpreroute="on"><real_interface>
  <virtual_addr addr="` + addr + `" where="one_side_alias" check="off"/></real_interface></interface></interface_list></vip>`}
}

func newFive(t *testing.T) *five {
	t.Helper()
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	const books, leader = "/data/books", "/data/leader"
	f := &five{t: t, modules: map[string]*one{}}
	within(t, patience, func(ctx context.Context) (err error) {
		f.Cluster, err = pair.NewCluster(ctx, pair.ClusterOptions{Skfs: skfs, Hosts: 3, Dirs: []string{books, leader},
			Two: []pair.TwoLan{{Name: "cross", Network: "default", Hosts: [2]int{0, 1}}, {Name: "crossrepli", Network: "repli", Hosts: [2]int{0, 1}}}})
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range f.modules {
				t.Logf("=== module %s\n%s", m.name, pair.Logs(m.nodes...))
			}
		}
		for _, m := range f.modules {
			for _, n := range m.nodes {
				if crash, err := n.Crashes(); err != nil || crash != "" {
					t.Error(crash, err)
				}
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	self := (&lab.Lab{}).Self()
	install := func(m one, template string, files map[string]string, hosts ...int) {
		t.Helper()
		if m.to == "" && m.addr != "" {
			m.to = net.JoinHostPort(m.addr, m.port)
		}
		within(t, patience, func(ctx context.Context) (err error) {
			m.nodes, err = f.Install(ctx, m.name, template, files, hosts...)
			return err
		})
		f.modules[m.name] = &m
	}
	web, api := farmOf("vmac_invisible", "10.77.0.210", "7001"), farmOf("vmac_directed", "10.77.0.211", "7002")
	install(one{name: "web", addr: "10.77.0.210", port: "7001"}, "farm", web.Files(), 0, 1, 2)
	install(one{name: "api", addr: "10.77.0.211", port: "7002"}, "farm", api.Files(), 0, 1, 2)
	b := mirrorOf(books, "10.77.0.212")
	b.StartPrim, b.StopPrim = echo.Scripts(self, "7003")
	install(one{name: "books", addr: "10.77.0.212", port: "7003"}, "mirror", b.Files(), 0, 1)
	// The scripts of the template start and stop the follower.
	install(one{name: "leader", addr: "10.77.0.213", to: "-"}, "leader", mirrorOf(leader, "10.77.0.213").Files(), 0, 1)
	start, stop := echo.Scripts(self, "7005")
	install(one{name: "follower", port: "7005", to: "10.77.0.213:7005"}, "follower",
		map[string]string{"bin/start_both": "#!/bin/sh\n" + start + "\n", "bin/stop_both": "#!/bin/sh\n" + stop + "\n"}, 0, 1)
	within(t, patience, func(ctx context.Context) error {
		for _, m := range f.modules {
			for _, n := range m.nodes {
				if m.name == "follower" {
					continue // it comes with its leader
				}
				if err := n.Do(ctx, "boot", "on"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return f
}

func (f *five) do(name string, i int, command ...string) {
	f.t.Helper()
	within(f.t, patience, func(ctx context.Context) error { return f.modules[name].nodes[i].Do(ctx, command...) })
}

// await waits until a module is in these states, on its nodes in order.
func (f *five) await(name string, roles ...string) {
	f.t.Helper()
	for i, role := range roles {
		if n := f.modules[name].nodes[i]; n.On() {
			within(f.t, patience, func(ctx context.Context) error { return n.Await(ctx, role) })
		}
	}
}

// served waits until clients of a module are served by these hosts and no others.
func (f *five) served(name string, hosts ...int) {
	f.t.Helper()
	m := f.modules[name]
	var want []string
	for _, i := range hosts {
		want = append(want, f.Hosts[i].Name())
	}
	within(f.t, 2*patience, func(ctx context.Context) error {
		for {
			by, err := echo.Ask(ctx, f.Client, m.to, 40*len(hosts))
			var got []string
			for name := range by {
				got = append(got, name)
			}
			if slices.Sort(got); err == nil && slices.Equal(got, want) {
				return nil
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s: %v answered, expected %v: %w (%w)", m.name, by, want, ctx.Err(), err)
			}
		}
	})
}

// shared waits until these nodes of a farm, and no others, say that they share.
func (f *five) shared(name string, members ...int) {
	f.t.Helper()
	for k, i := range members {
		load := 256 / len(members)
		if k < 256%len(members) {
			load++
		}
		n, want := f.modules[name].nodes[i], fmt.Sprintf("%d%%", (100*load+128)/256)
		within(f.t, patience, func(ctx context.Context) error { return awaitShare(ctx, n, name, want) })
	}
}

// moment is what a node shows of a module.
type moment struct {
	State   string
	Share   string
	Address bool
	App     string // which process it is
	Log     []string
}

func (f *five) look(m *one, n *pair.Node) (s moment) {
	f.t.Helper()
	within(f.t, patience, func(ctx context.Context) error {
		st, err := n.State(ctx)
		if err != nil {
			return err
		}
		s.State = st.State + ", remote " + st.Remote
		if s.Share, err = share(ctx, n, m.name); err != nil {
			return err
		}
		if m.addr != "" {
			out, err := n.Run(ctx, "ip", "-o", "addr", "show")
			if err != nil {
				return err
			}
			s.Address = strings.Contains(out, m.addr+"/")
		}
		s.Log, err = n.Lines(ctx)
		return err
	})
	if pid, err := os.ReadFile(n.Path(echo.PIDFile(m.port))); err == nil {
		if _, err := os.Stat(n.Path("/proc/" + strings.TrimSpace(string(pid)))); err == nil {
			s.App = strings.TrimSpace(string(pid))
		}
	}
	return s
}

// watch looks at all modules on all hosts that are on; the result says that those that
// were not to be touched were not: their states, shares, addresses, processes and logs
// are the same. Of the ones that may have had to act, only what touched says counts.
func (f *five) watch(touched func(m *one, n *pair.Node, before, after *moment)) (untouched func()) {
	f.t.Helper()
	type where struct {
		m *one
		n *pair.Node
	}
	before := map[where]moment{}
	for _, m := range f.modules {
		for _, n := range m.nodes {
			if n.On() {
				before[where{m, n}] = f.look(m, n)
			}
		}
	}
	return func() {
		f.t.Helper()
		for at, was := range before {
			if !at.n.On() {
				continue
			}
			now := f.look(at.m, at.n)
			touched(at.m, at.n, &was, &now)
			if len(now.Log) > len(was.Log) {
				f.t.Errorf("%s of %s logged:\n%s", at.m.name, at.n.Name(), strings.Join(now.Log[len(was.Log):], "\n"))
			}
			was.Log, now.Log = nil, nil
			if a, b := fmt.Sprintf("%+v", was), fmt.Sprintf("%+v", now); a != b {
				f.t.Errorf("%s of %s was %s, is %s", at.m.name, at.n.Name(), a, b)
			}
		}
	}
}

// but leaves some modules out.
func but(names ...string) func(*one, *pair.Node, *moment, *moment) {
	return func(m *one, _ *pair.Node, before, after *moment) {
		if slices.Contains(names, m.name) {
			*before = *after
		}
	}
}

// hostGone is what a module may do when a host has gone or come: it says so, and shares
// or takes over, but its application goes on where it ran.
func hostGone(alike ...string) func(*one, *pair.Node, *moment, *moment) {
	return func(m *one, _ *pair.Node, before, after *moment) {
		if !slices.Contains(alike, m.name) {
			return
		}
		before.Log, before.State, before.Share = after.Log, after.State, after.Share
		if before.App == "" { // taken over
			before.App, before.Address = after.App, after.Address
		}
	}
}

func TestFiveModules(t *testing.T) {
	f := newFive(t)
	for i := range f.Hosts {
		f.do("web", i, "start")
		f.do("api", i, "start")
	}
	for name, i := range map[string]int{"books": 0, "leader": 1} {
		f.do(name, i, "prim")
		f.do(name, 1-i, "second")
	}
	f.await("web", "UP", "UP", "UP")
	f.await("api", "UP", "UP", "UP")
	f.await("books", "PRIM", "SECOND")
	f.await("leader", "SECOND", "PRIM")
	f.await("follower", "STOP", "UP")
	everywhere := func(t *testing.T) *five {
		f := &five{Cluster: f.Cluster, t: t, modules: f.modules}
		f.shared("web", 0, 1, 2)
		f.shared("api", 0, 1, 2)
		f.served("web", 0, 1, 2)
		f.served("api", 0, 1, 2)
		return f
	}
	everywhere(t)
	f.served("books", 0)
	f.served("follower", 1)

	t.Run("a mirror swaps", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(but("books"))
		f.do("books", 0, "swap")
		f.await("books", "SECOND", "PRIM")
		f.served("books", 1)
		untouched()
	})
	t.Run("the replica of a mirror is killed", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(but("books"))
		books := f.modules["books"].nodes[1]
		within(t, patience, func(ctx context.Context) error {
			mark, err := books.Mark(ctx)
			if err != nil {
				return err
			}
			all, err := books.Replicas()
			if err != nil || len(all) != 1 {
				return fmt.Errorf("books of %s has the replicas %v: %w", books.Name(), all, err)
			}
			if err := all[0].Kill(); err != nil {
				return err
			}
			return books.AwaitLog(ctx, mark, "Resource rfs.degraded set to up by nfsadmin", "Local state ALONE green")
		})
		f.served("books", 1)
		f.do("books", 1, "stopstart") // to replicate again (§5.6); only it has the changes since
		f.await("books", "SECOND", "PRIM")
		f.served("books", 1)
		untouched()
	})
	t.Run("a leader swaps", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(but("leader", "follower"))
		f.do("leader", 1, "swap")
		f.await("leader", "PRIM", "SECOND")
		f.await("follower", "UP", "STOP")
		f.served("follower", 0)
		f.do("leader", 0, "swap")
		f.await("leader", "SECOND", "PRIM")
		f.await("follower", "STOP", "UP")
		f.served("follower", 1)
		untouched()
	})
	t.Run("a member of a farm stops", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(but("web"))
		f.do("web", 1, "stop")
		f.await("web", "UP", "STOP", "UP")
		f.shared("web", 0, 2)
		f.served("web", 0, 2)
		f.do("web", 1, "start")
		f.await("web", "UP", "UP", "UP")
		f.shared("web", 0, 1, 2)
		f.served("web", 0, 1, 2)
		untouched()
	})
	t.Run("a host of the farms loses its power", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(hostGone("web", "api"))
		if err := f.Hosts[2].PowerOff(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"web", "api"} {
			f.shared(name, 0, 1)
			f.served(name, 0, 1)
		}
		untouched()
		untouched = f.watch(hostGone("web", "api"))
		within(t, patience, f.Hosts[2].BootNode)
		everywhere(t)
		untouched()
	})
	t.Run("a host of all loses its power", func(t *testing.T) {
		f := everywhere(t)
		untouched := f.watch(hostGone("web", "api", "books", "leader"))
		if err := f.Hosts[0].PowerOff(); err != nil {
			t.Fatal(err)
		}
		f.await("books", "", "ALONE")
		f.await("leader", "", "ALONE")
		f.served("books", 1)
		f.served("follower", 1)
		for _, name := range []string{"web", "api"} {
			f.shared(name, 1, 2)
			f.served(name, 1, 2)
		}
		untouched()
		untouched = f.watch(hostGone("web", "api", "books", "leader"))
		within(t, patience, f.Hosts[0].BootNode)
		f.await("books", "SECOND", "PRIM")
		f.await("leader", "SECOND", "PRIM")
		f.await("follower", "STOP", "UP")
		everywhere(t)
		f.served("books", 1)
		f.served("follower", 1)
		untouched()
	})
}
