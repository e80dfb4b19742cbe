package ha

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// quietHeart is a heart whose goroutines do not run: the test is the time.
func quietHeart(idents ...string) *heart {
	h := &heart{module: "m", node: "a", peer: "b", incarnation: 1, seals: newSeals(conf.ClusterKey{}), kick: noThread{}, wake: make(chan struct{}, 1)}
	now := boottime()
	for _, id := range idents {
		h.beats = append(h.beats, &heartbeat{conf: heartbeatConf{Ident: id, Pulse: time.Second, Timeout: 10 * time.Second}, last: now})
	}
	return h
}

// noThread is woken by nobody.
type noThread struct{}

func (noThread) signal() {}

func from(inc, seq uint64, role Role) message {
	return message{Module: "m", Node: "b", Incarnation: inc, Seq: seq, Heard: 1, Beat: Beat{Known: true, Role: role}}
}

func TestVerdicts(t *testing.T) {
	h := quietHeart("default", "flow")
	links, _, ok, _ := h.take()
	if len(links) != 0 || ok {
		t.Fatalf("a verdict before anything was heard: %v", links)
	}
	t0 := boottime()
	h.hear(h.beats[0], from(7, 1, RoleWait))
	links, b, ok, _ := h.take()
	if links[0] != LinkUp || len(links) != 1 || !ok || b.Role != RoleWait || !b.HearsMe {
		t.Fatalf("%v %+v %v", links, b, ok)
	}
	h.judge(t0+9*time.Second, false)
	if links, _, _, _ := h.take(); len(links) != 0 {
		t.Fatalf("a verdict before the time is over: %v", links)
	}
	h.judge(h.beats[1].last+10*time.Second, false)
	if links, _, _, _ := h.take(); links[1] != LinkDown {
		t.Fatalf("the network on which nothing was ever heard: %v", links)
	}
	h.judge(h.beats[0].last+10*time.Second, false)
	if links, _, _, _ := h.take(); links[0] != LinkDown {
		t.Fatalf("%v", links)
	}
	// The same beat again counts: the automaton has forgotten it with the link.
	h.hear(h.beats[0], from(7, 2, RoleWait))
	if links, _, ok, _ := h.take(); links[0] != LinkUp || !ok {
		t.Fatalf("%v %v", links, ok)
	}
}

// A node that was late itself judges nobody.
func TestLateSelf(t *testing.T) {
	h := quietHeart("default")
	h.hear(h.beats[0], from(7, 1, RolePrim))
	h.take()
	now := h.beats[0].last + time.Minute
	h.judge(now, true)
	h.judge(now+9*time.Second, false)
	if links, _, _, _ := h.take(); len(links) != 0 {
		t.Fatalf("verdict: %v", links)
	}
	h.judge(now+10*time.Second, false)
	if links, _, _, _ := h.take(); links[0] != LinkDown {
		t.Fatalf("%v", links)
	}
}

// Only what is newer counts, over all networks and incarnations.
func TestLateMessages(t *testing.T) {
	h := quietHeart("default", "flow")
	role := func(want Role, fresh bool) {
		t.Helper()
		if _, b, ok, _ := h.take(); ok != fresh || ok && b.Role != want {
			t.Fatalf("%v (new: %v), wanted %v (new: %v)", b.Role, ok, want, fresh)
		}
	}
	h.hear(h.beats[0], from(7, 10, RolePrim))
	role(RolePrim, true)
	h.hear(h.beats[0], from(7, 9, RoleWait))
	role(0, false)
	h.hear(h.beats[0], from(8, 1, RoleStop)) // it was started again
	role(RoleStop, true)
	h.hear(h.beats[0], from(7, 11, RolePrim)) // sent before that
	role(0, false)
	h.hear(h.beats[0], from(8, 2, RoleStop)) // nothing new
	role(0, false)
}

func TestOneWayLossIsNamed(t *testing.T) {
	h := quietHeart("default")
	h.hear(h.beats[0], from(7, 1, RolePrim))
	deaf := func(seq uint64) message {
		m := from(7, seq, RolePrim)
		m.Heard = 0
		return m
	}
	h.hear(h.beats[0], deaf(2))
	if _, _, _, wrong := h.take(); len(wrong) != 0 {
		t.Errorf("said before the peer could have heard anything: %q", wrong)
	}
	h.beats[0].deaf -= 2 * h.beats[0].conf.Pulse
	h.hear(h.beats[0], deaf(3))
	_, b, _, wrong := h.take()
	if len(wrong) != 1 || wrong[0] != "b does not hear this node on heartbeat default" || b.HearsMe {
		t.Fatalf("%q %+v", wrong, b)
	}
	if _, _, _, wrong = h.take(); len(wrong) != 0 {
		t.Errorf("said twice: %q", wrong)
	}
}

// What is not for this module is complained of and otherwise ignored, and a
// change is heard long before the next pulse.
func TestHeartOverUDP(t *testing.T) {
	port := freePorts(t)
	key := conf.NewClusterKey()
	addr := func(i int) string { return fmt.Sprintf("127.0.0.%d:%d", i, port) }
	open := func(me, peer string, i int) *heart {
		h, err := openHeart("m", me, peer, uint64(i), newSeals(key), 7, []heartbeatConf{{"default", addr(i), addr(3 - i), time.Hour, 3 * time.Hour, false}})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	a, b := open("a", "b", 1), open("b", "a", 2)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	for _, h := range []*heart{a, b} {
		go func() { h.run(ctx); ended <- struct{}{} }()
	}
	defer func() { cancel(); <-ended; <-ended; a.close(); b.close() }()
	await := func(h *heart, what string, f func(b Beat, ok bool, wrong []string) bool) {
		t.Helper()
		limit := time.After(waitLimit)
		for {
			select {
			case <-h.wake:
			case <-limit:
				t.Fatalf("%s does not come", what)
			}
			if _, beat, ok, wrong := h.take(); f(beat, ok, wrong) {
				return
			}
		}
	}
	for e := uint64(1); e <= 100; e++ {
		b.tell(Beat{Known: true, Role: RolePrim, Epoch: e})
		await(a, fmt.Sprint("epoch ", e), func(b Beat, ok bool, _ []string) bool { return ok && b.Epoch == e })
	}
	c, err := net.Dial("udp", addr(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other := message{Module: "other", Node: "b", Incarnation: 9, Seq: 1 << 60}
	c.Write(newSeals(key).seal(other.encode()))
	await(a, "the complaint", func(_ Beat, ok bool, wrong []string) bool {
		if ok {
			t.Error("a heartbeat of another module was taken")
		}
		return len(wrong) == 1 && strings.Contains(wrong[0], `module "other"`)
	})
	c.Write(newSeals(key).seal([]byte("noise")))
	await(a, "the complaint", func(_ Beat, ok bool, wrong []string) bool {
		return len(wrong) == 1 && strings.Contains(wrong[0], "bad heartbeat")
	})
	c.Write(newSeals(conf.ClusterKey{}).seal((&message{Module: "m", Node: "b", Incarnation: 2, Seq: 1 << 60}).encode()))
	await(a, "the complaint", func(_ Beat, ok bool, wrong []string) bool {
		if ok {
			t.Error("an unsigned heartbeat was taken")
		}
		return len(wrong) == 1 && strings.Contains(wrong[0], "its sender has no cluster key")
	})
}

// What was recorded and is sent again keeps no dead node alive.
func TestReplay(t *testing.T) {
	h := quietHeart("default")
	b := h.beats[0]
	t0 := boottime()
	h.hear(b, from(7, 10, RolePrim))
	b.last = t0
	h.hear(b, from(7, 10, RolePrim))
	h.hear(b, from(7, 9, RolePrim))
	if b.last != t0 {
		t.Error("a message that was heard before counts again")
	}
	h.judge(t0+b.conf.Timeout, false)
	h.take()
	h.hear(b, from(7, 10, RolePrim))
	if links, _, ok, _ := h.take(); len(links) > 0 || ok {
		t.Error("the last message brings the link back")
	}
	// After this daemon was started again it knows no sequence, but what it says now
	// is not what the recorded messages answer.
	h = quietHeart("default")
	b = h.beats[0]
	h.since = 1000
	old := from(7, 11, RolePrim)
	old.Echo = 999
	h.hear(b, old)
	if links, _, ok, _ := h.take(); len(links) > 0 || ok {
		t.Error("an answer to what an earlier daemon said counts")
	}
	now := from(7, 12, RoleSecond)
	now.Echo = 1000
	h.hear(b, now)
	// Another life of the peer, recorded while it did not hear anybody.
	deaf := from(5, 1, RolePrim)
	deaf.Heard = 0
	h.hear(b, deaf)
	if _, beat, ok, _ := h.take(); !ok || beat.Role != RoleSecond || h.peerI != 7 {
		t.Errorf("a recorded life of the peer replaces the one that is heard: %+v", beat)
	}
}

func TestOtherConfigurationIsNamed(t *testing.T) {
	h := quietHeart("default")
	h.config = 1
	m := from(7, 1, RolePrim)
	m.Config = 2
	h.hear(h.beats[0], m)
	m.Seq = 2
	h.hear(h.beats[0], m)
	if _, _, _, wrong := h.take(); len(wrong) != 1 || !strings.Contains(wrong[0], "is not the same on b") {
		t.Fatalf("%q", wrong)
	}
	h.configured(2)
	m.Seq = 3
	h.hear(h.beats[0], m)
	h.configured(1)
	m.Seq = 4
	h.hear(h.beats[0], m)
	if _, _, _, wrong := h.take(); len(wrong) != 0 {
		t.Errorf("said again although nothing was heard of it between: %q", wrong)
	}
}

// While the key changes, both are accepted; once the peer has the new one, only that.
func TestKeyChange(t *testing.T) {
	k1, k2 := newSeals(conf.NewClusterKey()), newSeals(conf.NewClusterKey())
	h := quietHeart("default")
	b := h.beats[0]
	h.seals = k1
	seq := uint64(0)
	send := func(s seals) bool {
		seq++
		m := from(7, seq, RolePrim)
		h.datagram(b, s.seal(m.encode()), "10.0.0.2:4800")
		return b.newest == seq
	}
	if !send(k1) || send(k2) {
		t.Fatal("before the change")
	}
	h.trust(k2)
	if _, _, err := k1.open(h.seals.seal([]byte("x"))); err != nil {
		t.Errorf("the peer, which has the former key, refuses: %v", err)
	}
	h.take()
	if !send(k1) {
		t.Fatal("the former key is refused too early")
	}
	if _, _, _, wrong := h.take(); len(wrong) != 1 || !strings.Contains(wrong[0], "former cluster key") {
		t.Errorf("%q", wrong)
	}
	if !send(k1.then(k2)) || send(k1) {
		t.Fatal("after the change")
	}
	if _, _, _, wrong := h.take(); len(wrong) != 1 || !strings.Contains(wrong[0], "cluster.zip") {
		t.Errorf("%q", wrong)
	}
}

func TestSeal(t *testing.T) {
	k := newSeals(conf.ClusterKey{1, 2, 3})
	none := newSeals(conf.ClusterKey{})
	body := []byte("what is signed")
	for name, s := range map[string]seals{"key": k, "no key": none} {
		good := s.seal(bytes.Clone(body))
		golden(t, "seal."+strings.ReplaceAll(name, " ", "-")+".hex", []byte(hex.Dump(good)))
		if got, with, err := s.open(good); err != nil || with != 0 || !bytes.Equal(got, body) {
			t.Errorf("%s: %q %v", name, got, err)
		}
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if _, _, err := s.open(bad); err == nil {
					t.Errorf("%s: bit %d of byte %d changed: taken", name, bit, i)
				}
			}
			if _, _, err := s.open(good[:i]); err == nil {
				t.Errorf("%s: the first %d bytes are taken", name, i)
			}
		}
	}
	if _, _, err := k.open(none.seal(bytes.Clone(body))); err == nil {
		t.Error("what nobody signed is taken")
	}
	if _, _, err := none.open(k.seal(bytes.Clone(body))); err == nil {
		t.Error("a node without a key takes what it cannot check")
	}
}

func FuzzSeal(f *testing.F) {
	k := newSeals(conf.ClusterKey{1, 2, 3})
	f.Add([]byte("x"), k.seal([]byte("x")))
	f.Fuzz(func(t *testing.T, body, data []byte) {
		if got, _, err := k.open(k.seal(bytes.Clone(body))); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%x: %x %v", body, got, err)
		}
		if got, _, err := k.open(data); err == nil && !bytes.HasPrefix(data, got) {
			t.Errorf("%x is opened as %x", data, got)
		}
	})
}
