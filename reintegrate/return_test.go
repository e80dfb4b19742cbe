package reintegrate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/skfs/skfs/journal"
)

// TestReturn: two hosts in sync, of which one goes away, or both go on alone;
// passes of all modes, cut off or not, while writers change PRIM. What is noted, or
// the times, must be enough.
func TestReturn(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for round := range 2 * *rounds {
		seed := first + uint64(round)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { testReturn(t, seed) })
	}
}

func testReturn(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	prim := newTree(1 << 20)
	change := func(p *pair, most int) {
		m := &mutator{p, r}
		for range r.IntN(most) {
			m.step()
		}
	}
	change(&pair{t: t, prim: prim, dirty: map[journal.FileID]bool{}}, 300)
	w := newTwins(prim)
	p := &pair{t: t}
	change(w.alone(p), 100)
	split := r.IntN(3) == 0
	if split {
		own := w.alone(p)
		own.prim = w.second
		change(own, 100)
		w.second.forget()
	}
	broad := false // a pass that looks at what is not noted was cut off: no delta any more
	mode := func() Mode {
		switch n := r.IntN(20); {
		case n == 0:
			return Full
		case n < 4 || broad:
			return Scan
		}
		return Delta
	}
	for range r.IntN(3) {
		m := mode()
		broad = broad || m != Delta
		p := w.join(t, m)
		interruptPass(p, r)
		w.second.forget()
		change(w.alone(p), 30)
	}
	m := mode()
	p = w.join(t, m)
	busy := &mutator{p, rand.New(rand.NewPCG(seed, 3))}
	p.pass.sources[0] = busySource{source{prim}, &sync.Mutex{}, busy, r.IntN(8)}
	stop := p.mutate(r.Uint64(), r.IntN(4))
	stats, err := p.pass.Run(context.Background())
	ops := stop()
	if err != nil {
		t.Fatalf("%s, split brain %v: %v", m, split, err)
	}
	p.check()
	if pr := p.pass.Progress(); pr.FilesLeft != 0 || pr.BytesLeft != 0 || pr.Walking {
		t.Errorf("at the end: %+v", pr)
	}
	if t.Failed() {
		t.Logf("%s, split brain %v", m, split)
	}
	t.Logf("%s: %v; %d live operations", m, stats, ops)
}

// join begins a pass of that mode. What SECOND refuses is passed again, as replica
// does: in split brain it may have deleted anything.
func (w twins) join(t *testing.T, m Mode) *pair {
	p := joinWith(t, w.prim, w.second, w.options(m), true)
	p.notes = w.notes
	return p
}
