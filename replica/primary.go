package replica

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// markLearn is Op.Flags of KindMark; see also markCheckpointed. Data: directories of Tree with notes.
const markLearn = 3

// markProgress is Op.Flags of the KindMark that tells the second how far its
// synchronisation is. Data is a Progress in JSON.
const markProgress = 4

// progressEvery is how often it is told.
const progressEvery = time.Second

// greeting is the payload of a Hello: what the second has.
type greeting struct {
	View  journal.View  `json:"view"`
	Epoch journal.Epoch `json:"epoch"`
	Aside bool          `json:"aside"`          // what only the second has is kept aside
	Full  bool          `json:"full"`           // asked for by `second fullsync`
	Since time.Time     `json:"since,omitzero"` // asked for by `secondforce -d`

	Verify *verifyRequest `json:"verify,omitempty"` // no more than a verification is wanted
}

// plan is the payload of a Welcome: what is going to happen.
type plan struct {
	Copy  journal.Copy `json:"copy"`
	Split bool         `json:"split"` // what is replaced on the second stays aside
	Fresh bool         `json:"fresh"` // what was known of the second's data counts no more
	// The primary's, with a checkpoint that is on its disk and new for this join.
	Standing journal.Standing `json:"standing"`
	First    journal.Seq      `json:"first"`
	Async    journal.Async    `json:"async"`
}

// summary is the Data of CheckpointSynced, in JSON: what was copied.
type summary struct {
	Copied   bool              `json:"copied"`
	Stats    reintegrate.Stats `json:"stats"`
	Standing journal.Standing  `json:"standing"` // the primary's, with a checkpoint that is on its disk
}

// primaryLink is the stream to a second that was accepted.
type primaryLink struct {
	node          string
	second        journal.Standing // as it joined
	sender        *journal.Sender
	checkpointing sync.Mutex        // held over a checkpoint
	pass          *reintegrate.Pass // the last; changed under Replica.mu
	mark          uint64            // notes from before the pass, or from before it joined without one
	offered       journal.Standing  // what it records
	passed        chan struct{}     // closed when pass has ended; nil without one
	synced        atomic.Bool       // the second is being told that its data is the primary's; set under Replica.mu
	wrong         chan difference
	verdicts      *verdicts
	number        uint64 // of the streams of its epoch, from 1
}

// failure is why the stream has ended. l may be nil.
func (l *primaryLink) failure() error {
	if l == nil {
		return nil
	}
	return l.sender.Err()
}

// difference is an operation that ended differently on the two hosts.
type difference struct {
	op     *journal.Op
	remote syscall.Errno
	told   chan struct{} // instead of op: closed when all before has been seen to
}

// seenTo tells who waits for it that all before has been seen to. False: it is a
// difference.
func (d difference) seenTo() bool {
	if d.told != nil {
		close(d.told)
	}
	return d.told != nil
}

// Error says what differs.
func (d difference) Error() string {
	return fmt.Sprintf("the nodes differ after %s of %s", d.op.Kind, d.op.ID)
}

// copying says whether the second is still being brought up to date: it has
// recorded so and cannot be promoted.
func (l *primaryLink) copying() bool { return l.pass != nil && !l.synced.Load() }

func asyncOf(rfs *conf.RFS) journal.Async {
	if rfs.Async == conf.AsyncNone {
		return journal.AsyncNone
	}
	return journal.AsyncSecond
}

// admit answers a second that wants to join.
func (r *Replica) admit(ctx context.Context, req *journal.Request) error {
	var g greeting
	if err := json.Unmarshal(req.Payload, &g); err != nil {
		req.Refuse("the hello cannot be understood: do both nodes run the same version?")
		return fmt.Errorf("hello: %w", err)
	}
	if g.Verify != nil {
		r.admitVerify(ctx, req, &g)
		return nil
	}
	r.joins.Lock()
	defer r.joins.Unlock()
	r.mu.Lock()
	prim, state, old := r.prim && !r.turns, r.state, r.link
	r.mu.Unlock()
	switch {
	case !prim:
		req.Refuse("this node is not the primary")
		return nil
	case req.Module != r.cfg.Module:
		req.Refuse(fmt.Sprintf("this is module %s, not %s", r.cfg.Module, req.Module))
		return nil
	case g.Epoch > state.Epoch:
		req.Refuse(fmt.Sprintf("the data of node %s is of epoch %d, here it is of epoch %d", req.Node, g.Epoch, state.Epoch))
		return nil
	}
	if old != nil { // it comes back before its loss was noticed
		old.sender.Close(errors.New("the second node has opened a new stream"))
		r.mu.Lock()
		r.noteEnd(old)
		r.mu.Unlock()
	}
	r.mu.Lock()
	v, at := r.decide(&g), r.state.At
	r.mu.Unlock()
	switch {
	case v.Copy == journal.Refuse:
		if datesDiffer(at, g.View.At) {
			v.Reason = abnormalDates + ": " + v.Reason
		}
		req.Refuse(v.Reason)
		return errors.New(v.Reason)
	case v.SplitBrain && !g.Aside:
		r.log("E", "reintegre", splitBrainLine+"%s: node %s is synchronized again", v.Reason, req.Node)
		req.Refuse(asideFirst)
		return nil
	}
	if err := r.notes.Know(); err != nil { // before the second hears of anything
		return err
	}
	if v.Copy == journal.CopyNothing {
		if r.admitClean(ctx, req, state.Epoch, g.View.Standing) {
			return nil
		}
		v.Copy = journal.CopyDelta // something was changed meanwhile
	}
	return r.admitCopy(ctx, req, state.Epoch, &g, v)
}

// newLink welcomes the second with plan p.
func (r *Replica) newLink(req *journal.Request, epoch journal.Epoch, second journal.Standing, p plan) (*primaryLink, error) {
	r.mu.Lock()
	p.First = r.seq + 1
	r.mu.Unlock()
	p.Async = asyncOf(r.rfs())
	payload, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	link, err := req.Welcome(journal.Welcome{Epoch: epoch, Payload: payload})
	if err != nil {
		return nil, err
	}
	l := &primaryLink{node: req.Node, second: second, wrong: make(chan difference, 1024), verdicts: newVerdicts()}
	l.sender = journal.NewSender(link, journal.SenderOptions{
		Epoch: epoch, First: p.First, Async: p.Async, LockTimeout: r.cfg.RFS.LockTimeout, SendTimeout: r.cfg.RFS.SendTimeout,
		CopyTimeout: r.rfs().ReiTimeout,
		Mismatch: func(op *journal.Op, local, remote syscall.Errno) {
			if reintegrate.Own(op) { // the pass hears of it from the second
				return
			}
			r.log("I", "nfsadmin", "%s of %s ended here with %q and on node %s with %q", op.Kind, op.ID, local, req.Node, remote)
			l.verdicts.differs(1)
			select {
			case l.wrong <- difference{op: op, remote: remote}:
			default: // there are more of them than a copy could mend
				r.wg.Go(func() { l.sender.Close(errors.New("too many differences")) })
			}
		},
		Alike: l.verdicts.alike,
	})
	return l, nil
}

// admitClean accepts a second that lacks nothing, unless something was changed
// meanwhile.
func (r *Replica) admitClean(ctx context.Context, req *journal.Request, epoch journal.Epoch, second journal.Standing) bool {
	offered, err := r.offer(second)
	if err != nil {
		r.log("I", "nfsadmin", "%v", err)
		return false
	}
	var l *primaryLink
	ok := r.gate.JoinClean(func() fs.Stream {
		var err error
		if l, err = r.newLink(req, epoch, second, plan{Copy: journal.CopyNothing, Standing: offered}); err != nil {
			r.log("I", "nfsadmin", "%v", err)
			return nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := r.mayJoin(epoch); err != nil {
			r.wg.Go(func() { l.sender.Close(err) })
			return nil
		}
		r.attach(l)
		l.mark, l.offered = r.notes.Rotate(), offered
		return l.sender
	})
	if !ok {
		return l != nil // the request is used up
	}
	r.events.send(Event{Kind: EventPeerJoined, Epoch: uint64(epoch), Stream: l.number})
	r.wg.Go(func() { r.serve(ctx, l, epoch) })
	return true
}

// admitCopy accepts a second that is to be brought up to date as v says.
func (r *Replica) admitCopy(ctx context.Context, req *journal.Request, epoch journal.Epoch, g *greeting, v journal.Verdict) error {
	second, restored := g.View.Standing, !g.Since.IsZero()
	if err := r.readyToCopy(second, v); err != nil {
		return err
	}
	l, err := r.newLink(req, epoch, second, plan{Copy: v.Copy, Split: v.SplitBrain, Fresh: restored || v.Copy == journal.CopyFull})
	if err != nil {
		return err
	}
	r.log("I", "reintegre", "node %s is synchronized: %s copy: %s", req.Node, v.Copy, v.Reason)
	r.mu.Lock()
	before := r.passed
	r.mu.Unlock()
	if before != nil { // it still reads the trees and their index
		<-before
	}
	err = r.exchangeNotes(l, second, v)
	if err == nil {
		err = r.beginCopy(l)
	}
	if err != nil {
		l.sender.Close(err)
		return err
	}
	l.pass = r.newPass(l, v, restored)
	l.passed = make(chan struct{})
	r.mu.Lock()
	err = r.mayJoin(epoch)
	if err == nil {
		s := r.state
		s.Role, s.Seq = RoleAlone, 0
		err = r.record(s)
	}
	if err != nil {
		r.mu.Unlock()
		l.sender.Close(err)
		return err
	}
	r.attach(l)
	r.passed = l.passed
	r.gate.Join(l.sender, l.pass)
	r.mu.Unlock()
	r.events.send(Event{Kind: EventPeerJoined, Epoch: uint64(epoch), Stream: l.number})
	r.wg.Go(func() { r.serve(ctx, l, epoch) })
	return nil
}

// attach makes l the stream to the second. mu is held.
func (r *Replica) attach(l *primaryLink) {
	r.streams++
	r.link, l.number = l, r.streams
}

// readyToCopy prepares the record, the notes and the index for a copy.
func (r *Replica) readyToCopy(second journal.Standing, v journal.Verdict) error {
	r.mu.Lock()
	s, err := r.secure()
	if err == nil {
		if v.Renew && (s.Current == 0 || s.Shared || !r.minted) {
			s.Standing, r.minted = s.Mint(journal.NewGeneration()), true
		}
		err = r.record(s)
	}
	n := s.Next(second)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := r.settle(n, now()); err != nil {
		r.suspect(false, err) // R13
		return err
	}
	r.notes.on.Store(true)
	if v.Copy != journal.CopyDelta {
		return nil
	}
	for _, f := range r.trees {
		if err := f.Tree().BuildIndex(); err != nil {
			return err
		}
	}
	return nil
}

// notesPage bounds what one answer carries of the second's notes, bytes.
const notesPage = 64 << 10

// exchangeNotes makes the notes of the second part of this host's, on disk: what
// it has and this host lacks differs as well. It tells the second in which
// directories there is something to be found.
func (r *Replica) exchangeNotes(l *primaryLink, second journal.Standing, v journal.Verdict) error {
	if v.Copy != journal.CopyDelta {
		return nil
	}
	var cursor []byte
	for {
		p, err := l.sender.Start(&journal.Op{Kind: journal.KindLacks, Data: cursor})
		if err != nil {
			return err
		}
		res, err := p.Result()
		if err != nil {
			return err
		}
		if res.Errno != 0 {
			return fmt.Errorf("notes of the second node: %w", res.Errno)
		}
		var page lacksPage
		if err := json.Unmarshal(res.Data, &page); err != nil {
			return fmt.Errorf("notes of the second node: %w", err)
		}
		if err := r.notes.Merge(page.Page); err != nil {
			return fmt.Errorf("notes of the second node: %w", err)
		}
		if cursor = page.Next; cursor == nil {
			break
		}
	}
	if err := r.notes.Sync(); err != nil {
		return err
	}
	r.mu.Lock()
	s := r.state
	s.Standing = s.Merged(second)
	err := r.record(s)
	relearn := r.relearn
	r.mu.Unlock()
	if err != nil {
		return err
	}
	dirs, err := r.notes.notedDirs()
	if err != nil {
		return err
	}
	for tree, ids := range dirs {
		if relearn {
			if err := learn(r.trees[tree].Tree(), ids); err != nil {
				return err
			}
		}
		for len(ids) > 0 {
			n := min(len(ids), notesPage/len(journal.FileID{}))
			var data []byte
			for _, id := range ids[:n] {
				data = append(data, id[:]...)
			}
			if err := l.sender.Post(&journal.Op{Kind: journal.KindMark, Flags: markLearn, Tree: tree, Data: data}); err != nil {
				return err
			}
			ids = ids[n:]
		}
	}
	return nil
}

// beginCopy returns when the second has recorded that its data is not consistent
// any more: from here on it cannot be promoted.
func (r *Replica) beginCopy(l *primaryLink) error {
	r.mu.Lock()
	n := r.state.Checkpoint
	r.mu.Unlock()
	if err := instruct(l, journal.CheckpointCopy, binary.LittleEndian.AppendUint64(nil, n)); err != nil {
		return fmt.Errorf("begin the synchronisation: %w", err)
	}
	return nil
}

// instruct has the second record something, and returns when it has.
func instruct(l *primaryLink, step uint32, data []byte) error {
	p, err := l.sender.Start(&journal.Op{Kind: journal.KindCheckpoint, Flags: step, Data: data})
	if err != nil {
		return err
	}
	res, err := p.Result()
	if err == nil && res.Errno != 0 {
		err = fmt.Errorf("on the second node: %w", res.Errno)
	}
	return err
}

// lacksPage answers KindLacks.
type lacksPage struct {
	Page []byte `json:"page"`
	Next []byte `json:"next"` // nil: that was all
}

// mayJoin returns why a second that was welcomed in epoch may not join now. mu is
// held.
func (r *Replica) mayJoin(epoch journal.Epoch) error {
	if !r.prim || r.turns || r.ended || r.state.Epoch != epoch {
		return errors.New("the role of this node has changed meanwhile")
	}
	return nil
}
