package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/skfs/skfs/journal"
)

// This file is the life of a stream on the primary, once a second was admitted.

// serve brings the second up to date and waits for the end of the stream. It
// tells of the end at once: what waits because of it holds locks that the pass
// may be waiting for.
func (r *Replica) serve(ctx context.Context, l *primaryLink, epoch journal.Epoch) {
	ctx, cancel := context.WithCancelCause(ctx)
	var up sync.WaitGroup
	up.Go(func() { l.sayAlike(l.sender.Done()) })
	up.Go(func() {
		if err := r.bringUp(ctx, l); err != nil {
			l.sender.Close(err)
			return
		}
		r.events.send(Event{Kind: EventSynced, Epoch: uint64(epoch)})
		up.Go(func() {
			if err := r.checkpoints(ctx, l); err != nil {
				l.sender.Close(err)
			}
		})
		l.sender.Close(r.watchDifferences(ctx, l, epoch))
	})
	<-l.sender.Done()
	r.lost(l, epoch)
	cancel(l.sender.Err())
	up.Wait()
}

// bringUp runs the reintegration, if one is needed, and tells the second that it
// is in sync.
func (r *Replica) bringUp(ctx context.Context, l *primaryLink) error {
	var sum summary
	if l.pass != nil {
		// What was under way when the second joined is carried out now: its notes
		// are there for the pass to see, and it is in what the pass reads.
		r.gate.Quiet(func() { l.mark = r.notes.Rotate() })
		var late []difference // the pass was over, or had failed
		mended := make(chan struct{})
		stop := make(chan struct{})
		go func() { // what ends differently during the pass is passed again
			defer close(mended)
			for {
				select {
				case d := <-l.wrong:
					if d.seenTo() {
						continue
					}
					var remote error
					if d.remote != 0 {
						remote = d.remote
					}
					if l.pass.Failed(d.op, remote) {
						l.verdicts.differs(-1)
					} else {
						late = append(late, d)
					}
				case <-stop:
					return
				}
			}
		}()
		told := make(chan struct{})
		go func() {
			defer close(told)
			l.tellProgress(stop)
		}()
		stats, err := l.pass.Run(ctx)
		close(stop)
		<-mended
		for _, d := range late { // for the next pass
			if nerr := r.noteDifference(l, d.op); nerr != nil {
				return nerr
			}
			if err == nil {
				l.sender.Close(d)
			}
		}
		<-told
		for _, f := range r.trees {
			if err == nil && !f.Tree().Indexed() {
				err = f.Tree().FinishIndex()
			}
		}
		close(l.passed)
		r.mu.Lock()
		switch {
		case err == nil:
			r.failures = 0
		case l.sender.Err() == nil && !noRoom(err): // neither the stream nor a disk: the pass itself has failed
			r.failures++
		}
		r.mu.Unlock()
		if err != nil {
			return err
		}
		// What the second is to record must not be renewed by a change from now on.
		r.gate.Complete(l.sender)
		if l.offered, err = r.offer(l.second); err != nil {
			return err
		}
		sum = summary{Copied: true, Stats: stats, Standing: l.offered}
	}
	if err := r.connected(l); err != nil {
		return err
	}
	for _, f := range r.trees {
		f.FlushTimes()
	}
	data, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	if err := instruct(l, journal.CheckpointSynced, data); err != nil {
		return fmt.Errorf("end the synchronisation: %w", err)
	}
	return r.met(l)
}

// noRoom says whether a copy has failed for want of space: comparing more would not
// help.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO)
}

// settleLive is reintegrate.Options.Settle: every mutation so far has ended here and
// there, and what became different by it is known to the pass.
func (r *Replica) settleLive(ctx context.Context, l *primaryLink) error {
	r.gate.Quiet(func() {}) // in order that a failure here is known before Drain compares
	if _, err := l.sender.Drain(ctx); err != nil {
		return err
	}
	d := difference{told: make(chan struct{})}
	select {
	case l.wrong <- d:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-d.told:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tellProgress tells the second how far its synchronisation is, until stop is closed.
func (l *primaryLink) tellProgress(stop <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			data, err := json.Marshal(progressOf(l.pass))
			if err != nil || l.sender.Post(&journal.Op{Kind: journal.KindMark, Flags: markProgress, Data: data}) != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

// offer makes the data of this host durable, so that a second that has it all has
// nothing that this host could lose, and returns what that second is to record.
func (r *Replica) offer(second journal.Standing) (journal.Standing, error) {
	r.mu.Lock()
	n, at := r.state.Next(second), now()
	r.mu.Unlock()
	if err := r.stamp(n); err != nil {
		return journal.Standing{}, err
	}
	if err := r.syncTrees(); err != nil {
		r.suspect(false, err) // R13
		return journal.Standing{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Standing = s.Offered(n, at)
	return s.Standing, r.record(s)
}

// met drops the notes from before the second joined, after it has recorded that its
// data is this host's.
func (r *Replica) met(l *primaryLink) error {
	r.mu.Lock()
	s := r.state
	s.Standing = s.Met(l.offered.Checkpoint)
	err := r.record(s)
	r.relearn = false
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.gate.Vouched(l.sender)
	return r.notes.Clear(l.mark)
}

// connected records that this primary is not surely the newest any more, unless
// the second behind l is not the one to be told that it is in sync.
func (r *Replica) connected(l *primaryLink) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.turns && l.copying() {
		return errors.New("another role or another second came before the end of the synchronisation")
	}
	s := r.state
	s.Role, s.Seq = RoleConnected, 0
	if err := r.record(s); err != nil {
		return err
	}
	l.synced.Store(true)
	r.gate.Synced(l.sender)
	return nil
}

// lost tells of the end of the stream to the second.
func (r *Replica) lost(l *primaryLink, epoch journal.Epoch) {
	r.mu.Lock()
	if r.link != l || !r.prim {
		r.mu.Unlock()
		return // the end was wanted
	}
	r.log("I", "nfsadmin", "the stream to node %s ended: %v", l.node, l.sender.Err())
	if l.copying() {
		// The second has recorded that it is not consistent: nothing to wait for.
		r.link = nil
		r.noteEnd(l)
		r.notes.Unknow()
		r.gate.Release()
	}
	r.mu.Unlock()
	r.events.send(Event{Kind: EventPeerLost, Epoch: uint64(epoch), Stream: l.number})
}

// noteEnd keeps what the next stream needs to know of one that has ended. mu is held.
func (r *Replica) noteEnd(l *primaryLink) {
	r.seq = l.sender.Stats().Submitted
	r.base = State{}
	if !l.copying() && !l.verdicts.open() {
		r.base = State{Role: RoleClean, Epoch: l.sender.Epoch(), Seq: r.seq}
	}
}
