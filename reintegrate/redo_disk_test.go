package reintegrate_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// disk is a tree in memory on which operations are carried out as package fs
// does, and which Redo repairs. It can lose its power at any change.
type disk struct {
	reintegrate.Sink // what Redo has no use for
	things           []*thing
	byID             map[journal.FileID]*thing
	unknown          map[journal.FileID]bool // not found by identity until it is looked up
	root, area       *thing                  // area: nil if there is no holding area
	held             int                     // for names there

	changes int  // so far
	limit   int  // at this one the power goes; negative: never
	torn    bool // then an object that is being made is left without identity
	broken  syscall.Errno
}

// thing is an object.
type thing struct {
	id     journal.FileID
	mode   uint32
	target string
	data   []byte
	xattrs map[string]string
	mtime  int64 // now: not set since it changed
	names  map[string]*thing
	parent *thing // of a directory
	nlink  int
	open   bool // a file that has no name yet
}

const now = -1

// outage is what the power cut panics with.
type outage struct{}

func (n *thing) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

func newDisk() *disk {
	d := &disk{byID: map[journal.FileID]*thing{}, limit: -1}
	d.root = d.add(&thing{id: journal.RootID(0), mode: unix.S_IFDIR | 0o755, nlink: 1, mtime: 1})
	return d
}

func (d *disk) add(n *thing) *thing {
	n.xattrs = map[string]string{}
	if n.isDir() {
		n.names = map[string]*thing{}
	}
	d.things = append(d.things, n)
	if !n.id.IsZero() {
		d.byID[n.id] = n
	}
	return n
}

// live lists what exists, in the order of creation.
func (d *disk) live(want func(*thing) bool) (list []*thing) {
	for _, n := range d.things {
		if d.byID[n.id] == n && want(n) {
			list = append(list, n)
		}
	}
	return list
}

// clone copies what a disk keeps without power.
func (d *disk) clone() *disk {
	c := &disk{byID: map[journal.FileID]*thing{}, unknown: maps.Clone(d.unknown), limit: -1, held: d.held}
	copies := map[*thing]*thing{}
	for _, n := range d.things {
		if n.nlink == 0 {
			continue
		}
		m := *n
		m.data, m.xattrs = bytes.Clone(n.data), maps.Clone(n.xattrs)
		copies[n] = &m
		if !m.id.IsZero() {
			c.byID[m.id] = &m
		}
		c.things = append(c.things, &m)
	}
	for n, m := range copies {
		m.parent = copies[n.parent]
		if n.isDir() {
			m.names = map[string]*thing{}
			for name, k := range n.names {
				m.names[name] = copies[k]
			}
		}
	}
	c.root = copies[d.root]
	if d.area != nil {
		c.area = copies[d.area]
	}
	return c
}

// change is called before every change.
func (d *disk) change() {
	if d.changes == d.limit {
		panic(outage{})
	}
	d.changes++
}

// get finds an object by its identity.
func (d *disk) get(id journal.FileID) *thing {
	if d.unknown[id] {
		return nil
	}
	return d.byID[id]
}

// forget makes objects unknown that base does not have, but for what is held, as a
// crash may leave the index of a tree; and those that end does not have any more.
func (d *disk) forget(base, end *disk, coin func() bool) {
	d.unknown = map[journal.FileID]bool{}
	for _, n := range d.things {
		if (base.byID[n.id] == nil || end.byID[n.id] == nil) && n != d.area && coin() {
			d.unknown[n.id] = true
		}
	}
	if d.area != nil {
		for _, n := range d.area.names {
			delete(d.unknown, n.id)
		}
	}
}

func (d *disk) dir(id journal.FileID) (*thing, error) {
	if n := d.get(id); n != nil && n.isDir() {
		return n, nil
	}
	return nil, fmt.Errorf("directory %s: %w", id, syscall.ENOENT)
}

// make makes an object, which inherits a default ACL.
func (d *disk) make(dir *thing, name string, n *thing) {
	n.mtime = now
	d.add(n)
	if acl, ok := dir.xattrs["default"]; ok {
		n.xattrs["acl"] = acl
		if n.isDir() {
			n.xattrs["default"] = acl
		}
	}
	d.put(dir, name, n)
}

func (d *disk) put(dir *thing, name string, n *thing) {
	dir.names[name] = n
	dir.mtime = now
	n.nlink++
	n.open = false
	if n.isDir() {
		n.parent = dir
	}
}

func (d *disk) take(dir *thing, name string) *thing {
	n := dir.names[name]
	delete(dir.names, name)
	dir.mtime = now
	if n.nlink--; n.nlink == 0 && d.byID[n.id] == n {
		delete(d.byID, n.id)
	}
	return n
}

// move takes a name to another place, which is free.
func (d *disk) move(dir *thing, name string, dir2 *thing, name2 string) {
	n := dir.names[name]
	n.nlink++
	d.take(dir, name)
	d.put(dir2, name2, n)
	n.nlink--
}

func (n *thing) within(dir *thing) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

func (n *thing) resize(size int) {
	if size < len(n.data) {
		n.data = n.data[:size]
		return
	}
	n.data = append(n.data, make([]byte, size-len(n.data))...)
}

// Apply implements journal.Applier.
func (d *disk) Apply(op *journal.Op) journal.Result {
	return journal.Result{Seq: op.Seq, Errno: d.run(op)}
}

// run carries out an operation, or says why not and changes nothing.
func (d *disk) run(op *journal.Op) syscall.Errno {
	if d.broken != 0 {
		return d.broken
	}
	switch op.Kind {
	case journal.KindCreate:
		p, err := d.dir(op.Parent)
		switch {
		case err != nil:
			return syscall.ENOENT
		case p.names[op.Name] != nil || d.byID[op.ID] != nil:
			return syscall.EEXIST
		}
		d.change()
		d.make(p, op.Name, &thing{id: op.ID, mode: op.Mode, target: string(op.Data)})
		return 0
	case journal.KindTmpfile:
		d.change()
		d.add(&thing{id: op.ID, mode: op.Mode, mtime: now, open: true}) // of no directory: it inherits nothing
		return 0
	case journal.KindRename:
		return d.rename(op)
	case journal.KindRelease, journal.KindFsync:
		return 0
	}
	n := d.get(op.ID)
	if n == nil {
		return syscall.ENOENT
	}
	switch op.Kind {
	case journal.KindLink:
		p, err := d.dir(op.Parent)
		switch {
		case err != nil:
			return syscall.ENOENT
		case n.isDir() || p.names[op.Name] != nil:
			return syscall.EEXIST
		}
		d.change()
		d.put(p, op.Name, n)
	case journal.KindUnlink, journal.KindRmdir:
		p, err := d.dir(op.Parent)
		switch {
		case err != nil || p.names[op.Name] != n:
			return syscall.ENOENT
		case n.isDir() != (op.Kind == journal.KindRmdir):
			return syscall.EISDIR
		case len(n.names) > 0:
			return syscall.ENOTEMPTY
		}
		d.change()
		d.take(p, op.Name)
	case journal.KindWrite:
		d.change()
		if end := int(op.Off) + len(op.Data); end > len(n.data) {
			n.resize(end)
		}
		copy(n.data[op.Off:], op.Data)
		n.mtime = now
	case journal.KindFallocate:
		d.change()
		end := int(op.Off + op.Len)
		if op.Flags&unix.FALLOC_FL_KEEP_SIZE == 0 && end > len(n.data) {
			n.resize(end)
		}
		if op.Flags&unix.FALLOC_FL_PUNCH_HOLE != 0 && int(op.Off) < len(n.data) {
			clear(n.data[op.Off:min(end, len(n.data))])
		}
		n.mtime = now
	case journal.KindSetAttr:
		d.change()
		if op.Valid&journal.SetSize != 0 {
			n.resize(int(op.Off))
			n.mtime = now
		}
		if op.Valid&journal.SetMode != 0 {
			n.mode = n.mode&unix.S_IFMT | op.Mode
		}
		if op.Valid&journal.SetMtime != 0 {
			n.mtime = op.Mtime.Sec
		}
	case journal.KindSetXattr:
		if _, ok := n.xattrs[op.Name]; ok && op.Flags&unix.XATTR_CREATE != 0 {
			return syscall.EEXIST
		}
		d.change()
		n.xattrs[op.Name] = string(op.Data)
	case journal.KindRemoveXattr:
		if _, ok := n.xattrs[op.Name]; !ok {
			return syscall.ENODATA
		}
		d.change()
		delete(n.xattrs, op.Name)
	case journal.KindTimes:
		d.change()
		n.mtime = op.Mtime.Sec
	default:
		return syscall.ENOSYS
	}
	return 0
}

func (d *disk) rename(op *journal.Op) syscall.Errno {
	from, err := d.dir(op.Parent)
	to, err2 := d.dir(op.Parent2)
	if err != nil || err2 != nil || from.names[op.Name] == nil || from.names[op.Name].id != op.ID {
		return syscall.ENOENT
	}
	n, over := from.names[op.Name], to.names[op.Name2]
	var id2 journal.FileID
	if over != nil {
		id2 = over.id
	}
	exchange := op.Flags&unix.RENAME_EXCHANGE != 0
	switch {
	case id2 != op.ID2:
		return syscall.EUCLEAN
	case n == over:
		return 0
	case n.isDir() && to.within(n):
		return syscall.EINVAL
	case exchange && (over == nil || over.isDir() && from.within(over)):
		return syscall.EINVAL
	case !exchange && over != nil && over.isDir() != n.isDir():
		return syscall.EISDIR
	case !exchange && over != nil && len(over.names) > 0:
		return syscall.ENOTEMPTY
	}
	d.change()
	switch {
	case over == nil:
		d.move(from, op.Name, to, op.Name2)
	case exchange:
		from.names[op.Name], to.names[op.Name2] = over, n
		if over.isDir() {
			over.parent = from
		}
		if n.isDir() {
			n.parent = to
		}
		from.mtime, to.mtime = now, now
	default:
		d.take(to, op.Name2)
		d.move(from, op.Name, to, op.Name2)
	}
	return 0
}

// What follows makes a disk a Sink.

func (d *disk) Tree() uint8 { return 0 }

func (n *thing) entry(name string) reintegrate.Entry {
	return reintegrate.Entry{Name: name, ID: n.id, Mode: n.mode, Mtime: journal.Time{Sec: n.mtime}, Target: n.target}
}

func (d *disk) Find(id journal.FileID) (reintegrate.Entry, error) {
	if n := d.get(id); n != nil {
		return n.entry(""), nil
	}
	return reintegrate.Entry{}, syscall.ENOENT
}

func (d *disk) Lookup(dir journal.FileID, name string) (reintegrate.Entry, error) {
	p, err := d.dir(dir)
	if err != nil {
		return reintegrate.Entry{}, err
	}
	if n := p.names[name]; n != nil {
		delete(d.unknown, n.id)
		return n.entry(name), nil
	}
	return reintegrate.Entry{}, syscall.ENOENT
}

func (d *disk) Create(dir journal.FileID, e *reintegrate.Entry) error {
	p, err := d.dir(dir)
	switch {
	case err != nil:
		return err
	case d.byID[e.ID] != nil:
		return fmt.Errorf("create %s: a second object with the identity %s", e.Name, e.ID)
	case p.names[e.Name] != nil:
		return fmt.Errorf("create %s: %w", e.Name, syscall.EEXIST)
	}
	if d.torn && d.changes == d.limit {
		d.make(p, e.Name, &thing{mode: e.Mode})
	}
	d.change()
	d.make(p, e.Name, &thing{id: e.ID, mode: e.Mode, target: e.Target})
	return nil
}

func (d *disk) Hold(dir journal.FileID, name string) error {
	p, err := d.dir(dir)
	if err != nil {
		return err
	}
	if p.names[name] == nil {
		return syscall.ENOENT
	}
	d.change()
	if d.area == nil {
		d.area = d.add(&thing{id: journal.FileID{0xa2, 0xea}, mode: unix.S_IFDIR, nlink: 1})
		d.root.mtime = now
		d.change()
	}
	d.held++
	d.move(p, name, d.area, fmt.Sprint(d.held))
	return nil
}

func (d *disk) Place(id, dir journal.FileID, name string) error {
	p, err := d.dir(dir)
	n := d.get(id)
	switch {
	case err != nil:
		return err
	case n == nil:
		return syscall.ENOENT
	case p.names[name] != nil:
		return syscall.EEXIST
	case n.isDir() && p.within(n):
		return syscall.EINVAL
	}
	d.change()
	if d.area != nil {
		for _, held := range slices.Sorted(maps.Keys(d.area.names)) {
			if d.area.names[held] == n {
				d.move(d.area, held, p, name)
				return nil
			}
		}
	}
	if !n.isDir() {
		d.put(p, name, n)
		return nil
	}
	for old, m := range n.parent.names {
		if m == n {
			d.move(n.parent, old, p, name)
			break
		}
	}
	return nil
}

func (d *disk) SetAttrs(id journal.FileID, a *reintegrate.Attrs) error {
	n := d.get(id)
	if n == nil {
		return syscall.ENOENT
	}
	d.change()
	n.resize(int(a.Size))
	n.mode, n.xattrs, n.mtime = a.Mode, map[string]string{}, a.Mtime.Sec
	for _, x := range a.Xattrs {
		n.xattrs[x.Name] = string(x.Value)
	}
	return nil
}

func (d *disk) DropHeld(int) (dropped int, more bool, err error) {
	if d.area == nil {
		return 0, false, nil
	}
	var empty func(dir *thing)
	empty = func(dir *thing) {
		for _, name := range slices.Sorted(maps.Keys(dir.names)) {
			if k := dir.names[name]; k.isDir() {
				empty(k)
			}
			if dropped == 2 {
				return
			}
			d.change()
			d.take(dir, name)
			dropped++
		}
	}
	empty(d.area)
	if len(d.area.names) > 0 {
		return dropped, true, nil
	}
	d.change()
	delete(d.byID, d.area.id)
	d.area.nlink, d.area = 0, nil
	return dropped, false, nil
}

// differences says how got is not as want. Times that nothing has set may be any.
func differences(want, got *disk) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	seen := map[*thing]bool{}
	var compare func(path string, x, y *thing)
	compare = func(path string, x, y *thing) {
		if x.id != y.id || x.mode != y.mode || x.target != y.target || x.nlink != y.nlink {
			say("%s: %x %o %d names, expected %x %o %d", path, y.id[:2], y.mode, y.nlink, x.id[:2], x.mode, x.nlink)
		}
		if !bytes.Equal(x.data, y.data) {
			say("%s: content %q, expected %q", path, y.data, x.data)
		}
		if !maps.Equal(x.xattrs, y.xattrs) {
			say("%s: xattrs %v, expected %v", path, y.xattrs, x.xattrs)
		}
		if x.mtime != y.mtime && x.mtime != now {
			say("%s: mtime %d, expected %d", path, y.mtime, x.mtime)
		}
		if seen[x] {
			return
		}
		seen[x] = true
		for _, name := range slices.Sorted(maps.Keys(x.names)) {
			if y.names[name] == nil {
				say("%s/%s: missing", path, name)
				continue
			}
			compare(path+"/"+name, x.names[name], y.names[name])
		}
		for _, name := range slices.Sorted(maps.Keys(y.names)) {
			if x.names[name] == nil {
				say("%s/%s: too much", path, name)
			}
		}
	}
	compare("", want.root, got.root)
	if got.area != nil {
		say("%d names are held", len(got.area.names))
	}
	for _, n := range got.live(func(n *thing) bool { return n.nlink > 0 }) {
		if want.byID[n.id] == nil {
			say("%x lives on", n.id[:2])
		}
	}
	return b.String()
}
