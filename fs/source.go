package fs

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// This file is a tree as a reintegration reads it on the primary: under the
// locks that live changes take.

// Num is the number of the tree in its module.
func (t *Tree) Num() uint8 { return t.num }

// Indexed says whether every object is in the index, as far as index promises it.
func (t *Tree) Indexed() bool { return t.index.complete.Load() }

// FinishIndex says that the index is complete: WithDir has been called for every
// directory since the tree was opened.
func (t *Tree) FinishIndex() error { return t.index.finish(t.rootObject().handle) }

// DropIndex empties the index, which was made for another content of the tree.
func (t *Tree) DropIndex() error {
	if err := t.index.clear(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.objects {
		if o.replicated() && !isLocal(o.id) {
			t.index.put(o.id, o.handle)
		}
	}
	return nil
}

// living is byID for what has a name or may still get one: an open file that was
// deleted is gone.
func (t *Tree) living(id journal.FileID) (*object, error) {
	o, err := t.byID(id)
	if err != nil {
		return nil, err
	}
	if o.dead() {
		t.unref(o, 1)
		return nil, unix.ENOENT
	}
	return o, nil
}

// dead says whether o has no name and gets none. It may become so until o is locked.
func (o *object) dead() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unlinked && !o.tmpfile
}

// WithDir calls f with all names in dir while they cannot change.
func (t *Tree) WithDir(dir journal.FileID, f func([]journal.Entry) error) error {
	o, err := t.living(dir)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	if o.dead() {
		return unix.ENOENT
	}
	entries, err := t.list(o, true)
	if err != nil {
		return err
	}
	return f(entries)
}

// list returns the names in directory o: not the dots, the holding area and
// mount points. still: the names cannot change, so objects without identity get one,
// where this host may give it. Otherwise one that is just being made would get
// another than it is about to have.
func (t *Tree) list(o *object, still bool) ([]journal.Entry, error) {
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	dir := o // that may give identities
	if !still {
		dir = nil
	}
	d := dirStream{fd: fd}
	var entries []journal.Entry
	for {
		de, ok, err := d.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return entries, nil
		}
		if de.name == "." || de.name == ".." || t.hidden(o, de.name) {
			continue
		}
		if o.mnt == nil && t.excludesAt(fd, de.name) {
			continue
		}
		e, err := t.entryAt(fd, dir, de.name)
		switch {
		case err == unix.ENOENT || err == unix.EXDEV:
			continue
		case err != nil:
			return nil, err
		}
		entries = append(entries, e)
	}
}

// entryAt describes name in the directory o (nil: as in idAt), open as fd. EXDEV: it is on another
// file system.
func (t *Tree) entryAt(fd int, o *object, name string) (journal.Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return journal.Entry{}, err
	}
	if st.Dev != t.dev {
		return journal.Entry{}, unix.EXDEV
	}
	id, err := t.idAt(fd, o, name, st.Ino)
	if err != nil {
		return journal.Entry{}, err
	}
	e := entryOf(&st)
	e.Name, e.ID = name, id
	if e.Xattrs, err = sumXattrs(procPath(fd)+"/"+name, unix.Llistxattr, unix.Lgetxattr); err != nil {
		return e, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		b := make([]byte, st.Size+1)
		n, err := unix.Readlinkat(fd, name, b)
		if err != nil {
			return e, err
		}
		e.Target = string(b[:n])
	}
	return e, nil
}

func entryOf(st *unix.Stat_t) journal.Entry {
	return journal.Entry{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: uint32(st.Rdev), Nlink: uint32(st.Nlink),
		Size: st.Size, Mtime: timeOf(st.Mtim), Ctime: timeOf(st.Ctim)}
}

// idAt returns the identity of name in the directory open as fd and notes it in
// the index; zero if it has none and this host may not give it one, or dir is nil.
func (t *Tree) idAt(fd int, dir *object, name string, ino uint64) (journal.FileID, error) {
	t.mu.Lock()
	o := t.inos[ino]
	t.mu.Unlock()
	if o != nil && !isLocal(o.id) {
		return o.id, nil
	}
	path := procPath(fd) + "/" + name
	id, err := readID(path, ino)
	if errors.Is(err, errNoID) {
		if dir == nil || !t.assign.Load() {
			return journal.FileID{}, nil
		}
		var st unix.Stat_t
		o, err := t.lookupAt(fd, dir, name, &st)
		if err != nil {
			return journal.FileID{}, err
		}
		defer t.unref(o, 1)
		return o.id, nil
	}
	if err != nil {
		return journal.FileID{}, err
	}
	h, err := handleAt(fd, name)
	if err != nil {
		return journal.FileID{}, err
	}
	t.index.learn(id, h)
	return id, nil
}

// WithRange calls f while bytes [off, off+n) of a regular file cannot change.
func (t *Tree) WithRange(id journal.FileID, off, n int64, f func(*Data) error) error {
	o, err := t.living(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	end := int64(math.MaxInt64)
	if n < end-off {
		end = off + n
	}
	l := o.lock.lock(off, end)
	defer o.lock.unlock(l)
	if o.dead() {
		return unix.ENOENT
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_NOFOLLOW)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	return f(&Data{fd})
}

// WithObject calls f while nothing of the object can change. The data is nil if
// it is not a regular file.
func (t *Tree) WithObject(id journal.FileID, f func(*journal.Attrs, *Data) error) error {
	o, err := t.living(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	if o.dead() {
		return unix.ENOENT
	}
	a, err := t.attrs(o)
	if err != nil {
		return gone(err)
	}
	t.cleanTimes(o) // f sends them
	if o.typ != unix.S_IFREG {
		return f(a, nil)
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_NOFOLLOW)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	return f(a, &Data{fd})
}

// gone makes one error of the ways in which an object can be there no more.
func gone(err error) error {
	if err == unix.ESTALE {
		return unix.ENOENT
	}
	return err
}

// attrs reads all attributes of o.
func (t *Tree) attrs(o *object) (*journal.Attrs, error) {
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return nil, err
	}
	a := &journal.Attrs{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Atime: timeOf(st.Atim), Mtime: timeOf(st.Mtim)}
	if o.typ == unix.S_IFREG {
		a.Size = st.Size
	}
	m, err := t.xattrs(o)
	if err != nil {
		return nil, err
	}
	for name, value := range m {
		a.Xattrs = append(a.Xattrs, journal.Xattr{Name: name, Value: value})
	}
	return a, nil
}

// Stat describes an object, without its name.
func (t *Tree) Stat(id journal.FileID) (journal.Entry, error) {
	o, err := t.living(id)
	if err != nil {
		return journal.Entry{}, err
	}
	defer t.unref(o, 1)
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return journal.Entry{}, gone(err)
	}
	e := entryOf(&st)
	e.ID = id
	p, err := o.path()
	if err != nil {
		return e, gone(err)
	}
	e.Xattrs, err = sumXattrs(procPath(p.fd), unix.Listxattr, unix.Getxattr)
	p.put()
	if err != nil {
		return e, gone(err)
	}
	if o.typ == unix.S_IFLNK {
		target, err := t.readlink(o)
		if err != nil {
			return e, gone(err)
		}
		e.Target = string(target)
	}
	return e, nil
}

// openParent opens the directory above one that is not the root. The way up to the
// root would end in what is mounted on it, which is skfs itself.
func (t *Tree) openParent(dir, flags int) (int, error) {
	fd, err := unix.Openat2(dir, "..", &unix.OpenHow{Flags: uint64(flags) | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV})
	if err == unix.EXDEV {
		return unix.Openat(t.root, ".", flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// Parent is the directory that a directory is in.
func (t *Tree) Parent(dir journal.FileID) (journal.FileID, error) {
	o, err := t.living(dir)
	if err != nil {
		return journal.FileID{}, err
	}
	defer t.unref(o, 1)
	e, err := o.path()
	if err != nil {
		return journal.FileID{}, gone(err)
	}
	defer e.put()
	fd, err := t.openParent(e.fd, unix.O_PATH)
	if err != nil {
		return journal.FileID{}, gone(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return journal.FileID{}, err
	}
	t.mu.Lock()
	up := t.inos[st.Ino]
	t.mu.Unlock()
	if up != nil && !isLocal(up.id) {
		return up.id, nil
	}
	id, err := readIDFd(fd, st.Ino)
	if errors.Is(err, errNoID) {
		return id, unix.ENOENT // it is no directory of the tree
	}
	return id, err
}
