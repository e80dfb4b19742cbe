package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
)

// Checkpoints. While both hosts are in sync each keeps notes of what the other may
// not have on its disk. A checkpoint makes these few again:
//
//	primary                                          second
//	no mutation under way: rotate ── begin ────────▶ rotate, all before applied, none after
//	flush, record n                  flush n ──────▶ flush, record n
//	record that the notes are    ◀── answer ──────── (so it has n)
//	(not if an operation before it has ended differently on the two hosts)
//	complete from n; clear
//	                                 checkpointed ─▶ record, clear
//
// Either may crash at any point: a note that was not cleared costs a comparison.

// defaultCheckpointEvery bounds how much has to be compared after a crash.
const defaultCheckpointEvery = 10 * time.Second

// markCheckpointed is Op.Flags of the KindMark that tells the second that the
// primary has on its disk what came before the last checkpoint. Data is its number.
const markCheckpointed = 2

// checkpoints makes checkpoints with the second behind l, which is in sync, until
// ctx ends or one fails.
func (r *Replica) checkpoints(ctx context.Context, l *primaryLink) error {
	every := r.cfg.CheckpointEvery
	if every == 0 {
		every = defaultCheckpointEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if r.notes.Len() == 0 {
				continue
			}
			if err := r.checkpoint(l); err != nil {
				return fmt.Errorf("checkpoint: %w", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Replica) checkpoint(l *primaryLink) error {
	l.checkpointing.Lock() // the second knows one at a time
	defer l.checkpointing.Unlock()
	r.mu.Lock()
	n, at := r.state.Next(l.second), now()
	r.mu.Unlock()
	data := binary.LittleEndian.AppendUint64(nil, n)
	var mark uint64
	var begun *journal.Pending
	var err error
	r.gate.Quiet(func() {
		mark = r.notes.Rotate()
		if err = r.noteTimes(); err == nil {
			begun, err = l.sender.Start(&journal.Op{Kind: journal.KindCheckpoint, Flags: journal.CheckpointBegin, Data: data})
		}
	})
	if err != nil {
		return err
	}
	flushed, err := l.sender.Start(&journal.Op{Kind: journal.KindCheckpoint, Flags: journal.CheckpointFlush, Data: data})
	if err != nil {
		return err
	}
	if err := r.settle(n, at); err != nil { // R13: the data of this host is suspect
		r.suspect(false, err)
		return err
	}
	for _, p := range [...]*journal.Pending{begun, flushed} {
		switch res, err := p.Result(); {
		case err != nil:
			return err
		case res.Errno != 0:
			return fmt.Errorf("on the second node: %w", res.Errno)
		}
	}
	// What failed on one of the hosts before the checkpoint is known to have, now.
	if l.sender.SettleBelow(begun.Seq()); l.verdicts.open() {
		return nil // the notes tell of it until it is seen to
	}
	if err := r.complete(mark, n); err != nil {
		return err
	}
	return l.sender.Commit(&journal.Op{Kind: journal.KindMark, Flags: markCheckpointed, Data: data})
}

// noteTimes notes the objects whose modification times are still to be sent.
func (r *Replica) noteTimes() (err error) {
	for _, f := range r.trees {
		f.OwedTimes(func(id journal.FileID) {
			op := journal.Op{Kind: journal.KindTimes, Tree: f.Tree().Num(), ID: id}
			if e := r.notes.Note(&op, false); err == nil {
				err = e
			}
		})
	}
	return err
}

// settle makes everything that was applied here durable, and then records it as
// checkpoint n, which was taken at at.
func (r *Replica) settle(n uint64, at journal.Time) error {
	if err := r.stamp(n); err != nil {
		return err
	}
	if err := r.syncTrees(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Standing = s.Flushed(n, at)
	return r.record(s)
}

func now() journal.Time {
	t := time.Now()
	return journal.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// stamp writes checkpoint n into the trees; the next flush makes it durable.
func (r *Replica) stamp(n uint64) error {
	r.mu.Lock()
	instance := r.state.Instance
	r.mu.Unlock()
	for _, f := range r.trees {
		if err := f.Tree().SetStamp(fs.Stamp{Instance: instance, Checkpoint: n}); err != nil {
			return err
		}
	}
	return nil
}

// complete drops the notes that mark covers: the peer has checkpoint n.
func (r *Replica) complete(mark, n uint64) error {
	r.mu.Lock()
	s := r.state
	s.Standing = s.Cleared(n)
	err := r.record(s)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.notes.Clear(mark)
}

// onCheckpoint is the second's part of a checkpoint.
func (f *follower) onCheckpoint(op *journal.Op) error {
	if op.Flags == journal.CheckpointSynced {
		return f.inSync(op)
	}
	if len(op.Data) != 8 {
		return syscall.EBADMSG
	}
	n := binary.LittleEndian.Uint64(op.Data)
	switch op.Flags {
	case journal.CheckpointBegin:
		f.begun.Store(time.Now().UnixNano())
		f.rotated.Store(f.r.notes.Rotate())
		return nil
	case journal.CheckpointFlush:
		at := time.Unix(0, f.begun.Load())
		return f.r.settle(n, journal.Time{Sec: at.Unix(), Nsec: uint32(at.Nanosecond())})
	case journal.CheckpointCopy:
		return f.beginCopy(n)
	case journal.CheckpointMend:
		return f.beginMend(n)
	}
	return syscall.EBADMSG
}

// checkpointed drops the notes from before the last checkpoint, which the primary
// has on its disk.
func (f *follower) checkpointed(op *journal.Op) error {
	if len(op.Data) != 8 {
		return syscall.EBADMSG
	}
	return f.r.complete(f.rotated.Load(), binary.LittleEndian.Uint64(op.Data))
}
