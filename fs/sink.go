package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// This file is a tree as a reintegration changes it on the second host. Calls
// that change names come one at a time.

// BuildIndex finds every object that has an identity, those in the holding area
// included, so that they can be found by it. It reads every directory and the
// identity of every object, nothing else, unless that was done before: then it
// reads the holding area.
func (t *Tree) BuildIndex() error {
	err := t.readHeld()
	if err == nil && !t.Indexed() {
		if err = t.scan(t.root, t.rootObject()); err == nil {
			err = t.FinishIndex()
		}
	}
	if err != nil {
		return fmt.Errorf("index of %s: %w", t.dir, err)
	}
	return nil
}

// readHeld learns what an interrupted reintegration has left in the holding area.
func (t *Tree) readHeld() error {
	t.held = map[journal.FileID][]string{}
	h, err := t.openHidden(holdName)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(h)
	d := dirStream{fd: h}
	for {
		de, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if de.name == "." || de.name == ".." {
			continue
		}
		id, err := t.idAt(h, nil, de.name, de.ino)
		if err != nil {
			return err
		}
		if !id.IsZero() {
			t.held[id] = append(t.held[id], de.name)
		}
	}
}

// openHidden opens a directory of the hidden one.
func (t *Tree) openHidden(name string) (int, error) {
	return unix.Openat2(t.root, hiddenName+"/"+name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
}

// makeHidden is openHidden, after making what is missing.
func (t *Tree) makeHidden(name string) (int, error) {
	fd, err := t.openHidden(name)
	if err != unix.ENOENT {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(t.root, &st); err != nil {
		return -1, err
	}
	for _, dir := range [...]string{hiddenName, hiddenName + "/" + name} {
		if err := unix.Mkdirat(t.root, dir, 0o700); err != nil && err != unix.EEXIST {
			return -1, err
		}
	}
	if err := utimes(t.root, &[2]unix.Timespec{st.Atim, st.Mtim}); err != nil {
		return -1, err
	}
	return t.openHidden(name)
}

// dropHidden removes an empty directory of the hidden one, and that if it was the
// last. The times of the root stay.
func (t *Tree) dropHidden(name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.root, &st); err != nil {
		return err
	}
	if err := unix.Unlinkat(t.root, hiddenName+"/"+name, unix.AT_REMOVEDIR); err != nil {
		return err
	}
	if err := unix.Unlinkat(t.root, hiddenName, unix.AT_REMOVEDIR); err != nil && err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	return utimes(t.root, &[2]unix.Timespec{st.Atim, st.Mtim})
}

func (t *Tree) rootObject() *object {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.objects[journal.RootID(t.num)]
}

// scan notes what is in the directory open as fd and below it. dir is the root, or
// nil for what is below.
func (t *Tree) scan(fd int, dir *object) error {
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dup)
	d := dirStream{fd: dup}
	for {
		de, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if de.name == "." || de.name == ".." {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dup, de.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Dev != t.dev {
			continue
		}
		if dir != nil && t.hidden(dir, de.name) {
			if err := t.scanHeld(); err != nil {
				return err
			}
			continue
		}
		if t.excludesAt(dup, de.name) {
			continue
		}
		if _, err := t.idAt(dup, nil, de.name, st.Ino); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			c, err := unix.Openat(dup, de.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = t.scan(c, nil)
			unix.Close(c)
			if err != nil {
				return err
			}
		}
	}
}

// scanHeld is scan for what is in the holding area.
func (t *Tree) scanHeld() error {
	h, err := t.openHidden(holdName)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(h)
	return t.scan(h, nil)
}

// withDir calls f with the directory id and a descriptor of it.
func (t *Tree) withDir(id journal.FileID, f func(o *object, fd int) error) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	return f(o, fd)
}

// List returns the names in a directory. It takes no lock and gives no identities.
func (t *Tree) List(dir journal.FileID) (list []journal.Entry, err error) {
	err = t.withDir(dir, func(o *object, _ int) error {
		list, err = t.list(o, false)
		return err
	})
	return list, err
}

// Lookup describes one name. On the primary the caller holds its lock.
func (t *Tree) Lookup(dir journal.FileID, name string) (e journal.Entry, err error) {
	err = t.withDir(dir, func(o *object, fd int) error {
		e, err = t.entryAt(fd, o, name)
		return err
	})
	return e, err
}

// MakeEntry creates the object that e describes, empty.
func (t *Tree) MakeEntry(dir journal.FileID, e *journal.Entry) error {
	parent, err := t.byID(dir)
	if err != nil {
		return err
	}
	defer t.unref(parent, 1)
	op := &journal.Op{Kind: journal.KindCreate, Tree: t.num, ID: e.ID, Parent: dir, Name: e.Name, Mode: e.Mode, UID: e.UID, GID: e.GID,
		Rdev: e.Rdev, Data: []byte(e.Target)}
	var st unix.Stat_t
	o, fd, err := t.create(parent, parent.mnt, op, &st)
	if err != nil {
		return err
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	t.unref(o, 1)
	t.nameChanged(parent, e.Name)
	return nil
}

// hold opens the holding area, making it if need be.
func (t *Tree) hold() (int, error) { return t.makeHidden(holdName) }

// freshHeld returns a name that the holding area does not have.
func (t *Tree) freshHeld(id journal.FileID) string {
	t.holds++
	return fmt.Sprintf("%s-%d-%s", id, t.holds, journal.NewFileID().String()[:8])
}

// Hold moves a name to the holding area.
func (t *Tree) Hold(dir journal.FileID, name string) error {
	return t.withDir(dir, func(o *object, fd int) error {
		e, err := t.entryAt(fd, o, name)
		if err != nil {
			return err
		}
		h, err := t.hold()
		if err != nil {
			return err
		}
		defer unix.Close(h)
		to := t.freshHeld(e.ID)
		if err := unix.Renameat2(fd, name, h, to, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
		if !e.ID.IsZero() {
			t.held[e.ID] = append(t.held[e.ID], to)
		}
		if t.aside != nil {
			t.heldPaths[to] = t.pathOf(fd, name)
		}
		t.nameChanged(o, name)
		return nil
	})
}

// Quarantine says whether what is held at the end of the pass is kept in the
// quarantine that is open, or deleted.
func (t *Tree) Quarantine(keep bool) error {
	if t.aside != nil {
		unix.Close(t.aside.dir)
		t.aside = nil
	}
	if !keep {
		return nil
	}
	a, err := t.OpenAside()
	if err == nil && a == nil {
		err = fmt.Errorf("%s: no quarantine is open", t.dir)
	}
	t.aside, t.heldPaths = a, map[string]string{}
	return err
}

// EndQuarantine says that the pass has ended: the quarantine, if one is open, is
// complete.
func (t *Tree) EndQuarantine() error {
	a := t.aside
	if t.aside = nil; a == nil {
		return nil
	}
	return a.end()
}

// Keep gives a file that has no name one in the holding area.
func (t *Tree) Keep(id journal.FileID) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	h, err := t.hold()
	if err != nil {
		return err
	}
	defer unix.Close(h)
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	name := t.freshHeld(id)
	if err := unix.Linkat(e.fd, "", h, name, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	t.held[id] = append(t.held[id], name)
	t.nowNamed(o)
	return nil
}

// Place makes name in dir a name of the object id.
func (t *Tree) Place(id, dir journal.FileID, name string) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	return t.withDir(dir, func(p *object, fd int) error {
		defer t.nameChanged(p, name)
		if held := t.held[id]; len(held) > 0 {
			h, err := t.hold()
			if err != nil {
				return err
			}
			defer unix.Close(h)
			if err := unix.Renameat2(h, held[0], fd, name, unix.RENAME_NOREPLACE); err != nil {
				return err
			}
			if t.held[id] = held[1:]; len(held) == 1 {
				delete(t.held, id)
			}
			return nil
		}
		e, err := o.path()
		if err != nil {
			return gone(err)
		}
		defer e.put()
		if !o.isDir() {
			return unix.Linkat(e.fd, "", fd, name, unix.AT_EMPTY_PATH)
		}
		up, old, err := t.nameOfDir(e.fd, o.ino)
		if err != nil {
			return err
		}
		defer unix.Close(up)
		return unix.Renameat2(up, old, fd, name, unix.RENAME_NOREPLACE)
	})
}

// nameOfDir finds the one name that a directory has: it looks through its parent.
func (t *Tree) nameOfDir(fd int, ino uint64) (parent int, name string, err error) {
	parent, err = t.openParent(fd, unix.O_RDONLY)
	if err != nil {
		return -1, "", err
	}
	d := dirStream{fd: parent}
	for {
		e, ok, err := d.next()
		if err == nil && !ok {
			err = unix.ENOENT
		}
		if err != nil {
			unix.Close(parent)
			return -1, "", err
		}
		if e.ino == ino && e.name != "." && e.name != ".." {
			return parent, e.name, nil
		}
	}
}

// Identify gives the object at name the identity id.
func (t *Tree) Identify(dir journal.FileID, name string, id journal.FileID) error {
	return t.withDir(dir, func(p *object, fd int) error {
		defer t.nameChanged(p, name)
		c, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(c)
		var st unix.Stat_t
		if err := unix.Fstat(c, &st); err != nil {
			return err
		}
		if err := writeID(c, id, st.Ino); err != nil {
			return err
		}
		h, err := handleAt(c, "")
		if err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if o := t.inos[st.Ino]; o != nil { // the kernel will look it up again
			delete(t.inos, st.Ino)
			t.index.delete(o.id)
		}
		t.index.put(id, h)
		return nil
	})
}

// DropHeld deletes what is in the holding area, at most max names of it, and
// then the area itself. more: some are left.
func (t *Tree) DropHeld(max int) (dropped int, more bool, err error) {
	h, err := t.openHidden(holdName)
	if err == unix.ENOENT {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	left := max
	if t.aside != nil {
		err = t.aside.takeHeld(h)
	} else {
		err = t.removeAll(h, &left)
	}
	unix.Close(h)
	if err == errEnough {
		return max - left, true, nil
	}
	if err != nil {
		return max - left, false, err
	}
	t.held = map[journal.FileID][]string{}
	return max - left, false, t.dropHidden(holdName)
}

// errEnough ends removeAll when it has deleted as much as it may.
var errEnough = errors.New("as many names as were to be deleted")

// removeAll empties the directory open as fd, without leaving the file system,
// as long as *left names may be deleted.
func (t *Tree) removeAll(fd int, left *int) error {
	d := dirStream{fd: fd}
	var names []dirEntry
	for {
		e, ok, err := d.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if e.name != "." && e.name != ".." {
			names = append(names, e)
		}
	}
	for _, e := range names {
		if *left <= 0 {
			return errEnough
		}
		if err := t.removeOne(fd, e.name, left); err != nil {
			return err
		}
	}
	return nil
}

// removeOne deletes name in the directory open as fd, with all that is below it.
func (t *Tree) removeOne(fd int, name string, left *int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Dev != t.dev {
		return fmt.Errorf("%s/%s: %w: a file system is mounted on …/%s below it: unmount it", t.dir, hiddenName, unix.EBUSY, name)
	}
	flags := 0
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
		c, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = t.removeAll(c, left)
		unix.Close(c)
		if err != nil {
			return err
		}
	}
	id, iderr := readID(procPath(fd)+"/"+name, st.Ino)
	if err := unix.Unlinkat(fd, name, flags); err != nil {
		return err
	}
	*left--
	if iderr == nil && (flags != 0 || st.Nlink <= 1) {
		t.forgetID(id)
	}
	return nil
}

// forgetID takes an object that was deleted out of the index.
func (t *Tree) forgetID(id journal.FileID) {
	t.index.delete(id)
	t.mu.Lock()
	o := t.objects[id]
	if o != nil {
		o.refs++
	}
	t.mu.Unlock()
	if o != nil {
		t.nameless(o)
		t.unref(o, 1)
	}
}

// Find describes an object.
func (t *Tree) Find(id journal.FileID) (journal.Entry, error) { return t.Stat(id) }

// OpenData opens a regular file for reading.
func (t *Tree) OpenData(id journal.FileID) (*Data, error) {
	o, err := t.byID(id)
	if err != nil {
		return nil, err
	}
	defer t.unref(o, 1)
	if o.typ != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_NOFOLLOW)
	if err != nil {
		return nil, gone(err)
	}
	if t.doubted.Load() {
		unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	}
	return &Data{fd}, nil
}

// Doubt says whether OpenData is to read what is on disk. A page that could not be
// written stays in the cache with its new content, as if it had been: compared with
// the primary's it would be right, until it is dropped one day.
// What is still to be written is written before, and what was not is heard of once more:
// none of that counts, the content is about to be compared.
func (t *Tree) Doubt(whether bool) {
	if t.doubted.Store(whether); whether {
		unix.Syncfs(t.root)
	}
}

// Punch makes a range of a regular file a hole.
func (t *Tree) Punch(id journal.FileID, off, n int64) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	defer t.dataChanged(o)
	return t.withWriter(o, -1, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if n = min(n, st.Size-off); n <= 0 {
			return nil
		}
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// SetAttrs makes all attributes of an object exactly these: size, owner, xattrs
// (an ACL changes the mode), mode, times.
func (t *Tree) SetAttrs(id journal.FileID, a *journal.Attrs) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	defer t.dataChanged(o)
	op := &journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetUID | journal.SetGID, UID: a.UID, GID: a.GID, Off: a.Size}
	if o.typ == unix.S_IFREG {
		op.Valid |= journal.SetSize
	}
	if err := t.setattr(o, op, -1); err != nil {
		return err
	}
	have, err := t.xattrs(o)
	if err != nil {
		return err
	}
	for _, x := range a.Xattrs {
		old, ok := have[x.Name]
		delete(have, x.Name)
		if ok && string(old) == string(x.Value) {
			continue
		}
		if err := t.setxattr(o, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("xattr %s: %w", x.Name, err)
		}
	}
	for name := range have {
		if err := t.removexattr(o, name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove xattr %s: %w", name, err)
		}
	}
	op = &journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetAtime | journal.SetMtime, Atime: a.Atime, Mtime: a.Mtime, Mode: a.Mode}
	if o.typ != unix.S_IFLNK {
		op.Valid |= journal.SetMode
	}
	return t.setattr(o, op, -1)
}

// Disown takes the identity from the object that has it.
func (t *Tree) Disown(id journal.FileID) error {
	o, err := t.byID(id)
	if err != nil {
		return err
	}
	defer t.unref(o, 1)
	e, err := o.path()
	if err != nil {
		return gone(err)
	}
	defer e.put()
	if err := unix.Removexattr(procPath(e.fd), idXattr); err != nil && err != unix.ENODATA {
		return err
	}
	t.index.delete(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.objects[id] == o {
		delete(t.objects, id)
	}
	if t.inos[o.ino] == o {
		delete(t.inos, o.ino)
	}
	return nil
}
