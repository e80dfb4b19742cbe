package reintegrate

import (
	"slices"
	"sync"

	"github.com/skfs/skfs/journal"
)

// locks are the locks of all objects, taken together so that nobody deadlocks.
type locks struct {
	mu   sync.Mutex
	cond sync.Cond
	held []*span
}

type span struct {
	id       journal.FileID
	off, end int64
}

const whole = int64(1) << 62

func newLocks() *locks {
	l := &locks{}
	l.cond.L = &l.mu
	return l
}

func (l *locks) lock(spans ...span) (unlock func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	overlaps := func() bool {
		for _, h := range l.held {
			for _, s := range spans {
				if h.id == s.id && h.off < s.end && s.off < h.end {
					return true
				}
			}
		}
		return false
	}
	for overlaps() {
		l.cond.Wait()
	}
	var mine []*span
	for i := range spans {
		mine = append(mine, &spans[i])
	}
	l.held = append(l.held, mine...)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = slices.DeleteFunc(l.held, func(s *span) bool { return slices.Contains(mine, s) })
		l.cond.Broadcast()
	}
}
