package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

const (
	unmountPatience = 3 * time.Second
	timesInterval   = time.Second
)

// Config is what a replica is started with.
type Config struct {
	Module   string
	Node     string
	RFS      *conf.RFS
	Listen   []string                // host:port to wait on for a second, as primary
	Reload   func() (Dynamic, error) `json:"-"` // reads what of it may change, for Configure; nil: nothing does
	Socket   string                  // control socket
	StateDir string                  // SAFEVAR/modules/AM
	Degraded bool                    // serve the data here, never replicate (§5.6 of the guide)

	CheckpointEvery time.Duration // default 10 s
}

// Refusals of Promote.
var (
	ErrNotUptodate  = errors.New("data may be not up to date")
	ErrInconsistent = errors.New("data may be inconsistent (stopped during reintegration)")
)

// Force is how much Promote overlooks.
type Force int

// How much Promote is forced.
const (
	NoForce        Force = iota
	ForcePrim            // data that may be not up to date
	ForcePrimforce       // also data that may be inconsistent
)

// Replica owns the data of one module on this host.
//
// Lock order: cmd or joins, then the gate's, then mu. cmd makes the commands that
// change the role one after the other, joins the seconds that are admitted; Alone,
// Outdate, Status and the goroutines of the streams take mu only. mu is never held
// over a wait for the network or a disk, except for the write of the state record.
type Replica struct {
	cfg    Config
	gate   *fs.Gate
	trees  []*fs.FS
	events *hub
	notes  *notes

	cmd   sync.Mutex
	joins sync.Mutex

	verifying verifications

	tuned     atomic.Pointer[conf.RFS]      // see Configure
	listening map[string]context.CancelFunc // by address; under cmd

	mu       sync.Mutex
	state    State // as on disk
	prim     bool  // the gate is open
	turns    bool  // Promote or Demote is under way: no second is admitted
	synced   bool  // second: the data is the primary's, and nothing has said otherwise since
	base     State // primary: what a peer has that lacks nothing (RoleClean), if nothing was changed since
	seq      journal.Seq
	boot     [16]byte      // boot id of the kernel
	booted   bool          // this host has booted since what the record tells of
	forced   bool          // primary: by `prim` or `primforce`
	minted   bool          // primary: Current is of this reign
	altered  bool          // the trees were changed while skfs did not run
	looked   chan struct{} // closed when lookBehind has ended
	failures int           // primary: copies that have failed since the last that ended well
	relearn  bool          // a crash may have taken entries from the index since the last checkpoint
	link     *primaryLink  // primary: the stream to the second, nil if none was accepted
	streams  uint64        // primary: accepted in this epoch
	passed   chan struct{} // closed when the last pass that was begun has ended; nil: none
	follow   *follower     // second
	ended    bool

	stop context.CancelCauseFunc
	wg   sync.WaitGroup
}

// errStopped ends Run in order.
var errStopped = errors.New("stopped")

// Run is the process `skfs replica`: it mounts the directories, read-only, and
// obeys its control socket until Stop or the end of ctx. After an end by ctx the
// data is as after a crash.
func Run(ctx context.Context, cfg Config) (err error) {
	syscall.Umask(0) // modes of objects come with the operations
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return err
	}
	ln, err := listenControl(cfg.Socket)
	if err != nil {
		return err
	}
	defer ln.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &Replica{cfg: cfg, gate: fs.NewGate(), events: newHub(), stop: stop, looked: make(chan struct{})}
	r.tuned.Store(cfg.RFS)
	begun := time.Now()
	ended, err := lastRecord(r.statePath())
	if err != nil {
		return err
	}
	if r.state, err = loadState(r.statePath()); err != nil {
		return err
	}
	if r.notes, err = openNotes(&cfg, r.state); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.notes.Close()) }()
	r.gate.Suspect, r.gate.Notes, r.gate.FirstChange = r.suspect, r.notes, r.firstChange
	if r.trees, err = openTrees(cfg.RFS, r.gate, filepath.Join(cfg.StateDir, "index")); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, closeTrees(r.trees, func(dir string) {
			r.log("E", "nfsadmin", "%s is in use: its users get errors from now on", dir)
		}))
	}()
	if err := r.awaken(); err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	if !cfg.Degraded {
		if err := r.listen(ctx, cfg.Listen); err != nil {
			return err
		}
	}
	r.wg.Go(func() { r.flushTimes(ctx) })
	r.probeMounts(ctx)
	r.wg.Go(func() { r.lookBehind(ctx, ended, begun) })
	r.wg.Go(func() { r.serveControl(ctx, ln) })
	<-ctx.Done()
	r.gate.Abort()
	r.closeLinks(context.Cause(ctx))
	ln.Close()
	r.wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, errStopped) {
		return cause
	}
	return saveState(r.statePath(), r.state) // its time says until when skfs ran
}

func (r *Replica) statePath() string { return filepath.Join(r.cfg.StateDir, "rfs.state") }
func (r *Replica) logDir() string    { return filepath.Join(r.cfg.StateDir, "receive.log") }

// record makes the state durable, then current. mu is held.
func (r *Replica) record(s State) error {
	if s == r.state {
		return nil
	}
	if err := saveState(r.statePath(), s); err != nil {
		return err
	}
	r.state = s
	return nil
}

// replay brings the data to the end of what a crash of this second has left in the
// receive log.
func (r *Replica) replay() error {
	if _, err := os.Stat(r.logDir()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	l, err := r.openLog()
	if err != nil {
		return err
	}
	defer l.Close()
	if l.Contents().Empty() {
		return nil
	}
	if r.state.Role != RoleSecond && r.state.Role != RoleOutdated {
		return l.Discard() // the next reintegration brings everything
	}
	var sinks []reintegrate.Sink
	for _, f := range r.trees {
		if err := f.Tree().BuildIndex(); err != nil {
			return err
		}
		sinks = append(sinks, sink{f.Tree()})
	}
	log := func(each func(*journal.Op) error) error { return l.Each(r.state.Epoch, r.state.Seq, each) }
	// The primary may not have on its disk what is done here.
	if err := log(func(op *journal.Op) error { return r.notes.Note(op, false) }); err != nil {
		return fmt.Errorf("replay the receive log: %w", err)
	}
	if err := r.notes.Sync(); err != nil {
		return err
	}
	done, err := reintegrate.Redo(log, sinks, ordinary(r.trees))
	if err == nil {
		err = l.Settle()
	}
	if err != nil {
		return fmt.Errorf("replay the receive log: %w", err)
	}
	if done.Failed > 0 {
		r.log("E", "nfsadmin", "%d operations of the receive log could not be carried out: %v", done.Failed, done.Cause)
	}
	if done.Last > 0 {
		r.log("I", "nfsadmin", "replayed operations %d to %d of the receive log (%d objects were missing, %d names)", done.First, done.Last, done.Made, done.Placed)
	}
	return nil
}

func (r *Replica) openLog() (*journal.ReceiveLog, error) {
	return journal.OpenReceiveLog(r.logDir(), journal.ReceiveLogOptions{Flush: r.syncTrees})
}

// syncTrees flushes every backing file system. After a failure it does not say that
// all is well.
func (r *Replica) syncTrees() error {
	if err := r.gate.Failed(); err != nil {
		return err
	}
	for _, f := range r.trees {
		if err := f.Tree().Sync(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) applier(mark func(*journal.Op)) *applier {
	return newApplier(r.trees, r.notes, mark, func(tree int) {
		r.log("E", "reintegre", "Updating directory tree from %s", r.trees[tree].Tree().Dir())
	}, func(err error) { // whatever becomes of the primary
		if oerr := r.Outdate(context.Background(), r.epoch()); oerr != nil {
			err = errors.Join(err, oerr)
		}
		r.suspect(false, err)
	})
}

// flushTimes sends modification times once they have settled.
func (r *Replica) flushTimes(ctx context.Context) {
	tick := time.NewTicker(timesInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if r.gate.HasPeer() {
				for _, f := range r.trees {
					f.FlushTimes()
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// suspect is called when an fsync has failed: what is on that disk is not known
// (R13).
func (r *Replica) suspect(remote bool, err error) {
	if remote {
		r.log("E", "nfsadmin", "fsync failed on the second node (%v): it must be synchronized again", err)
		r.mu.Lock()
		l := r.link
		r.mu.Unlock()
		if l != nil {
			l.sender.Close(fmt.Errorf("fsync failed on the second node: %w", err))
		}
		return
	}
	r.gate.Fail(err)
	if derr := r.doubt(); derr != nil {
		err = fmt.Errorf("%w; %w", err, derr)
	}
	r.events.send(Event{Kind: EventFailed, Epoch: r.epoch(), Text: fmt.Sprintf("fsync failed on this node (%v): what is on its disk is not known", err)})
}

// doubt records that the data of this host is not what its record says: the other
// one has it, so all of it is compared when this one is a second again. Data that is
// surely the newest has nobody else.
func (r *Replica) doubt() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	if s.Role == RoleAlone || s.Role == RoleNone {
		return nil
	}
	s.Strange = true
	return r.record(s)
}

func (r *Replica) epoch() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(r.state.Epoch)
}

func (r *Replica) log(level, source, format string, args ...any) {
	r.events.send(Event{Kind: EventLog, Level: level, Source: source, Text: fmt.Sprintf(format, args...)})
}

// Promote makes this host the primary of epoch: see ha.Replica.
func (r *Replica) Promote(ctx context.Context, epoch uint64, force Force) error {
	r.cmd.Lock()
	defer r.cmd.Unlock()
	r.mu.Lock()
	if r.prim {
		defer r.mu.Unlock()
		if journal.Epoch(epoch) <= r.state.Epoch {
			return nil
		}
		s := r.state
		s.Epoch = journal.Epoch(epoch)
		if err := r.record(s); err != nil {
			return err
		}
		r.streams = 0
		return nil
	}
	err := r.mayRule(epoch, force)
	f := r.follow
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := f.end(); err != nil { // everything that was received is applied now
		return err
	}
	if err := r.reign(epoch, force, f); err != nil {
		return err
	}
	defer r.turned()
	for _, f := range r.trees {
		// What this host has alone from now on is not in it.
		if err := f.Tree().EndAside(); err != nil {
			r.log("E", "nfsadmin", "%v", err)
		}
		f.Rule()
	}
	r.gate.Open(errors.New("the peer may not know yet that it is out of date"))
	return nil
}

// mayRule returns why this host may not be the primary of epoch. mu is held.
func (r *Replica) mayRule(epoch uint64, force Force) error {
	if err := r.gate.Failed(); err != nil {
		return err
	}
	switch {
	case !r.state.Consistent() && force < ForcePrimforce:
		return ErrInconsistent
	case !r.synced && !r.state.Uptodate() && force < ForcePrim:
		return ErrNotUptodate
	case journal.Epoch(epoch) <= r.state.Epoch && r.state.Role != RoleNone:
		return fmt.Errorf("promote to epoch %d: the data already holds operations of epoch %d", epoch, r.state.Epoch)
	}
	return nil
}

// reign records that this host is the primary of epoch. f has ended: until then
// it may have begun a synchronisation, or this host may have been outdated.
func (r *Replica) reign(epoch uint64, force Force, f *follower) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mayRule(epoch, force); err != nil {
		return err
	}
	base := State{}
	if r.synced {
		base = State{Role: RoleClean, Epoch: r.state.Epoch, Seq: f.applied()}
	}
	s, err := r.secure()
	if err != nil {
		return err
	}
	if !s.Consistent() {
		s.Strange = true // primforce: it is no generation's
	}
	s.Role, s.Epoch, s.Seq, s.Boot, r.booted = RoleConnected, journal.Epoch(epoch), 0, r.boot, false
	if err := r.record(s); err != nil {
		return err
	}
	r.forced, r.minted = force >= ForcePrim, false
	r.base, r.follow, r.synced, r.prim, r.turns, r.seq, r.streams = base, nil, false, true, true, 0, 0
	return nil
}

// turned lets seconds in again.
func (r *Replica) turned() {
	r.mu.Lock()
	r.turns = false
	r.mu.Unlock()
}

// Alone lets the primary go on without its peer, which cannot be promoted any
// more: see ha.Replica. A second that has joined after stream stays.
func (r *Replica) Alone(_ context.Context, epoch, stream uint64) error {
	r.mu.Lock()
	prim, l, last := r.prim, r.link, r.streams
	r.mu.Unlock()
	switch {
	case !prim:
		return fmt.Errorf("alone in epoch %d: this replica is no primary", epoch)
	case last > stream: // its loss, if it is lost, has an event of its own
		return nil
	case l != nil && (l.sender.Err() == nil || l.copying()):
		return nil
	case l != nil:
		<-l.sender.Done()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.prim || r.link != l || r.streams != last {
		return nil
	}
	// From now on the notes are on disk: those of changes in sync, too.
	s, err := r.secure()
	if err != nil {
		return err
	}
	s.Role, s.Seq = RoleAlone, 0
	if err := r.record(s); err != nil {
		return err
	}
	if l != nil {
		r.noteEnd(l)
	}
	r.link = nil
	r.notes.Unknow()
	r.gate.Release()
	return nil
}

// Cut ends the stream to the second as if it had broken: see ha.Replica.
func (r *Replica) Cut() error {
	r.mu.Lock()
	l := r.link
	r.mu.Unlock()
	if l != nil {
		l.sender.Close(errors.New("the second node is silent on all heartbeats"))
	}
	return nil
}

// Abandon makes changes that wait fail: see ha.Replica.
func (r *Replica) Abandon() error {
	if err := r.Cut(); err != nil {
		return err
	}
	r.gate.Abort()
	return nil
}

// Outdate records that the primary of epoch goes on without this second: see
// ha.Replica.
func (r *Replica) Outdate(_ context.Context, epoch uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.prim {
		return fmt.Errorf("outdate by epoch %d: this replica is a primary", epoch)
	}
	r.synced = false
	if f := r.follow; f != nil { // what it still says of being in sync is old
		f.void = true
		f.stop()
	}
	if r.state.Role == RoleSyncing {
		return nil
	}
	s, err := r.secure()
	if err != nil {
		return err
	}
	s.Role = RoleOutdated
	return r.record(s)
}

// Demote ends the reign of this primary: see ha.Replica.
func (r *Replica) Demote(ctx context.Context) error {
	r.cmd.Lock()
	defer r.cmd.Unlock()
	r.mu.Lock()
	if !r.prim {
		r.mu.Unlock()
		return nil
	}
	if err := r.gate.Failed(); err != nil { // what the second has is better
		r.mu.Unlock()
		return fmt.Errorf("demote: %w", err)
	}
	r.turns = true
	l := r.link
	inSync := l != nil && !l.copying()
	next := r.state // alone, or never told so
	r.mu.Unlock()
	defer r.turned()
	if inSync {
		// So that the way back finds little to look at.
		if err := r.checkpoint(l); err != nil {
			return fmt.Errorf("demote: the second node is lost: %w", errors.Join(err, l.sender.Err()))
		}
	}
	err := func() error {
		stop := ctx.Done()
		if inSync {
			stop = l.sender.Done()
		}
		if !r.gate.Shut(stop) {
			return fmt.Errorf("the second node is lost, and what was under way is not known to be there: %w", errors.Join(ctx.Err(), l.failure()))
		}
		for _, f := range r.trees {
			f.FlushTimes()
		}
		if inSync {
			seq, err := l.end(ctx)
			if err != nil {
				return err
			}
			if err := r.syncTrees(); err != nil { // a power cut must not make the record a lie
				return err
			}
			next.Role, next.Seq = RoleClean, seq
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		secured, err := r.secure()
		if err != nil {
			return err
		}
		next.Standing = secured.Standing
		if err := r.record(next); err != nil {
			return err
		}
		r.prim, r.link = false, nil
		return nil
	}()
	if err != nil {
		r.gate.Reopen()
		return fmt.Errorf("demote: %w", err)
	}
	if l != nil {
		r.wg.Go(func() { l.sender.Close(errors.New("this node is no primary any more")) })
	}
	r.gate.Release()
	for _, f := range r.trees {
		f.Serve()
	}
	return nil
}

// Stop ends the process: see ha.Replica.
func (r *Replica) Stop(ctx context.Context, clean bool) error {
	if clean {
		if err := r.stopClean(ctx); err != nil { // the record says what the data is worth
			r.log("E", "nfsadmin", "%v", err)
		}
	}
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	return nil // the process ends when the answer is on its way
}

func (r *Replica) stopClean(ctx context.Context) error {
	r.mu.Lock()
	prim := r.prim
	r.mu.Unlock()
	if prim {
		return errors.Join(r.Demote(ctx), r.syncTrees())
	}
	r.cmd.Lock()
	defer r.cmd.Unlock()
	r.mu.Lock()
	f := r.follow
	synced := r.synced
	r.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f.end(); err != nil {
		return err
	}
	if err := r.syncTrees(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !synced || !r.synced {
		return nil
	}
	r.synced, r.follow = false, nil
	s, err := r.secure()
	if err != nil {
		return err
	}
	s.Role, s.Seq = RoleClean, f.applied()
	return r.record(s)
}

// closeLinks ends the streams without a word about the data.
func (r *Replica) closeLinks(cause error) {
	r.mu.Lock()
	r.ended = true // neither gets a successor
	l, f := r.link, r.follow
	r.mu.Unlock()
	if l != nil {
		l.sender.Close(cause)
	}
	f.end()
}

// dialer reaches the primary.
var dialer net.Dialer
