package journal

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// anyOp draws an operation on one of a few objects.
func anyOp(t *rapid.T) Op {
	id := rapid.Custom(func(t *rapid.T) FileID { return FileID{byte(rapid.IntRange(0, 4).Draw(t, "id"))} })
	return Op{
		Kind: Kind(rapid.IntRange(1, int(kindEnd)-1).Draw(t, "kind")),
		ID:   id.Draw(t, "ID"), Parent: id.Draw(t, "Parent"), Parent2: id.Draw(t, "Parent2"), ID2: id.Draw(t, "ID2"),
	}
}

// conflict is the definition that the scheduler must keep.
func conflict(a, b *Op) bool {
	if isBarrier(a) || isBarrier(b) {
		return true
	}
	return slices.ContainsFunc(Keys(a), func(k FileID) bool { return slices.Contains(Keys(b), k) })
}

// TestScheduler enters and finishes operations in any order: what runs conflicts
// with nothing earlier that has not finished, and everything else is ready.
func TestScheduler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(100)
		var open []*inbound // in Seq order
		running := map[*inbound]bool{}
		last := Seq(100)
		check := func() {
			for s.ready.len() > 0 {
				running[s.ready.pop()] = true
			}
			for i, in := range open {
				blocked := slices.ContainsFunc(open[:i], func(o *inbound) bool { return conflict(&o.op, &in.op) })
				if running[in] == blocked {
					t.Fatalf("%s %d: running %v, an earlier one conflicts: %v", in.op.Kind, in.op.Seq, running[in], blocked)
				}
			}
			first := last
			if len(open) > 0 {
				first = open[0].op.Seq - 1
			}
			if s.applied != first {
				t.Fatalf("applied is %d, expected %d", s.applied, first)
			}
		}
		finish := func(i int) {
			in := open[i]
			open = slices.Delete(open, i, i+1)
			delete(running, in)
			s.finish(in)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"add": func(t *rapid.T) {
				last++
				in := &inbound{op: anyOp(t)}
				in.op.Seq = last
				open = append(open, in)
				s.add(in)
			},
			"finish": func(t *rapid.T) {
				var can []int
				for i, in := range open {
					if running[in] {
						can = append(can, i)
					}
				}
				if len(can) == 0 {
					t.Skip("nothing runs")
				}
				finish(rapid.SampledFrom(can).Draw(t, "which"))
			},
		})
		for len(open) > 0 {
			check()
			if !running[open[0]] {
				t.Fatalf("%d is first and not ready", open[0].op.Seq)
			}
			finish(0)
		}
		if len(s.tails) != 0 || s.barrier != nil || s.window.len() != 0 {
			t.Fatalf("left over: %d tails, barrier %v, %d in the window", len(s.tails), s.barrier, s.window.len())
		}
	})
}

func TestKeys(t *testing.T) {
	a, b, c, d := FileID{1}, FileID{2}, FileID{3}, FileID{4}
	for _, x := range []struct {
		op   Op
		want []FileID
	}{
		{Op{Kind: KindWrite, ID: a}, []FileID{a}},
		{Op{Kind: KindCreate, ID: a, Parent: b}, []FileID{a, b}},
		{Op{Kind: KindRename, ID: a, Parent: b, Parent2: c, ID2: d}, []FileID{a, b, c, d, moving}},
		{Op{Kind: KindRename, ID: a, Parent: b, Parent2: b}, []FileID{a, b}},
		{Op{Kind: KindRename, ID: a, Parent: b, Parent2: c, ID2: a}, []FileID{a, b, c, moving}},
		{Op{Kind: KindMark, ID: a}, nil},
		{Op{Kind: KindSyncHash, ID: a}, nil},
		{Op{Kind: KindFsync, ID: a}, []FileID{a}},
	} {
		if got := Keys(&x.op); !slices.Equal(got, x.want) {
			t.Errorf("keys of %s: %v, expected %v", x.op.Kind, got, x.want)
		}
	}
	if !isBarrier(&Op{Kind: KindFsync}) || isBarrier(&Op{Kind: KindFsync, ID: a}) || !isBarrier(&Op{Kind: KindSyncDir, ID: a}) {
		t.Error("the barriers are a flush of everything and the steps that move names about")
	}
}

func TestWaitList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l waitList
		var in []*waiter
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				slices.SortStableFunc(in, func(a, b *waiter) int { return int(a.seq) - int(b.seq) })
				i := 0
				for w := l.first; w != nil; w = w.next {
					if i >= len(in) || w != in[i] {
						t.Fatalf("place %d holds %d", i, w.seq)
					}
					i++
				}
				if i != len(in) {
					t.Fatalf("%d waiters, expected %d", i, len(in))
				}
			},
			"add": func(t *rapid.T) {
				w := &waiter{seq: Seq(rapid.IntRange(1, 50).Draw(t, "seq")), ch: make(chan struct{}, 1)}
				in = append(in, w)
				l.add(w)
			},
			"remove": func(t *rapid.T) {
				if len(in) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(in)-1).Draw(t, "i")
				l.remove(in[i])
				l.remove(in[i]) // again, as after a release
				in = slices.Delete(in, i, i+1)
			},
			"release": func(t *rapid.T) {
				to := Seq(rapid.IntRange(1, 50).Draw(t, "to"))
				l.release(to)
				in = slices.DeleteFunc(in, func(w *waiter) bool {
					woken := len(w.ch) == 1
					if woken != (w.seq <= to) {
						t.Fatalf("released to %d: waiter for %d woken: %v", to, w.seq, woken)
					}
					return woken
				})
			},
		})
	})
}

func TestFifo(t *testing.T) {
	var q fifo[int]
	var model []int
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		if r.IntN(100) < 50+i/2_500*10-15 || len(model) == 0 {
			q.push(i)
			model = append(model, i)
		} else {
			if got := q.pop(); got != model[0] {
				t.Fatalf("popped %d, expected %d", got, model[0])
			}
			model = model[1:]
		}
		for j, v := range model {
			if j > 3 {
				break
			}
			if *q.at(j) != v {
				t.Fatalf("at %d: %d, expected %d", j, *q.at(j), v)
			}
		}
		if q.len() != len(model) {
			t.Fatalf("length %d, expected %d", q.len(), len(model))
		}
	}
}
