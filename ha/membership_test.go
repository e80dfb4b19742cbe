package ha

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/group"
)

// loopLan gives n members addresses on loopback.
func loopLan(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		addrs = append(addrs, c.LocalAddr().String())
	}
	return addrs
}

type runningMember struct {
	*membership
	stop  func()
	wrong []string // what was to be logged

	unplugged *atomic.Bool // it has no carrier
}

func (r *runningMember) take() memberView {
	v, wrong := r.membership.take()
	r.wrong = append(r.wrong, wrong...)
	return v
}

func runMember(t *testing.T, i int, addrs []string, s seals) *runningMember {
	t.Helper()
	c := membershipConf{Group: "test", Pulse: 50 * time.Millisecond, MLost: 20, SLost: 20, Nets: []memberNetConf{{Name: "loop", Local: addrs[i], Remote: map[int]string{}}}}
	for k, a := range addrs {
		c.Members = append(c.Members, fmt.Sprintf("node%d", k+1))
		if k != i {
			c.Nets[0].Remote[k] = a
		}
	}
	c.Self = c.Members[i]
	var unplugged atomic.Bool
	c.Carrier = func() bool { return !unplugged.Load() }
	m, err := openMembership(c, s, uint64(time.Now().UnixNano()), group.View{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.run(ctx) })
	r := &runningMember{membership: m, unplugged: &unplugged, stop: sync.OnceFunc(func() { cancel(); wg.Wait() })}
	t.Cleanup(func() { r.stop(); m.close() })
	return r
}

// awaits waits until a member goes by a view of these.
func (r *runningMember) awaits(t *testing.T, want group.Set) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		v := r.take()
		if v.Ready && v.View.Members == want {
			return
		}
		select {
		case <-r.wake:
		case <-time.After(100 * time.Millisecond):
		case <-late:
			t.Fatalf("%+v, expected the members %b", v, want)
		}
	}
}

func TestMembership(t *testing.T) {
	addrs := loopLan(t, 3)
	key := newSeals(conf.ClusterKey{1})
	var ms []*runningMember
	for i := range 3 {
		ms = append(ms, runMember(t, i, addrs, key))
	}
	for _, m := range ms {
		m.awaits(t, 7)
	}
	ms[0].tell("hello")
	for late := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if v := ms[2].take(); v.Infos[0] == "hello" {
			break
		}
		if time.Now().After(late) {
			t.Fatal("what a member says of itself does not reach another one")
		}
	}
	// Another key, on all: nobody is missed meanwhile.
	epoch := ms[1].take()
	for _, m := range ms {
		m.trust(newSeals(conf.ClusterKey{2}))
	}
	ms[1].awaits(t, 7)
	if now := ms[1].take(); now.View.Epoch != epoch.View.Epoch {
		t.Error("the members changed with the key")
	}
	// One that leaves in order is missed at once, one that is stopped after a while.
	ms[0].stop()
	ms[0].leave()
	ms[1].awaits(t, 6)
	ms[2].stop()
	ms[1].awaits(t, 2)
}

// TestMembershipCarrier: a member whose clients' networks have no carrier is missed by the
// others, though they would hear it, agrees on nothing with itself alone, and takes up
// what the others agreed on when it has one again.
func TestMembershipCarrier(t *testing.T) {
	addrs := loopLan(t, 3)
	var ms []*runningMember
	for i := range 3 {
		ms = append(ms, runMember(t, i, addrs, newSeals(conf.ClusterKey{1})))
	}
	for _, m := range ms {
		m.awaits(t, 7)
	}
	before := ms[0].take().View
	ms[0].unplugged.Store(true) // the one that makes the views
	ms[1].awaits(t, 6)
	ms[2].awaits(t, 6)
	alive := ms[0].aliveAt()
	ms[0].kick.signal()                        // who has something to tell stands still, too
	time.Sleep(2 * 20 * 50 * time.Millisecond) // longer than it would take to miss the others
	if now := ms[0].take(); now.View != before || ms[0].aliveAt() != alive {
		t.Errorf("without a carrier the view went from %+v to %+v, and was in force until %v, expected %v", before, now.View, ms[0].aliveAt(), alive)
	}
	if !slices.ContainsFunc(ms[0].wrong, func(text string) bool { return strings.Contains(text, "has a carrier") }) {
		t.Errorf("the log is not told: %q", ms[0].wrong)
	}
	theirs := ms[1].take().View
	ms[0].unplugged.Store(false)
	for _, m := range ms {
		m.awaits(t, 7)
	}
	if now := ms[0].take().View; !theirs.Epoch.Less(now.Epoch) {
		t.Errorf("the view is %+v, expected one after %+v", now, theirs)
	}
	for late := time.Now().Add(time.Minute); ms[0].aliveAt() == alive; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the view is not in force again")
		}
	}
}

// TestMembershipKey: who has another key is no member, and is named.
func TestMembershipKey(t *testing.T) {
	addrs := loopLan(t, 2)
	a := runMember(t, 0, addrs, newSeals(conf.ClusterKey{1}))
	b := runMember(t, 1, addrs, newSeals(conf.ClusterKey{2}))
	a.awaits(t, 1)
	b.awaits(t, 2)
	for late := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if a.take(); strings.Contains(strings.Join(a.wrong, " "), "its sender has cluster key") {
			break
		}
		if time.Now().After(late) {
			t.Fatal("the log is not told of another key")
		}
	}
}
