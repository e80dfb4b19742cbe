package fs

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skfs/skfs/journal"
)

// Stream is the primary's end of the stream to the second host;
// *journal.Sender is one.
type Stream interface {
	// Submit gives op the next Seq and queues it. The caller holds the locks of
	// what op conflicts with, and leaves op.Data alone until Wait has returned.
	Submit(op *journal.Op) (journal.Seq, error)
	// Wait returns when the operation is as safe as the mode of the module asks,
	// or with an error when the peer is lost.
	Wait(journal.Seq) error
	// Commit is Submit and Wait.
	Commit(op *journal.Op) error
	// Post is Submit without a Wait; op.Data is copied.
	Post(op *journal.Op) error
	// Start submits an operation whose result is wanted.
	Start(op *journal.Op) (*journal.Pending, error)
	// Err is why the stream is broken, nil while it is not.
	Err() error
	// LocalFailed reports that an operation that was submitted failed here.
	LocalFailed(op *journal.Op, errno syscall.Errno)
}

// Pass is a reintegration under way: it knows which objects are still to be
// copied. *reintegrate.Pass is one.
type Pass interface {
	// Filter returns what to send instead of op: op itself, nothing (the change
	// is in the copy to come) or replacements. The caller holds the locks of the
	// objects of op.
	Filter(op *journal.Op) []*journal.Op
}

// Notes keeps what the peer may lack; *journal.Lacks does.
type Notes interface {
	// Note says that op is about to be carried out here, or was by the peer and
	// now is. durable: the note is on disk when it returns.
	Note(op *journal.Op, durable bool) error
}

// Gate is what every mutation of a module's trees passes. It notes what the peer
// may lack and decides where the mutation has to go before it may be carried out
// here.
//
//	closed ──▶ EROFS           SECOND, or not started
//	alone  ──▶ here only       no peer
//	peer   ──▶ peer, then here PRIM
//	frozen ──▶ waits           the peer is lost and nobody has said that it is safe to go on
//
// A mutation holds the gate (shared) from the decision until it is done here, so
// that a change of the gate (exclusive) finds no mutation half way.
type Gate struct {
	mu       sync.RWMutex
	peer     atomic.Pointer[peer]
	writable atomic.Bool
	changed  atomic.Bool // something was changed without a peer in sync since the gate opened or the last one was
	changing sync.Mutex  // held while the first such change is announced

	closed chan struct{} // closed by Abort: what is frozen gives up
	once   sync.Once

	// Notes is told of every mutation before it is sent or carried out; nil: none
	// are kept. A note is on disk before the change can be, unless a peer in sync
	// makes it too.
	Notes Notes

	// FirstChange is called before the first change without a peer in sync is carried
	// out: from then on the data here is another than the peer's.
	FirstChange func() error

	// Suspect is called when an fsync has failed here or on the peer: what is
	// on that disk is not known any more (R13).
	Suspect func(remote bool, err error)

	failed atomic.Pointer[error] // see Fail
}

// Fail says that the disk of this host has failed: what is on it is not known. From
// now on every change and every fsync fails, for the next one would find nothing
// wrong: the kernel tells of a page that it could not write once, and drops it.
func (g *Gate) Fail(err error) { g.failed.CompareAndSwap(nil, &err) }

// Failed is why the gate has failed, nil if it has not.
func (g *Gate) Failed() error {
	if err := g.failed.Load(); err != nil {
		return fmt.Errorf("the disk of this node has failed: %w", *err)
	}
	return nil
}

// suspect is called with an error of this host's disk.
func (g *Gate) suspect(err error) {
	g.Fail(err)
	if g.Suspect != nil {
		g.Suspect(false, err)
	}
}

type peer struct {
	stream   Stream
	pass     atomic.Pointer[Pass]
	complete atomic.Bool   // the pass has ended: see Complete
	vouches  atomic.Bool   // its own notes count: see Vouched
	released chan struct{} // closed by Release
	release  sync.Once
	refused  chan struct{} // closed by Shut, if nothing was ever sent to it
	refuse   sync.Once
}

func newPeer(s Stream) *peer {
	return &peer{stream: s, released: make(chan struct{}), refused: make(chan struct{})}
}

// NewGate returns a closed gate.
func NewGate() *Gate { return &Gate{closed: make(chan struct{})} }

// Writable says whether mutations are let in at all.
func (g *Gate) Writable() bool { return g.writable.Load() }

// Open lets mutations in, without a peer. With a reason, they wait for Release
// or Join first: it is not known yet that it is safe to answer them.
//
// The gate is closed, so nothing is under way and no lock is needed.
func (g *Gate) Open(frozen error) {
	g.changed.Store(false)
	if frozen != nil {
		g.peer.Store(newPeer(noStream{frozen}))
	}
	g.writable.Store(true)
}

// noStream is the stream to a peer that was lost before it was there.
type noStream struct{ err error }

func (n noStream) Submit(*journal.Op) (journal.Seq, error)     { return 0, n.err }
func (n noStream) Commit(*journal.Op) error                    { return n.err }
func (n noStream) Wait(journal.Seq) error                      { return n.err }
func (n noStream) Post(*journal.Op) error                      { return n.err }
func (n noStream) Start(*journal.Op) (*journal.Pending, error) { return nil, n.err }
func (n noStream) Err() error                                  { return n.err }
func (n noStream) LocalFailed(*journal.Op, syscall.Errno)      {}

// Shut refuses mutations from now on (EROFS) and returns when those under way
// are done. Those that wait since Open for somebody to say how to go on are
// refused too: nobody has heard of them. Those that wait because a peer was lost
// may be there, so nobody can say now how they end: when stop is closed first,
// Shut gives up and returns false.
func (g *Gate) Shut(stop <-chan struct{}) bool {
	g.writable.Store(false)
	if p := g.peer.Load(); p != nil {
		if _, never := p.stream.(noStream); never {
			p.refuse.Do(func() { close(p.refused) })
		}
	}
	for !g.mu.TryLock() {
		select {
		case <-stop:
			return false
		case <-time.After(shutInterval):
		}
	}
	g.mu.Unlock()
	return true
}

// shutInterval is how often Shut looks whether mutations are still under way.
const shutInterval = time.Millisecond

// Reopen undoes Shut.
func (g *Gate) Reopen() { g.writable.Store(true) }

// Abort makes frozen mutations fail with EIO; the gate is of no use afterwards.
func (g *Gate) Abort() { g.once.Do(func() { close(g.closed) }) }

// JoinClean sends mutations to a peer that lacks nothing. If nothing was changed
// since the gate opened or the last peer was in sync, it calls connect while no
// mutation is under way and takes the stream that connect returns (nil: none).
func (g *Gate) JoinClean(connect func() Stream) bool {
	// A peer that was there may have changes that are frozen now. One that was never
	// there has not: but changes that wait for it hold the gate.
	if g.wasPeer() || !g.mu.TryLock() {
		return false
	}
	defer g.mu.Unlock()
	if g.changed.Load() || g.wasPeer() {
		return false
	}
	s := connect()
	if s == nil {
		return false
	}
	g.peer.Swap(newPeer(s)).thaw() // nothing waits, and nothing will wait for what is gone
	return true
}

// wasPeer says whether there is or was a peer that may have been sent something.
func (g *Gate) wasPeer() bool {
	p := g.peer.Load()
	if p == nil {
		return false
	}
	_, never := p.stream.(noStream)
	return !never
}

// Join sends mutations to a peer that is about to be brought up to date by pass.
// The peer has said durably that it is not up to date, so what a former one left
// frozen is carried out now, here only: it is in the copy to come, because its
// objects stay locked until it is done.
func (g *Gate) Join(s Stream, pass Pass) {
	p := newPeer(s)
	p.pass.Store(&pass)
	g.peer.Swap(p).thaw()
}

// Mend has pass say what is sent to the peer behind s, which was in sync and is about
// to be brought up to date again. The peer has said durably that it is not. Those
// under way may not have asked pass: see Quiet.
func (g *Gate) Mend(s Stream, pass Pass) {
	if p := g.peer.Load(); p != nil && p.stream == s {
		p.vouches.Store(false)
		p.complete.Store(false)
		p.pass.Store(&pass)
	}
}

// Synced ends the reintegration of the peer behind s, if it is still there:
// everything is sent to it from now on.
func (g *Gate) Synced(s Stream) {
	if p := g.peer.Load(); p != nil && p.stream == s {
		p.pass.Store(nil)
		g.changed.Store(false)
	}
}

// Complete says that the pass of the peer behind s has ended: it has everything up to
// now, and gets what comes. When it returns, FirstChange has been called for every
// change before, and is not called for one after, as long as that peer is there.
func (g *Gate) Complete(s Stream) {
	g.Quiet(func() {
		if p := g.peer.Load(); p != nil && p.stream == s {
			p.complete.Store(true)
		}
	})
}

// Vouched says that the peer behind s has recorded that it is in sync: what it
// notes counts from now on, and notes here need not be on disk before a change is.
func (g *Gate) Vouched(s Stream) {
	if p := g.peer.Load(); p != nil && p.stream == s {
		p.vouches.Store(true)
	}
}

// Release lets the primary go on without its peer: frozen mutations are carried
// out here only. The caller has made sure that the peer cannot be promoted as up
// to date any more.
func (g *Gate) Release() { g.peer.Swap(nil).thaw() }

// thaw lets the mutations that p left frozen go on. p may be nil.
func (p *peer) thaw() {
	if p != nil {
		p.release.Do(func() { close(p.released) })
	}
}

// Frozen says whether mutations wait for Release or Join.
func (g *Gate) Frozen() bool {
	p := g.peer.Load()
	return p != nil && p.stream.Err() != nil
}

// HasPeer says whether mutations are sent to a peer (or wait for one that is lost).
func (g *Gate) HasPeer() bool { return g.peer.Load() != nil }

// ticket is one mutation on its way through the gate.
type ticket struct {
	g    *Gate
	peer *peer
	ops  []*journal.Op
}

// enter takes ops, which belong together, through the gate. When it returns 0
// the mutation is to be carried out here, and done called.
func (g *Gate) enter(ops ...*journal.Op) (ticket, syscall.Errno) {
	g.mu.RLock()
	if !g.writable.Load() {
		g.mu.RUnlock()
		return ticket{}, syscall.EROFS
	}
	if g.failed.Load() != nil {
		g.mu.RUnlock()
		return ticket{}, syscall.EIO
	}
	p := g.peer.Load()
	if p == nil {
		return g.enterAlone(ops)
	}
	pass := p.pass.Load()
	e := g.note(ops, !p.vouches.Load())
	if e == 0 && pass != nil && !p.complete.Load() { // a second that is not consistent is none yet
		e = g.noteChange()
	}
	if e != 0 {
		g.mu.RUnlock()
		return ticket{}, e
	}
	sent := ops
	if pass != nil {
		sent = filter(*pass, ops)
	}
	if err := p.send(sent); err != nil {
		if e := g.frozen(p); e != 0 {
			g.mu.RUnlock()
			return ticket{}, e
		}
		return g.enterAlone(ops)
	}
	return ticket{g: g, peer: p, ops: sent}, 0
}

// enterAlone lets in a mutation that goes nowhere else. mu is held, and let go
// with an error.
func (g *Gate) enterAlone(ops []*journal.Op) (ticket, syscall.Errno) {
	e := g.note(ops, true)
	if e == 0 {
		e = g.noteChange()
	}
	if e != 0 {
		g.mu.RUnlock()
		return ticket{}, e
	}
	return ticket{g: g}, 0
}

// note tells Notes of ops. If it cannot keep them they must not happen.
func (g *Gate) note(ops []*journal.Op, durable bool) syscall.Errno {
	if g.Notes == nil {
		return 0
	}
	for _, op := range ops {
		if err := g.Notes.Note(op, durable); err != nil {
			return g.cannotRecord(err)
		}
	}
	return 0
}

func (g *Gate) cannotRecord(err error) syscall.Errno {
	g.suspect(err)
	return syscall.EIO
}

// unpeered says whether there is no peer, and if so notes op, which nobody is sent:
// one that lacks nothing else must not join now.
func (g *Gate) unpeered(op *journal.Op) (bool, syscall.Errno) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.peer.Load() != nil {
		return false, 0
	}
	e := g.note([]*journal.Op{op}, true)
	if e == 0 {
		e = g.noteChange()
	}
	return true, e
}

// noteChange is called before each change without a peer.
func (g *Gate) noteChange() syscall.Errno {
	if g.changed.Load() {
		return 0
	}
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.changed.Load() {
		return 0
	}
	if g.FirstChange != nil {
		if err := g.FirstChange(); err != nil {
			return g.cannotRecord(err)
		}
	}
	g.changed.Store(true)
	return 0
}

// Quiet calls f while no mutation is under way: each was carried out here, or has
// not been noted, let alone sent. Mutations that are frozen are under way.
func (g *Gate) Quiet(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// enterQuiet is enter for a change that no other host needs to know of.
func (g *Gate) enterQuiet() syscall.Errno {
	if !g.writable.Load() {
		return syscall.EROFS
	}
	return 0
}

func filter(pass Pass, ops []*journal.Op) []*journal.Op {
	var out []*journal.Op
	for _, op := range ops {
		out = append(out, pass.Filter(op)...)
	}
	return out
}

func (p *peer) send(ops []*journal.Op) error {
	if len(ops) == 1 {
		return p.stream.Commit(ops[0])
	}
	var last journal.Seq
	for _, op := range ops {
		seq, err := p.stream.Submit(op)
		if err != nil {
			if last != 0 {
				p.stream.Wait(last) // nothing may refer to Data once we return
			}
			return err
		}
		last = seq
	}
	if last == 0 {
		return nil
	}
	return p.stream.Wait(last)
}

// frozen waits until the supervisor has said how to go on without the peer p.
func (g *Gate) frozen(p *peer) syscall.Errno {
	select {
	case <-p.released:
		return 0
	case <-p.refused:
		return syscall.EROFS
	case <-g.closed:
		return syscall.EIO
	}
}

// done ends a mutation that was let in; err is how it went here.
func (t ticket) done(err error) {
	if t.peer != nil && err != nil {
		for _, op := range t.ops {
			t.peer.stream.LocalFailed(op, errno(err))
		}
	}
	t.g.mu.RUnlock()
}

// post sends an operation that nobody waits for, if there is a peer. It returns
// whether it could.
func (g *Gate) post(op *journal.Op) bool {
	g.mu.RLock() // noted and sent on the same side of Quiet
	defer g.mu.RUnlock()
	p := g.peer.Load()
	if p == nil {
		return false
	}
	ops := []*journal.Op{op}
	pass := p.pass.Load()
	if g.note(ops, !p.vouches.Load()) != 0 {
		return false
	}
	if pass != nil {
		ops = filter(*pass, ops)
	}
	for _, op := range ops {
		if p.stream.Post(op) != nil {
			return false // whoever waits for something will notice
		}
	}
	return true
}

// fsync runs local while the peer does the same, and returns when both are done.
func (g *Gate) fsync(op *journal.Op, local func() error) error {
	if g.failed.Load() != nil {
		return syscall.EIO
	}
	p := g.peer.Load()
	var pending *journal.Pending
	var lost error
	if p != nil && g.writable.Load() {
		ops := []*journal.Op{op}
		if pass := p.pass.Load(); pass != nil {
			ops = filter(*pass, ops)
		}
		if len(ops) > 0 {
			pending, lost = p.stream.Start(op)
		}
	}
	err := local()
	if err != nil && err != syscall.EINVAL { // which is no failure of a disk
		g.suspect(err)
	}
	if pending != nil && lost == nil {
		var r journal.Result
		if r, lost = pending.Result(); lost == nil && r.Errno != 0 && r.Errno != syscall.ENOENT && g.Suspect != nil {
			g.Suspect(true, r.Errno)
		}
	}
	if lost != nil {
		if e := g.frozen(p); e != 0 {
			return e
		}
	}
	return err
}

// errno is the error that an application sees.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EIO
}
