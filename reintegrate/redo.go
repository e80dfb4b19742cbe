package reintegrate

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// redoName is what an object is called for a moment when it is made anew in a
// directory where its name is not to stay.
const redoName = ".skfs.redo.b7c94e1f"

// redoDrop is how many names are deleted in one step.
const redoDrop = 2000

// Redone says what Redo did.
type Redone struct {
	First, Last journal.Seq // of the log
	Made        int         // objects that the data did not have
	Held        int         // names that were not to be
	Placed      int         // names that were missing
	Moot        int         // operations on what is there no more, or as it is already
	Failed      int         // what could not be done, otherwise
	Cause       error       // of the first of these
}

// Redo brings the data of a second that has crashed to the end of its receive log,
// whatever part of the log the data holds already. The holding areas are empty
// afterwards.
//
// To apply the operations once more is right for bytes, attributes and xattrs,
// since the last one decides, but not for names: after
//
//	create n=X, rename n→m, unlink m, create m=Y
//
// the data may hold Y at m. Then n would be made again, the rename would find Y in
// its way, and n would stay. But an object is the same under every name and keeps
// its identity, so the log alone says what each name that it touches means at its
// end, and of each object the data has it or the log makes it:
//
//	log ──▶ redoPlan: names, births, times of directories
//	  1. hold     every name of the log that is not what it is to be
//	  2. make     in the order of the log: objects that are missing; bytes,
//	              attributes and xattrs of all that stays, by identity
//	  3. place    the names that are missing
//	  4. times    of directories, which the steps before have changed
//	  5. drop     what nobody wanted
//
// Why this is the history: a name that the log does not touch is as it was before
// the log. When the names of the log are out of the way, what is left is part of
// the tree of the end, so placing what is missing in any order meets nothing and
// closes no loop of directories. An object that is missing was born in the log. It
// is made again at its turn, in the directory of then, which is made for it if that
// was removed since: so it inherits what it would have inherited.
//
// # Assumptions
//
// The data holds a part of the log in which no operation comes without all earlier
// ones of the same objects (journal.Keys), as a process that is killed leaves it,
// or the data and sizes of files in any state, as after a power cut. Find knows
// every object from before the log, what is held, and what was looked up. All
// operations of the log have succeeded when they
// were first carried out; one that failed on both hosts alike (a full disk) is
// carried out now if that is possible. log gives the operations in their order and
// is called twice; each must not keep them. Nobody else changes the trees.
//
// # A crash
//
// Nothing is deleted before everything is in its place, so Redo can be begun again
// at any moment and ends the same. The one thing that may be off by then is the
// modification time of a root that the log does not speak of.
//
// # Memory
//
// About 150 bytes for each name that the log touches and 60 for each object that it
// makes; nothing for bytes.
func Redo(log func(each func(*journal.Op) error) error, sinks []Sink, apply journal.Applier) (Redone, error) {
	r := redo{sinks: map[uint8]Sink{}, apply: apply, plan: newRedoPlan()}
	for _, s := range sinks {
		r.sinks[s.Tree()] = s
	}
	for _, step := range []func() error{
		r.noteRoots,
		func() error { return log(r.read) },
		r.hold,
		r.findMissing,
		func() error { return log(r.carryOut) },
		r.place,
		r.setTimes,
		r.drop,
	} {
		if err := step(); err != nil {
			return r.done, err
		}
	}
	return r.done, nil
}

type redo struct {
	sinks map[uint8]Sink
	apply journal.Applier
	plan  *redoPlan
	done  Redone
}

// noteRoots notes the modification times of the roots: the holding area comes and
// goes there, also where the log changes no name.
func (r *redo) noteRoots() error {
	for tree, s := range r.sinks {
		root := journal.RootID(tree)
		e, err := s.Find(root)
		if err != nil {
			return fmt.Errorf("redo: root of tree %d: %w", tree, err)
		}
		r.plan.dirs[root] = dirEnd{tree: tree, timed: true, mtime: e.Mtime}
	}
	return nil
}

// read is the first walk of the log.
func (r *redo) read(op *journal.Op) error {
	if r.done.First == 0 {
		r.done.First = op.Seq
	}
	r.done.Last = op.Seq
	if r.sinks[op.Tree] == nil {
		return nil // carryOut counts it
	}
	return r.plan.add(op)
}

// failed decides whether an error ends everything. What the operation may have met
// when it was first carried out is counted; a broken disk is not, nor what is no
// answer of a file system.
func (r *redo) failed(err error) error {
	var e syscall.Errno
	if !errors.As(err, &e) || e == 0 || e == syscall.EIO || e == syscall.EROFS {
		return err
	}
	r.done.Failed++
	if r.done.Cause == nil {
		r.done.Cause = err
	}
	return nil
}

// hold takes away the names that are not what they are to be at the end, and those
// of an earlier Redo that was interrupted. A directory that the log has made may be
// known only once its own name was looked up: what is in it waits for that.
func (r *redo) hold() error {
	var queue []int
	for i := range r.plan.names {
		queue = append(queue, i)
	}
	waiting := map[journal.FileID][]int{}
	for at := 0; at < len(queue); at++ {
		n := &r.plan.names[queue[at]]
		s := r.sinks[n.tree]
		e, err := s.Lookup(n.dir, n.name)
		if errors.Is(err, syscall.ENOENT) {
			if _, err := s.Find(n.dir); err != nil {
				waiting[n.dir] = append(waiting[n.dir], queue[at])
			}
			continue
		}
		if err != nil {
			if err = r.failed(fmt.Errorf("redo: look up %q in %s: %w", n.name, n.dir, err)); err != nil {
				return err
			}
			continue
		}
		if n.settled = !n.id.IsZero() && e.ID == n.id; !n.settled {
			if err := r.holdName(s, n.dir, n.name); err != nil {
				return err
			}
		}
		queue = append(queue, waiting[e.ID]...)
		delete(waiting, e.ID)
	}
	for dir, d := range r.plan.dirs {
		if err := r.holdLeftover(r.sinks[d.tree], dir); err != nil {
			return err
		}
	}
	return nil
}

// holdLeftover holds what was being made in a directory when Redo was interrupted.
func (r *redo) holdLeftover(s Sink, dir journal.FileID) error {
	e, err := s.Lookup(dir, redoName)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return r.failed(fmt.Errorf("redo: look up %q in %s: %w", redoName, dir, err))
	}
	if _, born := r.plan.born[e.ID]; !born && !e.ID.IsZero() {
		return nil // a user's
	}
	return r.holdName(s, dir, redoName)
}

// holdName moves a name to the holding area. A name that stays in the way would
// make the end another one, so a failure is final; nothing is lost by it.
func (r *redo) holdName(s Sink, dir journal.FileID, name string) error {
	if err := s.Hold(dir, name); err != nil {
		return fmt.Errorf("redo: hold %q of directory %s: %w", name, dir, err)
	}
	r.done.Held++
	return nil
}

// findMissing decides which objects of the log have to be made: those that have a
// name at the end and are not there, the directories that they were made in if
// these are not there, and so on. One that is there may have to get once more what
// is inherited from it.
func (r *redo) findMissing() error {
	for i := range r.plan.names {
		n := &r.plan.names[i]
		if n.settled {
			continue
		}
		for id := n.id; ; {
			b, born := r.plan.born[id]
			if !born || b.wanted {
				break
			}
			_, err := r.sinks[n.tree].Find(id)
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("redo: find %s: %w", id, err)
			}
			b.wanted, b.missing = true, err != nil
			r.plan.born[id] = b
			if !b.missing {
				break
			}
			id = b.parent
		}
	}
	return nil
}

// carryOut is the second walk of the log.
func (r *redo) carryOut(op *journal.Op) error {
	if r.sinks[op.Tree] == nil {
		return r.failed(fmt.Errorf("redo: operation %d is of replicated directory %d, which this host does not have (any more): %w",
			op.Seq, op.Tree, syscall.ENODEV))
	}
	b, born := r.plan.born[op.ID]
	if born && b.names == 0 && !b.wanted {
		return nil // it is gone at the end, and nobody needs it until then
	}
	switch op.Kind {
	case journal.KindCreate, journal.KindTmpfile:
		if b.missing {
			b.missing = false
			r.plan.born[op.ID] = b
			if err := r.make(op, b); err != nil {
				return err
			}
		}
		if op.Kind == journal.KindTmpfile {
			return r.strip(op)
		}
	case journal.KindTimes, journal.KindSetAttr:
		if _, ok := r.plan.dirs[op.ID]; !ok {
			return r.data(op)
		}
		attrs := *op // its time is for setTimes
		if attrs.Valid &^= journal.SetMtime; op.Kind == journal.KindSetAttr && attrs.Valid != 0 {
			return r.data(&attrs)
		}
	case journal.KindWrite, journal.KindSetXattr, journal.KindRemoveXattr, journal.KindFallocate:
		return r.data(op)
	}
	return nil
}

// make makes the object of a KindCreate or KindTmpfile.
func (r *redo) make(op *journal.Op, b birth) error {
	s := r.sinks[op.Tree]
	e := Entry{Name: redoName, ID: op.ID, Mode: op.Mode, UID: op.UID, GID: op.GID, Rdev: op.Rdev, Target: string(op.Data)}
	n := r.plan.lookup(b.parent, op.Name)
	stays := op.Kind == journal.KindCreate && n != nil && n.id == op.ID
	if stays {
		e.Name = op.Name
	}
	dir := b.parent
	err := s.Create(dir, &e)
	if root := journal.RootID(op.Tree); errors.Is(err, syscall.ENOENT) && dir != root {
		// Its directory went without it, which no crash explains. Better than nothing:
		dir, e.Name, stays = root, redoName, false
		err = s.Create(dir, &e)
	}
	if err != nil {
		return r.failed(fmt.Errorf("redo: operation %d: make %s: %w", op.Seq, op.ID, err))
	}
	r.done.Made++
	if stays {
		n.settled = true
		return nil
	}
	return r.holdName(s, dir, redoName)
}

// strip makes a file that came without a name empty, as it came: everything of it
// follows in the log, but for holes, xattrs that it does not have, and what it has
// inherited here from a directory that is not its own. The primary may also have
// begun twice to send the same file.
func (r *redo) strip(op *journal.Op) error {
	s := r.sinks[op.Tree]
	e, err := s.Find(op.ID)
	if err == nil {
		err = s.SetAttrs(op.ID, &Attrs{Mode: op.Mode, UID: op.UID, GID: op.GID, Atime: e.Mtime, Mtime: e.Mtime})
	}
	if err != nil {
		return r.failed(fmt.Errorf("redo: operation %d: empty %s: %w", op.Seq, op.ID, err))
	}
	return nil
}

// data carries out what changes an object and no name.
func (r *redo) data(op *journal.Op) error {
	switch e := r.apply.Apply(op).Errno; e {
	case 0:
		return nil
	case syscall.ENOENT, syscall.EEXIST, syscall.ENODATA: // it is gone; the xattr is there, or gone, already
		r.done.Moot++
		return nil
	default:
		return r.failed(fmt.Errorf("redo: operation %d: %s of %s: %w", op.Seq, op.Kind, op.ID, e))
	}
}

// place makes the names that are missing.
func (r *redo) place() error {
	for i := range r.plan.names {
		n := &r.plan.names[i]
		if n.settled || n.id.IsZero() {
			continue
		}
		if err := r.sinks[n.tree].Place(n.id, n.dir, n.name); err != nil {
			if err = r.failed(fmt.Errorf("redo: place %s at %q of directory %s: %w", n.id, n.name, n.dir, err)); err != nil {
				return err
			}
			continue
		}
		r.done.Placed++
	}
	return nil
}

// setTimes sets the modification times of directories that are not those of their
// last change of names. The others are never set back: a change must not look older
// than it is.
func (r *redo) setTimes() error {
	for dir, d := range r.plan.dirs {
		if !d.timed {
			continue
		}
		if e, err := r.sinks[d.tree].Find(dir); err != nil || e.Mtime == d.mtime {
			continue // it is gone, or nothing has touched it
		}
		if err := r.data(&journal.Op{Seq: r.done.Last, Kind: journal.KindTimes, Tree: d.tree, ID: dir, Mtime: d.mtime}); err != nil {
			return err
		}
	}
	return nil
}

// drop empties the holding areas.
func (r *redo) drop() error {
	for tree, s := range r.sinks {
		for more := true; more; {
			n, left, err := s.DropHeld(redoDrop)
			if err != nil {
				err = fmt.Errorf("redo: empty the holding area of tree %d: %w", tree, err)
			} else if left && n == 0 {
				return fmt.Errorf("redo: the holding area of tree %d does not become empty", tree)
			}
			if err != nil {
				if err = r.failed(err); err != nil {
					return err
				}
				break // the next reintegration tries again
			}
			more = left
		}
	}
	return nil
}
