package fs

import (
	"math"
	"sync"
)

// rangeLock orders the mutations of one object. A write locks the bytes it
// changes, everything else the whole object; a directory is always locked as a
// whole, as the kernel does for changes of its names. It is held from before an
// operation gets its Seq until it has been carried out here, so that the order
// of Seqs is the order on this disk.
//
// Grants are first come, first served among overlapping requests: a request for
// the whole object is not starved by a stream of writes.
type rangeLock struct {
	mu    sync.Mutex
	queue []*span // held and waiting, oldest first
}

type span struct {
	off, end int64
	held     bool
	wake     chan struct{} // closed when granted; nil if granted at once
}

const whole = math.MaxInt64

func (s *span) overlaps(t *span) bool { return s.off < t.end && t.off < s.end }

// lock waits for [off, end) and returns what unlock takes.
func (l *rangeLock) lock(off, end int64) *span {
	s := &span{off: off, end: end}
	l.mu.Lock()
	for _, t := range l.queue {
		if t.overlaps(s) {
			s.wake = make(chan struct{})
			break
		}
	}
	s.held = s.wake == nil
	l.queue = append(l.queue, s)
	l.mu.Unlock()
	if s.wake != nil {
		<-s.wake
	}
	return s
}

func (l *rangeLock) lockAll() *span { return l.lock(0, whole) }

func (l *rangeLock) unlock(s *span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, t := range l.queue {
		if t == s {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			break
		}
	}
	for i, t := range l.queue {
		if t.held || !t.overlaps(s) {
			continue
		}
		free := true
		for _, u := range l.queue[:i] {
			if u.overlaps(t) {
				free = false
				break
			}
		}
		if free {
			t.held = true
			close(t.wake)
		}
	}
}
