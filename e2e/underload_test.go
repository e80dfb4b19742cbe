package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/pair"
)

// R11: a host comes back to a directory of which every byte was changed, and the
// application goes on to change every byte as fast as it can. The reintegration
// ends, even if it is slower than the application, and the application goes on
// meanwhile. What its calls take is logged.
func TestReintegrationEnds(t *testing.T) {
	w := workset{files: 25, size: 8 << 20}
	calls, limit := 2000, 40<<10
	if long() {
		w.files, w.size, calls, limit = 64, 32<<20, 20_000, 100<<10
	}
	const waits = `locktimeout="60" sendtimeout="60"`
	t.Run("at full speed", func(t *testing.T) { returnUnderLoad(t, w, waits, calls) })
	t.Run("slower than the application", func(t *testing.T) {
		returnUnderLoad(t, w, fmt.Sprintf("%s reiallowedbw=\"%d\"", waits, limit), calls)
	})
}

// returnUnderLoad lets the second come back, with the application calling that
// often before and after.
func returnUnderLoad(t *testing.T, w workset, rfs string, calls int) {
	p := started(t, pair.Config{TimeoutMs: 5000, RFS: rfs})
	s := begin(t, p)
	w.dir = p.Nodes[0].Path(dataDir)
	s.must(w.write(1))
	same(t, p)
	within(t, patience, func(ctx context.Context) error { return p.Nodes[1].Do(ctx, "stop") })
	within(t, patience, func(ctx context.Context) error { return p.Await(ctx, "ALONE", "STOP") })
	s.must(w.write(2))

	l := startLoad(t, w)
	l.during(t, phaseBefore, calls)
	s.mark(1)
	began := time.Now()
	l.enter(phaseMeanwhile)
	s.do(1, "start")
	within(t, 20*patience, func(ctx context.Context) error { return p.Await(ctx, "PRIM", "SECOND") })
	took := time.Since(began)
	l.during(t, phaseAfter, calls)
	l.stop(t)

	var copied string
	within(t, patience, func(ctx context.Context) (err error) {
		copied, err = p.Nodes[1].Logged(ctx, s.marks[1], "Copied ")
		return err
	})
	t.Logf("%d MiB, in sync after %.1f s: %s; the application wrote %d MiB meanwhile", int64(w.files)*w.size>>20, took.Seconds(), copied, l.written(phaseMeanwhile)>>20)
	for ph := range phases {
		for c, took := range l.took[ph] {
			t.Logf("%-10s %s", phaseNames[ph], summary(callNames[c], took))
			if len(took) == 0 {
				t.Errorf("no %s of the application has ended in the phase %q", callNames[c], phaseNames[ph])
			}
		}
	}
	t.Log(memory(t, p))
	same(t, p)
}

// workset is the directory that the application works on: large files, and room
// for small ones.
type workset struct {
	dir   string
	files int
	size  int64 // of each file, bytes
}

func (w workset) path(i int) string { return filepath.Join(w.dir, fmt.Sprintf("large%02d", i)) }

const (
	writeSize = 1 << 20
	smallSize = 4 << 10
)

// block is content that no other seed has anywhere.
func block(size int, seed uint64) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < size; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// write writes all large files.
func (w workset) write(seed uint64) error {
	for i := range w.files {
		f, err := os.OpenFile(w.path(i), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		b := block(writeSize, seed<<32|uint64(i))
		for off := int64(0); off < w.size && err == nil; off += writeSize {
			b[0] = byte(off / writeSize)
			_, err = f.WriteAt(b, off)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// phase is a time of which latencies are kept apart.
type phase int

const (
	phaseBefore phase = iota
	phaseMeanwhile
	phaseAfter
	phases
)

var phaseNames = [phases]string{"ALONE", "meanwhile", "in sync"}

// call is a kind of call.
type call int

const (
	smallWrite call = iota
	largeWrite
	fsync
	kindsOfCalls
)

var callNames = [kindsOfCalls]string{"4 KiB write", "1 MiB write", "fsync"}

// load is an application that works on a workset until it is stopped.
type load struct {
	workset
	ctx  context.Context
	end  context.CancelFunc
	work errgroup.Group

	mu    sync.Mutex // protects what follows
	more  *sync.Cond // there are more calls, or the load has ended
	phase phase
	calls [kindsOfCalls]int // in this phase
	took  [phases][kindsOfCalls][]time.Duration
}

// startLoad starts the writers: one goes through all files from end to end, two
// write at random, one makes, renames and deletes small files.
func startLoad(t *testing.T, w workset) *load {
	l := &load{workset: w}
	l.more = sync.NewCond(&l.mu)
	l.ctx, l.end = context.WithCancel(t.Context())
	for i, writer := range []func(seed uint64) error{l.sequential, l.random, l.random, l.names} {
		l.work.Go(func() error {
			defer l.more.Broadcast()
			defer l.end() // all go when one fails
			return writer(uint64(i + 3))
		})
	}
	return l
}

// stop ends the writers.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.end()
	if err := l.work.Wait(); err != nil {
		t.Fatalf("the application: %v", err)
	}
}

func (l *load) enter(ph phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.calls = ph, [kindsOfCalls]int{}
}

// during enters a phase and returns after that many small writes in it, and some
// calls of each other kind.
func (l *load) during(t *testing.T, ph phase, calls int) {
	t.Helper()
	l.enter(ph)
	l.mu.Lock()
	for (l.calls[smallWrite] < calls || slices.Min(l.calls[:]) < calls/100) && l.ctx.Err() == nil {
		l.more.Wait()
	}
	l.mu.Unlock()
	if l.ctx.Err() != nil {
		l.stop(t)
		t.Fatal("the application has ended")
	}
}

// timed does a call and keeps what it took, in the phase in which it began.
func (l *load) timed(c call, do func() error) error {
	l.mu.Lock()
	ph := l.phase
	l.mu.Unlock()
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took[ph][c] = append(l.took[ph][c], took)
	if ph == l.phase {
		l.calls[c]++
		l.more.Signal()
	}
	return nil
}

func (l *load) writeAt(f *os.File, b []byte, off int64) error {
	c := smallWrite
	if len(b) == writeSize {
		c = largeWrite
	}
	return l.timed(c, func() error { _, err := f.WriteAt(b, off); return err })
}

func (l *load) fsync(f *os.File) error { return l.timed(fsync, f.Sync) }

// written is how many bytes were written in a phase, after stop.
func (l *load) written(ph phase) int64 {
	return int64(len(l.took[ph][largeWrite]))*writeSize + int64(len(l.took[ph][smallWrite]))*smallSize
}

// sequential writes every file from its beginning to its end, and again.
func (l *load) sequential(seed uint64) error {
	for n := uint64(0); ; n++ {
		f, err := os.OpenFile(l.path(int(n)%l.files), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		b := block(writeSize, seed<<32|n)
		for off := int64(0); off < l.size && err == nil && l.ctx.Err() == nil; off += writeSize {
			err = l.writeAt(f, b, off)
		}
		if err == nil {
			err = l.fsync(f)
		}
		if err = errors.Join(err, f.Close()); err != nil || l.ctx.Err() != nil {
			return err
		}
	}
}

// random writes 4 KiB anywhere, and synchronizes now and then.
func (l *load) random(seed uint64) error {
	const between = 16
	r := rand.New(rand.NewPCG(seed, 1))
	for l.ctx.Err() == nil {
		f, err := os.OpenFile(l.path(r.IntN(l.files)), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		b := block(smallSize, r.Uint64())
		for range between {
			if err == nil {
				err = l.writeAt(f, b, r.Int64N(l.size/smallSize)*smallSize)
			}
		}
		if err == nil {
			err = l.fsync(f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// names makes small files, gives them other names in other directories, and
// deletes them when there are many.
func (l *load) names(seed uint64) error {
	const dirs, keep = 8, 500
	for d := range dirs {
		if err := os.Mkdir(filepath.Join(l.dir, fmt.Sprintf("small%d", d)), 0o755); err != nil {
			return err
		}
	}
	name := func(n, dir int) string { return filepath.Join(l.dir, fmt.Sprintf("small%d", dir%dirs), fmt.Sprint(n)) }
	for n := 0; l.ctx.Err() == nil; n++ {
		f, err := os.OpenFile(name(n, n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		err = l.writeAt(f, block(smallSize, seed<<32|uint64(n)), 0)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := os.Rename(name(n, n), name(n, n+3)); err != nil {
			return err
		}
		if old := n - keep; old >= 0 {
			if err := os.Remove(name(old, old+3)); err != nil {
				return err
			}
			if err := os.Remove(name(old, old)); err == nil || !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there although it was renamed: %v", name(old, old), err)
			}
		}
	}
	return nil
}

// summary is the latencies of one kind of call: median, 99th percentile, maximum.
func summary(call string, took []time.Duration) string {
	if len(took) == 0 {
		return "no " + call
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(time.Microsecond) }
	return fmt.Sprintf("%d × %s: p50 %v, p99 %v, max %v", len(took), call, at(50), at(99), at(100))
}
