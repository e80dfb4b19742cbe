package fs

import (
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// Apply carries out an operation of the primary on this host, which is SECOND.
// It is called concurrently for operations that do not conflict and in their
// order for those that do, so it takes no locks. Reintegration kinds are not
// for it. It is a journal.Applier.
func (f *FS) Apply(op *journal.Op) journal.Result {
	return journal.Result{Seq: op.Seq, Errno: errno(gone(f.apply(op)))}
}

func (f *FS) apply(op *journal.Op) error {
	t := f.tree
	switch op.Kind {
	case journal.KindCreate:
		return f.applyCreate(op)
	case journal.KindTmpfile:
		return f.applyTmpfile(op)
	case journal.KindUnlink, journal.KindRmdir:
		return f.applyUnlink(op)
	case journal.KindRename:
		return f.applyRename(op)
	case journal.KindRelease:
		f.release(op.ID)
		return nil
	case journal.KindMark:
		return nil
	}
	o, err := t.byID(op.ID)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	switch op.Kind {
	case journal.KindLink:
		parent, err := t.byID(op.Parent)
		if err != nil {
			return err
		}
		defer t.unref(parent, 1)
		err = t.link(o, parent, op.Name)
		t.nameChanged(parent, op.Name)
		return err
	case journal.KindFsync:
		return t.applyFsync(o)
	}
	defer t.dataChanged(o)
	switch op.Kind {
	case journal.KindWrite:
		n, err := t.write(o, -1, op.Data, op.Off)
		if err != nil && n > 0 {
			err = errPartHere
		}
		return err
	case journal.KindSetAttr:
		return t.setattr(o, op, -1)
	case journal.KindSetXattr:
		return t.setxattr(o, op.Name, op.Data, int(op.Flags))
	case journal.KindRemoveXattr:
		err := t.removexattr(o, op.Name)
		if err == unix.ENODATA && op.Name == capsXattr {
			err = nil // writers side by side have all asked for it, see killPriv
		}
		return err
	case journal.KindFallocate:
		part, err := t.fallocate(o, -1, op)
		if part {
			err = errPartHere
		}
		return err
	case journal.KindTimes:
		return t.setMtime(o, op.Mtime)
	}
	return unix.ENOSYS
}

// applyFsync makes the data and the size of o durable. The times that the
// primary flushes too are not worth a commit of the file system's journal here:
// if this host loses power it is brought up to date, times included, before it
// can be of use.
func (t *Tree) applyFsync(o *object) error {
	if o.typ != unix.S_IFREG {
		return t.fsync(o, -1, false)
	}
	return t.withWriter(o, -1, func(fd int) error { return flush(unix.Fdatasync, fd) })
}

func (t *Tree) setMtime(o *object, mtime journal.Time) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	return utimes(e.fd, &[2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(mtime)})
}

func (f *FS) applyCreate(op *journal.Op) error {
	t := f.tree
	parent, err := t.byID(op.Parent)
	if err != nil {
		return err
	}
	defer t.unref(parent, 1)
	var st unix.Stat_t
	o, fd, err := t.create(parent, parent.mnt, op, &st)
	if err != nil {
		return err
	}
	if fd >= 0 { // writes are about to come
		t.fds.add(o, true, fd).put()
	}
	t.unref(o, 1)
	t.nameChanged(parent, op.Name)
	return nil
}

func (f *FS) applyTmpfile(op *journal.Op) error {
	t := f.tree
	var st unix.Stat_t
	root := t.rootObject()
	o, fd, err := t.mktmp(root, op, &st)
	if err != nil {
		return err
	}
	unix.Close(fd)
	if root.hasDefaultACL() { // on the primary it was made in another directory: what it has comes next
		if err := t.removexattr(o, accessACLXattr); err != nil && err != unix.ENODATA {
			t.unref(o, 1)
			return err
		}
	}
	t.mu.Lock()
	t.born[o.id] = struct{}{} // and the user that mktmp counted
	t.mu.Unlock()
	return nil
}

// release lets go of a file that came without a name.
func (f *FS) release(id journal.FileID) {
	t := f.tree
	t.mu.Lock()
	_, ok := t.born[id]
	delete(t.born, id)
	o := t.objects[id]
	t.mu.Unlock()
	if ok && o != nil {
		t.unref(o, 1)
	}
}

// EndStream says that no more operations of a stream will come: files that came
// without a name and got none are let go.
func (f *FS) EndStream() {
	f.tree.mu.Lock()
	var ids []journal.FileID
	for id := range f.tree.born {
		ids = append(ids, id)
	}
	f.tree.mu.Unlock()
	for _, id := range ids {
		f.release(id)
	}
}

// childOf finds name in parent and insists that it is id.
func (t *Tree) childOf(parent *object, name string, id journal.FileID, st *unix.Stat_t) (*object, error) {
	o, err := t.lookup(parent, name, st)
	if err != nil {
		return nil, err
	}
	if o.id != id {
		t.unref(o, 1)
		return nil, unix.EUCLEAN // the trees differ
	}
	return o, nil
}

func (f *FS) applyUnlink(op *journal.Op) error {
	t := f.tree
	parent, err := t.byID(op.Parent)
	if err != nil {
		return err
	}
	defer t.unref(parent, 1)
	var st unix.Stat_t
	o, err := t.childOf(parent, op.Name, op.ID, &st)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	if o.isDir() {
		if err := t.purgePrivate(o); err != nil {
			return err
		}
	}
	err = t.unlink(parent, o, op.Name, &st)
	t.nameChanged(parent, op.Name)
	return err
}

func (f *FS) applyRename(op *journal.Op) error {
	t := f.tree
	from, err := t.byID(op.Parent)
	if err != nil {
		return err
	}
	defer t.unref(from, 1)
	to, err := t.byID(op.Parent2)
	if err != nil {
		return err
	}
	defer t.unref(to, 1)
	var st, st2 unix.Stat_t
	o, err := t.childOf(from, op.Name, op.ID, &st)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	var over *object
	if !op.ID2.IsZero() {
		if over, err = t.childOf(to, op.Name2, op.ID2, &st2); err != nil {
			return err
		}
		defer t.unref(over, 1)
	}
	flags := op.Flags
	if over != nil && over.isDir() && flags&unix.RENAME_EXCHANGE == 0 {
		if err := t.purgePrivate(over); err != nil {
			return err
		}
	}
	if over == nil {
		flags |= unix.RENAME_NOREPLACE // the primary saw nothing there
	}
	err = t.rename(from, op.Name, to, op.Name2, flags, over, &st2)
	t.nameChanged(from, op.Name)
	t.nameChanged(to, op.Name2)
	return err
}

// nameChanged tells the kernel of a change of names that it did not make. Only
// a mount that was the primary's has names cached.
func (t *Tree) nameChanged(dir *object, name string) {
	if f := t.kernel.Load(); f != nil && dir.known.Load() {
		dir.changed.Store(true)
		if t.cached.Load() {
			f.server.EntryNotify(dir.node, name)
		}
	}
}

// dataChanged tells the kernel of a change of an object that it did not make. It
// keeps nothing of what is not open (a mapping keeps a file open), but for
// answers of the primary that were on their way when it ceased to be one: these
// go with the first change, and with Rule.
func (t *Tree) dataChanged(o *object) {
	f := t.kernel.Load()
	if f == nil || !o.known.Load() {
		return
	}
	first := !o.changed.Swap(true)
	o.mu.Lock()
	open := o.opens > 0
	o.mu.Unlock()
	if open || first {
		f.server.InodeNotify(o.node, 0, 0)
	}
}

// forgetKernel makes the kernel forget the attributes and the pages of all
// objects, or of those only that were changed behind its back.
func (f *FS) forgetKernel(changed bool) {
	t := f.tree
	t.mu.Lock()
	nodes := make([]uint64, 0, len(t.nodes))
	for n, o := range t.nodes {
		if was := o.changed.Swap(false); was || !changed {
			nodes = append(nodes, n)
		}
	}
	t.mu.Unlock()
	for _, n := range nodes {
		f.server.InodeNotify(n, 0, 0)
	}
}
