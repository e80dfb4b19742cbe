package reintegrate

import (
	"context"
	"sync"
	"time"
)

// limiter is a token bucket that is paid afterwards: who has sent n bytes waits
// until they are due. So nobody waits while holding a lock, and no piece is too
// large for the bucket.
type limiter struct {
	rate int64 // bytes a second; 0: no limit

	mu   sync.Mutex
	free time.Time // when everything sent so far is paid
}

// pay waits until n more bytes are due.
func (l *limiter) pay(ctx context.Context, n int64) error {
	if l.rate <= 0 || n <= 0 {
		return nil
	}
	now := time.Now()
	l.mu.Lock()
	if l.free.Before(now) { // what was not used is not saved up
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
