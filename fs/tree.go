package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// hiddenName is a directory in the root of every tree, hidden from applications.
// In it are the holding area, where a reintegration keeps objects that have lost
// their name until it knows whether another name wants them, and the quarantine
// (aside.go).
const (
	hiddenName = ".skfs"
	holdName   = "hold"
	asideName  = "quarantine"
)

// fdCacheSize bounds the descriptors kept open for objects of one tree.
const fdCacheSize = 1024

// Tree is the backing directory of one replicated directory, worked on by
// identity: every object is a FileID, reached by its kernel handle, and every
// name is a name in a directory with a FileID. Nothing in it resolves a path, so
// nothing can leave the directory.
type Tree struct {
	num  uint8
	dir  string
	root int // the backing root, opened before anything is mounted on it
	dev  uint64

	fds   *fdCache
	index *index

	exclusion *Exclusion   // nil: everything is replicated; see private.go
	private   *boundary    // of what is not
	moving    sync.RWMutex // see border

	// doubted: what the page cache holds may not be what is on disk, see Doubt.
	doubted atomic.Bool

	// assign: objects without an identity get one when they are met. It is off
	// on SECOND, where identities come from the primary.
	assign atomic.Bool

	mu      sync.Mutex // protects what follows and object.refs; a leaf lock
	objects map[journal.FileID]*object
	inos    map[uint64]*object          // by backing inode number; this file system only
	nodes   map[uint64]*object          // by FUSE node id
	next    uint64                      // last node id given
	dirty   map[*object]struct{}        // modification time not yet sent, see times.go
	mounts  map[uint64]*boundary        // other file systems mounted below the root
	born    map[journal.FileID]struct{} // on SECOND: files of KindTmpfile, each with one user, until KindRelease

	// The holding area, on SECOND: names there by identity, and a counter for
	// fresh names. Owned by the reintegration, which changes names one at a time.
	held      map[journal.FileID][]string
	heldPaths map[string]string // where names of the holding area come from, while aside is set
	holds     int
	aside     *Aside // what is held at the end goes there; nil: it is deleted

	kernel atomic.Pointer[FS] // where changes behind the kernel's back are told
	cached atomic.Bool        // the kernel may have kept names from when this host was the primary

	naming sync.Mutex // held while an object is given its identity, so that it gets one only
}

// boundary is a file system mounted inside the replicated directory: it is shown
// but belongs to this host alone.
type boundary struct{ fd int }

// object is one file system object that is in use: known to the kernel, open, or
// being worked on. Objects that nobody uses exist on disk (and in index) only.
type object struct {
	tree   *Tree
	id     journal.FileID
	ino    uint64 // on the backing file system
	node   uint64 // FUSE node id
	typ    uint32 // S_IFMT bits
	handle handle
	mnt    *boundary              // not nil: on another file system or private, not replicated
	real   atomic.Pointer[object] // of a stand-in (see localID), or what has changed sides: the object that took its place

	lock rangeLock

	refs int64 // users; under tree.mu. At 0 the object is forgotten.

	mu         sync.Mutex
	opens      int  // open files, under mu
	orphan     int  // a descriptor that keeps a nameless open object reachable; -1 none
	unlinked   bool // no names are left: changes need not travel
	tmpfile    bool // never had a name yet: see KindTmpfile
	timesDirty bool // the peer's mtime differs

	caps       atomic.Int32 // security.capability: 0 not known, 1 none, 2 has
	defaultACL atomic.Int32 // a directory's default ACL: likewise

	known   atomic.Bool // the kernel has been told of it
	changed atomic.Bool // behind the kernel's back, since it last forgot everything about it
	flushed atomic.Bool // here alone, when it had no name: the peer owes it (see bear)
}

func (o *object) isDir() bool { return o.typ == unix.S_IFDIR }

// replicated says whether changes of o travel to the peer.
func (o *object) replicated() bool { return o.mnt == nil }

// OpenTree opens the backing directory dir as tree number num. It must be called
// before dir is mounted over. Nothing is changed in it. The index of its objects
// is kept in the directory index, in memory if that is empty.
func OpenTree(dir string, num uint8, index string) (*Tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("replicated directory %s: %w", dir, err)
	}
	if err := probeHandles(fd, dir); err != nil {
		unix.Close(fd)
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("replicated directory %s: %w", dir, err)
	}
	t := &Tree{
		num: num, dir: dir, root: fd, dev: st.Dev, fds: newFDCache(fdCacheSize),
		objects: map[journal.FileID]*object{}, inos: map[uint64]*object{}, nodes: map[uint64]*object{},
		dirty: map[*object]struct{}{}, mounts: map[uint64]*boundary{},
		born: map[journal.FileID]struct{}{}, held: map[journal.FileID][]string{},
	}
	h, err := handleAt(fd, "")
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("replicated directory %s: %w", dir, err)
	}
	if t.index, err = openIndex(index, h); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("replicated directory %s: %w", dir, err)
	}
	t.mu.Lock()
	o := t.insert(journal.RootID(num), h, st.Ino, unix.S_IFDIR, nil)
	o.refs = 1 // for ever
	o.known.Store(true)
	t.mu.Unlock()
	return t, nil
}

// Close closes the descriptors. Nothing may use the tree any more.
func (t *Tree) Close() error {
	t.fds.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.mounts {
		unix.Close(b.fd)
	}
	for _, o := range t.objects {
		if o.orphan >= 0 {
			unix.Close(o.orphan)
		}
	}
	return errors.Join(t.index.close(), unix.Close(t.root))
}

// Dir is the replicated directory as configured.
func (t *Tree) Dir() string { return t.dir }

// Sync flushes the whole backing file system to disk (syncfs), and the index.
func (t *Tree) Sync() error {
	if err := t.index.flush(); err != nil {
		return err
	}
	if err := unix.Syncfs(t.root); err != nil {
		return fmt.Errorf("syncfs %s: %w", t.dir, err)
	}
	return nil
}

// insert makes an object known. t.mu is held; refs stays 0 until the caller
// counts itself.
func (t *Tree) insert(id journal.FileID, h handle, ino uint64, typ uint32, mnt *boundary) *object {
	t.next++
	o := &object{tree: t, id: id, ino: ino, node: t.next, typ: typ, handle: h, mnt: mnt, orphan: -1}
	t.objects[id] = o
	t.nodes[o.node] = o
	if mnt == nil {
		t.inos[ino] = o
	}
	return o
}

// ref counts one more user of o. The caller is one.
func (t *Tree) ref(o *object) {
	t.mu.Lock()
	o.refs++
	t.mu.Unlock()
}

// unref takes back n uses of o.
func (t *Tree) unref(o *object, n int64) {
	t.mu.Lock()
	o.refs -= n
	gone := o.refs <= 0
	if gone {
		t.remove(o)
	}
	t.mu.Unlock()
	if gone && o.orphan >= 0 {
		unix.Close(o.orphan)
		o.orphan = -1
	}
	if r := o.real.Load(); gone && r != nil {
		t.unref(r, 1)
	}
}

// remove forgets o. t.mu is held.
func (t *Tree) remove(o *object) {
	delete(t.nodes, o.node)
	if t.objects[o.id] == o {
		delete(t.objects, o.id)
	}
	if t.inos[o.ino] == o {
		delete(t.inos, o.ino)
	}
}

// byNode returns the object of a FUSE node id. The kernel holds a reference to
// it while it uses the id.
func (t *Tree) byNode(node uint64) *object {
	o := t.byNodeItself(node)
	for o != nil {
		r := o.real.Load()
		if r == nil {
			break
		}
		o = r
	}
	if o != nil && o.mnt == nil && isLocal(o.id) && t.assign.Load() {
		return t.realOf(o)
	}
	return o
}

func (t *Tree) byNodeItself(node uint64) *object {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[node]
}

// realOf returns the object with the identity that o, a stand-in, did not have
// when it was met on SECOND. A process may have kept it open, or as its working
// directory, until this host became the primary; the peer knows no stand-ins.
func (t *Tree) realOf(o *object) *object {
	if r := o.real.Load(); r != nil {
		return r
	}
	e, err := o.path()
	if err != nil {
		return o
	}
	defer e.put()
	var st unix.Stat_t
	if err := unix.Fstat(e.fd, &st); err != nil {
		return o
	}
	id, err := t.identify(e.fd, st.Ino)
	if err != nil {
		return o
	}
	r := t.use(id, o.handle, &st, nil) // until o is forgotten
	if !o.real.CompareAndSwap(nil, r) {
		t.unref(r, 1)
	}
	return o.real.Load()
}

// byID returns the object with an identity, using the index for objects that are
// not in use; the caller unrefs it. ENOENT: no such object.
func (t *Tree) byID(id journal.FileID) (*object, error) {
	t.mu.Lock()
	if o := t.objects[id]; o != nil {
		o.refs++
		t.mu.Unlock()
		return o, nil
	}
	t.mu.Unlock()
	h, ok := t.index.get(id)
	if !ok {
		return nil, unix.ENOENT
	}
	fd, err := h.open(t.root, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		if err == unix.ESTALE {
			err = unix.ENOENT
		}
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	o := t.use(id, h, &st, nil)
	t.fds.add(o, false, fd).put()
	return o, nil
}

// use returns the object, made known if need be, with one more user.
func (t *Tree) use(id journal.FileID, h handle, st *unix.Stat_t, mnt *boundary) *object {
	if mnt == nil && !isLocal(id) {
		t.index.learn(id, h)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.objects[id]
	if o != nil && o.handle != h {
		// What had the identity was deleted, and is only still in use: a
		// reintegration or a replay has made the object anew.
		delete(t.objects, id)
		if t.inos[o.ino] == o {
			delete(t.inos, o.ino)
		}
		o = nil
	}
	if o == nil {
		o = t.insert(id, h, st.Ino, st.Mode&unix.S_IFMT, mnt)
	}
	o.refs++
	return o
}

// open opens the object itself. ESTALE: it is gone.
func (o *object) open(flags int) (int, error) {
	o.mu.Lock()
	if o.orphan >= 0 {
		defer o.mu.Unlock()
		return unix.Open(procPath(o.orphan), flags&^unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	o.mu.Unlock()
	mountfd := o.tree.root
	if o.mnt != nil {
		mountfd = o.mnt.fd
	}
	return o.handle.open(mountfd, flags)
}

// path returns an O_PATH descriptor of o.
func (o *object) path() (*fdEntry, error) { return o.tree.fds.get(o, false) }

// stat returns the attributes as the backing file system has them.
func (o *object) stat(st *unix.Stat_t) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	return unix.Fstat(e.fd, st)
}

// hidden says whether name in parent is not for applications.
func (t *Tree) hidden(parent *object, name string) bool {
	return name == hiddenName && parent.id == journal.RootID(t.num)
}

// lookup finds name in parent and returns the object with one more user.
// ENOENT: no such name.
func (t *Tree) lookup(parent *object, name string, st *unix.Stat_t) (*object, error) {
	p, err := parent.path()
	if err != nil {
		return nil, err
	}
	defer p.put()
	return t.lookupAt(p.fd, parent, name, st)
}

func (t *Tree) lookupAt(dirfd int, parent *object, name string, st *unix.Stat_t) (*object, error) {
	if err := unix.Fstatat(dirfd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	side := t.side(dirfd, parent, name)
	if st.Dev == t.dev && side == nil {
		t.mu.Lock()
		if o := t.inos[st.Ino]; o != nil {
			o.refs++
			t.mu.Unlock()
			return o, nil
		}
		t.mu.Unlock()
	}
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(fd, st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	o, err := t.adoptFd(fd, parent, side, st)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	t.fds.add(o, false, fd).put()
	return o, nil
}

// adoptFd makes the object open as fd (O_PATH) known, which has a name on that side
// in parent, giving it an identity if it has none and this host may.
func (t *Tree) adoptFd(fd int, parent *object, side *boundary, st *unix.Stat_t) (*object, error) {
	h, err := handleAt(fd, "")
	if err != nil {
		return nil, err
	}
	if st.Dev != t.dev || side != nil {
		b := side
		if st.Dev != t.dev || b != t.private {
			if b, err = t.boundaryOf(fd, parent, st); err != nil {
				return nil, err
			}
		}
		return t.use(localID(st, h), h, st, b), nil
	}
	id, err := readIDFd(fd, st.Ino)
	if errors.Is(err, errNoID) {
		if !t.assign.Load() {
			return t.use(localID(st, h), h, st, nil), nil
		}
		id, err = t.identify(fd, st.Ino)
	}
	if err != nil {
		return nil, err
	}
	return t.use(id, h, st, nil), nil
}

// identify gives the object open as fd (O_PATH) an identity, unless somebody else
// who has met it has just done so.
func (t *Tree) identify(fd int, ino uint64) (journal.FileID, error) {
	t.naming.Lock()
	defer t.naming.Unlock()
	id, err := readIDFd(fd, ino)
	if errors.Is(err, errNoID) {
		id = journal.NewFileID()
		err = writeID(fd, id, ino)
	}
	return id, err
}

// localMark is in the middle of the identities that localID makes.
const localMark = "\xff\xfflocal"

// localID is a stand-in identity for objects that have none: those on another
// file system, and on SECOND those that no reintegration has reached yet.
func localID(st *unix.Stat_t, h handle) journal.FileID {
	var id journal.FileID
	binary.LittleEndian.PutUint64(id[:], st.Ino*0x9e3779b97f4a7c15^st.Dev<<32|1<<63)
	copy(id[8:], localMark)
	id[15] = byte(crc32.Checksum(h.b[:h.n], castagnoli))
	return id
}

// isLocal says whether id is a stand-in made by localID.
func isLocal(id journal.FileID) bool { return string(id[8:8+len(localMark)]) == localMark }

// boundaryOf returns the mount that an object on another file system belongs to.
func (t *Tree) boundaryOf(fd int, parent *object, st *unix.Stat_t) (*boundary, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.mounts[st.Dev]; b != nil {
		return b, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, unix.EXDEV // a single file mounted there has nothing to open by handle through
	}
	mfd, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	b := &boundary{fd: mfd}
	t.mounts[st.Dev] = b
	return b, nil
}

// nameless notes that the last name of o is gone: its descriptors are let go, so
// that its space is freed once the application closes it, and it leaves the
// index. o stays usable through a descriptor while it is open or known.
func (t *Tree) nameless(o *object) {
	o.mu.Lock()
	o.unlinked = true
	// Somebody may be about to open what was looked up before. On the primary the
	// kernel knows of the loss and soon forgets the object; on SECOND it may keep it
	// for long.
	if o.orphan < 0 && (o.opens > 0 || o.known.Load() && t.assign.Load()) {
		fd, err := t.fds.take(o)
		if err == nil {
			o.orphan = fd
		}
	}
	o.mu.Unlock()
	t.fds.purge(o)
	t.mu.Lock()
	if t.inos[o.ino] == o {
		delete(t.inos, o.ino)
	}
	t.mu.Unlock()
	t.index.delete(o.id)
}

// nowNamed notes that o, which had no name, has one again (linkat of O_TMPFILE).
func (t *Tree) nowNamed(o *object) {
	o.mu.Lock()
	o.unlinked, o.tmpfile = false, false
	if o.orphan >= 0 {
		unix.Close(o.orphan)
		o.orphan = -1
	}
	o.mu.Unlock()
	t.mu.Lock()
	t.inos[o.ino] = o
	t.mu.Unlock()
	t.index.put(o.id, o.handle)
}
