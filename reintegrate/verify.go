package reintegrate

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/journal"
)

// A verification compares the trees of both hosts while the application works. It
// runs on PRIM and asks SECOND over a stream of its own.
//
//	PRIM                                        SECOND
//	Verification ── names, hashes? ──▶ Receiver ── VerifyTarget
//	     │ list, read: no locks                        │ list, read
//	     │ differs? then again:                        ▼
//	     │   lock ─ live stream applied ─ ask ─▶    the same
//	     ▼
//	 Difference
//
// The first look takes no locks, so what it finds may be a change on its way. The
// second takes the lock under which PRIM sends changes before it carries them out
// and waits until SECOND has applied what was sent: then both hosts show the same
// moment, and what differs is a difference. The lock of a directory is held for
// some names of it, that of a file for its attributes or for at most one zone.
//
// Compared are names, with the identity and the kind of object behind them, mode,
// owner, modification time, xattrs, sizes and content. Whether bytes are zeros or a
// hole is the file system's business, and so are atime, ctime and the space that a
// file takes. What is renamed from where the walk is still to come to where it has
// been may be missed.

// Original is one replicated directory of PRIM. An open file that has lost its last
// name counts as gone.
type Original interface {
	Reader
	// WithRange is that of Source.
	WithRange(id journal.FileID, off, n int64, f func(File) error) error
	// Still calls f while nothing of the object can change: names, data,
	// attributes. A modification time that SECOND did not have yet is in the live
	// stream when f is called. f may use the methods of Reader, and Still for what
	// the directory holds.
	Still(id journal.FileID, f func() error) error
}

// What is a kind of difference.
type What string

// The kinds of Difference.
const (
	WhatNames      What = "names"      // the name is there, of another object; or a directory cannot be read
	WhatMissing    What = "missing"    // SECOND does not have the name, or the object
	WhatExtra      What = "extra"      // SECOND alone has the name
	WhatData       What = "data"       // content or size of a file
	WhatAttributes What = "attributes" // mode, owner or modification time
	WhatXattrs     What = "xattrs"     // extended attributes, ACLs included
)

// Difference is what differs for sure.
type Difference struct {
	Tree   uint8
	Path   string         // in the tree, as the walk came to it; empty: the root
	Dir    journal.FileID // of a name: its directory
	ID     journal.FileID // the object on PRIM; zero: SECOND alone has it
	What   What
	Ranges []Range // of WhatData, in order
	Detail string
}

// VerifyOptions are the choices of a verification. Zero values mean the defaults.
type VerifyOptions struct {
	Workers   int   // that list, and as many that compare files; 3
	ZoneSize  int64 // bytes of a file that are locked at a time at most; 8 MiB
	BlockSize int   // bytes compared by one hash, a divisor of ZoneSize; 64 KiB
	Bandwidth int64 // bytes of content a second, read on each host; 0: no limit

	// Report is told of each difference once, one at a time, with no locks held.
	// Its error ends the verification.
	Report func(Difference) error
}

// VerifyStats says what a verification did.
type VerifyStats struct {
	Directories int64         `json:"directories"`
	Files       int64         `json:"files"` // regular files
	Others      int64         `json:"others"`
	Bytes       int64         `json:"bytes"` // of content, compared
	Again       int64         `json:"again"` // looks under a lock
	Differences int64         `json:"differences"`
	Duration    time.Duration `json:"duration"`
}

// Verification is one comparison of all trees of a module.
type Verification struct {
	trees  map[uint8]Original
	s      Stream
	passed func(context.Context) error
	o      VerifyOptions

	dirs    verifyStack
	files   chan verifyFile
	meter   meter
	limit   limiter
	walking atomic.Bool
	started time.Time

	directories, regular, others, again atomic.Int64

	mu       sync.Mutex // protects what follows; held while Report is called
	reported map[told]struct{}
	links    map[journal.FileID]struct{} // objects with several names that were met
}

// told tells differences apart.
type told struct {
	dir, id journal.FileID
	name    string
	what    What
}

// NewVerification prepares a verification over s, the stream to a VerifyTarget.
// passed returns when SECOND has applied everything that the live stream was given
// before the call.
func NewVerification(trees []Original, s Stream, passed func(context.Context) error, o VerifyOptions) *Verification {
	if o.Workers <= 0 {
		o.Workers = 3
	}
	if o.ZoneSize <= 0 {
		o.ZoneSize = 8 << 20
	}
	if o.BlockSize <= 0 {
		o.BlockSize = int(min(64<<10, o.ZoneSize))
	}
	v := &Verification{
		trees: map[uint8]Original{}, s: s, passed: passed, o: o, limit: limiter{rate: o.Bandwidth},
		files: make(chan verifyFile, verifyAhead), reported: map[told]struct{}{}, links: map[journal.FileID]struct{}{},
	}
	v.dirs.cond.L = &v.dirs.mu
	v.walking.Store(true)
	for _, t := range trees {
		v.trees[t.Tree()] = t
	}
	return v
}

// verifyAhead bounds the files that are found and not compared.
const verifyAhead = 1 << 14

// Run carries the verification out, once. Who ends ctx breaks the stream as well:
// answers are awaited for as long as it lives. What was reported before an error is
// as true as after a success.
func (v *Verification) Run(ctx context.Context) (VerifyStats, error) {
	if zone, block := v.o.ZoneSize, int64(v.o.BlockSize); zone%block != 0 || zone/block > maxBlocks/2 {
		return VerifyStats{}, fmt.Errorf("verification: zone size %d: expected a multiple of the block size %d, of at most %d blocks", zone, block, maxBlocks/2)
	}
	v.started = time.Now()
	v.meter.begin(v.started)
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, v.dirs.close)()
	g.Go(func() error {
		defer close(v.files)
		defer v.walking.Store(false)
		for tree := range v.trees {
			if err := v.begin(ctx, tree); err != nil {
				return err
			}
		}
		walk, ctx := errgroup.WithContext(ctx)
		for range v.o.Workers {
			walk.Go(func() error { return v.walk(ctx) })
		}
		return walk.Wait()
	})
	for range v.o.Workers {
		g.Go(func() error { return v.compareFiles(ctx) })
	}
	err := g.Wait()
	if err != nil {
		err = fmt.Errorf("verification: %w", err)
	}
	return v.Stats(), err
}

// Stats says what was done so far.
func (v *Verification) Stats() VerifyStats {
	p := v.meter.progress(time.Now())
	v.mu.Lock()
	defer v.mu.Unlock()
	return VerifyStats{
		Directories: v.directories.Load(), Files: v.regular.Load(), Others: v.others.Load(), Bytes: p.BytesDone,
		Again: v.again.Load(), Differences: int64(len(v.reported)), Duration: time.Since(v.started),
	}
}

// Progress says how far Run is. While directories are still being read what is left
// grows.
func (v *Verification) Progress() Progress {
	p := v.meter.progress(time.Now())
	p.Walking = v.walking.Load()
	return p
}

// report tells of a difference, once.
func (v *Verification) report(d Difference) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := told{dir: d.Dir, id: d.ID, what: d.What}
	if !d.Dir.IsZero() {
		k.name = d.Path
	}
	if _, known := v.reported[k]; known {
		return nil
	}
	v.reported[k] = struct{}{}
	return v.o.Report(d)
}

// linked says whether an object with several names was met before.
func (v *Verification) linked(id journal.FileID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, met := v.links[id]
	v.links[id] = struct{}{}
	return met
}

// ask sends a question about names or objects.
func (v *Verification) ask(tree uint8, flags uint32, dir journal.FileID, data []byte) (Answer, error) {
	return v.s.Start(&journal.Op{Kind: journal.KindSyncList, Tree: tree, Flags: flags, ID: dir, Data: data})
}

// askObjects is a question about objects; what it returns waits for the answer.
func (v *Verification) askObjects(tree uint8, ids ...journal.FileID) (func() ([]have, error), error) {
	var data []byte
	for _, id := range ids {
		data = append(data, id[:]...)
	}
	a, err := v.ask(tree, listObjects, journal.FileID{}, data)
	return func() ([]have, error) {
		data, err := answer(a)
		if err != nil {
			return nil, err
		}
		return parseHaves(data, len(ids))
	}, err
}

// verifyDir is a directory that is to be listed.
type verifyDir struct {
	id   journal.FileID
	tree uint8
	path string
}

// child is the path of a name in d.
func (d *verifyDir) child(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name
}

// verifyStack holds the directories that are found and not listed; the last first,
// which keeps it small.
type verifyStack struct {
	mu     sync.Mutex // a leaf
	cond   sync.Cond
	dirs   []verifyDir
	busy   int // taken and not done
	closed bool
}

func (s *verifyStack) push(d verifyDir) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, d)
	s.cond.Signal()
}

// take waits for a directory. False: no more will come.
func (s *verifyStack) take() (verifyDir, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.dirs) == 0 && s.busy > 0 && !s.closed {
		s.cond.Wait()
	}
	if s.closed || len(s.dirs) == 0 {
		return verifyDir{}, false
	}
	d := s.dirs[len(s.dirs)-1]
	s.dirs = s.dirs[:len(s.dirs)-1]
	s.busy++
	return d, true
}

// done ends the work on a directory that take returned.
func (s *verifyStack) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.cond.Broadcast()
}

func (s *verifyStack) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cond.Broadcast()
}
