package fs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// longValid is how long the kernel may keep names and attributes on the primary:
// nothing but the kernel itself changes them there.
const longValid = 24 * time.Hour

// FS answers the kernel for one mounted tree. Its methods are called
// concurrently, one goroutine for each request.
type FS struct {
	fuse.RawFileSystem // ENOSYS for what is not here

	tree   *Tree
	gate   *Gate
	server *fuse.Server
	served chan struct{} // closed when the server has ended

	fmu   sync.RWMutex // protects what follows
	files map[uint64]*file
	next  uint64
}

var _ fuse.RawFileSystem = (*FS)(nil)

// file is an open file or directory.
type file struct {
	o      *object
	fd     int
	write  bool // fd is open for writing
	direct bool // the page cache is bypassed, by O_DIRECT
	dir    *dirStream
}

// New returns the FUSE face of a tree. Mutations pass the gate.
func New(t *Tree, g *Gate) *FS {
	return &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), tree: t, gate: g, files: map[uint64]*file{}}
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "skfs" }

// Init implements fuse.RawFileSystem.
func (f *FS) Init(s *fuse.Server) { f.server = s }

func status(err error) fuse.Status { return fuse.Status(errno(err)) }

// node returns the object of a request.
func (f *FS) node(h *fuse.InHeader) (*object, fuse.Status) {
	if o := f.tree.byNode(h.NodeId); o != nil {
		return o, fuse.OK
	}
	return nil, fuse.Status(unix.ESTALE)
}

func (f *FS) file(fh uint64) *file {
	f.fmu.RLock()
	defer f.fmu.RUnlock()
	return f.files[fh]
}

func (f *FS) addFile(x *file) uint64 {
	f.tree.ref(x.o)
	x.o.mu.Lock()
	x.o.opens++
	x.o.mu.Unlock()
	f.fmu.Lock()
	defer f.fmu.Unlock()
	f.next++
	f.files[f.next] = x
	return f.next
}

func (f *FS) takeFile(fh uint64) *file {
	f.fmu.Lock()
	defer f.fmu.Unlock()
	x := f.files[fh]
	delete(f.files, fh)
	return x
}

// fillAttr translates attributes; the inode number is the identity's.
func fillAttr(out *fuse.Attr, st *unix.Stat_t, id journal.FileID) {
	out.Ino = id.Ino()
	out.Size = uint64(st.Size)
	out.Blocks = uint64(st.Blocks)
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	out.Mode = st.Mode
	out.Nlink = uint32(st.Nlink)
	out.Uid, out.Gid = st.Uid, st.Gid
	out.Rdev = uint32(st.Rdev)
	out.Blksize = uint32(st.Blksize)
}

// valid is how long the kernel may keep what it is told now. On SECOND the
// applier changes the tree behind the kernel's back, so it keeps nothing.
func (f *FS) valid(o *object) time.Duration {
	if f.gate.Writable() && o.replicated() {
		return longValid
	}
	return 0
}

// fillEntry answers with o, which the caller has counted one user for: that is
// now the kernel's.
func (f *FS) fillEntry(out *fuse.EntryOut, o *object, st *unix.Stat_t) {
	o.known.Store(true)
	out.NodeId = o.node
	out.Generation = 1
	v := f.valid(o)
	out.SetEntryTimeout(v)
	out.SetAttrTimeout(v)
	fillAttr(&out.Attr, st, o.id)
}

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	p, s := f.node(h)
	if !s.Ok() {
		return s
	}
	if f.tree.hidden(p, name) {
		return fuse.ENOENT
	}
	var st unix.Stat_t
	o, err := f.tree.lookup(p, name, &st)
	if err == unix.ENOENT {
		// NodeId 0 lets the kernel remember that there is no such name.
		out.NodeId = 0
		out.SetEntryTimeout(f.valid(p))
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	f.fillEntry(out, o, &st)
	return fuse.OK
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(node, n uint64) {
	if o := f.tree.byNodeItself(node); o != nil && o.id != journal.RootID(f.tree.num) {
		f.tree.unref(o, int64(n))
	}
}

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	o, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	var st unix.Stat_t
	if x := f.file(in.Fh()); in.Flags()&fuse.FUSE_GETATTR_FH != 0 && x != nil && x.o == o {
		if err := unix.Fstat(x.fd, &st); err != nil {
			return status(err)
		}
	} else if err := o.stat(&st); err != nil {
		return status(err)
	}
	out.SetTimeout(f.valid(o))
	fillAttr(&out.Attr, &st, o.id)
	return fuse.OK
}

// Access implements fuse.RawFileSystem: default_permissions makes the kernel decide.
func (f *FS) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status { return fuse.OK }

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.tree.root, &st); err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.NameLen, out.Frsize = uint32(st.Bsize), uint32(st.Namelen), uint32(st.Frsize)
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	o, s := f.node(h)
	if !s.Ok() {
		return nil, s
	}
	target, err := f.tree.readlink(o)
	return target, status(err)
}

func (t *Tree) readlink(o *object) ([]byte, error) {
	e, err := o.path()
	if err != nil {
		return nil, err
	}
	defer e.put()
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(e.fd, "", b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// Ioctl implements fuse.RawFileSystem: inode flags (chattr) are not replicated,
// so they cannot be set.
func (f *FS) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
