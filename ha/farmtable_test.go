package ha

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/skfs/skfs/ha/group"
	"github.com/skfs/skfs/lbfilter"
)

func testPolicy(t *testing.T, powers map[string]int) *lbfilter.Policy {
	t.Helper()
	p, err := lbfilter.NewPolicy(lbfilter.Invisible, []netip.Addr{netip.MustParseAddr("10.0.0.9")},
		[]lbfilter.Group{{Name: "web", Powers: powers, Rules: []lbfilter.Rule{{Port: 80, Proto: lbfilter.TCP, Filter: lbfilter.OnPort}}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var farmNames = []string{"node1", "node2", "node3", "node4"}

// farmTable is a farm at the hands of decideFarm.
type farmTable struct {
	t      *testing.T
	policy *lbfilter.Policy
	decide func(string, []group.Member) string
	state  string
	infos  map[int]*farmInfo // of those that are members
}

func newFarmTable(t *testing.T, powers map[string]int) *farmTable {
	p := testPolicy(t, powers)
	return &farmTable{t: t, policy: p, decide: decideFarm(p), infos: map[int]*farmInfo{}}
}

// next makes the next table, and checks what holds for each: that it stays while
// nothing happens.
func (f *farmTable) next() farmState {
	f.t.Helper()
	var ms []group.Member
	for i, name := range farmNames {
		if info := f.infos[i]; info != nil {
			ms = append(ms, group.Member{Index: i, Name: name, Info: info.encode()})
		}
	}
	f.state = f.decide(f.state, ms)
	if again := f.decide(f.state, ms); again != f.state {
		f.t.Fatal("the table changes though nothing happens")
	}
	s, ok := readFarmState(f.state, len(f.policy.Groups()))
	if !ok {
		f.t.Fatal("the table cannot be read")
	}
	return s
}

// loads are the buckets that each member has of the group web.
func (s farmState) loads() (n [4]int) {
	for i := range n {
		n[i] = s.groups[1].Owner.Bitmap(lbfilter.Number(i)).Len()
	}
	return n
}

func TestFarmTable(t *testing.T) {
	f := newFarmTable(t, nil)
	expect := func(what string, want [4]int) farmState {
		t.Helper()
		s := f.next()
		if got := s.loads(); got != want {
			t.Errorf("%s: loads %v, expected %v", what, got, want)
		}
		return s
	}
	f.infos[0], f.infos[1] = &farmInfo{}, &farmInfo{}
	expect("nobody serves", [4]int{})
	f.infos[0].Serving = true
	expect("one serves", [4]int{256})
	f.infos[1].Serving = true
	s := expect("two serve", [4]int{128, 128})
	if !s.left(0) || s.left(1) {
		t.Error("the first one may have connections of what it gave away, the second one not")
	}
	// What was looked at before the move says nothing.
	f.infos[0].Held, f.infos[0].HeldAt = make([]lbfilter.Bitmap, 2), s.moved-1
	if s = f.next(); !s.left(0) {
		t.Error("an old look at the connections settles the move")
	}
	busy := uint8(slices.Index(s.groups[1].Prev[:], 0))
	f.infos[0].Held[1].Set(busy)
	f.infos[0].HeldAt = s.moved
	if s = f.next(); s.groups[1].Prev[busy] != 0 || s.groups[1].Prev != onlyPrev(busy, 0) {
		t.Error("exactly the bucket with a connection is to be kept in mind")
	}
	f.infos[0].Held[1] = lbfilter.Bitmap{}
	if s = f.next(); s.left(0) {
		t.Error("nothing is left, and yet the table keeps it in mind")
	}
	// A member that stops serving keeps its connections until it leaves.
	f.infos[2] = &farmInfo{Serving: true}
	s = expect("three serve", [4]int{86, 85, 85})
	f.infos[0].Serving = false
	if s = expect("the first stops serving", [4]int{0, 128, 128}); !s.left(0) {
		t.Error("the first one may have connections")
	}
	delete(f.infos, 0)
	if s = expect("it leaves", [4]int{0, 128, 128}); s.left(0) {
		t.Error("who is gone has no connections")
	}
	// Drained by an order that another one knows of.
	f.infos[3] = &farmInfo{Serving: true, Drains: map[string]drainMark{"node2": {Stamp: 5, On: true}}}
	expect("the second is drained", [4]int{0, 0, 128, 128})
	f.infos[1].Drains = map[string]drainMark{"node2": {Stamp: 4, On: false}}
	expect("an older order", [4]int{0, 0, 128, 128})
	f.infos[1].Drains = map[string]drainMark{"node2": {Stamp: 6, On: false}}
	expect("a newer one", [4]int{0, 86, 85, 85})
}

func onlyPrev(bucket uint8, n lbfilter.Number) lbfilter.Owners {
	o := lbfilter.Nobody()
	o[bucket] = n
	return o
}

// TestFarmTableWaits: who gains a bucket takes it when the one that had it gave it up.
func TestFarmTableWaits(t *testing.T) {
	f := newFarmTable(t, nil)
	f.infos[0], f.infos[1] = &farmInfo{Serving: true}, &farmInfo{}
	f.next()
	f.infos[1].Serving = true
	s := f.next()
	applied := map[lbfilter.Number]uint64{0: s.moved - 1}
	at := func(n lbfilter.Number) uint64 { return applied[n] }
	if n := s.waits(1, 1, at); n.Len() != 128 {
		t.Errorf("the second one waits for %d buckets, expected 128", n.Len())
	}
	if n := s.waits(1, 0, at); n.Len() != 0 {
		t.Errorf("the first one, which gains nothing, waits for %d", n.Len())
	}
	applied[0] = s.moved
	if n := s.waits(1, 1, at); n.Len() != 0 {
		t.Errorf("the second one waits for %d buckets that were given up", n.Len())
	}
	delete(f.infos, 0)
	applied[0] = 0
	if n := f.next().waits(1, 1, at); n.Len() != 0 {
		t.Errorf("the second one waits for %d buckets of one that is gone", n.Len())
	}
}

func TestFarmTablePower(t *testing.T) {
	f := newFarmTable(t, map[string]int{"node1": 3, "node2": 1, "node3": 0})
	for i := range 4 {
		f.infos[i] = &farmInfo{Serving: true}
	}
	if got, want := f.next().loads(), [4]int{192, 64, 0, 0}; got != want {
		t.Errorf("loads %v, expected %v", got, want)
	}
}

// TestFarmTableForeign: what cannot be read, and a table of other groups, is none.
func TestFarmTableForeign(t *testing.T) {
	f := newFarmTable(t, nil)
	f.infos[1] = &farmInfo{Serving: true}
	for _, foreign := range []string{"x", f.next().encode()[:500], farmState{groups: make([]lbfilter.Ownership, 3)}.encode()} {
		f.state = foreign
		if got := f.next().loads(); got != [4]int{0, 256} {
			t.Errorf("loads %v", got)
		}
	}
	if got := readFarmInfo("{"); got.Serving || got.Policy != "" {
		t.Errorf("%+v was read from nonsense", got)
	}
}

// TestFarmMACs: a daemon that has just begun knows nothing of the others but what its
// filters know, and goes on with that.
func TestFarmMACs(t *testing.T) {
	said := func(last ...byte) string {
		var i farmInfo
		for _, b := range last {
			i.MACs = append(i.MACs, lbfilter.MAC{2, 0, 0, 0, 0, b})
		}
		return i.encode()
	}
	var was [lbfilter.MaxMembers]lbfilter.MAC
	for i := range was {
		was[i] = lbfilter.MAC{2, 0, 0, 0, 9, byte(i)}
	}
	v := memberView{View: group.View{Members: group.Set(0).With(0).With(1).With(2)}, Infos: []string{said(1, 11), "", said(3), said(4, 14)}}
	for k, want := range [][]lbfilter.MAC{
		{{2, 0, 0, 0, 0, 1}, was[1], {2, 0, 0, 0, 0, 3}, {}},
		{{2, 0, 0, 0, 0, 11}, was[1], was[2], {}}, // node3 says nothing of this interface, node4 is no member
	} {
		if got := v.macs(k, was); !slices.Equal(got[:4], want) || got[4] != (lbfilter.MAC{}) {
			t.Errorf("interface %d: %v, expected %v", k, got[:5], want)
		}
	}
}

// TestFarmHandedOver: who stops serving waits for what another one can take, and for
// nothing else.
func TestFarmHandedOver(t *testing.T) {
	table := newFarmTable(t, map[string]int{"node1": 1})
	table.infos[0], table.infos[1] = &farmInfo{Serving: true}, &farmInfo{Serving: true}
	table.next()
	table.infos[0].Serving = false
	f := &farm{c: farmConf{membership: membershipConf{Self: "node1", Members: farmNames}}, policy: table.policy, table: table.next()}
	f.view = memberView{View: group.View{Members: group.Set(0).With(0).With(1)}, Infos: []string{table.infos[0].encode(), table.infos[1].encode(), "", ""}}
	if n := f.table.groups[1].Owner.Bitmap(0).Len(); n != lbfilter.Buckets {
		t.Fatalf("node1 has %d buckets of the group in which nobody else has power", n)
	}
	if f.handedOver() {
		t.Error("handed over before its connections were looked at")
	}
	f.info = farmInfo{HeldAt: f.table.moved, Held: make([]lbfilter.Bitmap, 2)}
	f.info.Held[0].Set(7)
	if f.handedOver() {
		t.Error("handed over with a connection in the group that node2 serves")
	}
	f.info.Held[0] = lbfilter.Bitmap{}
	f.info.Held[1].Set(7)
	if !f.handedOver() {
		t.Error("waits for a group that nobody else can serve")
	}
}
