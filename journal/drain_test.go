package journal

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
)

// TestDrainWaitsForTelling: what another goroutine has found and is telling is told
// when Drain returns.
func TestDrainWaitsForTelling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		r := NewReceiver(NewLink(sc...), applyFunc(func(*Op) Result { return Result{} }), ReceiverOptions{})
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			r.Run(context.Background())
		}()
		telling, tell := make(chan struct{}), make(chan struct{})
		s := NewSender(NewLink(pc...), SenderOptions{Mismatch: func(*Op, syscall.Errno, syscall.Errno) {
			close(telling)
			<-tell
		}})
		op := &Op{Kind: KindWrite, ID: FileID{1}, Data: []byte("x")}
		if err := s.Commit(op); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitApplied(context.Background()); err != nil {
			t.Fatal(err)
		}
		go s.LocalFailed(op, syscall.EIO)
		<-telling
		var drained atomic.Bool
		go func() {
			if _, err := s.Drain(context.Background()); err != nil {
				t.Error(err)
			}
			drained.Store(true)
		}()
		synctest.Wait()
		if drained.Load() {
			t.Error("drained before the difference was told")
		}
		close(tell)
		synctest.Wait()
		if !drained.Load() {
			t.Error("not drained although it was told")
		}
		s.Close(nil)
		<-ran
	})
}
