package journal

// waiter waits for a watermark to reach seq.
type waiter struct {
	seq        Seq
	err        error
	duty       bool          // it has not, but the waiter is to send the queue
	ch         chan struct{} // one token when any of these is so
	prev, next *waiter
}

func newWaiter(seq Seq) *waiter { return &waiter{seq: seq, ch: make(chan struct{}, 1)} }

// wake ends the wait of w, which is in no list any more.
func (w *waiter) wake(duty bool, err error) {
	w.duty, w.err = duty, err
	w.ch <- struct{}{}
}

// waitList holds waiters in order of seq. They come nearly in that order, so a
// list that is searched from its end is the fastest heap. Its owner's mutex
// protects it.
type waitList struct{ first, last *waiter }

func (l *waitList) add(w *waiter) {
	after := l.last
	for after != nil && after.seq > w.seq {
		after = after.prev
	}
	w.prev = after
	if after == nil {
		w.next, l.first = l.first, w
	} else {
		w.next, after.next = after.next, w
	}
	if w.next == nil {
		l.last = w
	} else {
		w.next.prev = w
	}
}

// remove takes w out; it may have been released already.
func (l *waitList) remove(w *waiter) {
	if w.prev == nil && l.first != w {
		return
	}
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// release wakes all waiters up to seq.
func (l *waitList) release(seq Seq) {
	for l.first != nil && l.first.seq <= seq {
		l.wakeFirst(nil)
	}
}

// fail wakes all with err.
func (l *waitList) fail(err error) {
	for l.first != nil {
		l.wakeFirst(err)
	}
}

func (l *waitList) wakeFirst(err error) {
	w := l.first
	l.first = w.next
	if l.first == nil {
		l.last = nil
	} else {
		l.first.prev = nil
	}
	w.prev, w.next = nil, nil
	w.wake(false, err)
}

// fifo is a queue without allocation in steady state.
type fifo[T any] struct {
	ring []T // its length is zero or a power of two
	head int
	n    int
}

func (q *fifo[T]) len() int { return q.n }

// at is the i-th element from the front, 0 ≤ i < len.
func (q *fifo[T]) at(i int) *T { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *fifo[T]) front() *T { return q.at(0) }

func (q *fifo[T]) push(v T) {
	if q.n == len(q.ring) {
		grown := make([]T, max(16, 2*q.n))
		for i := range q.n {
			grown[i] = *q.at(i)
		}
		q.ring, q.head = grown, 0
	}
	q.n++
	*q.at(q.n - 1) = v
}

func (q *fifo[T]) pop() T {
	v := *q.front()
	var zero T
	*q.front() = zero
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return v
}
