package reintegrate

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// A tree in memory that behaves as a file system does, keyed by FileID: PRIM's
// side implements Source, SECOND's side Sink. A page is the unit of holes.
const page = 8

type node struct {
	id     journal.FileID // zero: none
	kind   uint32         // S_IFMT bits, for ever
	mode   uint32
	uid    uint32
	gid    uint32
	rdev   uint32
	target string
	data   []byte
	stored []bool // by page
	xattrs map[string]string
	mtime  journal.Time
	ctime  int64            // by the clock of the tree
	names  map[string]*node // of a directory
	parent *node            // of a directory
	nlink  int              // names, the held included
	held   []string         // names in the holding area
	opens  int
	tmp    bool // never had a name
}

func (n *node) typ() uint32 { return n.kind }
func (n *node) isDir() bool { return n.typ() == unix.S_IFDIR }

type tree struct {
	mu    sync.Mutex
	root  *node
	hold  *node
	byID  map[journal.FileID]*node
	clock int64
	holds int
	locks *locks

	failPunch error // for tests of failures
	begun     int   // how often the tree was looked through for a pass
	keep      bool  // what is held goes to the quarantine
}

func newTree(clock int64) *tree {
	id := journal.RootID(0)
	root := &node{id: id, kind: unix.S_IFDIR, mode: unix.S_IFDIR | 0o755, names: map[string]*node{}, nlink: 1, xattrs: map[string]string{}}
	return &tree{
		root: root, hold: &node{kind: unix.S_IFDIR, mode: unix.S_IFDIR, names: map[string]*node{}, nlink: 1},
		byID: map[journal.FileID]*node{id: root}, clock: clock, locks: newLocks(),
	}
}

func (t *tree) now() journal.Time {
	t.clock++
	return journal.Time{Sec: t.clock, Nsec: uint32(t.clock % 1000)}
}

// clone copies t, identities and all.
func (t *tree) clone(clock int64) *tree {
	c := newTree(clock)
	seen := map[*node]*node{}
	var dup func(n, parent *node) *node
	dup = func(n, parent *node) *node {
		if d := seen[n]; d != nil {
			return d
		}
		d := *n
		d.data, d.stored, d.xattrs, d.held, d.opens = bytes.Clone(n.data), slices.Clone(n.stored), maps.Clone(n.xattrs), nil, 0
		d.parent = parent
		seen[n] = &d
		if n.isDir() {
			d.names = map[string]*node{}
			for name, k := range n.names {
				d.names[name] = dup(k, &d)
			}
		}
		c.byID[d.id] = &d
		return &d
	}
	c.root = dup(t.root, nil)
	return c
}

func (n *node) entry(name string) Entry {
	return Entry{
		Name: name, ID: n.id, Mode: n.mode, UID: n.uid, GID: n.gid, Rdev: n.rdev, Nlink: uint32(n.nlink),
		Size: int64(len(n.data)), Mtime: n.mtime, Ctime: journal.Time{Sec: n.ctime}, Target: n.target,
		Xattrs: journal.SumXattrs(n.attrs().Xattrs),
	}
}

func (n *node) attrs() *Attrs {
	a := &Attrs{Mode: n.mode, UID: n.uid, GID: n.gid, Size: int64(len(n.data)), Mtime: n.mtime}
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		a.Xattrs = append(a.Xattrs, Xattr{Name: k, Value: []byte(n.xattrs[k])})
	}
	return a
}

func (n *node) resize(size int64) {
	for int64(len(n.data)) < size {
		n.data = append(n.data, 0)
	}
	clear(n.data[size:])
	n.data = n.data[:size]
	for int64(len(n.stored))*page < size {
		n.stored = append(n.stored, false)
	}
	n.stored = n.stored[:(size+page-1)/page]
}

func (n *node) write(off int64, b []byte) {
	if end := off + int64(len(b)); end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[off:], b)
	if len(b) > 0 {
		for p := off / page; p <= (off+int64(len(b))-1)/page; p++ {
			n.stored[p] = true
		}
	}
}

func (n *node) punch(off, length int64) {
	end := min(off+length, int64(len(n.data)))
	if off >= end {
		return
	}
	clear(n.data[off:end])
	for p := (off + page - 1) / page; p < (end+page-1)/page; p++ {
		if (p+1)*page <= end || end == int64(len(n.data)) {
			n.stored[p] = false
		}
	}
}

// file is a node seen as File.
type file struct {
	t *tree
	n *node
}

func (f file) ReadAt(p []byte, off int64) (int, error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f file) Size() (int64, error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f file) DataRanges(off, n int64) (rs []Range, err error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	end := min(off+n, int64(len(f.n.data)))
	for ; off < end; off = (off/page + 1) * page {
		if !f.n.stored[off/page] {
			continue
		}
		to := min((off/page+1)*page, end)
		if k := len(rs); k > 0 && rs[k-1].End == off {
			rs[k-1].End = to
		} else {
			rs = append(rs, Range{Off: off, End: to})
		}
	}
	return rs, nil
}

func (f file) Close() error { return nil }

// changed sets the ctime of objects.
func (t *tree) changed(ids ...journal.FileID) {
	t.clock++
	for _, id := range ids {
		if n := t.byID[id]; n != nil {
			n.ctime = t.clock
		}
	}
}

// apply carries out an operation of the ordinary kinds, or says why not; dry: only
// says whether it would.
func (t *tree) apply(op *journal.Op, dry bool) syscall.Errno {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !dry {
		defer t.changed(op.ID, op.ID2, op.Parent, op.Parent2)
	}
	n := t.byID[op.ID]
	dir := func(id journal.FileID) *node {
		if d := t.byID[id]; d != nil && d.isDir() && d.nlink > 0 {
			return d
		}
		return nil
	}
	switch op.Kind {
	case journal.KindCreate:
		d := dir(op.Parent)
		switch {
		case d == nil:
			return unix.ENOENT
		case d.names[op.Name] != nil:
			return unix.EEXIST
		case dry:
			return 0
		}
		e := Entry{Name: op.Name, ID: op.ID, Mode: op.Mode, UID: op.UID, GID: op.GID, Rdev: op.Rdev, Target: string(op.Data)}
		t.create(d, &e)
		return 0

	case journal.KindTmpfile:
		if dry {
			return 0
		}
		t.byID[op.ID] = &node{id: op.ID, kind: op.Mode & unix.S_IFMT, mode: op.Mode, uid: op.UID, gid: op.GID, xattrs: map[string]string{}, mtime: t.now(), tmp: true}
		return 0

	case journal.KindLink:
		d := dir(op.Parent)
		switch {
		case d == nil || n == nil || n.isDir() || n.nlink == 0 && !n.tmp:
			return unix.ENOENT
		case d.names[op.Name] != nil:
			return unix.EEXIST
		case dry:
			return 0
		}
		d.names[op.Name] = n
		d.mtime = t.now()
		n.nlink++
		n.tmp = false
		return 0

	case journal.KindUnlink, journal.KindRmdir:
		d := dir(op.Parent)
		switch {
		case d == nil || n == nil || d.names[op.Name] != n:
			return unix.ENOENT
		case n.isDir() != (op.Kind == journal.KindRmdir):
			return unix.EISDIR
		case len(n.names) > 0:
			return unix.ENOTEMPTY
		case dry:
			return 0
		}
		t.unlink(d, op.Name)
		return 0

	case journal.KindRename:
		return t.rename(op, dry)
	}
	if n == nil && op.Kind == journal.KindRelease {
		return 0 // what was held may have been dropped
	}
	if n == nil {
		return unix.ENOENT
	}
	if _, ok := n.xattrs[op.Name]; op.Kind == journal.KindRemoveXattr && !ok {
		return unix.ENODATA
	}
	if dry {
		return 0
	}
	switch op.Kind {
	case journal.KindWrite:
		n.write(op.Off, op.Data)
		n.mtime = t.now()
	case journal.KindSetAttr:
		if op.Valid&journal.SetMode != 0 {
			n.mode = n.typ() | op.Mode&0o7777
		}
		if op.Valid&journal.SetUID != 0 {
			n.uid = op.UID
		}
		if op.Valid&journal.SetSize != 0 {
			n.resize(op.Off)
			n.mtime = t.now()
		}
	case journal.KindSetXattr:
		n.xattrs[op.Name] = string(op.Data)
	case journal.KindRemoveXattr:
		delete(n.xattrs, op.Name)
	case journal.KindFallocate:
		switch op.Flags {
		case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
			n.punch(op.Off, op.Len)
		default: // zero range, extending
			if op.Off+op.Len > int64(len(n.data)) {
				n.resize(op.Off + op.Len)
			}
			n.write(op.Off, make([]byte, op.Len))
		}
		n.mtime = t.now()
	case journal.KindTimes:
		n.mtime = op.Mtime
	case journal.KindRelease:
		if n.nlink == 0 {
			delete(t.byID, n.id)
		}
	case journal.KindFsync, journal.KindMark:
	default:
		return unix.EINVAL
	}
	return 0
}

func (t *tree) create(d *node, e *Entry) *node {
	n := &node{
		id: e.ID, kind: e.Type(), mode: e.Mode, uid: e.UID, gid: e.GID, rdev: e.Rdev, target: e.Target, xattrs: map[string]string{},
		mtime: t.now(), nlink: 1,
	}
	if n.isDir() {
		n.names, n.parent = map[string]*node{}, d
	}
	if !e.ID.IsZero() {
		t.byID[e.ID] = n
	}
	d.names[e.Name] = n
	d.mtime = t.now()
	return n
}

// unlink takes a name away; without a name an object stays only while open.
func (t *tree) unlink(d *node, name string) {
	n := d.names[name]
	delete(d.names, name)
	d.mtime = t.now()
	n.nlink--
	if n.nlink == 0 && n.isDir() && t.byID[n.id] == n {
		delete(t.byID, n.id)
	}
}

func (t *tree) rename(op *journal.Op, dry bool) syscall.Errno {
	d, d2, n := t.byID[op.Parent], t.byID[op.Parent2], t.byID[op.ID]
	if d == nil || d2 == nil || n == nil || d.nlink == 0 || d2.nlink == 0 || d.names[op.Name] != n {
		return unix.ENOENT
	}
	v := d2.names[op.Name2]
	var id2 journal.FileID
	if v != nil {
		id2 = v.id
	}
	if id2 != op.ID2 {
		return unix.EEXIST
	}
	inside := func(n, d *node) bool {
		for ; d != nil; d = d.parent {
			if d == n {
				return true
			}
		}
		return false
	}
	if n.isDir() && inside(n, d2) {
		return unix.EINVAL
	}
	if v == n {
		return 0
	}
	if op.Flags&unix.RENAME_EXCHANGE != 0 {
		switch {
		case v == nil:
			return unix.ENOENT
		case v.isDir() && inside(v, d):
			return unix.EINVAL
		case dry:
			return 0
		}
		d.names[op.Name], d2.names[op.Name2] = v, n
		if v.isDir() {
			v.parent = d
		}
	} else {
		if v != nil {
			switch {
			case v.isDir() != n.isDir():
				return unix.EISDIR
			case len(v.names) > 0:
				return unix.ENOTEMPTY
			}
		}
		if dry {
			return 0
		}
		if v != nil {
			t.unlink(d2, op.Name2)
		}
		delete(d.names, op.Name)
		d2.names[op.Name2] = n
	}
	if n.isDir() {
		n.parent = d2
	}
	d.mtime, d2.mtime = t.now(), t.now()
	return 0
}
