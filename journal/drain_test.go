package journal

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
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

// TestCopyTimeout: a question of a reintegration has its own limit.
func TestCopyTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, sc := pipePair(1)
		hang := make(chan struct{})
		r := NewReceiver(NewLink(sc...), applyFunc(func(*Op) Result {
			<-hang
			return Result{}
		}), ReceiverOptions{})
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			r.Run(context.Background())
		}()
		s := NewSender(NewLink(pc...), SenderOptions{LockTimeout: 100 * time.Second, CopyTimeout: 150 * time.Second})
		start := time.Now()
		p, err := s.Start(&Op{Kind: KindSyncHash})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Result(); !errors.Is(err, ErrCopyTimeout) {
			t.Errorf("ended with %v", err)
		}
		if d := time.Since(start); d < 150*time.Second || d > 152*time.Second {
			t.Errorf("after %v", d)
		}
		close(hang)
		s.Close(nil)
		<-ran
	})
}
