package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// DefaultWorkers is how many operations are applied side by side: enough to
// keep a few in fsync.
const DefaultWorkers = 16

const (
	// appliedDelay is how long the primary may not know what was applied, nor
	// that something arrived that nobody waits for.
	appliedDelay = 2 * time.Millisecond
	// lazyBytes that nobody waits for are acked at once, so that the primary's
	// queue moves.
	lazyBytes = 256 << 10
	// endGrace is for the last words to a primary when Run is told to end.
	endGrace = time.Second
)

// Result is how an operation ended.
type Result struct {
	Seq   Seq
	Errno syscall.Errno
	Data  []byte // of kinds that are answered
}

// Applier applies operations to the second host's data.
type Applier interface {
	// Apply is called concurrently for operations without a key in common, and
	// in Seq order for those with one (see Keys). op and op.Data are valid until
	// it returns. Seq of the result need not be set.
	Apply(op *Op) Result
}

// ReceiverOptions are the choices of a Receiver. Zero values are the defaults.
type ReceiverOptions struct {
	Epoch      Epoch       // of the operations that are expected; others end the link
	First      Seq         // the first that is expected, default 1
	Async      Async       // what the acks of the primary's callers wait for
	Log        *ReceiveLog // needed for AsyncNone
	QueueBytes int         // bound of what is received and not applied
	Workers    int         // applied side by side at most
}

// Receiver is the second host's end of the stream.
//
//	reader of each connection ─ reorder by Seq ─ ack ─┬─▶ scheduler ─ workers ─ Apply
//	                                                  └─▶ receive log ─ ack ─▶ ┘ (with a Log)
type Receiver struct {
	o       ReceiverOptions
	link    *Link
	applier Applier
	out     []*outbox // by connection; results and applied watermarks go by the first
	tell    *later    // sends the watermarks that nobody waits for
	failed  chan struct{}

	mu        sync.Mutex
	err       error
	next      Seq // all before it have arrived
	durable   Seq // all up to it are in the log, on disk
	early     map[Seq]*inbound
	earlySize int
	held      int // bytes that arrived in order and are not applied
	unacked   int // bytes that arrived since the last ack
	toLog     []*inbound
	logged    *sync.Cond // signalled when toLog has something or input has ended
	inputEnd  bool       // nothing more is added to toLog
	sched     scheduler
	work      *sync.Cond // signalled when sched has something ready or draining is set
	resting   int        // workers waiting on work
	draining  bool       // nothing more is added to sched
	room      *sync.Cond // signalled when held or earlySize shrink or the stream ends
	crowded   int        // readers waiting on room
	told      Seq        // the last applied watermark that was sent
}

// NewReceiver makes a receiver on l, which it owns from now on. Run runs it.
func NewReceiver(l *Link, a Applier, o ReceiverOptions) *Receiver {
	if o.First == 0 {
		o.First = 1
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	r := &Receiver{
		o: o, link: l, applier: a, tell: newLater(), failed: make(chan struct{}),
		next: o.First, durable: o.First - 1, told: o.First - 1,
		early: map[Seq]*inbound{}, sched: newScheduler(o.First - 1),
	}
	r.logged, r.work, r.room = sync.NewCond(&r.mu), sync.NewCond(&r.mu), sync.NewCond(&r.mu)
	for _, c := range l.conns {
		r.out = append(r.out, &outbox{conn: c, count: &l.out, failed: func(err error) { r.fail(r.linkError("answer", err)) }})
	}
	return r
}

// Run receives and applies until the link breaks or ctx ends. It then applies
// all that had arrived without a gap, closes the link and returns why it ended.
// It returns when nothing of the receiver runs any more; a call of Apply that
// hangs keeps it.
func (r *Receiver) Run(ctx context.Context) error {
	if r.o.Async == AsyncNone && r.o.Log == nil {
		r.link.Close()
		return errors.New(`receive with async="none": a receive log is needed`)
	}
	if r.o.Log != nil {
		if err := r.o.Log.begin(r.o.Epoch, r.o.First); err != nil {
			r.link.Close()
			return err
		}
	}
	var readers, logger, workers, teller sync.WaitGroup
	stopTelling := make(chan struct{})
	for i := range r.link.conns {
		readers.Go(func() { r.read(i) })
	}
	if r.o.Log != nil {
		logger.Go(r.keepLog)
	}
	for range r.o.Workers {
		workers.Go(r.applyAll)
	}
	teller.Go(func() { r.tell.run(stopTelling, appliedDelay, r.ackAll) })

	select {
	case <-r.failed:
	case <-ctx.Done():
		r.end(fmt.Errorf("the stream was ended: %w", context.Cause(ctx)), func() { r.link.interrupt(endGrace) })
	}
	readers.Wait()

	r.mu.Lock()
	r.inputEnd = true
	r.logged.Broadcast()
	r.mu.Unlock()
	logger.Wait()

	r.mu.Lock()
	r.draining = true
	r.work.Broadcast()
	r.mu.Unlock()
	workers.Wait()

	close(stopTelling)
	teller.Wait()
	r.ackAll() // reaches a primary that has not gone
	r.link.Close()
	return r.err
}

// Applied is the last operation up to which all are applied. After Run it is
// the last operation in the data: there is nothing beyond it.
func (r *Receiver) Applied() Seq {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sched.applied
}

// ReceiverStats is a moment of a Receiver.
type ReceiverStats struct {
	QueueBytes int // arrived in order and not applied
	QueueOps   int
	EarlyBytes int // arrived before an earlier one
	Received   Seq
	Durable    Seq
	Applied    Seq
	BytesIn    uint64 // received on the link
	BytesOut   uint64 // sent on it
}

// Stats returns the present moment.
func (r *Receiver) Stats() ReceiverStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReceiverStats{
		QueueBytes: r.held, QueueOps: int(r.next - 1 - r.sched.applied), EarlyBytes: r.earlySize,
		Received: r.next - 1, Durable: r.durable, Applied: r.sched.applied,
		BytesIn: r.link.in.Load(), BytesOut: r.link.out.Load(),
	}
}

// fail ends the stream because it is broken.
func (r *Receiver) fail(err error) { r.end(err, func() { r.link.Close() }) }

func (r *Receiver) end(err error, stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.failed)
		stop()
		r.room.Broadcast()
	}
}

func (r *Receiver) linkError(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("the primary at %s closed the stream: %w", r.link.RemoteAddr(), err)
	}
	return fmt.Errorf("%s %s: %w", what, r.link.RemoteAddr(), err)
}

func staleEpoch(got, want Epoch) error {
	return fmt.Errorf("%w: %d, expected %d", ErrStaleEpoch, got, want)
}

// read takes what comes on one connection: as much as is there, one ack for it,
// then the workers.
func (r *Receiver) read(conn int) {
	in := newOpReader(r.link.conns[conn], &r.link.in)
	var batch []*inbound
	for {
		var err error
		batch, err = in.batch(r.o.Epoch, batch[:0])
		last := Seq(0)
		if len(batch) > 0 {
			last = batch[len(batch)-1].op.Seq // after arrive they are the workers'
		}
		ackNow, err2 := r.arrive(batch)
		if ackNow {
			r.out[conn].add(func(b []byte) []byte { return r.appendAck(b, conn) })
		}
		r.wakeWorker()
		if err2 != nil {
			err = err2
		}
		if err != nil {
			r.fail(r.linkError("receive from", err))
			return
		}
		if !r.waitRoom(last) {
			return
		}
		clear(batch)
	}
}

// arrive puts operations of one connection into their place, and says whether
// somebody waits for their ack.
func (r *Receiver) arrive(batch []*inbound) (ackNow bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range batch {
		seq := in.op.Seq
		switch {
		case seq == r.next:
			ackNow = r.take(in) || ackNow
			for len(r.early) > 0 {
				in := r.early[r.next]
				if in == nil {
					break
				}
				delete(r.early, r.next)
				r.earlySize -= len(in.frame)
				ackNow = r.take(in) || ackNow
			}
			if r.crowded > 0 {
				r.room.Broadcast()
			}
		case seq < r.next || r.early[seq] != nil:
			return ackNow, badField("seq", seq, fmt.Sprintf("a new one: %d and all before have arrived", r.next-1))
		default:
			r.early[seq] = in
			r.earlySize += len(in.frame)
		}
	}
	if ackNow = ackNow || r.unacked > lazyBytes; ackNow {
		r.unacked = 0
	} else if r.unacked > 0 {
		r.tell.ask()
	}
	return ackNow, nil
}

// take moves on by one operation, and says whether somebody waits for the ack
// that its arrival causes.
func (r *Receiver) take(in *inbound) (ackNow bool) {
	r.next++
	size, lazy := len(in.frame), in.lazy
	r.held += size
	if r.o.Log != nil {
		r.toLog = append(r.toLog, in)
		r.logged.Signal()
	} else {
		r.sched.add(in)
	}
	if r.o.Async == AsyncNone {
		return false // the log acks
	}
	r.unacked += size
	return !lazy
}

// waitRoom holds a reader back while too much is in memory; last is the
// operation it brought last. It returns false when the stream has ended.
//
// What is held is in order, so it is being applied and will shrink. What is
// early waits for an operation on another connection: whose reader is never
// held back for it, because what that one brought last is not early.
func (r *Receiver) waitRoom(last Seq) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && (r.held > r.o.QueueBytes || r.earlySize > r.o.QueueBytes && last >= r.next) {
		r.crowded++
		r.room.Wait()
		r.crowded--
	}
	return r.err == nil
}

func (r *Receiver) wakeWorker() {
	r.mu.Lock()
	if r.resting > 0 && r.sched.ready.len() > 0 {
		r.work.Signal()
	}
	r.mu.Unlock()
}

// appendAck encodes the present watermarks. Only the first connection carries
// the applied one: it comes after the results that it vouches for.
func (r *Receiver) appendAck(b []byte, conn int) []byte {
	r.mu.Lock()
	a := ack{received: r.next - 1, durable: r.durable}
	if r.o.Async == AsyncNone {
		a.received = r.durable
	}
	if conn == 0 {
		a.applied, r.told = r.sched.applied, r.sched.applied
	}
	r.mu.Unlock()
	return appendAck(b, r.o.Epoch, a)
}

// ackAll sends all watermarks.
func (r *Receiver) ackAll() {
	r.mu.Lock()
	r.unacked = 0
	r.mu.Unlock()
	r.out[0].add(func(b []byte) []byte { return r.appendAck(b, 0) })
}

// keepLog makes what has arrived durable, one flush for all there is, and only
// then lets it be applied: otherwise a crash could leave a later operation in
// the data and not an earlier one.
func (r *Receiver) keepLog() {
	var batch []*inbound
	for {
		r.mu.Lock()
		for len(r.toLog) == 0 && !r.inputEnd {
			r.logged.Wait()
		}
		batch, r.toLog = r.toLog, batch[:0]
		applied := r.sched.applied
		r.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		if err := r.o.Log.append(batch, applied); err != nil {
			r.fail(err) // what is not in the log is not applied: it was not acked
			return
		}
		awaited := false
		r.mu.Lock()
		for _, in := range batch {
			awaited = awaited || !in.lazy
			r.durable = in.op.Seq
			r.sched.add(in)
		}
		r.mu.Unlock()
		if awaited && r.o.Async == AsyncNone {
			r.ackAll()
		} else {
			r.tell.ask()
		}
		clear(batch)
		r.wakeWorker()
	}
}

// applyAll is a worker. One that takes an operation and sees more wakes the
// next one, so that a batch wakes as many as it needs and its reader only one.
func (r *Receiver) applyAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.sched.ready.len() == 0 {
			if r.draining && r.sched.window.len() == 0 {
				r.work.Broadcast()
				return
			}
			r.resting++
			r.work.Wait()
			r.resting--
			continue
		}
		in := r.sched.ready.pop()
		if r.resting > 0 && r.sched.ready.len() > 0 {
			r.work.Signal()
		}
		r.mu.Unlock()

		res := r.applier.Apply(&in.op)
		answered := in.op.Kind.Answered()
		if res.Errno != 0 || answered {
			r.answer(&in.op, res)
		}

		r.mu.Lock()
		r.held -= len(in.frame)
		r.sched.finish(in)
		in.free()
		if r.crowded > 0 {
			r.room.Broadcast()
		}
		if r.sched.applied > r.told {
			r.tell.ask()
		}
	}
}

// answer sends a result, before any watermark that covers it.
func (r *Receiver) answer(op *Op, res Result) {
	res.Seq = op.Seq
	if len(res.Data) > MaxData {
		res.Data, res.Errno = nil, syscall.EMSGSIZE
	}
	r.out[0].add(func(b []byte) []byte {
		if res.Errno == 0 {
			return appendResult(b, r.o.Epoch, &res, nil)
		}
		return appendResult(b, r.o.Epoch, &res, op)
	})
}
