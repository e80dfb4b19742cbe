package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// openTrees opens and mounts every replicated directory, read-only for now. Their
// indexes are below the directory index. On an error nothing stays mounted.
func openTrees(rfs *conf.RFS, gate *fs.Gate, index string) (list []*fs.FS, err error) {
	defer func() {
		if err != nil {
			closeTrees(list, nil)
			list = nil
		}
	}()
	if len(rfs.Replicated) > 1<<8-1 {
		return nil, fmt.Errorf("%d replicated directories: at most 255", len(rfs.Replicated))
	}
	for i := range rfs.Replicated {
		r := &rfs.Replicated[i]
		if err := fs.ClearStale(r.Dir); err != nil {
			return list, err
		}
		for _, rel := range r.ToCheck {
			if _, err := os.Lstat(filepath.Join(r.Dir, rel)); err != nil {
				return list, fmt.Errorf("replicated directory %s: <tocheck path=%q>: %w: is its file system mounted?", r.Dir, rel, err)
			}
		}
		t, err := fs.OpenTree(r.Dir, uint8(i), filepath.Join(index, fmt.Sprint(i)))
		if err != nil {
			return list, err
		}
		if len(r.NotReplicated) > 0 {
			t.Exclude(&fs.Exclusion{Excludes: r.Excludes, Steady: r.Steady})
		}
		f := fs.New(t, gate)
		if err := f.Mount(); err != nil {
			t.Close()
			return list, err
		}
		list = append(list, f)
	}
	return list, nil
}

// closeTrees unmounts everything; detached tells of mounts that were in use.
func closeTrees(list []*fs.FS, detached func(dir string)) error {
	var errs []error
	for _, f := range list {
		busy, err := f.Unmount(unmountPatience)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if busy {
			if detached != nil {
				detached(f.Tree().Dir())
			}
			continue // still served until this process ends
		}
		if err := f.Tree().Close(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// applier carries out the operations of the primary on the second.
type applier struct {
	trees []*fs.FS
	notes *notes
	pass  journal.Applier      // what the reintegration has a say in, then ordinary
	mark  func(op *journal.Op) // KindMark
	begin func(tree int)       // KindSyncBegin
	lame  func(error)          // KindFsync or a note that failed

	control   func(op *journal.Op) ([]byte, error) // KindCheckpoint, KindLacks; nil in a replay
	beginning func(tree uint8) error               // before KindSyncBegin; nil in a replay
	ended     func(*journal.Op, syscall.Errno)     // what was applied; nil in a replay
}

func newApplier(trees []*fs.FS, n *notes, mark func(*journal.Op), begin func(tree int), lame func(error)) *applier {
	var sinks []reintegrate.Sink
	for _, f := range trees {
		sinks = append(sinks, sink{f.Tree()})
	}
	return &applier{trees: trees, notes: n, pass: reintegrate.NewTarget(sinks).Around(ordinary(trees)), mark: mark, begin: begin, lame: lame}
}

// Apply implements journal.Applier.
func (a *applier) Apply(op *journal.Op) journal.Result {
	res := a.apply(op)
	if a.ended != nil {
		a.ended(op, res.Errno)
	}
	return res
}

func (a *applier) apply(op *journal.Op) journal.Result {
	if int(op.Tree) >= len(a.trees) {
		return journal.Result{Seq: op.Seq, Errno: syscall.ENODEV}
	}
	switch op.Kind {
	case journal.KindMark:
		a.mark(op)
		return journal.Result{Seq: op.Seq}
	case journal.KindCheckpoint, journal.KindLacks:
		if a.control == nil {
			return journal.Result{Seq: op.Seq}
		}
		data, err := a.control(op)
		return journal.Result{Seq: op.Seq, Data: data, Errno: errnoOf(err)}
	case journal.KindSyncBegin:
		a.begin(int(op.Tree))
		if a.beginning != nil {
			if err := a.beginning(op.Tree); err != nil {
				a.lame(err)
				return journal.Result{Seq: op.Seq, Errno: errnoOf(err)}
			}
		}
	}
	// What is applied here may not be on the primary's disk; what a pass brings is
	// before the pass ends.
	if op.Flags&reintegrate.FlagPass == 0 {
		if err := a.notes.Note(op, false); err != nil {
			a.lame(err)
			return journal.Result{Seq: op.Seq, Errno: syscall.EIO}
		}
	}
	res := a.pass.Apply(op)
	if op.Kind == journal.KindFsync && res.Errno != 0 && res.Errno != syscall.ENOENT {
		a.lame(res.Errno)
	}
	return res
}

// errnoOf is what travels of an error.
func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if err == nil || errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}

// ordinary applies live operations.
type ordinary []*fs.FS

// Apply implements journal.Applier.
func (o ordinary) Apply(op *journal.Op) journal.Result { return o[op.Tree].Apply(op) }

// source is a tree as a pass reads it, sink as one changes it: they only
// translate between fs and the interfaces of reintegrate.
type (
	source struct{ t *fs.Tree }
	sink   struct{ t *fs.Tree }
)

var (
	_ reintegrate.Source = source{}
	_ reintegrate.Sink   = sink{}
)

func (s source) Tree() uint8 { return s.t.Num() }

func (s source) WithDir(dir journal.FileID, f func([]reintegrate.Entry) error) error {
	return s.t.WithDir(dir, f)
}

func (s source) WithRange(id journal.FileID, off, n int64, f func(reintegrate.File) error) error {
	return s.t.WithRange(id, off, n, func(d *fs.Data) error { return f(d) })
}

func (s source) WithObject(id journal.FileID, f func(*reintegrate.Attrs, reintegrate.File) error) error {
	return s.t.WithObject(id, func(a *journal.Attrs, d *fs.Data) error {
		if d == nil {
			return f(a, nil)
		}
		return f(a, d)
	})
}

func (s source) Stat(id journal.FileID) (reintegrate.Entry, error) { return s.t.Stat(id) }

func (s source) Parent(dir journal.FileID) (journal.FileID, error) { return s.t.Parent(dir) }

// Orphans returns nothing: a file that never had a name travels when it gets one.
func (s source) Orphans() ([]journal.FileID, error) { return nil, nil }

func (s sink) Tree() uint8  { return s.t.Num() }
func (s sink) Begin() error { return s.t.BuildIndex() }

// Quarantine implements reintegrate.Sink.
func (s sink) Quarantine(keep bool) error { return s.t.Quarantine(keep) }

func (s sink) List(dir journal.FileID) ([]reintegrate.Entry, error) { return s.t.List(dir) }
func (s sink) Lookup(dir journal.FileID, name string) (reintegrate.Entry, error) {
	return s.t.Lookup(dir, name)
}
func (s sink) Create(dir journal.FileID, e *reintegrate.Entry) error { return s.t.MakeEntry(dir, e) }
func (s sink) Place(id, dir journal.FileID, name string) error       { return s.t.Place(id, dir, name) }
func (s sink) Identify(dir journal.FileID, name string, id journal.FileID) error {
	return s.t.Identify(dir, name, id)
}
func (s sink) Hold(dir journal.FileID, name string) error { return s.t.Hold(dir, name) }
func (s sink) Keep(id journal.FileID) error               { return s.t.Keep(id) }
func (s sink) Disown(id journal.FileID) error             { return s.t.Disown(id) }
func (s sink) DropHeld(max int) (int, bool, error)        { return s.t.DropHeld(max) }

func (s sink) Find(id journal.FileID) (reintegrate.Entry, error)      { return s.t.Stat(id) }
func (s sink) Open(id journal.FileID) (reintegrate.SinkFile, error)   { return s.t.OpenData(id) }
func (s sink) Punch(id journal.FileID, off, n int64) error            { return s.t.Punch(id, off, n) }
func (s sink) SetAttrs(id journal.FileID, a *reintegrate.Attrs) error { return s.t.SetAttrs(id, a) }
