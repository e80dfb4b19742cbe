package ha

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/group"
	"github.com/skfs/skfs/internal/netnstest"
	"github.com/skfs/skfs/lbfilter"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openTestFilter puts a filter on the interface eth0 of a namespace of its own.
func openTestFilter(t *testing.T, p *lbfilter.Policy, self lbfilter.Number) (_ *lbfilter.Filter, pins string, ns *netnstest.Namespace) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("filters need root")
	}
	bpffs := filepath.Join(t.TempDir(), "bpf")
	pins = filepath.Join(bpffs, "0")
	if err := lbfilter.MountBPFFS(bpffs); err != nil {
		t.Skipf("bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpffs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var f *lbfilter.Filter
	ns = netnstest.New(t)
	err := ns.Do(func() (err error) {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}); err != nil {
			return err
		}
		f, err = lbfilter.Open(lbfilter.Config{Policy: p, Interface: "eth0", Self: self, Pins: pins})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(true); err != nil {
			t.Error(err)
		}
	})
	return f, pins, ns
}

// TestFarmBegunAgain: a daemon that is started again goes by the view that it had before
// it hears anybody. Its filters go on to know where the others are, and learn it when one
// of them is elsewhere, though the view stays. They get their lease, though the pulse from
// which on the view is known to be in force may be all that happens.
func TestFarmBegunAgain(t *testing.T) {
	const self = 2
	policy := testPolicy(t, nil)
	filter, pins, _ := openTestFilter(t, policy, self)
	own, err := filter.MAC()
	if err != nil {
		t.Fatal(err)
	}
	names := farmNames[:3]
	var there []lbfilter.Member
	for i, name := range names {
		there = append(there, lbfilter.Member{Number: lbfilter.Number(i), Name: name})
	}
	state := farmState{moved: 1, groups: policy.Next(nil, there)}
	was := group.View{Epoch: group.Epoch{N: 5, Life: 1 << 30}, Members: group.Set(0).With(0).With(1).With(2), State: state.encode()}

	// What the earlier daemon left.
	want := lbfilter.Table{Epoch: 5, Groups: state.groups}
	want.MACs[0], want.MACs[1], want.MACs[self] = lbfilter.MAC{2, 0, 0, 0, 0, 1}, lbfilter.MAC{2, 0, 0, 0, 0, 2}, own
	if err := filter.Apply(want); err != nil {
		t.Fatal(err)
	}

	mc := membershipConf{Group: "test", Self: names[self], Members: names, Pulse: time.Second, MLost: 10, SLost: 10, Decide: decideFarm(policy)}
	member, err := openMembership(mc, newSeals(conf.ClusterKey{1}), 1<<40, was)
	if err != nil {
		t.Fatal(err)
	}
	defer member.close()
	f := newFarm(farmConf{membership: mc, lease: time.Minute, state: filepath.Join(t.TempDir(), "farm.state")}, nil, nil,
		func(l Level, text string) { t.Log(text) })
	f.policy, f.filters, f.member = policy, []*lbfilter.Filter{filter}, member
	f.info = farmInfo{Serving: true, MACs: []lbfilter.MAC{own}}
	member.tell(f.info.encode())

	taken := func(what string) {
		t.Helper()
		f.take("boot")
		if f.applied != was.Epoch {
			t.Fatalf("%s: the table of %+v is in effect, expected %+v", what, f.applied, was.Epoch)
		}
		if got := filter.Table().MACs; got != want.MACs {
			t.Errorf("%s: the members are at %v, expected %v", what, got[:3], want.MACs[:3])
		}
	}
	taken("nobody was heard")
	want.MACs[1] = lbfilter.MAC{2, 0, 0, 0, 0, 9}
	rows := make([]group.Row, len(names))
	rows[self] = member.node.Row(self) // they have heard this node, and confirm the view
	for i := range self {
		rows[i] = group.Row{Inc: 1, Ctr: 1, Hears: was.Members, Epoch: was.Epoch, View: was.Members, Info: farmInfo{Serving: true, MACs: []lbfilter.MAC{want.MACs[i]}}.encode()}
	}
	member.node.Hear(group.Message{From: 0, Rows: rows})
	taken("node2 is elsewhere")

	if !f.view.Ready || member.aliveAt() != 0 {
		t.Fatalf("the view is in force: %v, since %v; expected it to be, and no pulse yet", f.view.Ready, member.aliveAt())
	}
	pulse := boottime()
	member.turn(pulse, true)
	f.renew()
	lease, err := ebpf.LoadPinnedMap(filepath.Join(pins, "lease"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	var until uint64
	if err := lease.Lookup(uint32(0), &until); err != nil {
		t.Fatal(err)
	}
	if want := pulse + f.c.lease; time.Duration(until) != want {
		t.Errorf("the lease ends at %v, expected %v", time.Duration(until), want)
	}
}

// TestFarmMoved: a member whose interface gets another hardware address tells the others,
// and goes by it itself.
func TestFarmMoved(t *testing.T) {
	const self = 1
	policy := testPolicy(t, nil)
	filter, _, ns := openTestFilter(t, policy, self)
	own, err := filter.MAC()
	if err != nil {
		t.Fatal(err)
	}
	names := farmNames[:2]
	mc := membershipConf{Group: "test", Self: names[self], Members: names, Pulse: time.Second, MLost: 10, SLost: 10, Decide: decideFarm(policy)}
	member, err := openMembership(mc, newSeals(conf.ClusterKey{1}), 1, group.View{})
	if err != nil {
		t.Fatal(err)
	}
	defer member.close()
	f := newFarm(farmConf{membership: mc}, nil, nil, func(l Level, text string) { t.Log(text) })
	f.policy, f.filters, f.member = policy, []*lbfilter.Filter{filter}, member
	f.info = farmInfo{MACs: []lbfilter.MAC{own}}
	state := farmState{groups: policy.Next(nil, []lbfilter.Member{{Number: 0, Name: names[0]}})}
	table := lbfilter.Table{Epoch: 1, Groups: state.groups}
	table.MACs[self] = own
	if err := filter.Apply(table); err != nil {
		t.Fatal(err)
	}

	now := time.Unix(1000, 0)
	f.check(now)
	if said := member.node.Row(self).Info; said != "" {
		t.Errorf("nothing changed, the others were told %s", said)
	}
	want := lbfilter.MAC{2, 0, 0, 0, 7, 7}
	err = ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, want[:])
	})
	if err != nil {
		t.Fatal(err)
	}
	f.check(now.Add(checkEvery / 2))
	if said := member.node.Row(self).Info; said != "" {
		t.Errorf("it was not to look yet, the others were told %s", said)
	}
	f.check(now.Add(checkEvery))
	if said := readFarmInfo(member.node.Row(self).Info).MACs; len(said) != 1 || said[0] != want {
		t.Errorf("the others were told %v, expected %v", said, want)
	}
	if got := filter.Table().MACs[self]; got != want {
		t.Errorf("the filter goes by %v, expected %v", got, want)
	}
}

// TestFarmTells: ARP says again whose an address is for as long as arpelapse says, IPv6 a
// few times; and nobody is told of addresses that have a MAC of their own.
func TestFarmTells(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		name   string
		shared sharedConf
		arp    []time.Duration // when, looked at each second from 100 s on
		nd     int
	}{
		{"arpreroute", sharedConf{mode: lbfilter.Directed, every: 10 * second, elapse: 30 * second}, []time.Duration{100, 101, 102, 112, 122}, retells},
		{"arpelapse is over at once", sharedConf{mode: lbfilter.Directed, every: 10 * second}, []time.Duration{100, 101, 102}, retells},
		{"no arpreroute", sharedConf{mode: lbfilter.Directed}, nil, retells},
		{"vmac_invisible", sharedConf{mode: lbfilter.Invisible, every: second, elapse: 30 * second}, nil, 0},
	} {
		told := telling{on: true, since: 100 * second, last: make([]time.Duration, 1)}
		var arps []time.Duration
		nds := 0
		for now := 100 * second; now < 200*second; now += second {
			arp, nd := c.shared.tells(told, 0, now)
			if arp {
				arps, told.last[0] = append(arps, now/second), now
			}
			if nd {
				nds++
			}
			told.times = min(told.times+1, retells)
		}
		if !slices.Equal(arps, c.arp) || nds != c.nd {
			t.Errorf("%s: ARP at %v and %d neighbour advertisements, expected %v and %d", c.name, arps, nds, c.arp, c.nd)
		}
	}
	if arp, nd := (sharedConf{mode: lbfilter.Directed, every: second, elapse: second}).tells(telling{}, 0, 0); arp || nd {
		t.Error("it tells although nothing has happened")
	}
}
