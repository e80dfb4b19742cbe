package journal

import (
	"syscall"
	"testing"
	"time"
)

// TestOutcomes: every order in which the two halves of an operation can become
// known, and what is found.
func TestOutcomes(t *testing.T) {
	const full, io = syscall.ENOSPC, syscall.EIO
	start := time.Unix(1000, 0)
	here := func(o *outcomes, e syscall.Errno, applied Seq) []ending {
		return o.failedHere(Op{Seq: 5}, e, applied, nil)
	}
	there := func(o *outcomes, e syscall.Errno) []ending { return o.failedThere(Op{Seq: 5}, e, start, nil) }
	for _, c := range []struct {
		name string
		run  func(o *outcomes) []ending
		want []ending
	}{
		{"both alike, here first", func(o *outcomes) []ending { return append(here(o, full, 4), there(o, full)...) }, []ending{{Op{Seq: 5}, full, full}}},
		{"both alike, there first", func(o *outcomes) []ending { return append(there(o, full), here(o, full, 4)...) }, []ending{{Op{Seq: 5}, full, full}}},
		{"both alike, there first and passed", func(o *outcomes) []ending {
			m := there(o, full)
			m = o.passed(5, m)
			return append(m, here(o, full, 5)...)
		}, []ending{{Op{Seq: 5}, full, full}}},
		{"differently", func(o *outcomes) []ending { return append(here(o, full, 4), there(o, io)...) },
			[]ending{{Op{Seq: 5}, full, io}}},
		{"here only, known late", func(o *outcomes) []ending { return o.passed(5, o.passed(4, here(o, full, 3))) },
			[]ending{{Op{Seq: 5}, full, 0}}},
		{"here only, peer was there", func(o *outcomes) []ending { return here(o, full, 5) },
			[]ending{{Op{Seq: 5}, full, 0}}},
		{"there only", func(o *outcomes) []ending { return o.settle(start.Add(1), o.settle(start, there(o, full))) },
			[]ending{{Op{Seq: 5}, 0, full}}},
		{"there only, ended here", func(o *outcomes) []ending { return o.settleBelow(6, o.settleBelow(5, there(o, full))) },
			[]ending{{Op{Seq: 5}, 0, full}}},
		{"here only, the stream ends", func(o *outcomes) []ending { return o.settleAll(here(o, full, 4)) },
			[]ending{{Op{Seq: 5}, full, 0}}},
		{"there only, the stream ends", func(o *outcomes) []ending { return o.settleAll(there(o, io)) },
			[]ending{{Op{Seq: 5}, 0, io}}},
	} {
		o := newOutcomes()
		got := c.run(&o)
		got = o.settleAll(got)
		same := len(got) == len(c.want)
		for i := range got {
			same = same && got[i].op.Seq == c.want[i].op.Seq && got[i].local == c.want[i].local && got[i].remote == c.want[i].remote
		}
		if !same {
			t.Errorf("%s: found %v, expected %v", c.name, got, c.want)
		}
	}
}
