package fs

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// What is excluded from replication (<notreplicated>) is private to each host: it
// is shown and works as in any directory, but no change of it travels, and no list
// that is compared or copied names it. Whether a name is private is decided where it
// stands: by its path, when its directory is replicated; below a private directory
// everything is. Objects with a private name live in a boundary of their own, as
// those of another file system do.
//
//	                      what happens
//	create, unlink, …     here only; the directory's time travels
//	rename, link          between a private and a replicated name: EXDEV, as between
//	                      file systems, except for a closed regular file with one
//	                      name: it is made, or deleted, on the other host
//	rename of a directory EXDEV if a name below it would change sides
//	rmdir on SECOND       takes what is private on SECOND with it
//
// A file that has names on both sides was linked before it was excluded, or behind
// skfs's back. It is replicated by the one; a change through the other does not
// travel, and is found by rfsverify.

// Exclusion says what of a tree is not replicated. Paths are relative to it.
type Exclusion struct {
	// Excludes says whether a path, or a directory it lies in, is excluded.
	Excludes func(path string) bool
	// Steady says that no path below a directory changes sides when the directory
	// moves from one path to another, whatever there is below it.
	Steady func(from, to string) bool
}

// Exclude sets what is not replicated. It is called once, before the tree is used.
func (t *Tree) Exclude(x *Exclusion) {
	t.exclusion = x
	t.private = &boundary{fd: t.root}
}

// pathOf is the path in the tree of name in the directory open as fd; empty if it
// cannot be known.
func (t *Tree) pathOf(fd int, name string) string {
	root, err := os.Readlink(procPath(t.root))
	if err != nil {
		return ""
	}
	dir, err := os.Readlink(procPath(fd))
	if err != nil {
		return ""
	}
	rel, err := filepath.Rel(root, filepath.Join(dir, name))
	if err != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

// excludes says whether a path is private.
func (t *Tree) excludes(rel string) bool {
	return t.exclusion != nil && rel != hiddenName && !strings.HasPrefix(rel, hiddenName+"/") && t.exclusion.Excludes(rel)
}

// excludesAt is excludes of name in the replicated directory open as fd.
func (t *Tree) excludesAt(fd int, name string) bool {
	return t.exclusion != nil && t.excludes(t.pathOf(fd, name))
}

// side is where what is made as name in parent, open as fd, belongs: nil if it is
// replicated.
func (t *Tree) side(fd int, parent *object, name string) *boundary {
	if parent.mnt == nil && t.excludesAt(fd, name) {
		return t.private
	}
	return parent.mnt
}

// sideOf is side of who has no descriptor of parent.
func (t *Tree) sideOf(parent *object, name string) (*boundary, error) {
	if t.exclusion == nil || parent.mnt != nil {
		return parent.mnt, nil
	}
	p, err := parent.path()
	if err != nil {
		return nil, err
	}
	defer p.put()
	return t.side(p.fd, parent, name), nil
}

// border orders changes of names with moves of directories, which may change what
// a path is. It returns the end of the change.
func (t *Tree) border(moves bool) (end func()) {
	switch {
	case t.exclusion == nil:
		return func() {}
	case moves:
		t.moving.Lock()
		return t.moving.Unlock
	}
	t.moving.RLock()
	return t.moving.RUnlock
}

// crossing says whether a name below directory o changes sides when it becomes name
// in the directory to.
func (t *Tree) crossing(o, to *object, name string) (bool, error) {
	if t.exclusion == nil {
		return false, nil
	}
	p, err := o.path()
	if err != nil {
		return false, err
	}
	defer p.put()
	q, err := to.path()
	if err != nil {
		return false, err
	}
	defer q.put()
	was, is := t.pathOf(p.fd, ""), t.pathOf(q.fd, name)
	if was == "" || is == "" {
		return true, nil
	}
	if t.exclusion.Steady(was, is) {
		return false, nil
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return t.crosses(fd, was, is)
}

// crosses looks at the names below the directory open as fd.
func (t *Tree) crosses(fd int, was, is string) (bool, error) {
	d := dirStream{fd: fd}
	for {
		e, ok, err := d.next()
		if err != nil || !ok {
			return false, err
		}
		if e.name == "." || e.name == ".." {
			continue
		}
		a, b := path.Join(was, e.name), path.Join(is, e.name)
		private := t.excludes(a)
		if private != t.excludes(b) {
			return true, nil
		}
		if private || e.typ != unix.DT_DIR && e.typ != unix.DT_UNKNOWN {
			continue
		}
		c, err := unix.Openat(fd, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT {
			continue
		}
		if err != nil {
			return false, err
		}
		yes, err := t.crosses(c, a, b)
		unix.Close(c)
		if yes || err != nil {
			return yes, err
		}
	}
}

// purgePrivate empties directory o if only private names are left in it: the
// primary has deleted it.
func (t *Tree) purgePrivate(o *object) error {
	if t.exclusion == nil || o.mnt != nil {
		return nil
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	d := dirStream{fd: fd}
	for {
		e, ok, err := d.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if e.name != "." && e.name != ".." && !t.excludesAt(fd, e.name) {
			return nil // it is not as on the primary: rmdir will say so
		}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	left := int(^uint(0) >> 1)
	return t.removeAll(fd, &left)
}

// touching prepares a change of a private name in parent, which is replicated: its
// modification time is going to differ from the peer's.
func (f *FS) touching(parent *object) error {
	if !parent.replicated() {
		return nil
	}
	if _, e := f.gate.unpeered(&journal.Op{Kind: journal.KindTimes, Tree: f.tree.num, ID: parent.id}); e != 0 {
		return e
	}
	return nil
}

// touched ends what touching began.
func (f *FS) touched(parent *object) {
	if parent.replicated() {
		f.tree.dirtyTimes(parent)
	}
}

// closePatience is how long a rename across the border waits for a file to be closed:
// the kernel tells of a close when the process has gone on already.
const closePatience = 3 * time.Second

// waitClosed waits until nobody has o open. Who closes may need the lock of o.
func (o *object) waitClosed() {
	for end := time.Now().Add(closePatience); o.isOpen() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

func (o *object) isOpen() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opens > 0
}

// cross carries out a rename between a replicated and a private name: a closed
// regular file is made on the peer, or deleted there. Everything is locked.
func (f *FS) cross(flags uint32, from *object, name string, o, to *object, name2 string, over *object, side, side2 *boundary) error {
	t := f.tree
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return err
	}
	if side != nil && side != t.private || side2 != nil && side2 != t.private || // another file system
		flags&unix.RENAME_EXCHANGE != 0 || o.typ != unix.S_IFREG || st.Nlink != 1 || o.isOpen() {
		return unix.EXDEV
	}
	var st2 unix.Stat_t
	if over != nil {
		if err := over.stat(&st2); err != nil {
			return err
		}
	}
	if side == nil {
		return f.crossOut(flags, from, name, o, to, name2, over, &st2)
	}
	return f.crossIn(flags, from, name, o, to, name2, over, &st2)
}

// crossOut makes a replicated file private.
func (f *FS) crossOut(flags uint32, from *object, name string, o, to *object, name2 string, over *object, st2 *unix.Stat_t) error {
	t := f.tree
	if err := f.touching(to); err != nil {
		return err
	}
	tk, err := f.enter(true, &journal.Op{Kind: journal.KindUnlink, Tree: t.num, ID: o.id, Parent: from.id, Name: name})
	if err != nil {
		return err
	}
	err = t.rename(from, name, to, name2, flags, over, st2)
	if err == nil {
		err = t.swap(o, t.private, nil)
	}
	f.leave(tk, err, from)
	if err != nil {
		return err
	}
	f.touched(to)
	t.cleanTimes(o)
	t.nameless(o)
	return nil
}

// crossIn makes a private file a replicated one. The peer gets it without a name
// first, then under one that nothing has, which takes the place of what is there.
func (f *FS) crossIn(flags uint32, from *object, name string, o, to *object, name2 string, over *object, st2 *unix.Stat_t) (err error) {
	t := f.tree
	id := journal.NewFileID()
	if err := t.swap(o, nil, &id); err != nil {
		return err
	}
	n := o.real.Load()
	n.flushed.Store(true) // who knows: a file is fsynced before it is renamed to its place
	l := n.lock.lockAll()
	defer n.lock.unlock(l)
	defer func() {
		if err != nil {
			t.swap(n, t.private, nil)
		}
	}()
	if err := f.touching(from); err != nil {
		return err
	}
	if err := f.bear(n); err != nil {
		return err
	}
	op := &journal.Op{Kind: journal.KindLink, Tree: t.num, ID: n.id, Parent: to.id, Name: name2}
	ops := []*journal.Op{op}
	if over != nil {
		op.Name = ".skfs-" + id.String()
		ops = append(ops, &journal.Op{Kind: journal.KindRename, Tree: t.num, ID: n.id, Parent: to.id, Name: op.Name,
			Parent2: to.id, Name2: name2, ID2: over.id})
	}
	ops = append(ops, &journal.Op{Kind: journal.KindRelease, Tree: t.num, ID: n.id})
	tk, err := f.enter(true, ops...)
	if err != nil {
		return err
	}
	err = t.rename(from, name, to, name2, flags, over, st2)
	f.leave(tk, err, to, n)
	if err != nil {
		return err
	}
	f.touched(from)
	if over != nil {
		t.cleanTimesIfGone(over)
	}
	return nil
}

// swap makes o, which changes sides, another object from now on: who knows it by its
// FUSE node gets that one. id is its identity if it is replicated; nil: it is private.
func (t *Tree) swap(o *object, side *boundary, id *journal.FileID) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	var st unix.Stat_t
	if err := unix.Fstat(e.fd, &st); err != nil {
		return err
	}
	var n *object
	if id != nil {
		if err := writeID(e.fd, *id, st.Ino); err != nil {
			return err
		}
		n = t.use(*id, o.handle, &st, nil)
	} else {
		if err := unix.Removexattr(procPath(e.fd), idXattr); err != nil && err != unix.ENODATA {
			return err
		}
		n = t.use(localID(&st, o.handle), o.handle, &st, side)
	}
	if r := n.real.Swap(nil); r != nil { // it is back on the side where it was
		t.unref(r, 1)
	}
	if r := o.real.Swap(n); r != nil { // until o is forgotten
		t.unref(r, 1)
	}
	return nil
}
