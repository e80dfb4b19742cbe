package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// A call that ends differently on the two hosts (the disk of one is full…) leaves an
// object on the second that is not as it is here. It is sent again over the same
// stream, by a pass like that of a second which joins:
//
//	primary                                        second
//	note the object, flush, checkpoint n
//	mend n ──────────────────────────────────────▶ record: not consistent (R5, R9)
//	record: alone; the pass filters what is sent
//	pass: what is noted since the last checkpoint
//	synced ──────────────────────────────────────▶ record: in sync
//
// The second cannot be promoted meanwhile: it lacks a change that may have been
// answered. What cannot be mended after some tries, or happens again and again, drops
// the second.

// mendPauses are how long the primary waits before another try.
var mendPauses = []time.Duration{200 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

// More than maxMends within mendWindow are no mishaps any more.
const (
	maxMends   = 10
	mendWindow = time.Minute
)

// errMends is why a second is dropped that differs time and again.
var errMends = errors.New("the nodes differ time and again")

// watchDifferences mends what ends differently on the second behind l, which is in
// sync, until ctx ends or the second has to be dropped.
func (r *Replica) watchDifferences(ctx context.Context, l *primaryLink, epoch journal.Epoch) error {
	var mends []time.Time
	for {
		select {
		case d := <-l.wrong:
			if d.seenTo() {
				continue
			}
			now := time.Now()
			mends = slices.DeleteFunc(mends, func(t time.Time) bool { return now.Sub(t) > mendWindow })
			if mends = append(mends, now); len(mends) > maxMends {
				return fmt.Errorf("%w: %w", errMends, d)
			}
			if err := r.mend(ctx, l, d, epoch); err != nil {
				return fmt.Errorf("%w: %w", d, err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mend sends again what differs by d, and what else does until then.
func (r *Replica) mend(ctx context.Context, l *primaryLink, d difference, epoch journal.Epoch) error {
	l.checkpointing.Lock() // one would vouch for what the second lacks
	defer l.checkpointing.Unlock()
	err := r.noteDifference(l, d.op)
	if err != nil {
		return err
	}
	for _, pause := range append([]time.Duration{0}, mendPauses...) {
		if err := r.rest(ctx, l, pause); err != nil {
			return err
		}
		if err = r.mendOnce(ctx, l, epoch); err == nil || l.sender.Err() != nil {
			return err
		}
		r.log("I", "reintegre", "node %s cannot be mended yet: %v", l.node, err)
	}
	return err
}

// rest waits. What ends differently meanwhile, or is told of late, is in the next try.
func (r *Replica) rest(ctx context.Context, l *primaryLink, pause time.Duration) error {
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case d := <-l.wrong:
			if d.seenTo() {
				continue
			}
			if err := r.noteDifference(l, d.op); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// noteDifference notes all that may differ by an operation, which has come from l.wrong.
func (r *Replica) noteDifference(l *primaryLink, op *journal.Op) error {
	add := func(id journal.FileID, lack journal.Lack) error {
		if id.IsZero() {
			return nil
		}
		lack.Tail = journal.NoTail
		return r.notes.Add(op.Tree, id, lack, false)
	}
	var errs []error
	for _, dir := range []journal.FileID{op.Parent, op.Parent2} {
		errs = append(errs, add(dir, journal.Lack{Names: true, Attrs: true}))
	}
	switch op.Kind {
	case journal.KindFsync, journal.KindRelease, journal.KindMark: // they change nothing
	default:
		errs = append(errs, add(op.ID, journal.Lack{Whole: true, Names: true, Attrs: true}))
	}
	err := errors.Join(errs...)
	if err == nil {
		l.verdicts.differs(-1)
	}
	return err
}

// mendOnce brings the second up to date by what is noted.
func (r *Replica) mendOnce(ctx context.Context, l *primaryLink, epoch journal.Epoch) error {
	v := journal.Verdict{Copy: journal.CopyDelta}
	if err := r.readyToCopy(l.second, v); err != nil {
		return err
	}
	r.mu.Lock()
	n := r.state.Checkpoint
	r.mu.Unlock()
	if err := instruct(l, journal.CheckpointMend, binary.LittleEndian.AppendUint64(nil, n)); err != nil {
		return fmt.Errorf("begin to mend: %w", err)
	}
	pass := r.newPass(l, v, false)
	passed := make(chan struct{})
	r.mu.Lock()
	err := r.mayJoin(epoch)
	if err == nil && r.link != l {
		err = errors.New("another second has come")
	}
	if err == nil {
		s := r.state
		s.Role, s.Seq = RoleAlone, 0
		err = r.record(s)
	}
	if err == nil {
		l.pass, l.passed, r.passed = pass, passed, passed
		l.synced.Store(false)
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.gate.Mend(l.sender, pass)
	r.events.send(Event{Kind: EventPeerJoined, Epoch: uint64(epoch), Stream: l.number})
	if err := r.bringUp(ctx, l); err != nil {
		return err
	}
	r.events.send(Event{Kind: EventSynced, Epoch: uint64(epoch)})
	return nil
}

// newPass prepares the pass that brings the second behind l up to date.
func (r *Replica) newPass(l *primaryLink, v journal.Verdict, restored bool) *reintegrate.Pass {
	var sources []reintegrate.Source
	for _, f := range r.trees {
		sources = append(sources, source{f.Tree()})
	}
	o := r.passOptions(v, restored)
	o.Settle = func(ctx context.Context) error { return r.settleLive(ctx, l) }
	return reintegrate.NewPass(sources, reintegrate.Over(l.sender), o)
}
