package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/skfs/skfs/e2e/echo"
	"github.com/skfs/skfs/e2e/pair"
)

// repli4 is the second address of the farm of TestFarmRules, on the other interface.
const repli4 = "10.77.1.200"

// rulesVIP has addresses on two interfaces, a virtual MAC of its own on one of them, and a
// group for each kind of rule.
const rulesVIP = `<vip><interface_list>
  <interface check="on" arpreroute="on" arpinterval="1" arpelapse="10">
    <virtual_interface type="vmac_directed"><virtual_addr addr="` + farm4 + `" where="alias" check="on"/></virtual_interface></interface>
  <interface check="on" name="eth1">
    <virtual_interface type="vmac_invisible" addr="5a:fe:00:00:00:77"><virtual_addr addr="` + repli4 + `" where="alias" check="on"/></virtual_interface></interface>
</interface_list>
<loadbalancing_list>
  <group name="FarmProto">
    <cluster><host name="node1" power="2"/><host name="node2" power="1"/><host name="node3" power="0"/></cluster>
    <rule port="` + echo.Port + `" proto="tcp" filter="on_port" virtual_addr="` + farm4 + `"/>
  </group>
  <group name="clients"><rule port="` + echo.Port + `" proto="tcp" filter="on_addr" virtual_addr="` + repli4 + `"/></group>
  <group name="datagrams"><rule port="` + echo.Port + `" proto="udp" filter="on_ipid"/></group>
  <group name="requestors">
    <cluster><host name="node1" power="0"/><host name="node2" power="1"/><host name="node3" power="0"/></cluster>
    <rule proto="arp" filter="on_addr" virtual_addr="` + farm4 + `"/>
  </group>
</loadbalancing_list></vip>`

// Rules of all kinds, powers, two interfaces, and the checkers of the addresses (§13.5.6,
// §15.5, §13.13, §13.14).
func TestFarmRules(t *testing.T) {
	f := newFarmOf(t, 3, pair.FarmConfig{Farm: farmTag, VIP: rulesVIP, Service: `<failover period="100" handle_time="300"/>`})
	s := farming(t, f)
	within(t, patience, func(ctx context.Context) error {
		return s.Each(func(n *pair.Node) error {
			if err := n.Do(ctx, "start"); err != nil {
				return err
			}
			return n.Await(ctx, "UP")
		})
	})
	for i, n := range f.Nodes {
		for group, want := range map[string][]string{"FarmProto": {"67%", "33%", "0%"}, "clients": {"34%", "33%", "33%"},
			"datagrams": {"34%", "33%", "33%"}, "requestors": {"0%", "100%", "0%"}} {
			within(t, patience, func(ctx context.Context) error { return awaitValue(ctx, n, pair.FarmModule, group, want[i]) })
		}
	}
	t.Run("powers", func(t *testing.T) {
		by := s.answers(net.JoinHostPort(farm4, echo.Port), 120, 0, 1)
		if by["node1"] <= by["node2"] {
			t.Errorf("a node of power 2 and one of power 1 answered %v", by)
		}
	})
	t.Run("clients stay where they are", func(t *testing.T) {
		who := s.who("10.77.1.4", "--addr", repli4)
		i := slices.IndexFunc(f.Nodes, func(n *pair.Node) bool { return n.Name() == who })
		if i < 0 {
			t.Fatalf("lb who says %q", who)
		}
		s.answers(net.JoinHostPort(repli4, echo.Port), 40, i)
	})
	t.Run("datagrams", func(t *testing.T) {
		for _, addr := range []string{farm4, repli4} {
			within(t, patience, func(ctx context.Context) error {
				many, one, err := echo.AskUDP(ctx, f.Client, net.JoinHostPort(addr, echo.Port), 120)
				if err == nil && (len(many) != 3 || len(one) != 3) {
					err = fmt.Errorf("datagrams to %s: from many ports %v answered, from one %v; expected all three", addr, many, one)
				}
				return err
			})
		}
	})
	t.Run("requestors", func(t *testing.T) {
		for addr, mac := range map[string]string{farm4: macOf(t, f.Nodes[1].Host, "eth0").String(), repli4: "5a:fe:00:00:00:77"} {
			device := map[string]string{farm4: "eth0", repli4: "eth1"}[addr]
			run(t, f.Client, "ip", "neigh", "flush", "to", addr)
			s.answers(net.JoinHostPort(addr, echo.Port), 1)
			if out := run(t, f.Client, "ip", "neigh", "show", addr, "dev", device); !strings.Contains(out, mac) {
				t.Errorf("the client finds %s at %q, expected %s", addr, out, mac)
			}
		}
	})
	t.Run("another MAC", func(t *testing.T) {
		// The client's frames go to the second member, which sends the others' on.
		defer found(t, f.Client, f.Nodes[1].Host)()
		run(t, f.Nodes[0].Host, "ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:77:01")
		s.logged(0, "has another hardware address: 02:00:00:00:77:01")
		s.answers(net.JoinHostPort(farm4, echo.Port), 120, 0, 1)
	})
	t.Run("an address is removed", func(t *testing.T) {
		for i := range f.Nodes {
			s.mark(i)
		}
		run(t, f.Nodes[1].Host, "ip", "addr", "del", repli4+"/32", "dev", "eth1")
		s.logged(1, "Resource ip."+repli4+" set to down by ipcheck", "End of stop", "Action start called automatically", "Local state UP green", "Resource ip."+repli4+" set to up by ipcheck")
		s.answers(net.JoinHostPort(farm4, echo.Port), 120, 0, 1)
	})
	t.Run("an interface is down", func(t *testing.T) {
		for i := range f.Nodes {
			s.mark(i)
		}
		if err := f.Nodes[0].LinkDown("repli"); err != nil {
			t.Fatal(err)
		}
		s.logged(0, "Resource intf.10.77.1.0 set to down by intfcheck", "Action wait from failover rule interface_failure", "Local state WAIT red")
		s.answers(net.JoinHostPort(farm4, echo.Port), 60, 1)
		if err := f.Nodes[0].LinkUp("repli"); err != nil {
			t.Fatal(err)
		}
		s.logged(0, "Resource intf.10.77.1.0 set to up by intfcheck", "Transition WAKEUP from failover rule Implicit_WAKEUP", "Local state UP green")
		s.answers(net.JoinHostPort(farm4, echo.Port), 120, 0, 1)
	})
}

// who is what lb who says of a client.
func (s *farmers) who(client string, more ...string) string {
	s.t.Helper()
	var a struct{ Node string }
	within(s.t, patience, func(ctx context.Context) error {
		out, err := s.Nodes[0].Skfs(ctx, append([]string{"lb", "who", client, "-m", pair.FarmModule, "--json"}, more...)...)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &a)
	})
	return a.Node
}
