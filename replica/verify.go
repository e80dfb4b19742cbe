package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// A verification compares the data of both hosts while the application works. The
// second asks for it, and the primary carries it out (package reintegrate), over a
// stream beside the one that replicates:
//
//	second                                    primary
//	Verify ── Hello, greeting.Verify ───────▶ admitVerify
//	VerifyTarget ◀── questions ────────────── Verification ── waits for what the
//	       │     ─── answers ───────────────▶      │          replicating stream
//	       ▼                                       ▼          was given
//	client  ◀── difference, progress, summary, as marks
//
// It ends with the replicating stream, with either host's role, and when the client
// goes away. It changes nothing, unless a repair was asked for: then what differs is
// noted on the primary and the second is dropped. It joins again, and a delta copies
// what was noted, nothing else.

// Op.Flags of KindMark in a verification. Data is JSON.
const (
	verifyDiffers  = 1 // VerifyDifference
	verifyProgress = 2 // Progress
	verifySummary  = 3 // VerifySummary: the last one
	verifyPrepare  = 4 // the second is about to be dropped
)

// verifyRequest is the part of a greeting that asks for a verification.
type verifyRequest struct {
	Repair bool `json:"repair,omitzero"`
}

// VerifyDifference is something that differs for sure.
type VerifyDifference struct {
	Tree   uint8            `json:"tree"`
	Path   string           `json:"path"`           // in the tree; absolute for clients
	ID     string           `json:"id,omitempty"`   // of the object on the primary; empty: the second alone has it
	What   reintegrate.What `json:"what"`           //
	Bytes  int64            `json:"bytes,omitzero"` // of the blocks that differ
	Ranges []VerifyRange    `json:"ranges,omitempty"`
	Detail string           `json:"detail,omitempty"`
}

// VerifyRange is the bytes [Off, End) of a file.
type VerifyRange struct {
	Off int64 `json:"off"`
	End int64 `json:"end"`
}

// maxRanges bounds the ranges of one VerifyDifference; Bytes counts all.
const maxRanges = 1000

// VerifySummary is how a verification ended.
type VerifySummary struct {
	reintegrate.VerifyStats
	Noted  int    `json:"noted,omitzero"`  // repair: objects that are copied again
	Mended bool   `json:"mended,omitzero"` // repair: and have been
	Error  string `json:"error,omitempty"`
}

// VerifyLine is what a verification says: one of these.
type VerifyLine struct {
	Difference *VerifyDifference `json:"difference,omitempty"`
	Progress   *Progress         `json:"progress,omitempty"`
	Summary    *VerifySummary    `json:"summary,omitempty"` // the last line
}

// verifications are those of this replica.
type verifications struct {
	mu    sync.Mutex // a leaf
	asked bool       // second: one is under way
	end   context.CancelCauseFunc
	ended chan struct{} // primary: of the last one, closed when it has ended
}

// reader and original are a tree as a verification reads it on the second and on
// the primary.
type (
	reader   struct{ sink }
	original struct {
		reader
		f *fs.FS
	}
)

var (
	_ reintegrate.Reader   = reader{}
	_ reintegrate.Original = original{}
)

func (r reader) Xattrs(id journal.FileID) ([]reintegrate.Xattr, error) { return r.t.Xattrs(id) }

func (o original) WithRange(id journal.FileID, off, n int64, f func(reintegrate.File) error) error {
	return source{o.t}.WithRange(id, off, n, f)
}

func (o original) Still(id journal.FileID, f func() error) error { return o.f.Still(id, f) }

// admitVerify answers a second that wants to be compared.
func (r *Replica) admitVerify(ctx context.Context, req *journal.Request, g *greeting) {
	r.mu.Lock()
	prim, l := r.prim && !r.turns, r.link
	r.mu.Unlock()
	switch {
	case !prim:
		req.Refuse("this node is not the primary")
		return
	case req.Module != r.cfg.Module:
		req.Refuse(fmt.Sprintf("this is module %s, not %s", r.cfg.Module, req.Module))
		return
	case l == nil || l.sender.Err() != nil || !l.synced.Load() || l.node != req.Node || l.sender.Epoch() != g.Epoch:
		req.Refuse(fmt.Sprintf("node %s is not synchronized with this primary", req.Node))
		return
	}
	link, err := req.Welcome(journal.Welcome{Epoch: g.Epoch})
	if err != nil {
		r.log("I", "reintegre", "verification for node %s: %v", req.Node, err)
		return
	}
	s := journal.NewSender(link, journal.SenderOptions{
		Epoch: g.Epoch, LockTimeout: r.cfg.RFS.LockTimeout, SendTimeout: r.cfg.RFS.SendTimeout,
	})
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	r.verifying.mu.Lock()
	before, ended := r.verifying.end, r.verifying.ended
	r.verifying.end, r.verifying.ended = cancel, done
	r.verifying.mu.Unlock()
	r.wg.Go(func() {
		defer close(done)
		defer cancel(nil)
		if before != nil { // the second has given it up
			before(errors.New("the second node asks for another verification"))
			<-ended
		}
		r.verify(ctx, cancel, l, s, g.Verify)
	})
}

// verify compares this host with the second behind l, over s.
func (r *Replica) verify(ctx context.Context, cancel context.CancelCauseFunc, l *primaryLink, s *journal.Sender, o *verifyRequest) {
	dropping := make(chan struct{}) // closed before l is closed on purpose
	var tasks sync.WaitGroup
	tasks.Go(func() {
		select {
		case <-l.sender.Done():
			cancel(fmt.Errorf("the stream to node %s ended: %w", l.node, l.sender.Err()))
		case <-s.Done():
			cancel(s.Err())
		case <-dropping:
		case <-ctx.Done():
		}
	})
	defer context.AfterFunc(ctx, func() { s.Close(context.Cause(ctx)) })()

	r.log("I", "reintegre", "verification of node %s begins", l.node)
	lacks := lackList{zone: zoneSize(r.cfg.RFS), keep: o.Repair}
	var trees []reintegrate.Original
	for _, f := range r.trees {
		trees = append(trees, original{reader{sink{f.Tree()}}, f})
	}
	v := reintegrate.NewVerification(trees, reintegrate.Over(s), func(ctx context.Context) error {
		_, err := l.sender.WaitApplied(ctx)
		return err
	}, reintegrate.VerifyOptions{
		Workers: r.rfs().NbRei, ZoneSize: zoneSize(r.cfg.RFS), Bandwidth: r.cfg.RFS.ReiAllowedBW << 10,
		Report: func(d reintegrate.Difference) error {
			if err := lacks.add(&d); err != nil {
				return err
			}
			return say(s, verifyDiffers, tell(&d))
		},
	})
	over := make(chan struct{})
	tasks.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p := v.Progress()
				if say(s, verifyProgress, Progress{p.FilesDone, p.FilesLeft, p.BytesDone, p.BytesLeft, p.Rate, p.Left}) != nil {
					return
				}
			case <-over:
				return
			}
		}
	})
	stats, err := v.Run(ctx)
	close(over)
	sum := VerifySummary{VerifyStats: stats}
	if err == nil && len(lacks.all) > 0 {
		if err = settle(ctx, s, say(s, verifyPrepare, struct{}{})); err == nil {
			close(dropping)
			tasks.Wait()
			if err = r.repair(l, lacks.all); err == nil {
				sum.Noted = len(lacks.all)
			}
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		sum.Error = err.Error()
	}
	// If the second is not there any more it has heard of the end.
	settle(ctx, s, say(s, verifySummary, sum))
	cancel(nil)
	s.Close(nil)
	tasks.Wait()
	end := "ended"
	if err != nil {
		end = fmt.Sprintf("was ended (%v)", err)
	}
	r.log("I", "reintegre", "verification of node %s %s: %d differences in %d directories, %d files of %d bytes and %d others, %.1f s",
		l.node, end, stats.Differences, stats.Directories, stats.Files, stats.Bytes, stats.Others, stats.Duration.Seconds())
}

// say tells the second something of a verification.
func say(s *journal.Sender, what uint32, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.Post(&journal.Op{Kind: journal.KindMark, Flags: what, Data: data})
}

// settle waits until the second has taken in all that was said.
func settle(ctx context.Context, s *journal.Sender, err error) error {
	if err == nil {
		_, err = s.WaitApplied(ctx)
	}
	return err
}

// tell is what a client is told of a difference.
func tell(d *reintegrate.Difference) VerifyDifference {
	v := VerifyDifference{Tree: d.Tree, Path: d.Path, What: d.What, Detail: d.Detail}
	if !d.ID.IsZero() {
		v.ID = d.ID.String()
	}
	for i, x := range d.Ranges {
		v.Bytes += x.End - x.Off
		if i < maxRanges {
			v.Ranges = append(v.Ranges, VerifyRange(x))
		}
	}
	return v
}

// lackList is what the second lacks by what was found.
type lackList struct {
	keep bool
	zone int64 // bytes
	all  map[lackKey]*journal.Lack
}

type lackKey struct {
	tree uint8
	id   journal.FileID
}

// maxLacks bounds the memory of a repair.
const maxLacks = 1 << 20

func (l *lackList) add(d *reintegrate.Difference) error {
	if !l.keep {
		return nil
	}
	if len(l.all) >= maxLacks {
		return fmt.Errorf("repair: more than %d objects differ: synchronize all with \"second fullsync\"", maxLacks)
	}
	if !d.Dir.IsZero() {
		l.of(d.Tree, d.Dir).Names = true
	}
	switch d.What {
	case reintegrate.WhatExtra: // its directory says it all
	case reintegrate.WhatNames, reintegrate.WhatMissing:
		if !d.ID.IsZero() && d.Dir.IsZero() {
			l.of(d.Tree, d.ID).Whole = true
		}
	default:
		o := l.of(d.Tree, d.ID)
		o.Attrs = true
		for _, x := range d.Ranges {
			if o.Zones == nil {
				o.Zones = roaring.New()
			}
			first, last := uint64(x.Off/l.zone), uint64((x.End-1)/l.zone)
			if last <= uint64(journal.MaxZone) {
				o.Zones.AddRange(first, last+1)
			} else if o.Tail < 0 || int64(first) < o.Tail {
				o.Tail = int64(first)
			}
		}
	}
	return nil
}

func (l *lackList) of(tree uint8, id journal.FileID) *journal.Lack {
	if l.all == nil {
		l.all = map[lackKey]*journal.Lack{}
	}
	k := lackKey{tree, id}
	if l.all[k] == nil {
		l.all[k] = &journal.Lack{Tail: journal.NoTail}
	}
	return l.all[k]
}

// repair notes what the second behind l lacks and drops it. It joins again only when
// the notes are on disk; they are made after the stream has ended, so that no
// checkpoint with it clears them.
func (r *Replica) repair(l *primaryLink, lacks map[lackKey]*journal.Lack) error {
	r.joins.Lock()
	defer r.joins.Unlock()
	r.mu.Lock()
	there := r.prim && r.link == l && l.sender.Err() == nil
	r.mu.Unlock()
	if !there {
		return errors.New("repair: the second node was lost before its data could be mended")
	}
	l.sender.Close(errors.New("the second node is synchronized again, to be repaired"))
	for k, lack := range lacks {
		if err := r.notes.Add(k.tree, k.id, *lack, false); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	if err := r.notes.Sync(); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return nil
}
