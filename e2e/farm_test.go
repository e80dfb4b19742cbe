package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/echo"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// The virtual addresses of farms: in the subnets of the network "default".
const (
	farm4 = "10.77.0.200"
	farm6 = "fd77::200"
)

// farmTag: a member that is silent for 2 s is gone. Shorter would be a false alarm on a
// busy machine now and then, which breaks connections.
const farmTag = `<farm pulse="200" mlost_count="10" slost_count="10" draintimeout="30"><lan name="default"/></farm>`

// farmVIP has both addresses, in a mode.
func farmVIP(mode string) string {
	return `<vip><interface_list><interface check="off" arpreroute="on">
  <virtual_interface type="` + mode + `">
    <virtual_addr addr="` + farm4 + `" where="alias" check="off"/>
    <virtual_addr addr="` + farm6 + `" where="alias" check="off"/>
  </virtual_interface></interface></interface_list>
<loadbalancing_list><group name="FarmProto"><rule port="` + echo.Port + `" proto="tcp" filter="on_port"/></group></loadbalancing_list></vip>`
}

// newFarm makes a farm that does not run its module yet.
func newFarm(t *testing.T, members int, mode string) *pair.Farm {
	t.Helper()
	return newFarmOf(t, members, pair.FarmConfig{Farm: farmTag, VIP: farmVIP(mode)})
}

// newFarmOf is newFarm with a module of which the scripts run the server.
func newFarmOf(t *testing.T, members int, c pair.FarmConfig) *pair.Farm {
	t.Helper()
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	o := pair.FarmOptions{Skfs: skfs, Members: members, Module: c}
	o.Module.Start, o.Module.Stop = echo.Scripts((&lab.Lab{}).Self(), echo.Port)
	var f *pair.Farm
	within(t, patience, func(ctx context.Context) (err error) {
		f, err = pair.NewFarm(ctx, o)
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.Logs())
		}
		for _, n := range f.Nodes {
			if crash, err := n.Crashes(); err != nil || crash != "" {
				t.Error(crash, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, n := range f.Nodes {
		address6(t, n.Host, i+1)
	}
	address6(t, f.Client, 100)
	return f
}

// farmers is a farm with places in the logs of its members.
type farmers struct {
	*pair.Farm
	t     *testing.T
	marks []pair.Mark
}

func farming(t *testing.T, f *pair.Farm) *farmers {
	t.Helper()
	s := &farmers{Farm: f, t: t, marks: make([]pair.Mark, len(f.Nodes))}
	for i := range f.Nodes {
		s.mark(i)
	}
	return s
}

// mark forgets what host i has logged so far.
func (s *farmers) mark(i int) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) (err error) {
		s.marks[i], err = s.Nodes[i].Mark(ctx)
		return err
	})
}

func (s *farmers) do(i int, command ...string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].Do(ctx, command...) })
}

func (s *farmers) await(i int, role string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].Await(ctx, role) })
}

// logged waits for lines in the log of host i.
func (s *farmers) logged(i int, want ...string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return s.Nodes[i].AwaitLog(ctx, s.marks[i], want...) })
}

// start starts the module on all hosts and waits until all serve.
func (s *farmers) start() {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		return s.Each(func(n *pair.Node) error {
			if err := n.Do(ctx, "start"); err != nil {
				return err
			}
			return n.Await(ctx, "UP")
		})
	})
	s.share(all(len(s.Nodes))...)
}

func all(n int) []int {
	var is []int
	for i := range n {
		is = append(is, i)
	}
	return is
}

func (s *farmers) names(members ...int) string {
	var names []string
	for _, i := range members {
		names = append(names, s.Nodes[i].Name())
	}
	return strings.Join(names, " ")
}

// share waits until the logs say that these hosts, and no others, share the buckets
// equally (§4.3.5).
func (s *farmers) share(members ...int) {
	s.t.Helper()
	membership := fmt.Sprintf("farm membership: %s (group FarmProto)", s.names(members...))
	for k, i := range members {
		load := 256 / len(members)
		if k < 256%len(members) { // by largest remainder, ties by name
			load++
		}
		s.logged(i, membership, fmt.Sprintf("farm load: %d/256 (group FarmProto)", load))
		s.shows(i, fmt.Sprintf("%d%%", (100*load+128)/256))
	}
}

// shows waits until the resources of host i have this share.
func (s *farmers) shows(i int, want string) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error { return awaitShare(ctx, s.Nodes[i], pair.FarmModule, want) })
}

// share is what the resources of a node say of its share in a farm; "" when they say
// nothing of one.
func share(ctx context.Context, n *pair.Node, module string) (string, error) {
	return value(ctx, n, module, "FarmProto")
}

// value is that of a resource; "" when there is none.
func value(ctx context.Context, n *pair.Node, module, resource string) (string, error) {
	out, err := n.Skfs(ctx, "state", "-v", "-m", module)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == resource {
			return f[1], err
		}
	}
	return "", err
}

func awaitShare(ctx context.Context, n *pair.Node, module, want string) error {
	return awaitValue(ctx, n, module, "FarmProto", want)
}

func awaitValue(ctx context.Context, n *pair.Node, module, resource, want string) error {
	for {
		got, err := value(ctx, n, module, resource)
		if err == nil && got == want {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s of %s shows %s %q, expected %s: %w (%w)", module, n.Name(), resource, got, want, ctx.Err(), err)
		}
	}
}

// asks has the client connect to both addresses until exactly these hosts answer. What
// happens to connections while members change is for TestFarmConnections to see.
func (s *farmers) asks(members ...int) {
	s.t.Helper()
	for _, addr := range []string{farm4, farm6} {
		s.answers(net.JoinHostPort(addr, echo.Port), 40*len(members), members...)
	}
}

// answers has the client connect n times until these hosts, and no others, answer; any
// when none is named.
func (s *farmers) answers(to string, n int, members ...int) (by echo.Asked) {
	s.t.Helper()
	within(s.t, 2*patience, func(ctx context.Context) (err error) {
		for {
			by, err = echo.Ask(ctx, s.Client, to, n)
			right := err == nil
			for i, n := range s.Nodes {
				right = right && (len(members) == 0 || (by[n.Name()] > 0) == slices.Contains(members, i))
			}
			if right {
				return nil
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s: %v answered, expected %v: %w (%w)\n%s", to, by, members, ctx.Err(), err, paths(s.Farm))
			}
		}
	})
	return by
}

// bitmaps says that the bitmaps of these hosts have each bucket once, as the special
// command shows them (§4.3.5), and that lb who agrees with what the client sees.
func (s *farmers) bitmaps(members ...int) {
	s.t.Helper()
	seen := map[string]int{} // by word and bit
	for _, i := range members {
		var out string
		within(s.t, patience, func(ctx context.Context) (err error) {
			out, err = s.Nodes[i].Skfs(ctx, "-r", "vip_if_ctrl", "-l")
			return err
		})
		_, words, ok := strings.Cut(out, fmt.Sprintf("Bitmap %d:", i+1))
		if !ok {
			s.t.Fatalf("vip_if_ctrl -l of %s says %q", s.Nodes[i].Name(), out)
		}
		for w, word := range strings.Split(strings.TrimSpace(words), ":") {
			bits, err := strconv.ParseUint(word, 16, 32)
			if err != nil {
				s.t.Fatalf("vip_if_ctrl -l of %s says %q: %v", s.Nodes[i].Name(), out, err)
			}
			for b := range 32 {
				if bits>>b&1 != 0 {
					seen[fmt.Sprint(w, " ", b)]++
				}
			}
		}
	}
	for bucket, n := range seen {
		if n != 1 {
			s.t.Errorf("bucket %s is in %d bitmaps", bucket, n)
		}
	}
	if len(seen) != 256 {
		s.t.Errorf("%d buckets are in bitmaps, expected 256", len(seen))
	}
}

// pings is §4.3.7: every member answers a ping in invisible mode, one in directed mode.
func (s *farmers) pings(mode string, members ...int) {
	s.t.Helper()
	if _, err := exec.LookPath("ping"); err != nil {
		s.t.Log("ping (iputils-ping) is not there: its answers are not counted")
		return
	}
	want := 1
	if mode == "vmac_invisible" {
		want = len(members)
	}
	for _, addr := range []string{farm4, farm6} {
		out := ""
		for late := time.Now().Add(patience); ; {
			within(s.t, patience, func(ctx context.Context) error { // it waits for the last one in vain
				out, _ = s.Client.Run(ctx, "ping", "-c", "2", "-i", "0.5", "-W", "1", addr)
				return nil
			})
			if n := strings.Count(out, "icmp_seq=1 "); n == want {
				break
			}
			if time.Now().After(late) {
				s.t.Fatalf("%d members answer a ping to %s, expected %d:\n%s", strings.Count(out, "icmp_seq=1 "), addr, want, out)
			}
		}
	}
}

// §4.3.1 to 4.3.9.
func TestFarmInvisible(t *testing.T) { farmScenarios(t, "vmac_invisible") }
func TestFarmDirected(t *testing.T)  { farmScenarios(t, "vmac_directed") }

func farmScenarios(t *testing.T, mode string) {
	members := 3
	if long() {
		members = 5
	}
	f := newFarm(t, members, mode)
	s := farming(t, f)
	everybody := all(members)
	last := members - 1
	others := everybody[:last]
	s.start()
	for i := range f.Nodes {
		s.logged(i, "Action start called by", "Virtual IP "+farm4+" set", "Script start_both")
		s.logged(i, "Local state UP green")
	}
	s.asks(everybody...)
	s.bitmaps(everybody...)
	s.pings(mode, everybody...)
	s.resolves(mode, everybody...)
	s.up(0, everybody...)
	t.Run("a member is stopped", func(t *testing.T) { // §4.3.2
		s := farming(t, f)
		s.do(last, "stop")
		s.await(last, "STOP")
		s.logged(last, "Action stop called by", "Script stop_both", "End of stop")
		s.share(others...)
		s.asks(others...)
		left(t, f.Nodes[last])
		for i := range f.Nodes {
			s.mark(i)
		}
		s.do(last, "start")
		s.await(last, "UP")
		s.share(everybody...)
		s.asks(everybody...)
	})
	t.Run("a member is restarted", func(t *testing.T) { // §4.3.3
		s := farming(t, f)
		s.do(0, "restart")
		s.logged(0, "Action restart called by", "Local state UP magenta", "Script stop_both", "Script start_both", "Local state UP green")
		s.share(everybody...)
	})
	t.Run("split brain", func(t *testing.T) { // §4.3.6
		s := farming(t, f)
		for _, i := range others {
			if err := f.Lab.Partition(f.Nodes[i].Host, f.Nodes[last].Host, true); err != nil {
				t.Fatal(err)
			}
		}
		s.share(others...)
		s.share(last)
		for i := range f.Nodes {
			s.mark(i)
		}
		for _, i := range others {
			if err := f.Lab.Partition(f.Nodes[i].Host, f.Nodes[last].Host, false); err != nil {
				t.Fatal(err)
			}
		}
		s.share(everybody...)
		s.asks(everybody...)
	})
	t.Run("a daemon is killed and started again", func(t *testing.T) {
		s := farming(t, f)
		n := f.Nodes[last]
		if mode == "vmac_directed" {
			defer found(t, f.Client, n.Host)() // it goes on to send on what is for the others
		}
		if err := n.KillDaemon(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, n.StartDaemon)
		s.await(last, "UP")
		s.asks(everybody...)
		within(t, patience, func(ctx context.Context) error { return n.Absent(ctx, s.marks[last], "Script ") })
	})
	t.Run("a host is shut down", func(t *testing.T) { // §4.3.8
		s := farming(t, f)
		s.do(last, "boot", "on")
		within(t, patience, func(ctx context.Context) error {
			_, err := f.Nodes[last].Skfs(ctx, "shutdown")
			return err
		})
		s.logged(last, "Action shutdown called by SYSTEM", "Script stop_both", "End of stop")
		if err := f.Nodes[last].PowerOff(); err != nil {
			t.Fatal(err)
		}
		s.share(others...)
		s.asks(others...)
		s.up(0, others...)
		for i := range f.Nodes {
			if i != last {
				within(t, patience, func(ctx context.Context) error { return f.Nodes[i].Absent(ctx, s.marks[i], "Script ") })
				s.mark(i)
			}
		}
		within(t, patience, f.Nodes[last].BootNode)
		address6(t, f.Nodes[last].Host, last+1)
		s.logged(last, "End of stop", "Action start called at boot time", "Script start_both", "Local state UP green")
		within(t, patience, func(ctx context.Context) error {
			return f.Nodes[last].Absent(ctx, s.marks[last], "Previous halt unexpected")
		})
		s.share(everybody...)
		s.asks(everybody...)
		s.up(0, everybody...)
	})
	t.Run("a host loses its power", func(t *testing.T) { // §4.3.9
		s := farming(t, f)
		if err := f.Nodes[last].PowerOff(); err != nil {
			t.Fatal(err)
		}
		s.share(others...)
		s.asks(others...)
		s.up(0, others...)
		for _, i := range others {
			s.mark(i)
		}
		within(t, patience, f.Nodes[last].BootNode)
		address6(t, f.Nodes[last].Host, last+1)
		s.logged(last, "Previous halt unexpected", "Action start called at boot time", "Script start_both", "Local state UP green")
		s.share(everybody...)
		s.asks(everybody...)
	})
}

// resolves is §4.3.4: the client finds the addresses at the virtual MAC, or at the MAC of
// one of the members.
func (s *farmers) resolves(mode string, members ...int) {
	s.t.Helper()
	macs := map[string]bool{}
	if mode == "vmac_invisible" {
		ip := net.ParseIP(farm4).To4()
		macs[fmt.Sprintf("5a:fe:%02x:%02x:%02x:%02x", ip[0], ip[1], ip[2], ip[3])] = true
	} else {
		for _, i := range members {
			macs[macOf(s.t, s.Nodes[i].Host, "eth0").String()] = true
		}
	}
	for _, addr := range []string{farm4, farm6} {
		out := run(s.t, s.Client, "ip", "neigh", "show", addr, "dev", "eth0")
		_, rest, _ := strings.Cut(out, "lladdr ")
		if mac, _, _ := strings.Cut(rest, " "); !macs[mac] {
			s.t.Errorf("the client finds %s at %q (%q), expected one of %v", addr, mac, out, macs)
		}
	}
}

// up waits until host i says that these nodes of the cluster, and no others, are up
// (§9.3), and knows of the module on each.
func (s *farmers) up(i int, members ...int) {
	s.t.Helper()
	var want []string
	for _, k := range members {
		want = append(want, s.Nodes[k].Name())
	}
	within(s.t, patience, func(ctx context.Context) error {
		for {
			out, err := s.Nodes[i].Skfs(ctx, "cluster", "state", "--json")
			if err != nil {
				return err
			}
			var rows []struct{ Node, Module, Mode, State string }
			if err := json.Unmarshal([]byte(out), &rows); err != nil {
				return err
			}
			var up []string
			for _, r := range rows {
				if r.State == "up" && r.Module == pair.FarmModule && r.Mode == "farm" {
					up = append(up, r.Node)
				}
			}
			if slices.Sort(up); slices.Equal(up, want) {
				return nil
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("cluster state of %s: %s; expected %v up: %w", s.Nodes[i].Name(), out, want, ctx.Err())
			}
		}
	})
}

// Long connections over a join, a planned stop, and a second join: none breaks. When a
// host dies only those that it served do.
func TestFarmConnections(t *testing.T) {
	for _, mode := range []string{"vmac_invisible", "vmac_directed"} {
		t.Run(mode, func(t *testing.T) { farmConnections(t, mode) })
	}
}

func farmConnections(t *testing.T, mode string) {
	f := newFarm(t, 3, mode)
	s := farming(t, f)
	for _, i := range []int{0, 1} {
		s.do(i, "start")
	}
	for _, i := range []int{0, 1} {
		s.await(i, "UP")
	}
	s.share(0, 1)
	remark := func() {
		for i := range f.Nodes {
			s.mark(i)
		}
	}
	var held *echo.Holding
	hold := func(n int, life time.Duration) {
		within(t, patience, func(ctx context.Context) (err error) {
			held, err = echo.Hold(ctx, f.Client, net.JoinHostPort(farm4, echo.Port), n, life)
			return err
		})
		t.Cleanup(held.Kill)
	}
	hold(300, 6*time.Second)
	remark()
	s.do(2, "start") // a join
	s.await(2, "UP")
	s.share(0, 1, 2)
	remark()
	s.do(0, "stop") // a planned stop
	s.await(0, "STOP")
	s.share(1, 2)
	within(t, patience, func(ctx context.Context) error {
		return f.Nodes[0].Absent(ctx, s.marks[0], "are given up")
	})
	remark()
	s.do(0, "start") // a second join
	s.await(0, "UP")
	s.share(0, 1, 2)
	result, err := held.End()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections, by %v, the longest answer took %v", result.Connections, result.By, result.Longest)
	for k, b := range result.Broken {
		t.Errorf("connection of %s to %s at %v: %s", b.Client, b.Server, b.At, b.Error)
		if k == 9 {
			t.Fatalf("and %d more", len(result.Broken)-k-1)
		}
	}
	for _, n := range f.Nodes {
		if result.By[n.Name()] == 0 {
			t.Errorf("%s served nobody: %v", n.Name(), result.By)
		}
	}

	// Ordered to be drained by another member: no new connection, and the state says so.
	remark()
	within(t, patience, func(ctx context.Context) error {
		_, err := f.Nodes[1].Skfs(ctx, "lb", "drain", "node3", "-m", pair.FarmModule)
		return err
	})
	s.share(0, 1)
	s.asks(0, 1)
	remark()
	within(t, patience, func(ctx context.Context) error {
		_, err := f.Nodes[2].Skfs(ctx, "lb", "undrain", "node3", "-m", pair.FarmModule)
		return err
	})
	s.share(0, 1, 2)

	remark()
	hold(60, 2*time.Second)
	if err := f.Nodes[2].PowerOff(); err != nil {
		t.Fatal(err)
	}
	s.share(0, 1)
	s.asks(0, 1)
	if result, err = held.End(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a host died: %d connections, by %v, %d broke", result.Connections, result.By, len(result.Broken))
	for _, b := range result.Broken {
		if b.Server != "node3" {
			t.Errorf("connection of %q to %q, which did not die, at %v: %s", b.Client, b.Server, b.At, b.Error)
		}
	}
}

// found has the client find the virtual addresses at a host, until lost is called.
func found(t *testing.T, client, at *lab.Host) (lost func()) {
	t.Helper()
	mac := macOf(t, at, "eth0").String()
	for _, addr := range []string{farm4, farm6} {
		run(t, client, "ip", "neigh", "replace", addr, "lladdr", mac, "dev", "eth0", "nud", "permanent")
	}
	return func() {
		for _, addr := range []string{farm4, farm6} {
			run(t, client, "ip", "neigh", "del", addr, "dev", "eth0")
		}
	}
}

// macOf is the hardware address of an interface of a host.
func macOf(t *testing.T, h *lab.Host, device string) net.HardwareAddr {
	t.Helper()
	_, rest, _ := strings.Cut(run(t, h, "ip", "-o", "link", "show", "dev", device), "link/ether ")
	text, _, _ := strings.Cut(rest, " ")
	mac, err := net.ParseMAC(text)
	if err != nil {
		t.Fatalf("%s of %s: %v", device, h.Name(), err)
	}
	return mac
}

// paths says where the client and the members find each other, and what the filters did,
// for the report of a failure.
func paths(f *pair.Farm) string {
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	var b strings.Builder
	out, err := f.Client.Run(ctx, "ip", "neigh")
	fmt.Fprintf(&b, "== client: neighbours: %v\n%s\n", err, out)
	for _, n := range f.Nodes {
		out, err := n.Run(ctx, "ip", "neigh")
		fmt.Fprintf(&b, "== %s: neighbours: %v\n%s\n", n.Name(), err, out)
		out, err = n.Skfs(ctx, "lb", "state", "-m", pair.FarmModule, "--json")
		fmt.Fprintf(&b, "== %s: lb state: %v\n%s\n", n.Name(), err, out)
	}
	return b.String()
}

// left says that nothing of the farm is left on a host.
func left(t *testing.T, n *pair.Node) {
	t.Helper()
	if out := run(t, n.Host, "ip", "-o", "addr", "show"); strings.Contains(out, farm4+"/") || strings.Contains(out, farm6+"/") {
		t.Errorf("%s still has the virtual addresses:\n%s", n.Name(), out)
	}
}
