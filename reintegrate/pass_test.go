package reintegrate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

var (
	rounds = flag.Int("rounds", 30, "random tree pairs to reintegrate; twice as many returns")
	seed   = flag.Uint64("seed", 0, "of the first round; 0: by the clock")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a PRIM and a SECOND, joined by a stream.
type pair struct {
	t      *testing.T
	prim   *tree
	second *tree
	sender *journal.Sender
	stop   func()
	pass   *Pass

	gate    sync.RWMutex // held by live operations from before Filter until they are done, as fs.Gate is
	settled int          // under gate: how often Settle was called
	moves   sync.Mutex   // as the kernel's: one rename of a directory at a time

	notes *noteBook // nil: none are kept

	mu      sync.Mutex
	dirty   map[journal.FileID]bool // mtimes that SECOND has to be told
	refused []string                // live operations that failed on SECOND
	mended  bool                    // they are passed again
}

// second's ordinary operations.
type ordinary struct{ p *pair }

func (o ordinary) Apply(op *journal.Op) journal.Result {
	errno := o.p.second.apply(op, false)
	if errno != 0 {
		o.p.mu.Lock()
		o.p.refused = append(o.p.refused, fmt.Sprintf("%s %s %q/%q: %v", op.Kind, op.ID, op.Name, op.Name2, errno))
		o.p.mu.Unlock()
	}
	return journal.Result{Errno: errno}
}

var smallOptions = Options{ZoneSize: 64, BlockSize: 16, holeZones: 2}

// join makes a stream and a pass over it.
func join(t *testing.T, prim, second *tree, o Options) *pair {
	return joinTo(t, prim, second, o, func(a journal.Applier) journal.Applier { return a })
}

func joinTo(t *testing.T, prim, second *tree, o Options, wrap func(journal.Applier) journal.Applier) *pair {
	return joinPair(t, prim, second, o, wrap, false)
}

// joinWith is join where the pass mends what SECOND refuses, if it shall.
func joinWith(t *testing.T, prim, second *tree, o Options, mend bool) *pair {
	return joinPair(t, prim, second, o, func(a journal.Applier) journal.Applier { return a }, mend)
}

func joinPair(t *testing.T, prim, second *tree, o Options, wrap func(journal.Applier) journal.Applier, mend bool) *pair {
	p := &pair{t: t, prim: prim, second: second, dirty: map[journal.FileID]bool{}, mended: mend}
	a, b := net.Pipe()
	so := journal.SenderOptions{Epoch: 1}
	if mend {
		so.Mismatch = func(op *journal.Op, _, remote syscall.Errno) {
			if !Own(op) && !p.pass.Failed(op, remote) && p.sender.Err() == nil {
				t.Logf("%s of %s ended with %v: not mended", op.Kind, op.ID, remote)
			}
		}
	}
	p.sender = journal.NewSender(journal.NewLink(a), so)
	target := NewTarget([]Sink{sink{second}})
	r := journal.NewReceiver(journal.NewLink(b), target.Around(wrap(ordinary{p})), journal.ReceiverOptions{Epoch: 1})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(context.Background())
	}()
	p.stop = sync.OnceFunc(func() {
		p.sender.Close(nil)
		<-p.sender.Done()
		<-done
	})
	t.Cleanup(p.stop)
	o.Settle = func(ctx context.Context) error {
		p.gate.Lock() // nobody is half way
		p.settled++
		p.gate.Unlock()
		_, err := p.sender.Drain(ctx)
		return err
	}
	p.pass = NewPass([]Source{source{prim}}, Over(p.sender), o)
	return p
}

// drain waits until SECOND has applied everything.
func (p *pair) drain() {
	p.t.Helper()
	if _, err := p.sender.Drain(context.Background()); err != nil {
		p.t.Fatal(err)
	}
}

// do carries out a live operation as fs does: under its locks, SECOND first. It
// says whether the operation was possible.
func (p *pair) do(op *journal.Op) bool {
	p.gate.RLock()
	defer p.gate.RUnlock()
	op2 := *op
	op = &op2
	var spans []span
	for _, id := range journal.Keys(op) {
		spans = append(spans, span{id, 0, whole})
	}
	switch op.Kind {
	case journal.KindWrite:
		spans = []span{{op.ID, op.Off, op.Off + int64(len(op.Data))}}
	case journal.KindFallocate:
		spans = []span{{op.ID, op.Off, whole}}
	case journal.KindRename:
		p.moves.Lock()
		defer p.moves.Unlock()
	}
	defer p.prim.locks.lock(spans...)()
	if p.prim.apply(op, true) != 0 {
		return false
	}
	return p.run(op)
}

// unlinked says whether op changes a file that has lost its last name: that
// travels no more.
func (p *pair) unlinked(op *journal.Op) bool {
	switch op.Kind {
	case journal.KindWrite, journal.KindFallocate, journal.KindSetAttr, journal.KindSetXattr, journal.KindRemoveXattr:
		p.prim.mu.Lock()
		defer p.prim.mu.Unlock()
		n := p.prim.byID[op.ID]
		return n != nil && n.nlink == 0 && !n.tmp
	}
	return false
}

// run is do with the locks held.
func (p *pair) run(op *journal.Op) bool {
	if p.unlinked(op) {
		p.prim.apply(op, false)
		return true
	}
	if p.notes != nil {
		p.notes.note(op)
		p.prim.mu.Lock()
		if n := p.prim.byID[op.ID]; n != nil && n.tmp && op.Kind == journal.KindLink {
			p.notes.whole(op.ID) // SECOND may never have heard of it
		}
		p.prim.mu.Unlock()
	}
	if p.pass != nil {
		for _, f := range p.pass.Filter(op) {
			c := *f
			if err := p.sender.Commit(&c); err != nil {
				break // the link is cut: PRIM goes on alone
			}
		}
	}
	if errno := p.prim.apply(op, false); errno != 0 {
		p.t.Errorf("%s on PRIM: %v", op.Kind, errno)
	}
	p.mu.Lock()
	for _, id := range journal.Keys(op) {
		p.dirty[id] = true
	}
	p.mu.Unlock()
	// What has lost its last name and is not open goes.
	for _, id := range []journal.FileID{op.ID, op.ID2} {
		p.prim.mu.Lock()
		n := p.prim.byID[id]
		gone := n != nil && !n.isDir() && n.nlink == 0 && n.opens == 0 && !n.tmp
		p.prim.mu.Unlock()
		if gone && op.Kind != journal.KindRelease {
			p.run(&journal.Op{Kind: journal.KindRelease, ID: id})
		}
	}
	return true
}

// settleTimes sends the mtimes that changed, as fs does after a while.
func (p *pair) settleTimes() {
	p.mu.Lock()
	ids := p.dirty
	p.dirty = map[journal.FileID]bool{}
	p.mu.Unlock()
	p.gate.RLock()
	defer p.gate.RUnlock()
	for id := range ids {
		unlock := p.prim.locks.lock(span{id, 0, whole})
		p.prim.mu.Lock()
		n := source{p.prim}.live(id)
		var mtime journal.Time
		if n != nil {
			mtime = n.mtime
		}
		p.prim.mu.Unlock()
		if n != nil {
			op := &journal.Op{Kind: journal.KindTimes, ID: id, Mtime: mtime}
			if p.notes != nil {
				p.notes.note(op)
			}
			for _, f := range p.pass.Filter(op) {
				if err := p.sender.Commit(f); err != nil {
					p.t.Error(err)
				}
			}
		}
		unlock()
	}
}

// diverge turns two equal trees into what a first start can find.
func diverge(t *testing.T, r *rand.Rand, second *tree) {
	m := &mutator{&pair{t: t, prim: second, dirty: map[journal.FileID]bool{}}, r}
	for range r.IntN(80) {
		m.step()
	}
	second.mu.Lock()
	defer second.mu.Unlock()
	strip := r.IntN(4)
	for id, n := range second.byID {
		switch {
		case n.tmp || n.nlink == 0:
			delete(second.byID, id)
		case n != second.root && r.IntN(4) < strip:
			delete(second.byID, id)
			n.id = journal.FileID{}
		case n != second.root && n.typ() == unix.S_IFREG && r.IntN(30) == 0:
			n.resize(int64(r.IntN(200))) // out of step without a trace
		}
	}
}

func randomPair(t *testing.T, r *rand.Rand) (prim, second *tree) {
	prim = newTree(1 << 20)
	m := &mutator{&pair{t: t, prim: prim, dirty: map[journal.FileID]bool{}}, r}
	for range r.IntN(300) {
		m.step()
	}
	second = newTree(1 << 40)
	if r.IntN(4) > 0 {
		second = prim.clone(1 << 40)
	}
	diverge(t, r, second)
	for range r.IntN(80) {
		m.step()
	}
	return prim, second
}

// TestRandom reintegrates random pairs of trees while several writers change PRIM.
func TestRandom(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for round := range *rounds {
		seed := first + uint64(round)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			prim, second := randomPair(t, r)
			if r.IntN(2) == 0 {
				interrupt(t, r, prim, second)
			}
			p := join(t, prim, second, smallOptions)
			m := &mutator{p, rand.New(rand.NewPCG(seed, 3))}
			p.pass.sources[0] = busySource{source{prim}, &sync.Mutex{}, m, r.IntN(8)}
			stop := p.mutate(r.Uint64(), r.IntN(4))
			stats, err := p.pass.Run(context.Background())
			ops := stop()
			if err != nil {
				t.Fatal(err)
			}
			p.check()
			t.Logf("%v; %d live operations", stats, ops)
		})
	}
}

// busySource makes live operations before each step of the pass: far more of them
// fall between two steps than writers beside it would manage.
type busySource struct {
	source
	mu    *sync.Mutex
	m     *mutator
	steps int
}

func (s busySource) live() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.m.r.IntN(s.steps + 1) {
		s.m.step()
	}
}

func (s busySource) WithDir(dir journal.FileID, f func([]Entry) error) error {
	s.live()
	return s.source.WithDir(dir, f)
}

func (s busySource) WithRange(id journal.FileID, off, n int64, f func(File) error) error {
	s.live()
	return s.source.WithRange(id, off, n, f)
}

func (s busySource) WithObject(id journal.FileID, f func(*Attrs, File) error) error {
	s.live()
	return s.source.WithObject(id, f)
}

// mutate starts writers; stop waits until each has made some more operations.
func (p *pair) mutate(seed uint64, writers int) (stop func() int64) {
	var g sync.WaitGroup
	var over atomic.Bool
	var ops atomic.Int64
	for w := range writers {
		g.Go(func() {
			m := &mutator{p, rand.New(rand.NewPCG(seed, uint64(w)))}
			for after := 0; after < 20; {
				if m.step() {
					ops.Add(1)
				}
				if over.Load() {
					after++
				}
			}
		})
	}
	return func() int64 {
		over.Store(true)
		g.Wait()
		return ops.Load()
	}
}

// check compares the two trees when all is quiet.
func (p *pair) check() {
	p.t.Helper()
	p.settleTimes()
	p.drain()
	for _, d := range differences(p.prim, p.second) {
		p.t.Error(d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refused) > 0 && !p.mended {
		p.t.Errorf("SECOND refused %d live operations, the first: %s", len(p.refused), p.refused[0])
	}
}

// interrupt runs a pass that is cut off somewhere.
func interrupt(t *testing.T, r *rand.Rand, prim, second *tree) {
	interruptPass(join(t, prim, second, smallOptions), r)
	// What was open without a name is closed when a replica ends.
	second.forget()
}

func interruptPass(p *pair, r *rand.Rand) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cut := &cutStream{Stream: p.pass.s, cancel: cancel, sender: p.sender}
	cut.left.Store(int64(r.IntN(60)))
	p.pass.s = cut
	stop := p.mutate(r.Uint64(), 2)
	if _, err := p.pass.Run(ctx); err != nil && !errors.Is(err, errCut) {
		p.t.Errorf("a pass that was cut off: %v", err)
	}
	p.stop()
	stop()
}

// cutStream breaks after some operations of the pass.
type cutStream struct {
	Stream
	cancel context.CancelCauseFunc
	sender *journal.Sender
	left   atomic.Int64
}

var errCut = errors.New("cut")

func (c *cutStream) cut() error {
	if c.left.Add(-1) > 0 {
		return nil
	}
	c.cancel(errCut)
	c.sender.Close(errCut)
	return errCut
}

func (c *cutStream) Submit(op *journal.Op) (journal.Seq, error) {
	if err := c.cut(); err != nil {
		return 0, err
	}
	return c.Stream.Submit(op)
}

func (c *cutStream) Post(op *journal.Op) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Stream.Post(op)
}

func (c *cutStream) Start(op *journal.Op) (Answer, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Stream.Start(op)
}
