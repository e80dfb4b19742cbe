package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// retryInterval is how long a second waits before it asks the primary again.
const retryInterval = 300 * time.Millisecond

// follower keeps this second joined to a primary.
type follower struct {
	r      *Replica
	addr   string
	opts   FollowOptions
	joined atomic.Bool
	recv   atomic.Pointer[journal.Receiver] // of the session
	void   bool                             // under Replica.mu: outdated, nothing of it counts any more
	did    FollowOptions                    // under Replica.mu: what the synchronisation that ended last was asked for
	stop   context.CancelFunc
	done   chan struct{}
	fatal  error       // why it ended for good; after done
	last   journal.Seq // the last operation in the data; after done
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
	said := ""
	for ctx.Err() == nil {
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
			f.r.log("I", "nfsadmin", "%v", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// session joins the primary once and receives until the stream ends. An error
// that makes the data suspect is left in f.fatal.
func (f *follower) session(ctx context.Context) (joined bool, err error) {
	r := f.r
	for _, x := range r.trees {
		if err := x.Tree().BuildIndex(); err != nil {
			f.fatal = err
			return false, err
		}
	}
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	payload, err := json.Marshal(greeting{Role: state.Role, Epoch: state.Epoch, Seq: state.Seq, Full: f.opts.Full, Since: f.opts.Since})
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
	if err != nil {
		return false, err
	}
	var p plan
	if err := json.Unmarshal(welcome.Payload, &p); err != nil {
		link.Close()
		return false, fmt.Errorf("welcome of the primary: %w: do both nodes run the same version?", err)
	}
	if p.Copy {
		r.mu.Lock()
		if f.void { // before anything has changed
			r.mu.Unlock()
			link.Close()
			return false, context.Canceled
		}
		err = r.record(State{Role: RoleSyncing, Epoch: welcome.Epoch})
		r.synced = false
		r.mu.Unlock()
		if err != nil {
			link.Close()
			f.fatal = err
			return false, err
		}
	}
	opts := journal.ReceiverOptions{Epoch: welcome.Epoch, First: p.First, Async: p.Async}
	if p.Async == journal.AsyncNone {
		if opts.Log, err = r.openLog(); err != nil {
			link.Close()
			f.fatal = err
			return false, err
		}
		defer opts.Log.Close()
	}
	recv := journal.NewReceiver(link, r.applier(func(op *journal.Op) { f.mark(op, welcome.Epoch) }), opts)
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
	return true, fmt.Errorf("the stream from the primary ended: %w", err)
}

// mark is called for KindMark: the primary says that the data is in sync.
func (f *follower) mark(op *journal.Op, epoch journal.Epoch) {
	if op.Flags&markSynced == 0 {
		return
	}
	r := f.r
	var s summary
	copied := json.Unmarshal(op.Data, &s) == nil && s.Copied
	state := State{Role: RoleSecond, Epoch: epoch}
	var err error
	if copied { // the record must not outlive the data that it speaks of
		// The pass is never replayed: its end was a barrier, so it is below this.
		state.Seq = f.recv.Load().Applied()
		err = r.syncTrees()
	}
	r.mu.Lock()
	if f.void {
		r.mu.Unlock()
		return
	}
	if err == nil {
		err = r.record(state)
	}
	r.synced = err == nil
	did := f.opts
	f.did = did
	r.mu.Unlock()
	if err != nil {
		r.events.send(Event{Kind: EventFailed, Epoch: uint64(epoch), Text: err.Error()})
		return
	}
	f.opts = FollowOptions{}
	if copied {
		r.log("E", "reintegre", "Copied %s", statistics(s.Stats))
		r.log("E", "reintegre", "Reintegration ended (synchronize)")
	}
	r.events.send(Event{Kind: EventSynced, Epoch: uint64(epoch), Follow: did})
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
