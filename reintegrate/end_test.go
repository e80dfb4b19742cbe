package reintegrate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// A pass ends only when every failure of an operation up to its end has been told
// of, and what is passed because of it has been without one. Each test here is a way
// in which a pass could end too early, or with an error that it need not have.

// idle waits until nobody is at work for the pass.
func (p *pair) idle() {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
		p.pass.queue.mu.Lock()
		idle := p.pass.queue.idle()
		p.pass.queue.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(end) {
			p.t.Fatal("the pass is busy for ever")
		}
	}
}

// TestEndAfterRestart: what was passed again because of the answer to SyncEnd, and
// before anybody looked whether something is left, is vouched for by nobody yet.
func TestEndAfterRestart(t *testing.T) {
	prim := newTree(0)
	id := prim.put("f", filled(100))
	second := prim.clone(1 << 40)
	prim.byID[id].punch(0, 100)
	second.failPunch = syscall.EIO
	p := join(t, prim, second, smallOptions)
	settle := p.pass.o.Settle
	p.pass.o.Settle = func(ctx context.Context) error {
		p.idle()
		return settle(ctx)
	}
	if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Errorf("punch keeps failing: %v", err)
	}
}

// TestEndOwesAttributes: a directory that was listed again while the pass ended gets
// its attributes.
func TestEndOwesAttributes(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	d := journal.NewFileID()
	prim.apply(&journal.Op{Kind: journal.KindCreate, ID: d, Parent: prim.root.id, Name: "d", Mode: unix.S_IFDIR | 0o755}, false)
	p := join(t, prim, second, smallOptions)
	again := sync.OnceFunc(func() {
		second.mu.Lock()
		second.byID[d].uid = 99 // as after a chown that failed here
		second.mu.Unlock()
		p.pass.Failed(&journal.Op{Kind: journal.KindSetAttr, ID: d}, nil)
		p.idle()
	})
	settle := p.pass.o.Settle
	p.pass.o.Settle = func(ctx context.Context) error {
		again()
		return settle(ctx)
	}
	p.mustRun()
}

// TestEndWaitsForLive: a live operation that failed on SECOND is told of before the
// pass ends, although PRIM's half of it may still fail alike.
func TestEndWaitsForLive(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("f", filled(10))
	f := &failing{kind: journal.KindSetXattr, times: 1}
	p := joinPair(t, prim, second, smallOptions, func(next journal.Applier) journal.Applier {
		f.next = next
		return f
	}, true)
	end := &endStream{Stream: p.pass.s}
	end.before = sync.OnceFunc(func() { // everything is settled, so it is forwarded
		if !p.do(&journal.Op{Kind: journal.KindSetXattr, ID: id, Name: "user.a", Data: []byte("1")}) {
			t.Error("not possible")
		}
	})
	p.pass.s = end
	p.mustRun()
	if f.times != 0 {
		t.Error("nothing has failed")
	}
}

// TestOldFailures: what failed before an object was passed again is mended by that,
// whenever it is told of. It does not count as a failure to pass it.
func TestOldFailures(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("f", filled(1000)) // more than one zone
	dir := prim.root.id
	p := join(t, prim, second, smallOptions)
	rounds := 0
	settle := p.pass.o.Settle
	p.pass.o.Settle = func(ctx context.Context) error {
		if rounds++; rounds == 1 {
			seq := p.sender.Stats().Submitted
			for range 3 { // each failed, and is told of when the object has been passed again
				for range 2 * maxRetries {
					p.pass.Failed(&journal.Op{Seq: seq, Kind: journal.KindWrite, ID: id}, syscall.ENOENT)
					p.pass.Failed(&journal.Op{Seq: seq, Kind: journal.KindCreate, ID: id, Parent: dir}, syscall.ENOENT)
				}
				p.idle()
			}
		}
		return settle(ctx)
	}
	p.mustRun()
	if n := p.pass.retries[id]; n != 1 {
		t.Errorf("the file was started again %d times", n)
	}
	if n := p.pass.retries[dir]; n != 1 {
		t.Errorf("the directory was started again %d times", n)
	}
	if rounds != 2 {
		t.Errorf("%d rounds", rounds)
	}
}

// TestNewFailures: what fails of the operations since counts.
func TestNewFailures(t *testing.T) {
	prim, second := newTree(0), newTree(1<<40)
	id := prim.put("f", filled(1000))
	p := join(t, prim, second, smallOptions)
	settle := p.pass.o.Settle
	p.pass.o.Settle = func(ctx context.Context) error {
		p.pass.Failed(&journal.Op{Seq: p.sender.Stats().Submitted, Kind: journal.KindWrite, ID: id}, syscall.ENOSPC)
		p.idle()
		return settle(ctx)
	}
	if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a file that always fails: %v", err)
	}
}

// TestCountedWhenNumbered: what is numbered after the question whether all was well is
// not counted before it, or nobody would ask again.
func TestCountedWhenNumbered(t *testing.T) {
	var n, bytes atomic.Int64
	s := countedStream{uncounted{t, &n}, &n, &bytes}
	s.Post(&journal.Op{Kind: journal.KindPunch})
	s.Submit(&journal.Op{Kind: journal.KindWrite, Data: []byte("abc")})
	s.Start(&journal.Op{Kind: journal.KindSyncDir})
	s.Start(&journal.Op{Kind: journal.KindSyncEnd})
	if n.Load() != 3 || bytes.Load() != 3 {
		t.Errorf("%d operations, %d bytes", n.Load(), bytes.Load())
	}
}

// uncounted numbers operations, none of which may be counted yet.
type uncounted struct {
	t *testing.T
	n *atomic.Int64
}

func (u uncounted) number(op *journal.Op, want int64) {
	u.t.Helper()
	if u.n.Load() != want {
		u.t.Errorf("%s was counted before it was numbered", op.Kind)
	}
}

func (u uncounted) Post(op *journal.Op) error { u.number(op, 0); return nil }

func (u uncounted) Submit(op *journal.Op) (journal.Seq, error) { u.number(op, 1); return 2, nil }

func (u uncounted) Wait(journal.Seq) error { return nil }

func (u uncounted) Start(op *journal.Op) (Answer, error) {
	if op.Kind != journal.KindSyncEnd {
		u.number(op, 2)
	}
	return nil, nil
}
