package ha

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someResources(n int) []Resource {
	var all []Resource
	for i := range n {
		all = append(all, Resource{Name: fmt.Sprintf("custom.resource%04d", i), Value: strings.Repeat("v", i%100+1), Since: time.UnixMicro(int64(i) * 1_000_000)})
	}
	return all
}

func TestPartRoundTrip(t *testing.T) {
	p := part{Module: "mirror", Node: "node1", Incarnation: 7, Set: 9, Part: 1, Parts: 3, Resources: someResources(3)}
	got, err := decodePart(p.encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, got); d != "" {
		t.Error(d)
	}
	golden(t, "resources.hex", []byte(hex.Dump(p.encode())))
	good := p.encode()
	for i := range good {
		if _, err := decodePart(good[:i]); err == nil {
			t.Fatalf("the first %d bytes were taken", i)
		}
	}
	if _, err := decodePart(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte too many was taken")
	}
}

func FuzzPart(f *testing.F) {
	p := part{Module: "mirror", Node: "node1", Parts: 1, Resources: someResources(2)}
	f.Add(p.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePart(data)
		if err == nil && !bytes.Equal(p.encode(), data) {
			t.Fatalf("%x is taken for %+v, which is %x", data, p, p.encode())
		}
	})
}

// TestSplit: every part fits a datagram, nothing is lost while there is room, and what
// has none is counted.
func TestSplit(t *testing.T) {
	head := part{Module: strings.Repeat("m", 64), Node: strings.Repeat("n", 64), Incarnation: 1, Set: 2}
	for _, n := range []int{0, 1, 30, 300, 3000} {
		all := someResources(n)
		parts, left := split(head, all)
		var back []Resource
		for i, b := range parts {
			if len(b)+sealSize > datagramMax {
				t.Fatalf("a part has %d bytes", len(b))
			}
			p, err := decodePart(b)
			if err != nil || int(p.Part) != i || int(p.Parts) != len(parts) {
				t.Fatalf("part %d of %d: %v", p.Part, p.Parts, err)
			}
			back = append(back, p.Resources...)
		}
		if len(back)+left != n || n <= 300 && left > 0 || n == 3000 && left == 0 || !reflect.DeepEqual(back, append([]Resource(nil), all[:len(back)]...)) {
			t.Errorf("of %d resources %d were told and %d left", n, len(back), left)
		}
	}
}

// TestHearResources: a set counts when it is whole, and only if it is of the peer that
// is heard and newer.
func TestHearResources(t *testing.T) {
	h := &heart{module: "m", node: "a", peer: "b", peerI: 5, wake: make(chan struct{}, 1)}
	set := func(incarnation, set uint64, n int) [][]byte {
		parts, _ := split(part{Module: "m", Node: "b", Incarnation: incarnation, Set: set}, someResources(n))
		return parts
	}
	hear := func(b []byte) {
		t.Helper()
		if err := h.hearResources(b); err != nil {
			t.Fatal(err)
		}
	}
	took := func(want int) {
		t.Helper()
		all, ok := h.takeResources()
		if ok != (want >= 0) || ok && !slices.Equal(all, someResources(want)) {
			t.Fatalf("took %d resources, %t; want %d", len(all), ok, want)
		}
	}
	first := set(5, 1, 100)
	for i := range first[1:] {
		hear(first[len(first)-1-i]) // in any order, and twice
		hear(first[len(first)-1-i])
	}
	took(-1)
	hear(first[0])
	took(100)
	took(-1)
	hear(set(4, 9, 3)[0]) // of an incarnation that is over
	took(-1)
	second := set(5, 2, 100)
	hear(second[0])
	hear(first[1]) // overtaken
	third := set(5, 3, 1)
	hear(third[0]) // the second was never whole
	took(1)
	for _, p := range second[1:] {
		hear(p)
	}
	took(-1)
	h.forgetTheirs()
	hear(third[0])
	took(1)
	h.peerI = 6
	hear(set(6, 1, 2)[0]) // started again
	took(2)
	if err := h.hearResources((&part{Module: "m", Node: "c", Parts: 1}).encode()); err == nil {
		t.Error("resources of another node are taken")
	}
}

// TestPeerResources: each node knows the other's resources, rules speak of them, and
// they are unknown when it is silent or stopped.
func TestPeerResources(t *testing.T) {
	p := newPair(t, false, ruled(t, `far: if (remote.custom.id == down) then custom.far = down;
		near: if (remote.custom.id == up) then custom.far = up;
		lost: if (remote.custom.id == unknown) then custom.far = "lost";`))
	p.up()
	remote := func(i int, name, want string) {
		t.Helper()
		p.until(i, fmt.Sprintf("%s of the other node to be %s", name, want), func(st ModuleState) bool {
			at := slices.IndexFunc(st.RemoteResources, func(r Resource) bool { return r.Name == name })
			return at >= 0 && st.RemoteResources[at].Value == want
		})
	}
	remote(0, "state.local", "second")
	remote(1, "state.local", "prim")
	p.do(0, "set", "custom.id", "down")
	n := p.logged(1, 0, "Resource custom.far set to down by failover rule far")
	p.do(0, "set", "custom.id", "up")
	n = p.logged(1, n, "Resource custom.far set to up by failover rule near")
	p.do(0, "stop")
	p.logged(1, n, "Resource custom.far set to lost by failover rule lost")
	remote(1, "state.local", "stop")
	p.close(0)
	p.until(1, "nothing known of the other node", func(st ModuleState) bool { return st.RemoteResources == nil })
	p.open(0)
	remote(1, "state.local", "stop")
}
