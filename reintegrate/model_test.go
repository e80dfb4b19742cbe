package reintegrate

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
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
		Size: int64(len(n.data)), Mtime: n.mtime, Target: n.target,
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

// apply carries out an operation of the ordinary kinds, or says why not; dry: only
// says whether it would.
func (t *tree) apply(op *journal.Op, dry bool) syscall.Errno {
	t.mu.Lock()
	defer t.mu.Unlock()
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

// PRIM's side.

type source struct{ *tree }

func (source) Tree() uint8 { return 0 }

func (s source) live(id journal.FileID) *node {
	if n := s.byID[id]; n != nil && (n.nlink > 0 || n.tmp) {
		return n
	}
	return nil
}

func (s source) WithDir(dir journal.FileID, f func([]Entry) error) error {
	defer s.locks.lock(span{dir, 0, whole})()
	s.mu.Lock()
	d := s.live(dir)
	if d == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	var es []Entry
	for name, n := range d.names {
		es = append(es, n.entry(name))
	}
	s.mu.Unlock()
	return f(es)
}

func (s source) WithRange(id journal.FileID, off, n int64, f func(File) error) error {
	defer s.locks.lock(span{id, off, off + n})()
	s.mu.Lock()
	o := s.live(id)
	s.mu.Unlock()
	if o == nil {
		return syscall.ENOENT
	}
	return f(file{s.tree, o})
}

func (s source) WithObject(id journal.FileID, f func(*Attrs, File) error) error {
	defer s.locks.lock(span{id, 0, whole})()
	s.mu.Lock()
	o := s.live(id)
	if o == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	a := o.attrs()
	s.mu.Unlock()
	if o.typ() != unix.S_IFREG {
		return f(a, nil)
	}
	return f(a, file{s.tree, o})
}

func (s source) Stat(id journal.FileID) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[id]; n != nil {
		return n.entry(""), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s source) Orphans() (ids []journal.FileID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.byID {
		if n.tmp {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// SECOND's side.

type sink struct{ *tree }

func (sink) Tree() uint8    { return 0 }
func (s sink) Begin() error { return nil }

func (s sink) dir(id journal.FileID) (*node, error) {
	if d := s.byID[id]; d != nil && d.isDir() {
		return d, nil
	}
	return nil, fmt.Errorf("directory %s: %w", id, syscall.ENOENT)
}

func (s sink) List(dir journal.FileID) (es []Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return nil, err
	}
	for name, n := range d.names {
		es = append(es, n.entry(name))
	}
	return es, nil
}

func (s sink) Lookup(dir journal.FileID, name string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return Entry{}, err
	}
	if n := d.names[name]; n != nil {
		return n.entry(name), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s sink) Create(dir journal.FileID, e *Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	switch {
	case err != nil:
		return err
	case d.names[e.Name] != nil || s.byID[e.ID] != nil:
		return fmt.Errorf("create %s: %w", e.Name, syscall.EEXIST)
	}
	s.create(d, e)
	return nil
}

func (s sink) Place(id, dir journal.FileID, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	n := s.byID[id]
	switch {
	case err != nil:
		return err
	case n == nil:
		return syscall.ENOENT
	case d.names[name] != nil:
		return syscall.EEXIST
	}
	if n.isDir() {
		for p := d; p != nil; p = p.parent {
			if p == n {
				return fmt.Errorf("directory %s into itself: %w", id, syscall.EINVAL)
			}
		}
		for k, v := range n.parent.names {
			if v == n {
				delete(n.parent.names, k)
				n.parent.mtime = s.now()
			}
		}
		n.parent, n.held = d, nil
	} else if len(n.held) > 0 {
		delete(s.hold.names, n.held[0])
		n.held = n.held[1:]
	} else {
		n.nlink++
		n.tmp = false
	}
	d.names[name] = n
	d.mtime = s.now()
	return nil
}

func (s sink) Identify(dir journal.FileID, name string, id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return err
	}
	n := d.names[name]
	if n == nil || !n.id.IsZero() || s.byID[id] != nil {
		return fmt.Errorf("identify %s: %w", name, syscall.EINVAL)
	}
	n.id = id
	s.byID[id] = n
	return nil
}

func (s sink) Disown(id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return syscall.ENOENT
	}
	delete(s.byID, id)
	n.id = journal.FileID{}
	return nil
}

func (s sink) holdNode(n *node) {
	s.holds++
	name := fmt.Sprint(s.holds)
	n.held = append(n.held, name)
	s.hold.names[name] = n
	if n.isDir() {
		n.parent = s.hold
	}
}

func (s sink) Hold(dir journal.FileID, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return err
	}
	n := d.names[name]
	if n == nil {
		return syscall.ENOENT
	}
	delete(d.names, name)
	d.mtime = s.now()
	s.holdNode(n)
	return nil
}

func (s sink) Keep(id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil || n.nlink > 0 || !n.tmp {
		return fmt.Errorf("keep %s: %w", id, syscall.ENOENT)
	}
	n.nlink, n.tmp = 1, false
	s.holdNode(n)
	return nil
}

func (s sink) DropHeld(most int) (dropped int, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var drop func(d *node)
	drop = func(d *node) {
		for name, n := range d.names {
			if n.isDir() {
				drop(n)
			}
			if d == s.hold && dropped >= most {
				return
			}
			delete(d.names, name)
			dropped++
			if n.nlink--; n.nlink == 0 && s.byID[n.id] == n {
				delete(s.byID, n.id)
			}
			n.held = slices.DeleteFunc(n.held, func(h string) bool { return d == s.hold && h == name })
		}
	}
	drop(s.hold)
	return dropped, len(s.hold.names) > 0, nil
}

func (s sink) Find(id journal.FileID) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[id]; n != nil {
		return n.entry(""), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s sink) Open(id journal.FileID) (SinkFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil || n.typ() != unix.S_IFREG {
		return nil, syscall.ENOENT
	}
	return file{s.tree, n}, nil
}

func (s sink) Punch(id journal.FileID, off, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byID[id]
	if o == nil {
		return syscall.ENOENT
	}
	if s.failPunch != nil {
		return s.failPunch
	}
	o.punch(off, n)
	return nil
}

func (s sink) SetAttrs(id journal.FileID, a *Attrs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return syscall.ENOENT
	}
	if n.typ() != a.Mode&unix.S_IFMT {
		return syscall.EINVAL
	}
	if n.typ() == unix.S_IFREG {
		n.resize(a.Size)
	}
	n.mode, n.uid, n.gid, n.mtime = a.Mode, a.UID, a.GID, a.Mtime
	n.xattrs = map[string]string{}
	for _, x := range a.Xattrs {
		n.xattrs[x.Name] = string(x.Value)
	}
	return nil
}

// differences of two trees, at most some.
func differences(a, b *tree) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	var ds []string
	say := func(format string, args ...any) { ds = append(ds, fmt.Sprintf(format, args...)) }
	seen := map[*node]bool{}
	same := func(path string, x, y *node) {
		if x.id != y.id {
			say("%s: id %s, %s", path, x.id, y.id)
		}
		if x.mode != y.mode || x.uid != y.uid || x.gid != y.gid || x.rdev != y.rdev || x.target != y.target || x.nlink != y.nlink {
			say("%s: mode %o uid %d nlink %d, %o %d %d", path, x.mode, x.uid, x.nlink, y.mode, y.uid, y.nlink)
		}
		if !bytes.Equal(x.data, y.data) {
			i := 0
			for i < len(x.data) && i < len(y.data) && x.data[i] == y.data[i] {
				i++
			}
			say("%s (%s): content of %d and %d bytes differs at %d", path, x.id, len(x.data), len(y.data), i)
		}
		if !maps.Equal(x.xattrs, y.xattrs) {
			say("%s: xattrs %v, %v", path, x.xattrs, y.xattrs)
		}
		if x.mtime != y.mtime {
			say("%s (%s): mtime %v, %v", path, x.id, x.mtime, y.mtime)
		}
	}
	var walk func(path string, x, y *node)
	walk = func(path string, x, y *node) {
		if seen[x] {
			return
		}
		seen[x] = true
		same(path, x, y)
		for name, k := range x.names {
			if l := y.names[name]; l == nil {
				say("%s/%s (%s): missing", path, name, k.id)
			} else {
				walk(path+"/"+name, k, l)
			}
		}
		for name, l := range y.names {
			if x.names[name] == nil {
				say("%s/%s (%s): too much", path, name, l.id)
			}
		}
	}
	walk("", a.root, b.root)
	for id, x := range a.byID {
		if x.tmp {
			if y := b.byID[id]; y == nil {
				say("nameless %s: missing", id)
			} else {
				same("nameless", x, y)
			}
		}
	}
	if len(b.hold.names) > 0 {
		say("%d names are still held", len(b.hold.names))
	}
	if len(ds) > 12 {
		ds = append(ds[:12], "...")
	}
	return ds
}

func (t *tree) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	var walk func(in string, n *node)
	walk = func(in string, n *node) {
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			k := n.names[name]
			fmt.Fprintf(&b, "%s%s %s %o %d\n", in, name, k.id, k.mode, len(k.data))
			walk(in+"  ", k)
		}
	}
	walk("", t.root)
	return b.String()
}

// locks are the locks of all objects, taken together so that nobody deadlocks.
type locks struct {
	mu   sync.Mutex
	cond sync.Cond
	held []*span
}

type span struct {
	id       journal.FileID
	off, end int64
}

const whole = int64(1) << 62

func newLocks() *locks {
	l := &locks{}
	l.cond.L = &l.mu
	return l
}

func (l *locks) lock(spans ...span) (unlock func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	overlaps := func() bool {
		for _, h := range l.held {
			for _, s := range spans {
				if h.id == s.id && h.off < s.end && s.off < h.end {
					return true
				}
			}
		}
		return false
	}
	for overlaps() {
		l.cond.Wait()
	}
	var mine []*span
	for i := range spans {
		mine = append(mine, &spans[i])
	}
	l.held = append(l.held, mine...)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = slices.DeleteFunc(l.held, func(s *span) bool { return slices.Contains(mine, s) })
		l.cond.Broadcast()
	}
}
