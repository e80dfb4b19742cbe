package exercise

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Options of an exercise.
type Options struct {
	Seed uint64
	Ops  int // number of operations

	after func(op int) // for tests: called after each operation
}

// Result of an exercise without divergence.
type Result struct {
	Ops         int
	Unsupported []string // operations that the file system refuses, left out
}

// Divergence says that the file system did not do what it should.
type Divergence struct {
	Seed    uint64
	Op      int // number of the operation that showed it, from 0
	What    string
	History []string // the operations up to it, the last one last
}

func (d *Divergence) Error() string {
	return fmt.Sprintf("exercise: seed %d, operation %d: %s\nlast operations:\n  %s", d.Seed, d.Op, d.What, strings.Join(d.History, "\n  "))
}

// historyLen is how many operations a divergence shows.
const historyLen = 60

// run is what both exercises share: the source of randomness and the memory of
// what was done.
type run struct {
	Options
	rnd         *rand.Rand
	op          int
	history     []string // a ring; the operation n is at n % historyLen
	logged      int
	unsupported []string
}

func newRun(o Options) run {
	return run{Options: o, rnd: rand.New(rand.NewPCG(o.Seed, 0)), history: make([]string, 0, historyLen)}
}

// log notes what is about to be done.
func (r *run) log(format string, args ...any) {
	line := fmt.Sprintf("%6d ", r.op) + fmt.Sprintf(format, args...)
	if len(r.history) < historyLen {
		r.history = append(r.history, line)
	} else {
		r.history[r.logged%historyLen] = line
	}
	r.logged++
}

func (r *run) diverged(format string, args ...any) error {
	d := &Divergence{Seed: r.Seed, Op: r.op, What: fmt.Sprintf(format, args...)}
	for i := range r.history {
		d.History = append(d.History, r.history[(r.logged+i)%len(r.history)])
	}
	return d
}

func (r *run) result() *Result { return &Result{Ops: r.op, Unsupported: r.unsupported} }

// choice is one kind of operation, chosen in proportion to its weight.
type choice struct {
	weight int
	do     func() error
}

func pick(rnd *rand.Rand, choices []choice) func() error {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := rnd.IntN(total)
	for _, c := range choices {
		if n < c.weight {
			return c.do
		}
		n -= c.weight
	}
	panic("unreachable: the weights add up to total")
}
