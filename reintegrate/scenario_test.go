package reintegrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// put makes a file on a tree, at rest.
func (t *tree) put(name string, data []byte) journal.FileID {
	id := journal.NewFileID()
	t.apply(&journal.Op{Kind: journal.KindCreate, ID: id, Parent: t.root.id, Name: name, Mode: unix.S_IFREG | 0o600}, false)
	t.apply(&journal.Op{Kind: journal.KindWrite, ID: id, Data: data}, false)
	return id
}

func (p *pair) mustRun() Stats {
	p.t.Helper()
	stats, err := p.pass.Run(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	p.check()
	return stats
}

// filled is n bytes that no hole can stand for.
func filled(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }

// TestEqualTravelsNot: what is the same on both hosts, under no identity yet on
// SECOND, is compared, not copied.
func TestEqualTravelsNot(t *testing.T) {
	prim := newTree(0)
	for i := range 20 {
		prim.put(fmt.Sprint("f", i), []byte(fmt.Sprint("content ", i, filled(100*i))))
	}
	second := prim.clone(1 << 40)
	for id, n := range second.byID {
		if n != second.root {
			n.id = journal.FileID{}
			delete(second.byID, id)
		}
	}
	second.root.names["f7"].data[3] = 'X'
	stats := join(t, prim, second, smallOptions).mustRun()
	if stats.Sent != 1 || stats.Copied > 16 || stats.Files != 20 || stats.Dropped != 0 {
		t.Errorf("%+v: one block of one file differs", stats)
	}
}

// TestMovedCostsNothing: a directory that was renamed while SECOND was away.
func TestMovedCostsNothing(t *testing.T) {
	prim := newTree(0)
	a := journal.NewFileID()
	prim.apply(&journal.Op{Kind: journal.KindCreate, ID: a, Parent: prim.root.id, Name: "a", Mode: unix.S_IFDIR | 0o755}, false)
	f := prim.put("f", filled(500))
	prim.apply(&journal.Op{Kind: journal.KindRename, ID: f, Parent: prim.root.id, Name: "f", Parent2: a, Name2: "g"}, false)
	second := prim.clone(1 << 40)
	prim.apply(&journal.Op{Kind: journal.KindRename, ID: a, Parent: prim.root.id, Name: "a", Parent2: prim.root.id, Name2: "b"}, false)
	if stats := join(t, prim, second, smallOptions).mustRun(); stats.Copied != 0 || stats.Compared != 500 {
		t.Errorf("%+v: nothing differs but a name", stats)
	}
}

// TestGrowing: a file that grows by more than a zone for each zone that is copied
// comes to its end (R11).
func TestGrowing(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("log", filled(1000))
	p := join(t, prim, second, smallOptions)
	end := int64(1000)
	grow := &stepStream{Stream: p.pass.s, kind: journal.KindWrite}
	grow.step = func() { // the copy holds the lock of its zone: beyond it writes go on
		p.do(&journal.Op{Kind: journal.KindWrite, ID: id, Off: end, Data: make([]byte, 200)})
		end += 200
	}
	p.pass.s = grow
	stats := p.mustRun()
	if grow.steps == 0 || stats.Copied > 1000 {
		t.Errorf("%d writes, %d bytes copied, of 1000 that were there", grow.steps, stats.Copied)
	}
}

// stepStream does something before each operation of a kind.
type stepStream struct {
	Stream
	kind  journal.Kind
	step  func()
	steps int
	mu    sync.Mutex
}

func (s *stepStream) Submit(op *journal.Op) (journal.Seq, error) {
	if op.Kind == s.kind {
		s.mu.Lock()
		s.steps++
		s.step()
		s.mu.Unlock()
	}
	return s.Stream.Submit(op)
}

// failing SECOND: the next so many operations of the ordinary kinds fail.
type failing struct {
	next  journal.Applier
	kind  journal.Kind
	mu    sync.Mutex
	times int
}

func (f *failing) Apply(op *journal.Op) journal.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op.Kind == f.kind && f.times > 0 {
		f.times--
		return journal.Result{Errno: syscall.ENOSPC}
	}
	return f.next.Apply(op)
}

// TestFailureOnSecond: an operation of the pass that fails once on SECOND is
// repeated; one that keeps failing ends the pass, with its reason.
func TestFailureOnSecond(t *testing.T) {
	for _, kind := range []journal.Kind{journal.KindWrite, journal.KindSetAttr} {
		for _, times := range []int{1, 1 << 30} {
			prim, second := newTree(0), newTree(1<<40)
			prim.put("large", filled(1000))
			prim.put("small", []byte("small"))
			f := &failing{kind: kind, times: times}
			p := joinTo(t, prim, second, smallOptions, func(next journal.Applier) journal.Applier {
				f.next = next
				return f
			})
			if times == 1 {
				p.mustRun()
			} else if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s keeps failing: %v", kind, err)
			}
		}
	}
	// A failure of what the Target itself does.
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("f", filled(100))
	*second = *prim.clone(1 << 40)
	prim.byID[id].punch(0, 100)
	second.failPunch = syscall.EIO
	p := join(t, prim, second, smallOptions)
	if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Errorf("punch keeps failing: %v", err)
	}
}

// TestFailureOnPrim: what SECOND did and PRIM could not is undone.
func TestFailureOnPrim(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("f", filled(1000))
	p := join(t, prim, second, smallOptions)
	end := &endStream{Stream: p.pass.s}
	end.before = sync.OnceFunc(func() { // everything is settled
		for _, op := range []*journal.Op{
			{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: prim.root.id, Name: "no", Mode: unix.S_IFREG},
			{Kind: journal.KindUnlink, ID: id, Parent: prim.root.id, Name: "f"},
			{Kind: journal.KindWrite, ID: id, Off: 70, Data: []byte("not on PRIM")},
		} {
			if len(p.pass.Filter(op)) != 1 {
				t.Errorf("%s is not forwarded", op.Kind)
			}
			if op.Kind == journal.KindWrite { // SECOND has it no more: not its fault
				p.sender.Post(op)
			} else if err := p.sender.Commit(op); err != nil {
				t.Error(err)
			}
			if !p.pass.Failed(op, nil) {
				t.Errorf("%s: the pass does not take it up", op.Kind)
			}
		}
	})
	p.pass.s = end
	if _, err := p.pass.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.settleTimes()
	p.drain()
	for _, d := range differences(prim, second) {
		t.Error(d)
	}
	if p.pass.Failed(&journal.Op{Kind: journal.KindUnlink, Parent: prim.root.id}, nil) {
		t.Error("a pass that is over takes up a failure")
	}
}

// endStream does something before SyncEnd.
type endStream struct {
	Stream
	before func()
}

func (s *endStream) Start(op *journal.Op) (Answer, error) {
	if op.Kind == journal.KindSyncEnd {
		s.before()
	}
	return s.Stream.Start(op)
}

// TestLargeDirectory: names in many parts, in modest memory.
func TestLargeDirectory(t *testing.T) {
	const files = 30_000
	prim, second := newTree(0), newTree(1<<40)
	for i := range files {
		prim.put(fmt.Sprintf("a file with quite a long name, number %d", i), nil)
	}
	p := join(t, prim, second, Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if stats := p.mustRun(); stats.Files != files {
		t.Errorf("%+v", stats)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d MiB are left in use", (int64(after.HeapInuse)-int64(before.HeapInuse))>>20)
}

// TestStopped: a pass whose context ends, says why.
func TestStopped(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	prim.put("f", filled(1<<20))
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	o := smallOptions
	o.Bandwidth = 1 // so that it waits for ever
	p := join(t, prim, second, o)
	step := &stepStream{Stream: p.pass.s, kind: journal.KindWrite, step: func() { cancel(why) }}
	p.pass.s = step
	if _, err := p.pass.Run(ctx); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if pr := p.pass.Progress(); pr.BytesDone+pr.BytesLeft != 1<<20 || pr.BytesLeft == 0 {
		t.Errorf("%+v", pr)
	}
}

// TestProgress: when a pass is over, all is done and nothing is left.
func TestProgress(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	for i := range 10 {
		prim.put(fmt.Sprint(i), filled(50*i))
	}
	p := join(t, prim, second, smallOptions)
	p.mustRun()
	if pr := p.pass.Progress(); pr.Walking || pr.FilesDone != 10 || pr.FilesLeft != 0 || pr.BytesDone != 50*45 || pr.BytesLeft != 0 {
		t.Errorf("%+v", pr)
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter{rate: 1000}
		start := time.Now()
		var g sync.WaitGroup
		for range 4 {
			g.Go(func() {
				for range 10 {
					if err := l.pay(context.Background(), 50); err != nil {
						t.Error(err)
					}
				}
			})
		}
		g.Wait()
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("2000 bytes at 1000 a second take %v", d)
		}
		time.Sleep(time.Hour) // what was not used is not saved up
		start = time.Now()
		l.pay(context.Background(), 100)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("100 bytes take %v", d)
		}
	})
}

func TestMeter(t *testing.T) {
	var m meter
	start := time.Unix(0, 0)
	m.begin(start)
	m.found(100_000)
	for i := range 50 { // first 1000 a second, then 2000
		n := int64(1000)
		if i >= 25 {
			n = 2000
		}
		m.passed(start.Add(time.Duration(i+1)*time.Second), n, &delta{compared: n})
	}
	p := m.progress(start.Add(50 * time.Second))
	if p.Rate != 2000 || p.BytesDone != 75_000 || p.BytesLeft != 25_000 || p.Left != 12500*time.Millisecond {
		t.Errorf("%+v", p)
	}
}

func TestOptions(t *testing.T) {
	p := NewPass(nil, nil, Options{ZoneSize: 100, BlockSize: 64})
	if _, err := p.Run(context.Background()); err == nil {
		t.Error("a zone of one block and a half")
	}
	o := Options{}
	if err := o.setDefaults(); err != nil || o.Workers != 3 || o.ZoneSize != 8<<20 || o.BlockSize != 64<<10 {
		t.Errorf("%+v, %v", o, err)
	}
}

// sizes counts what the ordinary applier gets of a kind.
type sizes struct {
	next journal.Applier
	kind journal.Kind
	mu   sync.Mutex
	n    int
	most int
}

func (s *sizes) Apply(op *journal.Op) journal.Result {
	if op.Kind == s.kind {
		s.mu.Lock()
		s.n++
		s.most = max(s.most, len(op.Data))
		s.mu.Unlock()
	}
	return s.next.Apply(op)
}

// TestPackets: no operation carries more of a file than it may, and SECOND flushes a
// file now and then when it shall.
func TestPackets(t *testing.T) {
	for _, kind := range []journal.Kind{journal.KindWrite, journal.KindFsync} {
		prim, second := newTree(0), newTree(1<<40)
		prim.put("f", filled(1000))
		prim.put("small", filled(10))
		s := &sizes{kind: kind}
		p := joinTo(t, prim, second, Options{ZoneSize: 96, Packet: 40, Commit: 300}, func(next journal.Applier) journal.Applier {
			s.next = next
			return s
		})
		p.mustRun()
		switch {
		case p.pass.o.BlockSize != 32: // divides a zone, is no more than a packet
			t.Errorf("blocks of %d bytes", p.pass.o.BlockSize)
		case kind == journal.KindWrite && (s.most > 40 || s.n < 25):
			t.Errorf("%d packets, the largest of %d bytes", s.n, s.most)
		case kind == journal.KindFsync && s.n != 2: // after the fourth zone and the eighth
			t.Errorf("%d flushes", s.n)
		}
	}
}

// countStream counts the operations of a kind that are started or posted.
type countStream struct {
	Stream
	mu sync.Mutex
	n  map[journal.Kind]int
}

func (s *countStream) count(op *journal.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n[op.Kind]++
}

func (s *countStream) Start(op *journal.Op) (Answer, error) {
	s.count(op)
	return s.Stream.Start(op)
}

func (s *countStream) Post(op *journal.Op) error {
	s.count(op)
	return s.Stream.Post(op)
}

// TestLargeHole: what a hole costs does not grow with it, and what SECOND has there
// goes away.
func TestLargeHole(t *testing.T) {
	const zones = 1000
	prim := newTree(0)
	id := prim.put("sparse", filled(100))
	prim.apply(&journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetSize, Off: zones * 64}, false)
	for _, off := range []int64{500*64 + 10, 990 * 64} { // the last hole is no large one
		prim.apply(&journal.Op{Kind: journal.KindWrite, ID: id, Off: off, Data: filled(20)}, false)
	}
	second := prim.clone(1 << 40)
	second.apply(&journal.Op{Kind: journal.KindWrite, ID: id, Off: 300 * 64, Data: filled(150)}, false)
	o := smallOptions
	o.holeZones = 16
	p := join(t, prim, second, o)
	c := &countStream{Stream: p.pass.s, n: map[journal.Kind]int{}}
	p.pass.s = c
	stats := p.mustRun()
	if hashes := c.n[journal.KindSyncHash]; hashes > 20 || stats.Copied != 0 || c.n[journal.KindPunch] != 2 {
		t.Errorf("%+v, %d questions, %d holes: nothing but two holes had to be sent", stats, hashes, c.n[journal.KindPunch])
	}
}
