package fs

import (
	"cmp"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// Changes of names. The directory is locked as a whole, then what the name
// stands for: the order the kernel uses too, so two requests never wait for each
// other. The only requests that lock two directories are renames, which the
// kernel sends one at a time when the directories differ; they lock in the order
// of identities all the same.

// newMode is the mode of a new object: the umask does not apply where the
// directory has a default ACL (acl(5)).
func newMode(parent *object, mode, umask uint32) uint32 {
	if umask != 0 && !parent.hasDefaultACL() {
		mode &^= umask
	}
	return mode
}

// inherit puts into op what a new object has from its directory: the group, if
// that has the set-group-ID bit, and of a new directory this bit too. It is in the
// operation because the directory of the other host may not have it yet (a
// reintegration sends the attributes of directories last).
func inherit(parent *object, op *journal.Op) error {
	var st unix.Stat_t
	if err := parent.stat(&st); err != nil {
		return err
	}
	isDir := op.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir {
		op.Mode &^= unix.S_ISUID | unix.S_ISGID // mkdir(2) does not take them
	}
	if st.Mode&unix.S_ISGID != 0 {
		op.GID = st.Gid
		if isDir {
			op.Mode |= unix.S_ISGID
		}
	}
	return nil
}

// enterUnder is Gate.enter for a change of names on that side in directory parents.
func (f *FS) enterUnder(side *boundary, parents []*object, ops ...*journal.Op) (ticket, error) {
	if side != nil {
		for _, p := range parents {
			if err := f.touching(p); err != nil {
				return ticket{}, err
			}
		}
	}
	return f.enter(side == nil, ops...)
}

// enter takes a change through the gate; one that does not travel needs to know
// only that the gate is open.
func (f *FS) enter(travels bool, ops ...*journal.Op) (ticket, error) {
	if !travels {
		if e := f.gate.enterQuiet(); e != 0 {
			return ticket{}, e
		}
		return ticket{}, nil
	}
	tk, e := f.gate.enter(ops...)
	if e != 0 {
		return ticket{}, e
	}
	return tk, nil
}

// leave ends what enter began, and notes whose modification times changed.
func (f *FS) leave(tk ticket, err error, changed ...*object) {
	if tk.g == nil { // nobody is told of the change itself
		if err == nil {
			for _, o := range changed {
				if o.isDir() {
					f.touched(o)
				}
			}
		}
		return
	}
	if tk.peer != nil && err == nil {
		for _, o := range changed {
			f.tree.dirtyTimes(o)
		}
	}
	tk.done(err)
}

// make creates an object of any type as name in the directory of h. For a
// regular file it returns a descriptor open for reading and writing.
func (f *FS) make(h *fuse.InHeader, name string, mode, umask, rdev uint32, target string, out *fuse.EntryOut) (*object, int, error) {
	parent, s := f.node(h)
	if !s.Ok() {
		return nil, -1, unix.ESTALE
	}
	if f.tree.hidden(parent, name) {
		return nil, -1, unix.EPERM
	}
	defer f.tree.border(false)()
	l := parent.lock.lockAll()
	defer parent.lock.unlock(l)
	if err := f.absent(parent, name); err != nil {
		return nil, -1, err
	}
	side, err := f.tree.sideOf(parent, name)
	if err != nil {
		return nil, -1, err
	}
	op := &journal.Op{Kind: journal.KindCreate, Tree: f.tree.num, ID: journal.NewFileID(), Parent: parent.id, Name: name,
		Mode: mode, UID: h.Uid, GID: h.Gid, Rdev: rdev, Data: []byte(target)}
	if mode&unix.S_IFMT != unix.S_IFLNK {
		op.Mode = newMode(parent, mode, umask)
	}
	if err := inherit(parent, op); err != nil {
		return nil, -1, err
	}
	tk, err := f.enterUnder(side, []*object{parent}, op)
	if err != nil {
		return nil, -1, err
	}
	var st unix.Stat_t
	o, fd, err := f.tree.create(parent, side, op, &st)
	f.leave(tk, err, parent, o)
	if err != nil {
		return nil, -1, err
	}
	f.fillEntry(out, o, &st)
	return o, fd, nil
}

// absent returns nil if there is no name in parent, and why it cannot be made
// otherwise. It is asked before the peer is told, so that the usual refusals
// cost no round trip and leave no difference.
func (f *FS) absent(parent *object, name string) error {
	p, err := parent.path()
	if err != nil {
		return err
	}
	defer p.put()
	var st unix.Stat_t
	switch err := unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
		return nil
	default:
		return err
	}
}

// Mknod implements fuse.RawFileSystem.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	mode := in.Mode
	if mode&unix.S_IFMT == 0 {
		mode |= unix.S_IFREG
	}
	_, fd, err := f.make(&in.InHeader, name, mode, in.Umask, in.Rdev, "", out)
	if fd >= 0 {
		unix.Close(fd)
	}
	return status(err)
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, _, err := f.make(&in.InHeader, name, in.Mode&^unix.S_IFMT|unix.S_IFDIR, in.Umask, 0, "", out)
	return status(err)
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	_, _, err := f.make(h, name, unix.S_IFLNK|0o777, 0, 0, target, out)
	return status(err)
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	o, fd, err := f.make(&in.InHeader, name, in.Mode&^unix.S_IFMT|unix.S_IFREG, in.Umask, 0, "", &out.EntryOut)
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		// The kernel looks a name up before it creates it, so this is a race with
		// something the kernel did not order. Open what is there.
		if s := f.Lookup(c, &in.InHeader, name, &out.EntryOut); !s.Ok() {
			return s
		}
		open := fuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags}
		open.NodeId = out.NodeId
		return f.Open(c, &open, &out.OpenOut)
	}
	if err != nil {
		return status(err)
	}
	out.Fh = f.addFile(&file{o: o, fd: fd, write: true, direct: in.Flags&unix.O_DIRECT != 0})
	out.OpenFlags = f.openFlags(in.Flags)
	return fuse.OK
}

// Tmpfile implements fuse.RawFileSystem. A file without a name is this host's
// business until it gets one: see Link.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	if e := f.gate.enterQuiet(); e != 0 {
		return fuse.Status(e)
	}
	op := &journal.Op{Kind: journal.KindTmpfile, Tree: f.tree.num, ID: journal.NewFileID(),
		Mode: newMode(dir, in.Mode&^unix.S_IFMT|unix.S_IFREG, in.Umask), UID: in.Uid, GID: in.Gid}
	if err := inherit(dir, op); err != nil {
		return status(err)
	}
	var st unix.Stat_t
	o, fd, err := f.tree.mktmp(dir, op, &st)
	if err != nil {
		return status(err)
	}
	f.fillEntry(&out.EntryOut, o, &st)
	out.Fh = f.addFile(&file{o: o, fd: fd, write: true, direct: in.Flags&unix.O_DIRECT != 0})
	out.OpenFlags = f.openFlags(in.Flags)
	return fuse.OK
}

// Link implements fuse.RawFileSystem.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	parent, s := f.node(&in.InHeader)
	o := f.tree.byNode(in.Oldnodeid)
	if !s.Ok() || o == nil {
		return fuse.Status(unix.ESTALE)
	}
	if f.tree.hidden(parent, name) {
		return fuse.EPERM
	}
	defer f.tree.border(false)()
	l := parent.lock.lockAll()
	defer parent.lock.unlock(l)
	lo := o.lock.lockAll()
	defer o.lock.unlock(lo)
	if err := f.absent(parent, name); err != nil {
		return status(err)
	}
	side, err := f.tree.sideOf(parent, name)
	if err != nil {
		return status(err)
	}
	if o.mnt != side {
		return fuse.EXDEV
	}
	ops := []*journal.Op{{Kind: journal.KindLink, Tree: f.tree.num, ID: o.id, Parent: parent.id, Name: name}}
	o.mu.Lock()
	born := o.tmpfile
	o.mu.Unlock()
	if born && side == nil {
		if err := f.bear(o); err != nil {
			return status(err)
		}
		ops = append(ops, &journal.Op{Kind: journal.KindRelease, Tree: f.tree.num, ID: o.id})
	}
	tk, err := f.enterUnder(side, []*object{parent}, ops...)
	if err != nil {
		return status(err)
	}
	err = f.tree.link(o, parent, name)
	f.leave(tk, err, parent)
	if err != nil {
		return status(err)
	}
	if born && side == nil {
		f.tree.dirtyTimes(o)
	}
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return status(err)
	}
	f.tree.ref(o) // the kernel's
	f.fillEntry(out, o, &st)
	return fuse.OK
}

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(f.unlink(h, name, journal.KindUnlink))
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(f.unlink(h, name, journal.KindRmdir))
}

func (f *FS) unlink(h *fuse.InHeader, name string, kind journal.Kind) error {
	parent, s := f.node(h)
	if !s.Ok() {
		return unix.ESTALE
	}
	if f.tree.hidden(parent, name) {
		return unix.ENOENT
	}
	defer f.tree.border(false)()
	l := parent.lock.lockAll()
	defer parent.lock.unlock(l)
	side, err := f.tree.sideOf(parent, name)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	o, err := f.tree.lookup(parent, name, &st)
	if err != nil {
		return err
	}
	defer f.tree.unref(o, 1)
	lo := o.lock.lockAll()
	defer o.lock.unlock(lo)
	if o.mnt != side {
		return unix.EBUSY // a mount point
	}
	switch {
	case kind == journal.KindUnlink && o.isDir():
		return unix.EISDIR
	case kind == journal.KindRmdir && !o.isDir():
		return unix.ENOTDIR
	case kind == journal.KindRmdir:
		if err := f.empty(o); err != nil {
			return err
		}
	}
	if err := o.stat(&st); err != nil { // the number of names, now that it cannot change
		return err
	}
	tk, err := f.enterUnder(side, []*object{parent}, &journal.Op{Kind: kind, Tree: f.tree.num, ID: o.id, Parent: parent.id, Name: name})
	if err != nil {
		return err
	}
	err = f.tree.unlink(parent, o, name, &st)
	f.leave(tk, err, parent)
	if err == nil {
		f.tree.cleanTimesIfGone(o)
	}
	return err
}

// cleanTimesIfGone drops the note that times are to be sent of an object without names.
func (t *Tree) cleanTimesIfGone(o *object) {
	if !o.named() {
		t.cleanTimes(o)
	}
}

// empty returns ENOTEMPTY if directory o has names.
func (f *FS) empty(o *object) error {
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	d := dirStream{fd: fd}
	defer unix.Close(fd)
	for {
		e, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if e.name != "." && e.name != ".." && !f.tree.hidden(o, e.name) {
			return unix.ENOTEMPTY
		}
	}
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, name2 string) fuse.Status {
	return status(f.rename(in, name, name2))
}

func (f *FS) rename(in *fuse.RenameIn, name, name2 string) error {
	from, s := f.node(&in.InHeader)
	to := f.tree.byNode(in.Newdir)
	if !s.Ok() || to == nil {
		return unix.ESTALE
	}
	if f.tree.hidden(from, name) || f.tree.hidden(to, name2) {
		return unix.EPERM
	}
	if in.Flags&^uint32(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL // RENAME_WHITEOUT is for overlayfs on a local file system
	}
	var st, st2 unix.Stat_t
	o, err := f.tree.lookup(from, name, &st)
	if err != nil {
		return err
	}
	defer f.tree.unref(o, 1)
	defer f.tree.border(o.isDir())()
	unlock := lockObjects(from, to)
	defer unlock()
	side, err := f.tree.sideOf(from, name)
	if err != nil {
		return err
	}
	side2, err := f.tree.sideOf(to, name2)
	if err != nil {
		return err
	}
	if now, err := f.tree.lookup(from, name, &st); err != nil || now != o {
		if err == nil {
			f.tree.unref(now, 1)
			err = unix.ENOENT // it is another one by now
		}
		return err
	}
	f.tree.unref(o, 1)
	over, err := f.tree.lookup(to, name2, &st2)
	switch {
	case err == unix.ENOENT:
		if in.Flags&unix.RENAME_EXCHANGE != 0 {
			return err
		}
		over = nil
	case err != nil:
		return err
	default:
		defer f.tree.unref(over, 1)
		if err := f.mayReplace(o, over, in.Flags); err != nil {
			return err
		}
		if o == over && in.Flags&unix.RENAME_EXCHANGE == 0 {
			return nil // two names of one file: rename(2) does nothing
		}
	}
	if o.mnt != side || over != nil && over.mnt != side2 {
		return unix.EBUSY // a mount point
	}
	if side != side2 {
		o.waitClosed()
	}
	unlockChildren := lockObjects(o, over)
	defer unlockChildren()
	if side != side2 {
		return f.cross(in.Flags, from, name, o, to, name2, over, side, side2)
	}
	if o.isDir() && side == nil {
		if crosses, err := f.tree.crossing(o, to, name2); crosses || err != nil {
			return cmp.Or(err, error(unix.EXDEV))
		}
		if over != nil && over.isDir() && in.Flags&unix.RENAME_EXCHANGE != 0 {
			if crosses, err := f.tree.crossing(over, from, name); crosses || err != nil {
				return cmp.Or(err, error(unix.EXDEV))
			}
		}
	}
	op := &journal.Op{Kind: journal.KindRename, Tree: f.tree.num, ID: o.id, Parent: from.id, Name: name,
		Parent2: to.id, Name2: name2, Flags: in.Flags}
	if over != nil {
		op.ID2 = over.id
		if err := over.stat(&st2); err != nil {
			return err
		}
	}
	tk, err := f.enterUnder(side, []*object{from, to}, op)
	if err != nil {
		return err
	}
	err = f.tree.rename(from, name, to, name2, in.Flags, over, &st2)
	f.leave(tk, err, from, to)
	if err == nil && over != nil {
		f.tree.cleanTimesIfGone(over)
	}
	return err
}

// mayReplace returns why o may not take the name of over.
func (f *FS) mayReplace(o, over *object, flags uint32) error {
	switch {
	case flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case flags&unix.RENAME_EXCHANGE != 0 || o == over:
		return nil
	case o.isDir() && !over.isDir():
		return unix.ENOTDIR
	case !o.isDir() && over.isDir():
		return unix.EISDIR
	case over.isDir():
		return f.empty(over)
	}
	return nil
}

// lockObjects locks each of the objects once (nil ones not) and returns the undoing.
func lockObjects(list ...*object) (unlock func()) {
	list = slices.DeleteFunc(list, func(o *object) bool { return o == nil })
	slices.SortFunc(list, func(a, b *object) int { return cmp.Compare(a.id.String(), b.id.String()) })
	list = slices.Compact(list)
	spans := make([]*span, len(list))
	for i, o := range list {
		spans[i] = o.lock.lockAll()
	}
	return func() {
		for i, o := range list {
			o.lock.unlock(spans[i])
		}
	}
}
