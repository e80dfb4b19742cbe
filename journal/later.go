package journal

import (
	"sync/atomic"
	"time"
)

// later runs something a little after it was asked for, once for all that ask
// meanwhile. Asking costs an atomic load while a run is already due.
type later struct {
	due  atomic.Bool
	kick chan struct{}
}

func newLater() *later { return &later{kick: make(chan struct{}, 1)} }

// ask has f run after the delay. What happened before ask is seen by f.
func (l *later) ask() {
	if !l.due.Load() && l.due.CompareAndSwap(false, true) {
		l.kick <- struct{}{} // has room: due was false, so run has taken the last one
	}
}

// run serves until stop is closed.
func (l *later) run(stop <-chan struct{}, delay time.Duration, f func()) {
	t := time.NewTimer(delay)
	t.Stop()
	for {
		select {
		case <-l.kick:
		case <-stop:
			return
		}
		t.Reset(delay)
		select {
		case <-t.C:
		case <-stop:
			return
		}
		l.due.Store(false) // before f, so that whoever asks during f gets another run
		f()
	}
}
