package ha

import (
	"os"
	"path/filepath"
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

// openTestFilter puts a filter on an interface in a namespace of its own.
func openTestFilter(t *testing.T, p *lbfilter.Policy, self lbfilter.Number) (_ *lbfilter.Filter, pins string) {
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
	err := netnstest.New(t).Do(func() (err error) {
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
	return f, pins
}

// TestFarmBegunAgain: a daemon that is started again goes by the view that it had before
// it hears anybody. Its filters go on to know where the others are, and learn it when one
// of them is elsewhere, though the view stays. They get their lease, though the pulse from
// which on the view is known to be in force may be all that happens.
func TestFarmBegunAgain(t *testing.T) {
	const self = 2
	policy := testPolicy(t, nil)
	filter, pins := openTestFilter(t, policy, self)
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
