package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

var noFlush = ReceiveLogOptions{Flush: func() error { return nil }}

// arrived makes operations as they come from the stream.
func arrived(epoch Epoch, from, to Seq, size int) []*inbound {
	var batch []*inbound
	for seq := from; seq <= to; seq++ {
		op := Op{Seq: seq, Kind: KindWrite, ID: FileID{1}, Off: int64(seq), Data: pattern(int64(seq), size)}
		frame := append(appendOpHead(nil, epoch, 0, &op, dataCRC(op.Data)), op.Data...)
		batch = append(batch, &inbound{op: op, frame: frame})
	}
	return batch
}

// collected is what Each gives, twice the same.
func collected(t *testing.T, l *ReceiveLog, epoch Epoch, after Seq) (seqs []Seq) {
	t.Helper()
	for round := range 2 {
		before := seqs
		seqs = nil
		err := l.Each(epoch, after, func(op *Op) error {
			if !bytes.Equal(op.Data, pattern(op.Off, len(op.Data))) || op.Off != int64(op.Seq) {
				t.Errorf("operation %d came back changed", op.Seq)
			}
			seqs = append(seqs, op.Seq)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && !slices.Equal(before, seqs) {
			t.Fatalf("first %v, then %v", before, seqs)
		}
	}
	return seqs
}

func run(from, to Seq) (seqs []Seq) {
	for ; from <= to; from++ {
		seqs = append(seqs, from)
	}
	return seqs
}

// What the owner knows to be in the data is left out, if the log is of the same
// epoch.
func TestReceiveLogEachAfter(t *testing.T) {
	for _, c := range []struct {
		epoch Epoch
		after Seq
		want  []Seq
	}{{4, 0, run(11, 20)}, {4, 15, run(16, 20)}, {4, 20, nil}, {4, 99, nil}, {3, 15, run(11, 20)}} {
		dir := t.TempDir()
		l := openLog(t, dir, noFlush)
		if err := l.begin(4, 11); err != nil {
			t.Fatal(err)
		}
		if err := l.append(arrived(4, 11, 20, 100), 0); err != nil {
			t.Fatal(err)
		}
		l.Close()
		l = openLog(t, dir, noFlush)
		if seqs := collected(t, l, c.epoch, c.after); !slices.Equal(seqs, c.want) {
			t.Errorf("after %d of epoch %d: %v, expected %v", c.after, c.epoch, seqs, c.want)
		}
		l.Close()
	}
}

func TestReceiveLogEach(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, noFlush)
	if err := l.begin(4, 11); err != nil {
		t.Fatal(err)
	}
	for seq := Seq(11); seq < 41; seq += 10 {
		if err := l.append(arrived(4, seq, seq+9, 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	l.Close() // as a crash: nothing is settled

	l = openLog(t, dir, noFlush)
	defer l.Close()
	if want := (Contents{4, 10, 40}); l.Contents() != want {
		t.Fatalf("holds %+v, expected %+v", l.Contents(), want)
	}
	if err := l.begin(5, 1); err == nil || !strings.Contains(err.Error(), "redo") {
		t.Fatalf("a run began over operations that are needed: %v", err)
	}
	if seqs, want := collected(t, l, 0, 0), run(11, 40); !slices.Equal(seqs, want) {
		t.Fatalf("holds %v", seqs)
	}
	enough := errors.New("enough")
	count := 0
	if err := l.Each(0, 0, func(*Op) error { count++; return enough }); !errors.Is(err, enough) || count != 1 {
		t.Fatalf("an error in the middle: %v after %d operations", err, count)
	}
	if err := l.Settle(); err != nil || !l.Contents().Empty() {
		t.Fatalf("settled: %+v, %v", l.Contents(), err)
	}
	if seqs := collected(t, l, 0, 0); len(seqs) != 0 {
		t.Fatalf("holds %v after it was settled", seqs)
	}
	if err := l.begin(5, 1); err != nil {
		t.Fatal(err)
	}
}

// TestReceiveLogTorn cuts and spoils the newest segment at every place: what
// comes back is a prefix, with every record before that place.
func TestReceiveLogTorn(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, noFlush)
	l.o.SegmentBytes = 1 // one record each
	l.begin(4, 1)
	ends := map[int]Seq{} // of the newest segment: bytes to the last operation before
	if err := l.append(arrived(4, 1, 3, 10), 0); err != nil {
		t.Fatal(err)
	}
	l.o.SegmentBytes = 1 << 14
	l.file.Close()
	l.old, l.file = append(l.old, segment{l.path, 3}), nil
	ends[segmentHeader] = 3
	for seq := Seq(4); seq < 13; seq += 3 {
		if err := l.append(arrived(4, seq, seq+2, 10), 0); err != nil {
			t.Fatal(err)
		}
		ends[int(l.size)] = seq + 2
	}
	path, size := l.path, int(l.size)
	l.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := segmentHeader; at <= size; at++ {
		atLeast := Seq(3)
		for end, seq := range ends {
			if end <= at {
				atLeast = max(atLeast, seq)
			}
		}
		for what, content := range map[string][]byte{
			"cut":    whole[:at],
			"spoilt": append(append(bytes.Clone(whole[:at]), whole[at]^1), whole[at+1:]...),
			"old":    append(bytes.Clone(whole[:at]), bytes.Repeat([]byte("skfs"), 100)...),
		} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			l := &ReceiveLog{dir: dir}
			last := Seq(0)
			c, err := l.survey()
			if err == nil {
				l.found = c
				err = l.Each(0, 0, func(op *Op) error {
					if op.Seq != last+1 {
						t.Fatalf("%s at %d: %d follows %d", what, at, op.Seq, last)
					}
					last = op.Seq
					return nil
				})
			}
			if err != nil || last < atLeast || last != c.Last || at < size && last == 12 && what != "old" && what != "cut" {
				t.Fatalf("%s at %d of %d: up to %d, %+v, expected at least %d: %v", what, at, size, last, c, atLeast, err)
			}
		}
	}
}

// TestReceiveLogDamage: what was acked and cannot be read is an error, not the
// end of the log.
func TestReceiveLogDamage(t *testing.T) {
	for name, damage := range map[string]func(path string){
		"missing segment": func(path string) { os.Remove(path) },
		"spoilt record": func(path string) {
			b, _ := os.ReadFile(path)
			b[segmentHeader+recordHeader+headerSize+5] ^= 1
			os.WriteFile(path, b, 0o600)
		},
		"spoilt header": func(path string) {
			b, _ := os.ReadFile(path)
			b[9] ^= 1
			os.WriteFile(path, b, 0o600)
		},
	} {
		dir := t.TempDir()
		l := openLog(t, dir, ReceiveLogOptions{SegmentBytes: 1, Flush: noFlush.Flush})
		l.begin(4, 1)
		for seq := Seq(1); seq <= 4; seq++ {
			if err := l.append(arrived(4, seq, seq, 10), 0); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
		damage(filepath.Join(dir, fmt.Sprintf("%016x.log", 2)))
		if _, err := OpenReceiveLog(dir, noFlush); !errors.Is(err, ErrLog) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// powerFile loses at a power cut a random part of what was written and not
// flushed.
type powerFile struct {
	logFile
	p       *power
	pending []pendingWrite
}

type pendingWrite struct {
	off  int64
	data []byte
}

// power is a disk with a cache.
type power struct {
	mu     sync.Mutex
	rnd    *rand.Rand
	off    bool
	open   []*powerFile
	broken int // the flush that fails, counted down; negative: none
	syncs  int
}

var errPower = errors.New("the power is off")

func (f *powerFile) WriteAt(b []byte, off int64) (int, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if f.p.off {
		return 0, errPower
	}
	f.pending = append(f.pending, pendingWrite{off, bytes.Clone(b)})
	return len(b), nil
}

func (f *powerFile) Datasync() error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	f.p.syncs++
	if f.p.broken--; f.p.broken == -1 {
		return syscall.EIO
	}
	if f.p.off {
		return errPower
	}
	for _, w := range f.pending {
		if _, err := f.logFile.WriteAt(w.data, w.off); err != nil {
			return err
		}
	}
	f.pending = nil
	return nil
}

func (p *power) wrap(f logFile) logFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	pf := &powerFile{logFile: f, p: p}
	p.open = append(p.open, pf)
	return pf
}

// cut writes parts of what is pending, in blocks, and nothing after.
func (p *power) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for _, f := range p.open {
		for _, w := range f.pending {
			for at := 0; at < len(w.data); at += 512 {
				if p.rnd.IntN(2) == 0 {
					f.logFile.WriteAt(w.data[at:min(at+512, len(w.data))], w.off+int64(at))
				}
			}
		}
	}
}

// TestPowerCut: the second host loses power at any moment. Each gives a run that
// starts where the data is durable at the latest and holds everything that was
// committed.
func TestPowerCut(t *testing.T) {
	start := rand.Uint64() >> 1
	for i := range uint64(30) {
		seed := start + i
		rnd := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		p := &power{rnd: rnd, broken: -1}
		var applied, flushed atomic.Uint64
		o := ReceiveLogOptions{
			SegmentBytes: int64(10_000 + rnd.IntN(100_000)),
			Flush:        func() error { flushed.Store(applied.Load()); return nil },
			wrap:         p.wrap,
		}
		l := openLog(t, dir, o)
		pc, sc := tcpPair(t, 2)
		r := NewReceiver(NewLink(sc...), applyFunc(func(op *Op) Result {
			if op.Seq <= Seq(applied.Load()) {
				t.Errorf("operation %d after %d", op.Seq, applied.Load())
			}
			applied.Store(uint64(op.Seq)) // one object: in order
			return Result{}
		}), ReceiverOptions{Epoch: 2, Async: AsyncNone, Log: l})
		s := NewSender(NewLink(pc...), SenderOptions{Epoch: 2, Async: Async(rnd.IntN(2))}) // the receiver decides what received means
		ran := make(chan error, 1)
		go func() { ran <- r.Run(context.Background()) }()
		var clients sync.WaitGroup
		var committed, count atomic.Uint64
		cut := uint64(1 + rnd.IntN(400))
		for w := range uint64(4) {
			crnd := rand.New(rand.NewPCG(seed, 2+w))
			clients.Go(func() {
				for {
					if count.Add(1) == cut {
						p.cut()
					}
					if crnd.IntN(3) == 0 { // changes nothing: it may be lost
						f, err := s.Start(&Op{Kind: KindFsync, ID: FileID{1}})
						if err != nil {
							return
						}
						if _, err := f.Result(); err != nil {
							return
						}
						continue
					}
					op := Op{Kind: KindWrite, ID: FileID{1}, Data: make([]byte, 1000)}
					if s.Commit(&op) != nil {
						return
					}
					for old := committed.Load(); old < uint64(op.Seq) && !committed.CompareAndSwap(old, uint64(op.Seq)); {
						old = committed.Load()
					}
				}
			})
		}
		clients.Wait()
		if err := <-ran; !errors.Is(err, errPower) {
			t.Fatalf("seed %d: ended with %v", seed, err)
		}
		s.Close(nil)
		if got := r.Applied(); uint64(got) != applied.Load() {
			t.Fatalf("seed %d: applied %d, the data has %d", seed, got, applied.Load())
		}
		l.Close()

		l = openLog(t, dir, noFlush)
		c := l.Contents()
		if c.Empty() && committed.Load() <= flushed.Load() {
			l.Close()
			continue
		}
		next := c.After
		err := l.Each(0, 0, func(op *Op) error {
			if next++; op.Seq != next {
				return fmt.Errorf("operation %d in the place of %d", op.Seq, next)
			}
			return nil
		})
		if err != nil || uint64(c.After) > flushed.Load() || next != c.Last || uint64(c.Last) < committed.Load() {
			t.Fatalf("seed %d: %+v to %d, flushed %d, committed %d: %v", seed, c, next, flushed.Load(), committed.Load(), err)
		}
		l.Close()
	}
}

// TestFailedFlush: a flush of the log that fails is not asked for again, what
// it was for is neither acked nor applied, and the receiver ends.
func TestFailedFlush(t *testing.T) {
	p := &power{broken: 3, rnd: rand.New(rand.NewPCG(1, 1))} // one for the header, then two records
	l := openLog(t, t.TempDir(), ReceiveLogOptions{Flush: noFlush.Flush, wrap: p.wrap})
	pc, sc := tcpPair(t, 1)
	var applied atomic.Int64
	r := NewReceiver(NewLink(sc...), applyFunc(func(*Op) Result { applied.Add(1); return Result{} }),
		ReceiverOptions{Async: AsyncNone, Log: l})
	s := NewSender(NewLink(pc...), SenderOptions{Async: AsyncNone})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(context.Background()) }()
	committed := 0
	for s.Commit(&Op{Kind: KindWrite, ID: FileID{1}}) == nil {
		committed++
	}
	err := <-ran
	s.Close(nil)
	if !errors.Is(err, syscall.EIO) || committed != 2 || applied.Load() != 2 || r.Applied() != 2 {
		t.Errorf("ended with %v after %d commits, %d applied", err, committed, applied.Load())
	}
	if err := l.Settle(); !errors.Is(err, syscall.EIO) || p.syncs != 4 {
		t.Errorf("settled after a failed flush: %v, %d flushes", err, p.syncs)
	}
	l.Close()
}

// TestFsyncCostsNoFlush: what changes nothing waits for no flush of the log, and what
// comes after it says that it is there: also in the next segment.
func TestFsyncCostsNoFlush(t *testing.T) {
	p := &power{broken: -1, rnd: rand.New(rand.NewPCG(1, 1))}
	dir := t.TempDir()
	l := openLog(t, dir, ReceiveLogOptions{Flush: noFlush.Flush, SegmentBytes: 4096, wrap: p.wrap})
	if err := l.begin(4, 1); err != nil {
		t.Fatal(err)
	}
	fsync := func(seq Seq) []*inbound {
		op := Op{Seq: seq, Kind: KindFsync, ID: FileID{1}}
		return []*inbound{{op: op, frame: appendOpHead(nil, 4, 0, &op, dataCRC(nil))}}
	}
	for _, step := range []struct {
		batch []*inbound
		syncs int // of segments too: one for the header
	}{
		{arrived(4, 1, 1, 100), 2}, {fsync(2), 2}, {fsync(3), 2}, {arrived(4, 4, 5, 100), 3}, {fsync(6), 3},
		{arrived(4, 7, 7, 3200), 6}, // the old segment, the header, the record
		{fsync(8), 6},
	} {
		if err := l.append(step.batch, 0); err != nil {
			t.Fatal(err)
		}
		if p.syncs != step.syncs {
			t.Errorf("operation %d: %d flushes, expected %d", step.batch[0].op.Seq, p.syncs, step.syncs)
		}
	}
	p.rnd = nil
	p.mu.Lock()
	p.off = true // and nothing of what is pending gets to the disk
	p.mu.Unlock()
	l.Close()
	l = openLog(t, dir, noFlush)
	defer l.Close()
	if c := l.Contents(); c.Last != 7 {
		t.Errorf("after a power cut: %+v, expected all but the last fsync", c)
	}
}

// TestTrim: segments go when the data is flushed, and a flush that fails ends
// the log.
func TestTrim(t *testing.T) {
	dir := t.TempDir()
	var flushes atomic.Int64
	fail := errors.New("the data's disk is broken")
	l := openLog(t, dir, ReceiveLogOptions{SegmentBytes: 5000, Flush: func() error {
		if flushes.Add(1) == 20 {
			return fail
		}
		return nil
	}})
	l.begin(1, 1)
	most := 0
	var err error
	var seq Seq
	for seq = 1; err == nil && seq < 2000; seq++ {
		err = l.append(arrived(1, seq, seq, 1000), seq-1)
		files, _ := l.files()
		most = max(most, len(files))
		if c := l.Contents(); c.Last != seq && err == nil || c.After >= seq {
			t.Fatalf("after %d it holds %+v", seq, c)
		}
	}
	if !errors.Is(err, fail) || flushes.Load() != 20 {
		t.Errorf("ended with %v after %d flushes", err, flushes.Load())
	}
	if most > maxSegments+2 {
		t.Errorf("%d segments at once", most)
	}
	l.Close()
	l = openLog(t, dir, noFlush)
	if c := l.Contents(); c.Last < seq-3 || c.After < 19 {
		t.Errorf("after %d operations %+v is left", seq-1, c)
	}
	l.Close()
}

// TestTrimUnnamed: a file that came without a name stays in the log until what
// names it is in the data, or until it has taken too much.
func TestTrimUnnamed(t *testing.T) {
	for _, end := range []Kind{KindLink, KindRelease, KindWrite} {
		l := openLog(t, t.TempDir(), ReceiveLogOptions{SegmentBytes: 5000, Flush: noFlush.Flush})
		l.begin(1, 1)
		seq := Seq(0)
		next := func(op Op, applied Seq) {
			t.Helper()
			batch := arrived(1, seq+1, seq+1, 1000)
			seq++
			op.Seq = seq
			if op.Kind != KindInvalid {
				batch[0].op, batch[0].frame = op, appendOpHead(nil, 1, 0, &op, dataCRC(op.Data))
			}
			if err := l.append(batch, applied); err != nil {
				t.Fatal(err)
			}
			l.waitTrim()
		}
		for range 20 {
			next(Op{}, seq)
		}
		next(Op{Kind: KindTmpfile, ID: FileID{9}}, seq)
		from := seq
		for range 40 {
			next(Op{}, seq)
			if c := l.Contents(); c.After >= from || c.After < from-10 {
				t.Fatalf("%s: at %d it holds %+v, a file from %d on has no name", end, seq, c, from)
			}
		}
		if end == KindWrite { // it never gets a name
			for range 5 * maxUnnamed {
				next(Op{}, seq)
			}
		} else {
			next(Op{Kind: end, ID: FileID{9}, Parent: FileID{1}, Name: "n"}, seq)
			until := seq
			for range 10 {
				next(Op{}, until-1)
			}
			if c := l.Contents(); c.After >= from {
				t.Fatalf("%s: it holds %+v, the name at %d is not in the data", end, c, until)
			}
			next(Op{}, seq)
		}
		if c := l.Contents(); c.After < seq-10 {
			t.Errorf("%s: at %d it still holds %+v", end, seq, c)
		}
		l.Close()
	}
}

// TestNoneAcksDurable: with async="none" no watermark goes beyond what is on
// disk, and only the first connection vouches for results.
func TestNoneAcksDurable(t *testing.T) {
	pc, sc := pipePair(2)
	r := NewReceiver(NewLink(sc...), newModel(false), ReceiverOptions{Async: AsyncNone, Log: &ReceiveLog{}})
	r.next, r.durable, r.sched.applied = 10, 5, 3
	for conn, want := range []ack{{5, 5, 3}, {5, 5, 0}} {
		frame := r.appendAck(nil, conn)
		h, err := parseHeader(frame)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeAck(&h, frame); err != nil || got != want {
			t.Errorf("connection %d acks %+v, expected %+v: %v", conn, got, want, err)
		}
	}
	NewLink(pc...).Close()
	r.link.Close()
}
