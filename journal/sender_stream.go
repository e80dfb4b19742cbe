package journal

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// writeQueue makes the caller, who holds mu and gets it back, a writer: it sends
// what is queued as long as there is some and a connection is idle, but not
// longer than the caller's own operation, until, stays uncommitted. What is then
// left is the duty of one whose operation is among it.
func (s *Sender) writeQueue(until Seq) {
	for s.err == nil && !s.cur.empty() && len(s.idle) > 0 {
		if s.sent >= until && until <= s.committed() {
			if w := s.waiters.last; w != nil && w.seq > s.sent {
				s.waiters.remove(w)
				w.wake(true, nil)
			} else {
				s.flush.ask()
			}
			return
		}
		s.writeBatch()
	}
}

// writeBatch sends the queue on the connection that is idle longest. It gives up
// mu while it writes.
func (s *Sender) writeBatch() {
	conn := s.idle[0]
	s.idle = append(s.idle[:0], s.idle[1:]...)
	b := s.cur
	s.cur = &batch{}
	if n := len(s.spare); n > 0 {
		s.cur, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	ops := int(b.last - s.sent)
	s.flying.push(span{last: b.last, ops: ops, bytes: b.bytes, since: b.since})
	s.sent = b.last
	s.sentBytes += uint64(b.bytes)
	s.sentOps += uint64(ops)
	s.batches++
	s.writing[conn] = time.Now()
	s.writers++
	s.mu.Unlock()

	err := b.writeTo(s.link.conns[conn])
	b.reset()

	s.mu.Lock()
	s.spare = append(s.spare, b)
	s.writing[conn] = time.Time{}
	s.idle = append(s.idle, conn)
	s.writers--
	if s.blocked > 0 {
		s.room.Broadcast() // a submitter may now write
	}
	if err != nil {
		s.failLocked(fmt.Errorf("send to %s: %w", s.link.RemoteAddr(), err))
	} else if s.err != nil && s.writers == 0 {
		s.release()
	}
}

// flushQueue sends what nobody else has sent.
func (s *Sender) flushQueue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeQueue(^Seq(0))
}

// committed is the watermark that Wait waits for.
func (s *Sender) committed() Seq {
	if s.async == AsyncNone {
		return s.seen.durable
	}
	return s.seen.received
}

// advance releases all that the watermarks now cover.
func (s *Sender) advance() {
	done := s.committed()
	for s.flying.len() > 0 && s.flying.front().last <= done {
		f := s.flying.pop()
		s.queued -= f.bytes
		s.queuedOps -= f.ops
	}
	if s.blocked > 0 {
		s.room.Broadcast()
	}
	s.waiters.release(done)
	s.drains.release(s.seen.applied)
}

// fail ends the stream.
func (s *Sender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
}

func (s *Sender) failLocked(err error) {
	if s.err == nil {
		s.err = err
		close(s.failed)
		s.link.Close() // ends writes under way
	}
	if s.writers == 0 {
		s.release()
	}
}

// release tells everybody that the stream has ended. No writer refers to
// anybody's data any more.
func (s *Sender) release() {
	s.waiters.fail(s.err)
	s.drains.fail(s.err)
	for seq, p := range s.pending {
		delete(s.pending, seq)
		p.err = s.err
		close(p.done)
	}
	s.cur.reset()
	s.room.Broadcast()
}

// watch enforces the timeouts.
func (s *Sender) watch() {
	every := min(s.o.LockTimeout, s.o.SendTimeout, s.o.CopyTimeout) / 8
	every = max(min(every, time.Second), time.Millisecond)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-s.failed:
			return
		case now := <-t.C:
			s.mu.Lock()
			err := s.overdue(now)
			if err != nil {
				s.failLocked(err)
			}
			s.tell(s.outcomes.settle(now.Add(-outcomeGrace), nil))
		}
	}
}

func (s *Sender) overdue(now time.Time) error {
	for _, began := range s.writing {
		if !began.IsZero() && now.Sub(began) > s.o.SendTimeout {
			return fmt.Errorf("%w (%v), %d bytes queued", ErrSendTimeout, s.o.SendTimeout, s.queued)
		}
	}
	if s.flying.len() > 0 {
		if f := s.flying.front(); now.Sub(f.since) > s.o.LockTimeout {
			return fmt.Errorf("%w (%v): operation %d, the peer has received %d", ErrLockTimeout, s.o.LockTimeout, f.last, s.seen.received)
		}
	}
	for seq, p := range s.pending {
		switch waits := now.Sub(p.since); {
		case p.copy && waits > s.o.CopyTimeout:
			return fmt.Errorf("%w (%v): no result of operation %d", ErrCopyTimeout, s.o.CopyTimeout, seq)
		case !p.copy && waits > s.o.LockTimeout:
			return fmt.Errorf("%w (%v): no result of operation %d", ErrLockTimeout, s.o.LockTimeout, seq)
		}
	}
	return nil
}

// readAcks takes what the peer sends on one connection. All that one read
// brought counts as one: watermarks are folded and waiters released once.
func (s *Sender) readAcks(conn int) {
	in := frameReader{conn: s.link.conns[conn], buf: make([]byte, 16<<10), count: &s.link.in}
	var fold ack
	for {
		h, frame, err := in.next()
		if err != nil {
			s.fail(s.readError(err))
			return
		}
		if h.epoch != s.o.Epoch {
			s.fail(fmt.Errorf("%w: the peer answers epoch %d, this is %d", ErrStaleEpoch, h.epoch, s.o.Epoch))
			return
		}
		switch h.typ {
		case frameAck:
			a, err := decodeAck(&h, frame)
			if err != nil {
				s.fail(s.readError(err))
				return
			}
			fold = ack{max(fold.received, a.received), max(fold.durable, a.durable), max(fold.applied, a.applied)}
		case frameResult:
			r, op, err := decodeResult(&h, frame)
			if err != nil {
				s.fail(s.readError(err))
				return
			}
			s.result(r, op)
		default:
			s.fail(s.readError(badField("type", h.typ, "ack or result")))
			return
		}
		if !in.more() && fold != (ack{}) {
			if err := s.acked(fold); err != nil {
				s.fail(s.readError(err))
				return
			}
			fold = ack{}
		}
	}
}

func (s *Sender) readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the second node at %s closed the stream: %w", s.link.RemoteAddr(), err)
	}
	return fmt.Errorf("receive from %s: %w", s.link.RemoteAddr(), err)
}

// acked takes watermarks, of which some may be older than known ones.
func (s *Sender) acked(a ack) error {
	s.mu.Lock()
	if top := max(a.received, a.durable, a.applied); top > s.sent {
		s.mu.Unlock()
		return badField("watermark", top, fmt.Sprintf("at most %d, the last that was sent", s.sent))
	}
	s.seen.received = max(s.seen.received, a.received)
	s.seen.durable = max(s.seen.durable, a.durable)
	s.seen.applied = max(s.seen.applied, a.applied)
	var found []ending
	if len(s.outcomes.local) > 0 {
		found = s.outcomes.passed(s.seen.applied, nil)
	}
	s.advance()
	s.tell(found)
	return nil
}

// result takes the outcome of an operation on the peer: for whoever asked, else
// for the comparison of outcomes.
func (s *Sender) result(r Result, op *Op) {
	s.mu.Lock()
	if p := s.pending[r.Seq]; p != nil {
		delete(s.pending, r.Seq)
		p.res = r
		close(p.done)
		s.mu.Unlock()
		return
	}
	var found []ending
	orphan := s.err != nil && op != nil && op.Kind.Answered() // who asked has been told that it is not known
	if r.Errno != 0 && op != nil && !orphan {
		found = s.outcomes.failedThere(*op, r.Errno, time.Now(), nil)
	}
	s.tell(found)
}
