package ha

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// quietHeart is a heart whose goroutines do not run: the test is the time.
func quietHeart(idents ...string) *heart {
	h := &heart{module: "m", node: "a", peer: "b", incarnation: 1, kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	now := boottime()
	for _, id := range idents {
		h.beats = append(h.beats, &heartbeat{conf: heartbeatConf{Ident: id, Pulse: time.Second, Timeout: 10 * time.Second}, last: now})
	}
	return h
}

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
	deaf := from(7, 2, RolePrim)
	deaf.Heard = 0
	h.hear(h.beats[0], deaf)
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
	addr := func(i int) string { return fmt.Sprintf("127.0.0.%d:%d", i, port) }
	open := func(me, peer string, i int) *heart {
		h, err := openHeart("m", me, peer, uint64(i), []heartbeatConf{{"default", addr(i), addr(3 - i), time.Hour, 3 * time.Hour}})
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
	defer func() { cancel(); <-ended; <-ended }()
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
	c.Write(other.encode())
	await(a, "the complaint", func(_ Beat, ok bool, wrong []string) bool {
		if ok {
			t.Error("a heartbeat of another module was taken")
		}
		return len(wrong) == 1 && strings.Contains(wrong[0], `module "other"`)
	})
	c.Write([]byte("noise"))
	await(a, "the complaint", func(_ Beat, ok bool, wrong []string) bool {
		return len(wrong) == 1 && strings.Contains(wrong[0], "bad heartbeat")
	})
}
