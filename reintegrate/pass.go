package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/journal"
)

// Options of a pass. Zero values mean the defaults.
type Options struct {
	Workers   int   // nbrei: files copied at a time; 3
	ZoneSize  int64 // ruzone_blocksize: bytes of a large file locked at a time; 8 MiB
	BlockSize int   // bytes compared by one hash, a divisor of ZoneSize; 64 KiB
	Packet    int64 // reipacketsize: bytes of a file that one operation carries at most; 1 MiB, which is the most
	Commit    int64 // reicommit: bytes of a file after which SECOND flushes it; 0: at the end of the pass alone
	Bandwidth int64 // reiallowedbw, here in bytes a second: the most that the copy sends; 0: no limit
	Detail    bool  // reidetail: Logf for each file of which bytes were sent
	Logf      func(format string, args ...any)

	Mode  Mode
	Notes Notes        // Delta: what SECOND may lack. Its zones are of ZoneSize.
	Since journal.Time // Scan: a file whose ctime is later, here or on SECOND, is compared

	// Settle makes an end of the live operations so far: when it returns, each that
	// Filter was asked about before has been carried out here and has ended on SECOND,
	// and Failed has been called for every one that ended differently. nil: there are
	// none.
	Settle func(ctx context.Context) error

	Restored bool // Scan: a backup was restored on SECOND; its ctimes mean nothing
	Keep     bool // SECOND keeps what only it had, instead of deleting it at the end

	holeZones int64 // how many zones a hole has at least that is passed at once; 16
}

func (o *Options) setDefaults() error {
	if o.Workers <= 0 {
		o.Workers = 3
	}
	if o.ZoneSize <= 0 {
		o.ZoneSize = 8 << 20
	}
	if o.Packet <= 0 || o.Packet > maxSegment {
		o.Packet = maxSegment
	}
	if o.BlockSize <= 0 {
		o.BlockSize = int(min(64<<10, o.ZoneSize, o.Packet))
		for o.ZoneSize%int64(o.BlockSize) != 0 {
			o.BlockSize--
		}
	}
	if o.holeZones <= 0 {
		o.holeZones = 16
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Mode > Scan || o.Mode == Delta && o.Notes == nil {
		return fmt.Errorf("reintegration: %s: expected full, scan, or delta with notes", o.Mode)
	}
	if o.ZoneSize%int64(o.BlockSize) != 0 || o.ZoneSize/int64(o.BlockSize) > maxBlocks {
		return fmt.Errorf("reintegration: zone size %d: expected a multiple of the block size %d, of at most %d blocks",
			o.ZoneSize, o.BlockSize, maxBlocks)
	}
	return nil
}

// Pass brings SECOND up to date: one for each join, over all trees of a module.
type Pass struct {
	sources map[uint8]Source
	s       Stream       // a counted one
	sent    atomic.Int64 // what the pass has put into s, but for SyncEnd
	bytes   atomic.Int64 // of all
	o       Options

	table *table
	queue *queue
	meter meter
	limit limiter

	failing sync.Mutex // held over Failed; comes before the leaves

	mu      sync.Mutex // protects what follows; a leaf
	dirs    []dirRef   // listed, their attributes are to be sent at the end
	retries map[journal.FileID]int
	waiting map[journal.FileID]struct{}    // started again by Failed, not yet begun
	mended  map[journal.FileID]journal.Seq // of retries: all that was numbered before is in what was sent since
}

// NewPass prepares a pass. From then on Filter counts everything as pending and
// forwards nothing.
func NewPass(trees []Source, s Stream, o Options) *Pass {
	p := &Pass{
		sources: map[uint8]Source{}, o: o,
		table: newTable(o.Mode), queue: newQueue(), limit: limiter{rate: o.Bandwidth},
		retries: map[journal.FileID]int{}, waiting: map[journal.FileID]struct{}{}, mended: map[journal.FileID]journal.Seq{},
	}
	p.s = countedStream{s, &p.sent, &p.bytes}
	for _, t := range trees {
		p.sources[t.Tree()] = t
	}
	return p
}

func (p *Pass) source(tree uint8) Source { return p.sources[tree] }

func (p *Pass) fail(err error) { p.queue.fail(err) }

// Run carries the pass out, once. It begins when every live operation that has
// not asked Filter has ended. When it returns nil, SECOND has everything and
// Filter lets everything through, so that it need not be asked any more. After an
// error the stream is of no use: the next pass needs a new one and starts again.
func (p *Pass) Run(ctx context.Context) (Stats, error) {
	if err := p.o.setDefaults(); err != nil {
		return Stats{}, err
	}
	p.meter.begin(time.Now())
	defer p.queue.watch(ctx)()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(p.walk)
	g.Go(p.collectAnswers)
	for range p.o.Workers {
		g.Go(func() error { return p.copyFiles(ctx) })
	}
	dropped, err := p.steer(ctx)
	if err != nil {
		p.fail(err) // and everybody leaves
	}
	cancel()
	if werr := g.Wait(); err == nil {
		err = werr
	}
	stats := p.meter.result(time.Now(), dropped)
	if err != nil {
		return stats, fmt.Errorf("reintegration: %w", err)
	}
	return stats, nil
}

// steer gives the walk and the workers their work, and ends the pass.
func (p *Pass) steer(ctx context.Context) (dropped int64, err error) {
	for tree := range p.sources {
		if err := p.s.Post(p.beginning(tree)); err != nil {
			return 0, err
		}
	}
	if p.o.Mode == Delta {
		if err := p.load(); err != nil {
			return 0, err
		}
	} else {
		for tree := range p.sources {
			p.queue.addDir(dirRef{journal.RootID(tree), tree})
		}
	}
	if err := p.queue.waitWalked(); err != nil {
		return 0, err
	}
	p.table.endWalk()
	if err := p.adoptOrphans(); err != nil {
		return 0, err
	}
	for id, f := range p.table.takeAllNoted() {
		if s := p.table.get(id); s != dirListed && s != dirNamed {
			p.queue.addFile(*f)
		}
	}
	// What Failed starts again is passed again, so this may take several rounds. The
	// pass ends only when every failure of an operation up to its end has been told of
	// and what is passed because of it has been too, without a failure. SyncEnd is
	// answered when all before it has ended there, with what failed of the pass's own;
	// Settle tells of what failed of live operations. If the pass has sent anything
	// since, nobody has vouched for that yet.
	for {
		if err := p.queue.waitIdle(); err != nil {
			return 0, err
		}
		if err := p.sendDirAttrs(); err != nil {
			return 0, err
		}
		sent := p.sent.Load()
		n, err := p.end()
		if dropped += n; err != nil {
			return 0, err
		}
		if p.o.Settle != nil {
			if err := p.o.Settle(ctx); err != nil {
				return 0, fmt.Errorf("end of live operations: %w", err)
			}
		}
		if over, err := p.queue.finish(func() bool { return p.sent.Load() == sent && !p.owesAttrs() }); over || err != nil {
			return dropped, err
		}
	}
}

// owesAttrs says whether attributes of directories are still to be sent.
func (p *Pass) owesAttrs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dirs) > 0 || p.table.hasBorn()
}

// beginning is the operation that begins the pass of a tree.
func (p *Pass) beginning(tree uint8) *journal.Op {
	op := &journal.Op{Kind: journal.KindSyncBegin, Tree: tree}
	if p.o.Keep {
		op.Flags |= BeginKeep
	}
	switch p.o.Mode {
	case Delta:
		op.Flags |= BeginDelta
	case Scan:
		if !p.o.Restored {
			op.Data = appendTime(nil, p.o.Since)
		}
	}
	return op
}

// adoptOrphans passes the files that were born without a name before the pass and
// may still get one. From the end of the walk on they are all that is unknown.
func (p *Pass) adoptOrphans() error {
	for tree, src := range p.sources {
		orphans, err := src.Orphans()
		if err != nil {
			return fmt.Errorf("open files without a name: %w", err)
		}
		for _, id := range orphans {
			err := src.WithObject(id, func(a *Attrs, _ File) error {
				if p.table.get(id) != pending { // it has got a name
					return nil
				}
				err := p.s.Post(&journal.Op{Kind: journal.KindTmpfile, Tree: tree, ID: id, Flags: FlagPass, Mode: a.Mode, UID: a.UID, GID: a.GID})
				if err != nil {
					return err
				}
				p.table.bornNameless(id)
				if n := p.table.takeNoted(id); n != nil {
					p.meter.gone(n.size)
				}
				p.addFile(fileRef{id: id, size: a.Size, length: a.Size, tree: tree, fresh: true})
				return nil
			})
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("open file %s without a name: %w", id, err)
			}
		}
	}
	return nil
}

// sendDirAttrs sends the attributes of all directories that were listed. No more
// names change in them on behalf of the pass.
func (p *Pass) sendDirAttrs() error {
	p.mu.Lock()
	dirs := p.dirs
	p.dirs = nil
	p.mu.Unlock()
	for _, d := range dirs {
		if err := p.sendAttrsOf(d); err != nil {
			return err
		}
	}
	p.meter.other(int64(len(dirs)))
	// What was born is there by now: its directory was locked meanwhile.
	for d, ok := p.table.takeBorn(); ok; d, ok = p.table.takeBorn() {
		if err := p.sendAttrsOf(d); err != nil {
			return err
		}
	}
	return nil
}

// sendAttrsOf sends the attributes of an object of which all else is settled.
func (p *Pass) sendAttrsOf(d dirRef) error {
	err := p.source(d.tree).WithObject(d.id, func(a *Attrs, _ File) error {
		switch p.table.get(d.id) {
		case passing, dirNamed: // started again: they are sent when it has been passed
			return nil
		}
		_, err := p.sendAttrs(d.tree, d.id, a)
		return err
	})
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist):
		p.table.settle(d.id)
	default:
		return fmt.Errorf("attributes of object %s: %w", d.id, err)
	}
	return nil
}

// sendAttrs settles an object whose data and names are settled. Its locks are
// held.
func (p *Pass) sendAttrs(tree uint8, id journal.FileID, a *Attrs) (journal.Seq, error) {
	op := &journal.Op{Kind: journal.KindSyncAttrs, Tree: tree, ID: id, Data: appendAttrs(nil, a)}
	err := p.s.Post(op)
	if err == nil {
		p.table.settle(id)
	}
	return op.Seq, err
}

// end sends SyncEnd for each tree until nothing is held there any more, and starts
// again what failed on SECOND.
func (p *Pass) end() (dropped int64, err error) {
	for tree := range p.sources {
		for more := true; more; {
			a, err := p.s.Start(&journal.Op{Kind: journal.KindSyncEnd, Tree: tree})
			if err != nil {
				return dropped, err
			}
			data, err := answer(a)
			if err != nil {
				return dropped, fmt.Errorf("end of tree %d: %w", tree, err)
			}
			e, err := parseEnding(data)
			if err != nil {
				return dropped, fmt.Errorf("end of tree %d: %w", tree, err)
			}
			for _, f := range e.failed {
				p.Failed(&journal.Op{Seq: f.seq, Kind: f.kind, Tree: tree, Flags: f.flags, ID: f.id}, f.errno)
			}
			if e.lost > 0 {
				return dropped, fmt.Errorf("end of tree %d: %d more operations failed on the other host", tree, e.lost)
			}
			dropped, more = dropped+e.dropped, e.more
		}
	}
	return dropped, nil
}

// answer waits for what SECOND says.
func answer(a Answer) ([]byte, error) {
	r, err := a.Result()
	if err != nil {
		return nil, err
	}
	if r.Errno != 0 {
		return nil, fmt.Errorf("on the other host: %w", r.Errno)
	}
	return r.Data, nil
}

// Sent is how many bytes the pass has put into the stream.
func (p *Pass) Sent() int64 { return p.bytes.Load() }

// Progress says how far Run is.
func (p *Pass) Progress() Progress {
	pr := p.meter.progress(time.Now())
	pr.Walking = p.table.isWalking()
	return pr
}

// maxRetries bounds how often the pass starts one object again.
const maxRetries = 4

// Failed tells the pass that op, which Filter let through or replaced, ended
// differently on the two hosts: the names or the object are passed again, unless
// they have been or are about to be since op was numbered. remote is what SECOND
// said, nil if op failed on PRIM alone. An object that keeps failing on SECOND (its
// disk is full) ends the pass. False: the pass is over and cannot do it any more.
func (p *Pass) Failed(op *journal.Op, remote error) bool {
	// Who finds that an object is waiting must find it in the queue.
	p.failing.Lock()
	defer p.failing.Unlock()
	dirs, files, ok := p.affected(op)
	if !ok {
		p.fail(fmt.Errorf("%s on the other host: %w", op.Kind, remote))
		return false
	}
	// Many operations on one object fail alike, and are mended at once.
	dirs = slices.DeleteFunc(dirs, func(d dirRef) bool { return p.isMended(d.id, op.Seq) })
	files = slices.DeleteFunc(files, func(f fileRef) bool { return p.isMended(f.id, op.Seq) })
	if remote != nil {
		for _, d := range dirs {
			if p.tooOften(d.id) {
				p.fail(fmt.Errorf("directory %s cannot be made on the other host as it is here: %w", d.id, remote))
				return false
			}
		}
		for _, f := range files {
			if p.tooOften(f.id) {
				p.fail(fmt.Errorf("object %s cannot be made on the other host as it is here: %w", f.id, remote))
				return false
			}
		}
	}
	for _, f := range files {
		p.meter.found(f.size)
	}
	if p.queue.again(dirs, files) {
		return true
	}
	for _, f := range files {
		p.meter.gone(f.size)
	}
	return false
}

// isMended says whether an object has been passed again since seq was numbered, or
// is to be anyway. If neither, it notes that it is from now on.
func (p *Pass) isMended(id journal.FileID, seq journal.Seq) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq != 0 && seq < p.mended[id] {
		return true
	}
	_, waiting := p.waiting[id]
	p.waiting[id] = struct{}{}
	return waiting
}

// begun says that all of an object is being sent, from the operation seq on: what
// fails of those after it is not mended by that. The locks of the object are held, so
// that none of them has been numbered yet. Zero: it has gone.
func (p *Pass) begun(id journal.FileID, seq journal.Seq) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waiting := p.waiting[id]; waiting {
		delete(p.waiting, id)
		p.mended[id] = seq
	} else if _, mended := p.mended[id]; mended && seq != 0 {
		p.mended[id] = seq
	}
}

// affected is what has to be passed again when op failed. False: the pass as a
// whole has failed.
func (p *Pass) affected(op *journal.Op) (dirs []dirRef, files []fileRef, ok bool) {
	switch op.Kind {
	case journal.KindSyncBegin, journal.KindSyncEnd, journal.KindSyncHash, journal.KindMark:
		return nil, nil, false
	case journal.KindFsync, journal.KindRelease: // change nothing
		return nil, nil, true
	case journal.KindCreate, journal.KindLink, journal.KindUnlink, journal.KindRmdir:
		return []dirRef{{op.Parent, op.Tree}}, nil, true
	case journal.KindRename:
		return []dirRef{{op.Parent, op.Tree}, {op.Parent2, op.Tree}}, nil, true
	}
	if p.isDir(op.Tree, op.ID) {
		return []dirRef{{op.ID, op.Tree}}, nil, true
	}
	return nil, []fileRef{{id: op.ID, tree: op.Tree, again: true}}, true
}

// isDir of what is gone is false: copying it finds that out.
func (p *Pass) isDir(tree uint8, id journal.FileID) bool {
	e, err := p.source(tree).Stat(id)
	return err == nil && e.Type() == sIFDIR
}

func (p *Pass) tooOften(id journal.FileID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retries[id]++
	return p.retries[id] > maxRetries
}
