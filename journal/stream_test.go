package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

var (
	streamSeed   = flag.Uint64("stream.seed", 0, "run this seed of TestStream only")
	streamRounds = flag.Int("stream.rounds", 60, "seeds that TestStream runs")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the connections of a link over loopback.
func tcpPair(tb testing.TB, conns int) (primary, second []net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	for range conns {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		d, err := ln.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		primary, second = append(primary, c), append(second, d)
	}
	return primary, second
}

func pipePair(conns int) (primary, second []net.Conn) {
	for range conns {
		p, s := net.Pipe()
		primary, second = append(primary, p), append(second, s)
	}
	return primary, second
}

type applyFunc func(op *Op) Result

func (f applyFunc) Apply(op *Op) Result { return f(op) }

// model is an applier that knows what may come.
type model struct {
	slow bool
	mu   sync.Mutex
	ops  map[Seq]int64 // applied: its Off, which names it
	last map[FileID]Seq
	busy map[FileID]bool
	all  int // running
	bar  bool
	errs []error
}

func newModel(slow bool) *model {
	return &model{slow: slow, ops: map[Seq]int64{}, last: map[FileID]Seq{}, busy: map[FileID]bool{}}
}

// pattern is the data of the operation that is named name.
func pattern(name int64, size int) []byte {
	b := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(name)+uint64(i))
	}
	return b
}

// fails says how an operation ends on either node, from its name.
func fails(name int64) (local, remote syscall.Errno) {
	h := uint64(name) * 0x9e3779b97f4a7c15 >> 40
	if h%5 == 0 {
		local = syscall.ENOSPC
	}
	switch h % 7 {
	case 0:
		remote = syscall.ENOSPC
	case 1:
		if h%11 == 0 {
			remote = syscall.EIO
		}
	}
	return local, remote
}

func (m *model) Apply(op *Op) Result {
	keys := Keys(op)
	barrier := isBarrier(op)
	m.mu.Lock()
	if m.bar || barrier && m.all > 0 {
		m.errs = append(m.errs, fmt.Errorf("%s %d beside a barrier", op.Kind, op.Seq))
	}
	m.all++
	m.bar = m.bar || barrier
	for _, k := range keys {
		if m.busy[k] || m.last[k] >= op.Seq {
			m.errs = append(m.errs, fmt.Errorf("%s %d on %v: beside another %v, after %d", op.Kind, op.Seq, k[0], m.busy[k], m.last[k]))
		}
		m.busy[k], m.last[k] = true, op.Seq
	}
	if _, twice := m.ops[op.Seq]; twice {
		m.errs = append(m.errs, fmt.Errorf("%s %d twice", op.Kind, op.Seq))
	}
	m.ops[op.Seq] = op.Off
	m.mu.Unlock()

	if m.slow && op.Seq%3 == 0 {
		time.Sleep(time.Duration(op.Seq%7) * 50 * time.Microsecond) // the work of a slow disk
	}
	runtime.Gosched()

	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(op.Data, pattern(op.Off, len(op.Data))) {
		m.errs = append(m.errs, fmt.Errorf("%s %d: the data is not its own", op.Kind, op.Seq))
	}
	for _, k := range keys {
		m.busy[k] = false
	}
	m.all--
	if barrier {
		m.bar = false
	}
	_, errno := fails(op.Off)
	res := Result{Errno: errno}
	if op.Kind.Answered() {
		res.Data = binary.LittleEndian.AppendUint64(nil, uint64(op.Off))
	}
	return res
}

// choppy gives what comes in pieces of any size, and spoils a byte if told.
type choppy struct {
	net.Conn
	rnd   *rand.Rand
	spoil int // the byte to spoil, negative: none
}

func (c *choppy) Read(b []byte) (int, error) {
	if c.rnd.IntN(3) == 0 && len(b) > 1 {
		b = b[:1+c.rnd.IntN(min(len(b), 300))]
	}
	n, err := c.Conn.Read(b)
	if c.spoil >= 0 && c.spoil < n {
		b[c.spoil] ^= 0x10
	}
	c.spoil -= n
	return n, err
}

// TestStream runs random work over random links that end in random ways, and
// checks what the package promises.
func TestStream(t *testing.T) {
	if *streamSeed != 0 {
		stream(t, *streamSeed)
		return
	}
	start := rand.Uint64() >> 1
	for i := range *streamRounds {
		if stream(t, start+uint64(i)); t.Failed() {
			return
		}
	}
}

func stream(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	conns, committers := 1+rnd.IntN(4), 1+rnd.IntN(8)
	first := Seq(1 + rnd.IntN(2)*1000)
	so := SenderOptions{Epoch: Epoch(1 + rnd.IntN(9)), First: first}
	ro := ReceiverOptions{Epoch: so.Epoch, First: first, Workers: 1 + rnd.IntN(8)}
	if rnd.IntN(2) == 0 {
		so.QueueBytes = 1 + rnd.IntN(100_000)
	}
	if rnd.IntN(2) == 0 {
		ro.QueueBytes = 1 + rnd.IntN(100_000)
	}
	if rnd.IntN(3) == 0 {
		ro.Log = openLog(t, t.TempDir(), ReceiveLogOptions{SegmentBytes: int64(rnd.IntN(1 << 20)), Flush: func() error { return nil }})
		ro.Async = Async(rnd.IntN(2))
		so.Async = ro.Async
	}
	var pc, sc []net.Conn
	tcp := rnd.IntN(2) == 0
	if tcp {
		pc, sc = tcpPair(t, conns)
	} else {
		pc, sc = pipePair(conns)
	}
	// How the stream ends.
	const (
		drained = iota // after everything
		cutPrimary
		cutSecond
		spoilt
		closed
		endings
	)
	ending, after := rnd.IntN(endings), int64(rnd.IntN(400))
	which := rnd.IntN(conns)
	if rnd.IntN(2) == 0 || ending == spoilt {
		for i, c := range sc {
			ch := &choppy{c, rand.New(rand.NewPCG(seed, uint64(i+1))), -1}
			if ending == spoilt && i == which {
				ch.spoil = rnd.IntN(50_000)
			}
			sc[i] = ch
		}
	}
	what := fmt.Sprintf("seed %d: %d connections (tcp %v), %d committers, ending %d after %d, sender %+v, receiver %+v",
		seed, conns, tcp, committers, ending, after, so, ro)

	m := newModel(rnd.IntN(2) == 0)
	var mu sync.Mutex // of what follows
	type pair struct{ local, remote syscall.Errno }
	found := map[int64]pair{}
	acked := map[Seq]int64{}    // committed
	localBad := map[Seq]int64{} // LocalFailed was called
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf(format+"\n%s", append(args, what)...)
	}
	so.Mismatch = func(op *Op, local, remote syscall.Errno) {
		mu.Lock()
		defer mu.Unlock()
		if _, twice := found[op.Off]; twice && ending == drained { // else one half may become known after the end
			fail("the difference of operation %d was found twice", op.Off)
		}
		if op.Data != nil {
			fail("a difference came with data")
		}
		found[op.Off] = pair{local, remote}
	}
	r := NewReceiver(NewLink(sc...), m, ro)
	s := NewSender(NewLink(pc...), so)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()

	var names, done atomic.Int64
	var clients sync.WaitGroup
	var answered sync.Map // names that have results of their own
	for i := range committers {
		crnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
		clients.Go(func() {
			var waiting []Seq
			var datas [][]byte
			for range 100 {
				if done.Add(1) == after {
					switch ending {
					case cutPrimary:
						pc[which].Close()
					case cutSecond:
						sc[which].Close()
					case closed:
						go s.Close(nil)
					}
				}
				name := names.Add(1)
				size := []int{0, 100, 4096, 10_000, 150_000}[crnd.IntN(5)] * crnd.IntN(2)
				op := &Op{Kind: KindWrite, ID: FileID{byte(1 + crnd.IntN(6))}, Off: name, Data: pattern(name, size)}
				if crnd.IntN(4) == 0 {
					op.Kind, op.Parent = KindCreate, FileID{byte(100 + crnd.IntN(3))}
				}
				local, remote := fails(name)
				var err error
				switch crnd.IntN(6) {
				case 0: // posted; the data is ours again at once
					err = s.Post(op)
					clear(op.Data)
				case 1: // waited for with others
					var seq Seq
					if seq, err = s.Submit(op); err == nil {
						waiting, datas = append(waiting, seq), append(datas, op.Data)
					}
				case 2: // asked
					op.Kind = []Kind{KindFsync, KindSyncHash, KindSyncDir}[crnd.IntN(3)]
					answered.Store(name, true)
					var p *Pending
					if p, err = s.Start(op); err == nil {
						var res Result
						if res, err = p.Result(); err == nil && (res.Errno != remote || binary.LittleEndian.Uint64(res.Data) != uint64(name)) {
							fail("the result of operation %d is %v", name, res)
						}
					}
					local = 0
				default:
					if err = s.Commit(op); err == nil {
						mu.Lock()
						acked[op.Seq] = name
						mu.Unlock()
					}
					clear(op.Data)
				}
				if err != nil {
					break
				}
				if local != 0 {
					mu.Lock()
					localBad[op.Seq] = name
					mu.Unlock()
					s.LocalFailed(op, local)
				}
				if len(waiting) > 0 && crnd.IntN(3) == 0 {
					seq := slices.Max(waiting) // covers all
					if s.Wait(seq) != nil {
						break
					}
					mu.Lock()
					acked[seq] = -1
					mu.Unlock()
					for _, d := range datas {
						clear(d)
					}
					waiting, datas = nil, nil
				}
			}
			for _, seq := range waiting {
				if s.Wait(seq) == nil {
					mu.Lock()
					acked[seq] = -1
					mu.Unlock()
				}
			}
		})
	}
	clients.Wait()
	if ending == drained {
		last, err := s.Drain(ctx)
		if err != nil || last != first+Seq(names.Load())-1 {
			fail("drained to %d: %v", last, err)
		}
	}
	s.Close(nil)
	err := <-ran
	cancel()
	applied := r.Applied()

	for _, e := range m.errs {
		fail("%v", e)
	}
	if ending == spoilt && !errors.Is(s.Err(), ErrClosed) && !errors.Is(err, ErrFrame) && !errors.Is(err, ErrStaleEpoch) {
		fail("a byte was spoilt; the receiver ended with %v", err)
	}
	if int(applied-first+1) != len(m.ops) {
		fail("applied is %d, but %d operations are", applied, len(m.ops))
	}
	for seq := first; seq <= applied; seq++ {
		if _, ok := m.ops[seq]; !ok {
			fail("operation %d of the prefix up to %d is missing", seq, applied)
		}
	}
	for seq, name := range acked {
		if got, ok := m.ops[seq]; !ok || name >= 0 && got != name {
			fail("operation %d was committed and is not applied (%v, up to %d)", seq, ok, applied)
		}
	}
	for _, name := range localBad { // whatever the peer did, a failure here that is not known to be there is found
		local, remote := fails(name)
		if p, ok := found[name]; local != remote && !ok || ok && p.local != local {
			fail("operation %d failed here with %v and there with %v; found %v %v", name, local, remote, p, ok)
		}
	}
	for seq, name := range m.ops {
		local, remote := fails(name)
		p, ok := found[name]
		if _, own := answered.Load(name); own {
			if ok {
				fail("the difference of an answered operation was found")
			}
			continue
		}
		if _, ran := localBad[seq]; !ran {
			local = 0
		}
		if ending == drained && (ok != (local != remote) || ok && p != pair{local, remote}) {
			fail("operation %d failed here with %v and there with %v; found %v %v", name, local, remote, p, ok)
		}
	}
	if st := s.Stats(); ending == drained && (st.QueueBytes != 0 || st.QueueOps != 0 || st.Applied != applied) {
		fail("after the drain: %+v", st)
	}
	if st := r.Stats(); st.QueueBytes != 0 || ending == drained && st.EarlyBytes != 0 {
		fail("after the end: %+v", st)
	}
	if ro.Log != nil {
		if err := ro.Log.Settle(); err != nil {
			fail("settle the log: %v", err)
		}
		ro.Log.Close()
	}
}

// TestEpoch: a stream of another epoch is refused at its first frame.
func TestEpoch(t *testing.T) {
	pc, sc := pipePair(1)
	m := newModel(false)
	r := NewReceiver(NewLink(sc...), m, ReceiverOptions{Epoch: 8})
	s := NewSender(NewLink(pc...), SenderOptions{Epoch: 7})
	ran := make(chan error)
	go func() { ran <- r.Run(context.Background()) }()
	if err := s.Commit(&Op{Kind: KindMark}); err == nil {
		t.Error("an operation of a stale epoch was committed")
	}
	if err := <-ran; !errors.Is(err, ErrStaleEpoch) || len(m.ops) != 0 {
		t.Errorf("ended with %v, %d applied", err, len(m.ops))
	}
	s.Close(nil)
}

// TestLockTimeout: a peer that takes everything and says nothing.
func TestLockTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		var reads sync.WaitGroup
		reads.Go(func() {
			for b := make([]byte, 1000); ; {
				if _, err := sc[0].Read(b); err != nil {
					return
				}
			}
		})
		s := NewSender(NewLink(pc...), SenderOptions{LockTimeout: 100 * time.Second})
		start := time.Now()
		p, err := s.Start(&Op{Kind: KindFsync})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(&Op{Kind: KindMark}); !errors.Is(err, ErrLockTimeout) {
			t.Errorf("ended with %v", err)
		}
		if d := time.Since(start); d < 100*time.Second || d > 102*time.Second {
			t.Errorf("after %v", d)
		}
		if _, err := p.Result(); !errors.Is(err, ErrLockTimeout) {
			t.Errorf("a result: %v", err)
		}
		s.Close(nil)
		reads.Wait()
	})
}

// TestSendTimeout: a peer that takes nothing.
func TestSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		s := NewSender(NewLink(pc...), SenderOptions{SendTimeout: 30 * time.Second, QueueBytes: 1000})
		start := time.Now()
		var others sync.WaitGroup
		for range 3 { // the writer, one who waits for it, one for whom the queue is full
			others.Go(func() {
				if err := s.Commit(&Op{Kind: KindWrite, Data: make([]byte, 600)}); !errors.Is(err, ErrSendTimeout) {
					t.Errorf("ended with %v", err)
				}
			})
		}
		others.Wait()
		if d := time.Since(start); d < 30*time.Second || d > 32*time.Second {
			t.Errorf("after %v", d)
		}
		s.Close(nil)
		sc[0].Close()
	})
}

// TestPost: what nobody waits for leaves soon by itself.
func TestPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		m := newModel(false)
		r := NewReceiver(NewLink(sc...), m, ReceiverOptions{})
		s := NewSender(NewLink(pc...), SenderOptions{})
		ran := make(chan error)
		go func() { ran <- r.Run(context.Background()) }()
		start := time.Now()
		if err := s.Post(&Op{Kind: KindMark}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Submit(&Op{Kind: KindMark}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(flushDelay + appliedDelay) // of the bubble: all goroutines have come to rest by then
		synctest.Wait()
		if st := s.Stats(); st.Applied != 2 || st.Received != 2 {
			t.Errorf("%v later: %+v", time.Since(start), st)
		}
		s.Close(nil)
		<-ran
	})
}

// TestStuckApply: an operation that hangs delays what conflicts with it, and no
// ack, until the queue is full; then the primary is held back.
func TestStuckApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		release := make(chan struct{})
		var other atomic.Int64
		r := NewReceiver(NewLink(sc...), applyFunc(func(op *Op) Result {
			if op.ID == (FileID{1}) {
				<-release
			} else {
				other.Add(1)
			}
			return Result{}
		}), ReceiverOptions{QueueBytes: 10_000, Workers: 2})
		s := NewSender(NewLink(pc...), SenderOptions{})
		ran := make(chan error)
		go func() { ran <- r.Run(context.Background()) }()
		for range 5 {
			if err := s.Commit(&Op{Kind: KindWrite, ID: FileID{1}, Data: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(&Op{Kind: KindWrite, ID: FileID{2}, Data: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if other.Load() != 5 {
			t.Errorf("%d operations of the other object are applied, expected 5", other.Load())
		}
		for range 4 { // of 1176 bytes: the ninth in all exceeds the bound and is the last that is taken
			if err := s.Commit(&Op{Kind: KindWrite, ID: FileID{1}, Data: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
		}
		late := make(chan error, 1)
		go func() { late <- s.Commit(&Op{Kind: KindMark}) }()
		synctest.Wait()
		select {
		case err := <-late:
			t.Fatalf("the queue of the receiver has no bound: %v, %+v", err, r.Stats())
		default:
		}
		close(release)
		if err := <-late; err != nil {
			t.Error(err)
		}
		s.Close(nil)
		<-ran
		if r.Applied() != 15 {
			t.Errorf("applied %d", r.Applied())
		}
	})
}

// TestEndByContext: what was received is applied, and the primary learns of it.
func TestEndByContext(t *testing.T) {
	pc, sc := tcpPair(t, 2)
	m := newModel(true)
	r := NewReceiver(NewLink(sc...), m, ReceiverOptions{})
	s := NewSender(NewLink(pc...), SenderOptions{})
	ctx, cancel := context.WithCancelCause(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	for i := range 100 {
		if err := s.Commit(&Op{Kind: KindWrite, ID: FileID{1}, Off: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	why := errors.New("promotion")
	cancel(why)
	if err := <-ran; !errors.Is(err, why) {
		t.Errorf("ended with %v", err)
	}
	<-s.Done()
	if r.Applied() != 100 || len(m.ops) != 100 || s.Stats().Applied != 100 {
		t.Errorf("applied %d, %d, the primary knows of %d", r.Applied(), len(m.ops), s.Stats().Applied)
	}
}

func TestDrainGivesUp(t *testing.T) {
	pc, sc := pipePair(1)
	hang := make(chan struct{})
	r := NewReceiver(NewLink(sc...), applyFunc(func(*Op) Result { <-hang; return Result{} }), ReceiverOptions{})
	s := NewSender(NewLink(pc...), SenderOptions{})
	ran := make(chan error)
	go func() { ran <- r.Run(context.Background()) }()
	if err := s.Commit(&Op{Kind: KindMark}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained: %v", err)
	}
	close(hang)
	if seq, err := s.Drain(context.Background()); err != nil || seq != 1 {
		t.Errorf("drained to %d: %v", seq, err)
	}
	s.Close(nil)
	<-ran
	if _, err := s.Submit(&Op{Kind: KindMark}); !errors.Is(err, ErrClosed) {
		t.Errorf("submitted after the end: %v", err)
	}
	called := false
	s.o.Mismatch = func(*Op, syscall.Errno, syscall.Errno) { called = true }
	if s.LocalFailed(&Op{Seq: 1, Kind: KindMark}, syscall.EIO); !called {
		t.Error("a failure after the end was not told")
	}
}

func TestBadCalls(t *testing.T) {
	pc, sc := pipePair(1)
	s := NewSender(NewLink(pc...), SenderOptions{})
	defer sc[0].Close()
	defer s.Close(nil)
	for name, err := range map[string]error{
		"no kind":      s.Commit(&Op{}),
		"unknown kind": s.Post(&Op{Kind: kindEnd}),
		"long name":    s.Commit(&Op{Kind: KindCreate, Name: string(make([]byte, MaxName+1))}),
		"much data":    s.Post(&Op{Kind: KindWrite, Data: make([]byte, MaxData+1)}),
		"no such seq":  s.Wait(1),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.Start(&Op{Kind: KindWrite}); err == nil {
		t.Error("an operation without a result was started")
	}
	if err := s.Err(); err != nil {
		t.Errorf("a bad call ended the stream: %v", err)
	}
}

// TestFalseAck: a watermark beyond what was sent ends the stream.
func TestFalseAck(t *testing.T) {
	pc, sc := tcpPair(t, 1)
	s := NewSender(NewLink(pc...), SenderOptions{Epoch: 3})
	sc[0].Write(appendAck(nil, 3, ack{received: 1}))
	<-s.Done()
	if !errors.Is(s.Err(), ErrFrame) {
		t.Errorf("ended with %v", s.Err())
	}
	sc[0].Close()
}

func openLog(tb testing.TB, dir string, o ReceiveLogOptions) *ReceiveLog {
	tb.Helper()
	l, err := OpenReceiveLog(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// BenchmarkCommit measures round trips of operations over loopback.
func BenchmarkCommit(b *testing.B) {
	for _, async := range []Async{AsyncSecond, AsyncNone} {
		for _, size := range []int{0, 4 << 10, 128 << 10} {
			for _, committers := range []int{1, 4, 8} {
				b.Run(fmt.Sprintf("async=%s/data=%d/committers=%d", async, size, committers), func(b *testing.B) {
					benchCommit(b, async, size, committers, 1)
				})
			}
		}
	}
	b.Run("async=second/data=4096/committers=8/conns=2", func(b *testing.B) { benchCommit(b, AsyncSecond, 4096, 8, 2) })
}

func benchCommit(b *testing.B, async Async, size, committers, conns int) {
	p, s := tcpPair(b, conns)
	var applied atomic.Int64
	ro := ReceiverOptions{Epoch: 1, Async: async}
	if async == AsyncNone {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			b.Fatal(err)
		}
		defer os.RemoveAll(dir)
		ro.Log = openLog(b, dir, ReceiveLogOptions{Flush: func() error { return nil }})
		defer ro.Log.Close()
	}
	r := NewReceiver(NewLink(s...), applyFunc(func(*Op) Result { applied.Add(1); return Result{} }), ro)
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(context.Background()) })
	snd := NewSender(NewLink(p...), SenderOptions{Epoch: 1, Async: async})
	data := make([]byte, size)
	b.ReportAllocs()
	b.SetBytes(int64(size))
	b.ResetTimer()
	var clients sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for i := range committers {
		clients.Go(func() {
			op := Op{Kind: KindWrite, ID: FileID{1, byte(i)}, Data: data}
			for left.Add(-1) >= 0 {
				if err := snd.Commit(&op); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.StopTimer()
	st := snd.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(st.SentOps)/float64(st.Batches), "ops/batch")
	snd.Close(nil)
	wg.Wait()
	if applied.Load() != int64(b.N) {
		b.Fatalf("applied %d of %d", applied.Load(), b.N)
	}
}
