package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// retryInterval is how long a second waits before it asks the primary again;
// maxRetryInterval, when one synchronisation after the other does not come to its end
// (its disk is full).
const (
	retryInterval    = 300 * time.Millisecond
	maxRetryInterval = 10 * time.Second
)

// follower keeps this second joined to a primary.
type follower struct {
	r        *Replica
	addr     string
	opts     FollowOptions
	joined   atomic.Bool
	plan     plan                             // of the session, before it begins
	epoch    journal.Epoch                    // of the session
	recv     atomic.Pointer[journal.Receiver] // of the session
	begun    atomic.Int64                     // when the last checkpoint began, Unix nanoseconds
	rotated  atomic.Uint64                    // notes from before it
	progress atomic.Pointer[Progress]         // of the session's synchronisation, as the primary says
	synced   atomic.Bool                      // the session has been in sync
	atJoin   uint64                           // notes from before the session
	again    context.CancelFunc               // under noted: ends the session; nil outside of one
	noted    sync.Mutex
	dirs     map[uint8][]journal.FileID // under noted: to be learned before the pass begins
	doubts   *doubts                    // of the session
	void     bool                       // under Replica.mu: outdated, nothing of it counts any more
	did      FollowOptions              // under Replica.mu: what the synchronisation that ended last was asked for
	stop     context.CancelFunc
	done     chan struct{}
	fatal    error       // why it ended for good; after done
	last     journal.Seq // the last operation in the data; after done
}

// FollowOptions say what a second that joins takes from the primary.
type FollowOptions struct {
	Full  bool      `json:"full,omitzero"`  // all files, whatever is known of them
	Since time.Time `json:"since,omitzero"` // the files changed later, here or there; the rest is trusted; zero: what is known to differ
}

// Follow makes this host the second of the primary at addr: see ha.Replica.
func (r *Replica) Follow(_ context.Context, epoch uint64, addr string, o FollowOptions) error {
	r.cmd.Lock()
	defer r.cmd.Unlock()
	if r.cfg.Degraded {
		return errors.New("follow: this replica is degraded: restart the module")
	}
	r.mu.Lock()
	prim, old := r.prim, r.follow
	void := old != nil && old.void
	r.mu.Unlock()
	if prim {
		return fmt.Errorf("follow %s: this replica is a primary: demote it first", addr)
	}
	if old != nil && old.addr == addr && o == (FollowOptions{}) && !void && old.alive() {
		return nil
	}
	if err := old.end(); err != nil {
		return err
	}
	for _, f := range r.trees {
		f.Serve()
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &follower{r: r, addr: addr, opts: o, stop: stop, done: make(chan struct{})}
	if old != nil {
		f.last = old.last
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		stop()
		return errStopped
	}
	r.follow = f
	go f.run(ctx)
	return nil
}

func (f *follower) alive() bool {
	select {
	case <-f.done:
		return false
	default:
		return true
	}
}

// end leaves the primary and returns when everything that was received is
// applied. f may be nil.
func (f *follower) end() error {
	if f == nil {
		return nil
	}
	f.stop()
	<-f.done
	return f.fatal
}

// applied is the last operation in the data, after end.
func (f *follower) applied() journal.Seq {
	if f == nil {
		return 0
	}
	return f.last
}

func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	said, wait := "", retryInterval
	for ctx.Err() == nil {
		f.synced.Store(false)
		joined, err := f.session(ctx)
		if f.fatal != nil {
			f.r.events.send(Event{Kind: EventFailed, Epoch: f.r.epoch(), Text: f.fatal.Error()})
			return
		}
		if ctx.Err() != nil {
			return
		}
		if joined {
			f.r.events.send(Event{Kind: EventPeerLost, Epoch: f.r.epoch()})
			said = ""
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			if strings.Contains(said, abnormalDates) {
				f.r.log("E", "reintegre", abnormalDates)
			}
			f.r.log("I", "nfsadmin", "%v", err)
		}
		if !joined || f.synced.Load() {
			wait = retryInterval
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxRetryInterval)
	}
}

// session joins the primary once and receives until the stream ends. An error
// that makes the data suspect is left in f.fatal.
func (f *follower) session(ctx context.Context) (joined bool, err error) {
	r := f.r
	ctx, again := context.WithCancel(ctx)
	defer again()
	select {
	case <-r.looked:
	case <-time.After(behindPatience):
	case <-ctx.Done():
	}
	f.noted.Lock()
	f.again = again
	f.noted.Unlock()
	if err := r.notes.Know(); err != nil { // it may have been a primary alone until now
		f.fatal = err
		return false, err
	}
	for _, x := range r.trees {
		if err := x.Tree().BuildIndex(); err != nil {
			f.fatal = err
			return false, err
		}
	}
	r.mu.Lock()
	state, view := r.state, r.view()
	r.mu.Unlock()
	aside, err := r.asideOpen()
	if err != nil {
		return false, err
	}
	payload, err := json.Marshal(greeting{View: view, Epoch: state.Epoch, Aside: aside, Full: f.opts.Full, Since: f.opts.Since})
	if err != nil {
		return false, err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return dialer.DialContext(ctx, "tcp", f.addr)
	}
	link, welcome, err := journal.Join(ctx, dial,
		journal.Hello{Module: r.cfg.Module, Node: r.cfg.Node, Epoch: state.Epoch, Payload: payload}, max(r.cfg.RFS.NbRemConn, 1))
	if refused := new(journal.RefusedError); errors.As(err, &refused) && refused.Reason == asideFirst {
		return false, r.keepAside(welcome.Epoch, f.addr)
	}
	if err != nil {
		return false, err
	}
	var p plan
	if err := json.Unmarshal(welcome.Payload, &p); err != nil {
		link.Close()
		return false, fmt.Errorf("welcome of the primary: %w: do both nodes run the same version?", err)
	}
	if p.Copy == journal.CopyNothing {
		if err := f.follows(welcome.Epoch, p.Standing); err != nil {
			link.Close()
			f.fatal = err
			return false, err
		}
	}
	f.progress.Store(nil)
	f.plan, f.epoch, f.dirs, f.doubts = p, welcome.Epoch, map[uint8][]journal.FileID{}, &doubts{}
	r.notes.on.Store(true)
	f.atJoin = r.notes.Rotate()
	opts := journal.ReceiverOptions{Epoch: welcome.Epoch, First: p.First, Async: p.Async}
	if p.Async == journal.AsyncNone {
		if opts.Log, err = r.openLog(); err != nil {
			link.Close()
			f.fatal = err
			return false, err
		}
		defer opts.Log.Close()
	}
	apply := r.applier(func(op *journal.Op) { f.mark(op, welcome.Epoch) })
	apply.control, apply.beginning, apply.ended = f.control, f.learn, f.doubts.ended
	recv := journal.NewReceiver(link, apply, opts)
	f.recv.Store(recv)
	r.events.send(Event{Kind: EventPeerJoined, Epoch: uint64(welcome.Epoch)})
	f.joined.Store(true)
	err = recv.Run(ctx)
	f.joined.Store(false)
	f.last = recv.Applied()
	for _, x := range r.trees {
		x.EndStream()
	}
	if opts.Log != nil {
		if lerr := opts.Log.Settle(); lerr != nil {
			f.fatal = lerr
		}
	}
	if derr := f.endInDoubt(); derr != nil {
		f.fatal = errors.Join(f.fatal, derr)
	}
	return true, fmt.Errorf("the stream from the primary ended: %w", err)
}

// control carries out what is not a change of the data.
func (f *follower) control(op *journal.Op) ([]byte, error) {
	if op.Kind == journal.KindCheckpoint {
		return nil, f.onCheckpoint(op)
	}
	page, next, err := f.r.notes.Page(op.Data, notesPage)
	if err != nil {
		return nil, err
	}
	return json.Marshal(lacksPage{page, next})
}

// follows records that this second, which lacks nothing, follows from here on.
func (f *follower) follows(epoch journal.Epoch, primary journal.Standing) error {
	r := f.r
	if err := r.adopt(primary.Checkpoint); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Role, s.Epoch, s.Seq, s.Boot, r.booted = RoleSecond, epoch, 0, r.boot, false
	s.Standing = s.Adopted(primary, primary.Checkpoint, now())
	if err := r.record(s); err != nil {
		return err
	}
	return r.notes.Clear(r.notes.Rotate())
}

// beginCopy records that the data is not consistent any more. n is the checkpoint
// of the primary that is new for this copy.
func (f *follower) beginCopy(n uint64) error {
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.void { // before anything has changed
		return context.Canceled
	}
	s, err := r.secure()
	if err != nil {
		return err
	}
	how := f.plan.Copy
	for _, x := range r.trees {
		x.Tree().Doubt(how == journal.CopyFull)
	}
	if f.plan.Fresh { // interrupted, it can be nothing but begun anew
		how = journal.CopyFull
		for _, x := range r.trees {
			if err := x.Tree().DropIndex(); err != nil {
				return err
			}
		}
	}
	s.Role, s.Epoch, s.Seq, s.Standing = RoleSyncing, f.epoch, 0, s.Begun(how, n)
	s.Boot, r.booted = r.boot, false
	r.synced = false
	return r.record(s)
}

// beginMend is beginCopy for a second that was in sync: the primary sends again what
// it has noted.
func (f *follower) beginMend(n uint64) error {
	r := f.r
	f.progress.Store(nil)
	f.synced.Store(false)
	f.plan = plan{Copy: journal.CopyDelta}
	f.atJoin = r.notes.Rotate()
	if err := f.beginCopy(n); err != nil {
		return err
	}
	r.events.send(Event{Kind: EventPeerJoined, Epoch: uint64(f.epoch)})
	return nil
}

// learn prepares the index of a tree for a pass.
func (f *follower) learn(tree uint8) error {
	f.noted.Lock()
	dirs := f.dirs[tree]
	delete(f.dirs, tree)
	f.noted.Unlock()
	f.r.mu.Lock()
	relearn := f.r.relearn
	f.r.mu.Unlock()
	if !relearn {
		return nil
	}
	return learn(f.r.trees[tree].Tree(), dirs)
}

// mark is called for KindMark.
func (f *follower) mark(op *journal.Op, epoch journal.Epoch) {
	switch op.Flags {
	case markLearn:
		f.noted.Lock()
		defer f.noted.Unlock()
		for ids := op.Data; len(ids) >= len(journal.FileID{}); ids = ids[len(journal.FileID{}):] {
			f.dirs[op.Tree] = append(f.dirs[op.Tree], journal.FileID(ids[:len(journal.FileID{})]))
		}
	case markProgress:
		var p Progress
		if json.Unmarshal(op.Data, &p) == nil { // it is only shown
			f.progress.Store(&p)
		}
	case markAlike:
		f.doubts.alike(op.Data)
	case markCheckpointed:
		if err := f.checkpointed(op); err != nil {
			f.r.events.send(Event{Kind: EventFailed, Epoch: uint64(epoch), Text: err.Error()})
		}
	}
}

// inSync is told by the primary that the data is in sync.
func (f *follower) inSync(op *journal.Op) error {
	r, epoch := f.r, f.epoch
	var s summary
	if err := json.Unmarshal(op.Data, &s); err != nil {
		return syscall.EBADMSG
	}
	copied := s.Copied
	var seq journal.Seq
	var err error
	if copied { // the record must not outlive the data that it speaks of
		// The pass is never replayed: its end was a barrier, so it is below this.
		seq = f.recv.Load().Applied()
		err = r.adopt(s.Standing.Checkpoint)
	}
	r.mu.Lock()
	if f.void {
		r.mu.Unlock()
		return context.Canceled
	}
	state := r.state
	state.Role, state.Epoch, state.Seq = RoleSecond, epoch, seq
	if copied {
		state.Standing = state.Adopted(s.Standing, s.Standing.Checkpoint, now())
		r.relearn = false
	}
	if err == nil {
		err = r.record(state)
	}
	r.synced = err == nil
	did := f.opts
	f.did = did
	r.mu.Unlock()
	if err == nil && copied {
		err = r.notes.Clear(f.atJoin)
	}
	if err != nil {
		r.log("E", "nfsadmin", "the end of the synchronization: %v", err) // it joins again
		return err
	}
	f.opts = FollowOptions{}
	f.synced.Store(true)
	if copied {
		r.log("E", "reintegre", "Copied %s", statistics(s.Stats))
		r.log("I", "reintegre", "%s", looked(s.Stats))
		r.log("E", "reintegre", "Reintegration ended (synchronize)")
	}
	r.events.send(Event{Kind: EventSynced, Epoch: uint64(epoch), Follow: did})
	return nil
}

// adopt makes the data durable as checkpoint n of the primary.
func (r *Replica) adopt(n uint64) error {
	if err := r.stamp(n); err != nil {
		return err
	}
	for _, f := range r.trees {
		if err := f.Tree().EndQuarantine(); err != nil {
			return err
		}
	}
	return r.syncTrees()
}

// asideOpen says whether what only this host has is kept aside: in all trees, or
// it begins again.
func (r *Replica) asideOpen() (bool, error) {
	for _, f := range r.trees {
		a, err := f.Tree().OpenAside()
		if err != nil {
			return false, err
		}
		if a == nil {
			return false, nil
		}
		a.Close()
	}
	return true, nil
}

// keepAside keeps what only this host has, before the primary of epoch replaces it
// (R10).
func (r *Replica) keepAside(epoch journal.Epoch, peer string) error {
	r.log("E", "reintegre", splitBrainLine+"what only this node has is kept aside: see skfs splitbrain list")
	when := time.Now()
	dirs, err := r.notes.notedDirs()
	if err != nil {
		return err
	}
	r.mu.Lock()
	relearn := r.relearn
	r.mu.Unlock()
	for _, f := range r.trees {
		t := f.Tree()
		if relearn {
			if err := learn(t, dirs[t.Num()]); err != nil {
				return err
			}
		}
		a, err := t.OpenAside()
		if err != nil {
			return err
		}
		if a != nil {
			a.Close()
			continue
		}
		err = t.BeginAside(fs.Aside{Time: when, Module: r.cfg.Module, Epoch: uint64(epoch), Peer: peer}, zoneSize(r.cfg.RFS),
			func(keep func(journal.FileID, journal.Lack) error) error {
				return r.notes.Each(func(tree uint8, id journal.FileID, l journal.Lack) error {
					if tree != t.Num() {
						return nil
					}
					return keep(id, l)
				})
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// statistics is the tail of the log line "Copied …": size, number of files, time
// and throughput.
func statistics(s reintegrate.Stats) string {
	rate := int64(0)
	if sec := s.Duration.Seconds(); sec > 0 {
		rate = int64(float64(s.Copied) / sec / 1000)
	}
	return fmt.Sprintf("%d bytes of %d files (%d files checked, %d bytes equal), %.1f s, %d KB/s",
		s.Copied, s.Sent, s.Files, s.Compared, s.Duration.Seconds(), rate)
}

// looked says what a synchronization had to read.
func looked(s reintegrate.Stats) string {
	return fmt.Sprintf("Looked at %d directories and %d files of the primary, %d bytes, in %d ms", s.Listed, s.Opened, s.Read, s.Duration.Milliseconds())
}
