package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// Async is when an operation is committed.
type Async uint8

const (
	AsyncSecond Async = iota // when the peer has received it
	AsyncNone                // when the peer has it on disk
)

func (a Async) String() string {
	if a == AsyncNone {
		return "none"
	}
	return "second"
}

// Defaults of SenderOptions and ReceiverOptions.
const (
	DefaultQueueBytes  = 64 << 20
	DefaultLockTimeout = 100 * time.Second
	DefaultSendTimeout = 30 * time.Second
)

// flushDelay is how long an operation that nobody waits for may stay queued.
const flushDelay = time.Millisecond

// Why a stream ends.
var (
	ErrClosed      = errors.New("the stream was closed")
	ErrLockTimeout = errors.New("the second node did not answer a replication request within locktimeout")
	ErrCopyTimeout = errors.New("the second node did not answer a reintegration request within reitimeout")
	ErrSendTimeout = errors.New("the second node did not take what was sent within sendtimeout")
	ErrStaleEpoch  = errors.New("the stream carries another epoch")
)

// SenderOptions are the choices of a Sender. Zero values are the defaults.
type SenderOptions struct {
	Epoch       Epoch         // of the operations that are sent
	First       Seq           // of the next operation, default 1
	Async       Async         // see SetAsync
	QueueBytes  int           // bound of what is submitted and not committed
	LockTimeout time.Duration // for the answer to an operation
	CopyTimeout time.Duration // for what a reintegration asks instead; default LockTimeout
	SendTimeout time.Duration // for the peer to take what is sent

	// Mismatch is told of every operation that ended differently on both nodes,
	// without its Data. It is called from goroutines of the Sender or from
	// LocalFailed: it must not block, nor call Drain or Close.
	Mismatch func(op *Op, local, remote syscall.Errno)

	// Alike is told of every operation that failed with the same error on both, in
	// the same way.
	Alike func(op *Op, errno syscall.Errno)
}

// Sender is the primary's end of the stream. Its methods may be called from any
// goroutine.
//
// There is no goroutine that sends: whoever waits for an operation and finds it
// unsent and a connection idle becomes the writer and sends what all have
// queued, with one system call, until the queue is empty. Then it waits like the
// others for a watermark that covers it.
type Sender struct {
	o     SenderOptions
	link  *Link
	flush *later

	failed chan struct{} // closed when err is set
	done   chan struct{} // closed when in addition all goroutines have ended
	wg     sync.WaitGroup
	pool   sync.Pool // of *waiter

	mu        sync.Mutex
	err       error
	next      Seq    // the next to give
	cur       *batch // operations not sent yet
	spare     []*batch
	sent      Seq         // the last that a writer has taken
	idle      []int       // connections without a writer, longest idle first
	writing   []time.Time // by connection: when the write under way began, else zero
	writers   int         // connections with a writer
	flying    fifo[span]  // batches not committed yet, with cur's bytes not among them
	queued    int         // bytes submitted and not committed
	queuedOps int
	seen      ack // the peer's watermarks
	async     Async
	waiters   waitList // for seen.received or seen.durable, by async
	drains    waitList // for seen.applied
	pending   map[Seq]*Pending
	room      *sync.Cond // signalled when queued shrinks
	blocked   int        // waiting on room
	outcomes  outcomes
	telling   int        // calls of tell under way
	told      *sync.Cond // signalled when there are none
	over      bool       // outcomes has had its last word
	sentBytes uint64
	sentOps   uint64
	batches   uint64
}

// span is a batch that was taken by a writer.
type span struct {
	last  Seq
	ops   int
	bytes int
	since time.Time
}

// NewSender starts a sender on l, which it owns from now on.
func NewSender(l *Link, o SenderOptions) *Sender {
	if o.First == 0 {
		o.First = 1
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = DefaultLockTimeout
	}
	if o.SendTimeout <= 0 {
		o.SendTimeout = DefaultSendTimeout
	}
	if o.CopyTimeout <= 0 {
		o.CopyTimeout = o.LockTimeout
	}
	s := &Sender{
		o: o, link: l, flush: newLater(),
		failed: make(chan struct{}), done: make(chan struct{}),
		next: o.First, sent: o.First - 1,
		seen:    ack{o.First - 1, o.First - 1, o.First - 1},
		async:   o.Async,
		cur:     &batch{},
		writing: make([]time.Time, len(l.conns)),
		pending: map[Seq]*Pending{}, outcomes: newOutcomes(),
	}
	s.room, s.told = sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	for i := range l.conns {
		s.idle = append(s.idle, i)
	}
	l.setSendTimeout(o.SendTimeout)
	for i := range l.conns {
		s.wg.Go(func() { s.readAcks(i) })
	}
	s.wg.Go(func() { s.flush.run(s.failed, flushDelay, s.flushQueue) })
	s.wg.Go(s.watch)
	go s.end()
	return s
}

// end waits for the other goroutines and has the last word on outcomes.
func (s *Sender) end() {
	<-s.failed
	s.wg.Wait()
	s.mu.Lock()
	for s.writers > 0 { // callers that are still in their system call
		s.room.Wait()
	}
	s.over = true
	s.tell(s.outcomes.settleAll(nil))
	close(s.done)
}

// Submit gives op the next Seq and queues it. The caller holds the locks of all
// that op conflicts with, so that the order of Seqs is the order of effects. It
// must call Wait soon, and leave op.Data alone until Wait has returned. Submit
// blocks while the queue is full.
func (s *Sender) Submit(op *Op) (Seq, error) {
	if err := checkOp(op); err != nil {
		return 0, err
	}
	crc := dataCRC(op.Data)
	s.mu.Lock()
	err := s.submitLocked(op, op.Data, 0, crc)
	seq := op.Seq
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.flush.ask()
	return seq, nil
}

// submitLocked numbers and queues op, which checkOp has passed. crc is
// dataCRC of its data.
func (s *Sender) submitLocked(op *Op, data []byte, flags uint8, crc uint32) error {
	size := opFrameSize(op)
	for s.err == nil && s.queued > 0 && s.queued+size > s.o.QueueBytes {
		if s.cur.empty() || len(s.idle) == 0 {
			s.blocked++
			s.room.Wait()
			s.blocked--
		} else {
			s.writeQueue(s.next) // what fills the queue may have nobody who waits for it
		}
	}
	if s.err != nil {
		return s.err
	}
	op.Seq = s.next
	s.next++
	if s.cur.empty() {
		s.cur.since = time.Now()
	}
	s.cur.add(s.o.Epoch, flags, op, data, crc)
	s.queued += size
	s.queuedOps++
	return nil
}

// Wait returns when the peer has received the operation (AsyncSecond) or has it
// on disk (AsyncNone); or with an error when that will never be known. Either
// way nothing refers to the operation's Data any more.
func (s *Sender) Wait(seq Seq) error {
	s.mu.Lock()
	return s.waitAndUnlock(seq)
}

func (s *Sender) waitAndUnlock(seq Seq) error {
	if seq >= s.next {
		s.mu.Unlock()
		return fmt.Errorf("wait for operation %d: the last that was submitted is %d", seq, s.next-1)
	}
	for {
		if seq > s.sent {
			s.writeQueue(seq)
		}
		if seq <= s.committed() {
			s.mu.Unlock()
			return nil
		}
		if s.err != nil && s.writers == 0 {
			defer s.mu.Unlock()
			return s.err
		}
		w, _ := s.pool.Get().(*waiter)
		if w == nil {
			w = newWaiter(seq)
		}
		w.seq = seq
		s.waiters.add(w)
		s.mu.Unlock()
		<-w.ch
		duty, err := w.duty, w.err
		s.pool.Put(w)
		if !duty {
			return err
		}
		s.mu.Lock()
	}
}

// Commit is Submit and Wait.
func (s *Sender) Commit(op *Op) error {
	if err := checkOp(op); err != nil {
		return err
	}
	crc := dataCRC(op.Data)
	s.mu.Lock()
	if err := s.submitLocked(op, op.Data, 0, crc); err != nil {
		s.mu.Unlock()
		return err
	}
	return s.waitAndUnlock(op.Seq)
}

// Post queues op, with a copy of its Data, for the next batch or for about a
// millisecond, whichever comes first. A later Wait, Commit or Drain covers it.
func (s *Sender) Post(op *Op) error {
	if err := checkOp(op); err != nil {
		return err
	}
	data := op.Data
	if len(data) > inlineData {
		data = bytes.Clone(data) // smaller ones are copied into the batch
	}
	crc := dataCRC(data)
	s.mu.Lock()
	err := s.submitLocked(op, data, flagLazy, crc)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.flush.ask()
	return nil
}

// Pending is an operation whose result will come.
type Pending struct {
	s     *Sender
	seq   Seq
	since time.Time
	copy  bool // a question of a reintegration
	done  chan struct{}
	res   Result
	err   error
}

// Start sends op, which is of an answered kind, at once. Its result comes with
// Pending.Result, which must be called; op.Data must be left alone until then.
func (s *Sender) Start(op *Op) (*Pending, error) {
	if err := checkOp(op); err != nil {
		return nil, err
	}
	if !op.Kind.Answered() {
		return nil, fmt.Errorf("start %s: an operation of this kind has no result", op.Kind)
	}
	crc := dataCRC(op.Data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.submitLocked(op, op.Data, flagLazy, crc); err != nil {
		return nil, err
	}
	p := &Pending{s: s, seq: op.Seq, since: s.cur.since, copy: op.Kind.copies(), done: make(chan struct{})}
	s.pending[op.Seq] = p
	s.writeQueue(op.Seq)
	return p, nil
}

// Seq is the number of the operation.
func (p *Pending) Seq() Seq { return p.seq }

// Result waits for the peer's answer.
func (p *Pending) Result() (Result, error) {
	<-p.done
	return p.res, p.err
}

// LocalFailed tells that op, which the peer has or will get, failed on this
// node. Mismatch or Alike is called, now or when it is known how it ended on the peer.
func (s *Sender) LocalFailed(op *Op, errno syscall.Errno) {
	if op.Seq == 0 || errno == 0 {
		return
	}
	bare := *op
	bare.Data = nil
	var found []ending
	s.mu.Lock()
	if s.over { // nobody is left to find out
		found = append(found, ending{bare, errno, 0})
	} else {
		found = s.outcomes.failedHere(bare, errno, s.seen.applied, nil)
	}
	s.tell(found)
}

// tell lets mu go, which the caller holds, and tells Mismatch and Alike of what was
// found under it. Drain waits for it: what left outcomes is known to them then.
func (s *Sender) tell(found []ending) {
	if len(found) == 0 {
		s.mu.Unlock()
		return
	}
	s.telling++
	s.mu.Unlock()
	for i := range found {
		switch e := &found[i]; {
		case e.local != e.remote && s.o.Mismatch != nil:
			s.o.Mismatch(&e.op, e.local, e.remote)
		case e.local == e.remote && s.o.Alike != nil:
			s.o.Alike(&e.op, e.local)
		}
	}
	s.mu.Lock()
	if s.telling--; s.telling == 0 {
		s.told.Broadcast()
	}
	s.mu.Unlock()
}

// Drain waits until the peer has applied everything that was submitted before
// the call, and returns the last of it. Outcomes up to there are settled: Mismatch
// has been told of every difference.
func (s *Sender) Drain(ctx context.Context) (Seq, error) {
	last, err := s.WaitApplied(ctx)
	if err != nil {
		return 0, err
	}
	s.SettleBelow(last + 1)
	return last, nil
}

// SettleBelow returns when Mismatch and Alike have been told of every failure of an
// operation below seq. All these have ended here, and the peer has said how they ended
// there.
func (s *Sender) SettleBelow(seq Seq) {
	s.mu.Lock()
	s.tell(s.outcomes.settleBelow(seq, nil))
	s.mu.Lock()
	for s.telling > 0 { // what others have found of them
		s.told.Wait()
	}
	s.mu.Unlock()
}

// WaitApplied is Drain for who changes nothing while others do: operations may be
// under way here, so what failed on the peer may still fail alike on this node.
func (s *Sender) WaitApplied(ctx context.Context) (Seq, error) {
	s.mu.Lock()
	last := s.next - 1
	if last > s.sent {
		s.writeQueue(last)
	}
	if last <= s.seen.applied {
		s.mu.Unlock()
		return last, nil
	}
	if s.err != nil {
		defer s.mu.Unlock()
		return 0, s.err
	}
	w := newWaiter(last)
	s.drains.add(w)
	s.mu.Unlock()
	select {
	case <-w.ch:
		if w.err != nil {
			return 0, w.err
		}
	case <-ctx.Done():
		s.mu.Lock()
		s.drains.remove(w)
		s.mu.Unlock()
		return 0, fmt.Errorf("drain up to operation %d: %w", last, context.Cause(ctx))
	}
	return last, nil
}

// SetAsync changes when operations are committed, from now on. AsyncNone needs
// a receiver with a receive log.
func (s *Sender) SetAsync(a Async) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.async = a
	s.advance()
}

// SenderStats is a moment of a Sender.
type SenderStats struct {
	QueueBytes int // submitted and not committed
	QueueOps   int
	SentBytes  uint64
	BytesIn    uint64 // received on the link
	SentOps    uint64
	Batches    uint64 // system calls that sent them
	Submitted  Seq    // the last given
	Sent       Seq    // the last handed to the kernel
	Received   Seq    // the peer's watermarks
	Durable    Seq
	Applied    Seq
}

// Stats returns the present moment.
func (s *Sender) Stats() SenderStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SenderStats{
		QueueBytes: s.queued, QueueOps: s.queuedOps,
		SentBytes: s.sentBytes, BytesIn: s.link.in.Load(), SentOps: s.sentOps, Batches: s.batches,
		Submitted: s.next - 1, Sent: s.sent,
		Received: s.seen.received, Durable: s.seen.durable, Applied: s.seen.applied,
	}
}

// Epoch is what the operations carry.
func (s *Sender) Epoch() Epoch { return s.o.Epoch }

// Done is closed when the stream has ended, every waiter has been told, and no
// goroutine of the Sender is left.
func (s *Sender) Done() <-chan struct{} { return s.done }

// Err is why the stream ended, nil while it lives.
func (s *Sender) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the stream with cause (nil: ErrClosed), unless it has already
// ended, and waits until it is over.
func (s *Sender) Close(cause error) {
	if cause == nil {
		cause = ErrClosed
	}
	s.fail(cause)
	<-s.done
}
