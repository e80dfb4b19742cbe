package fs

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	o, s := f.node(h)
	if !s.Ok() {
		return 0, s
	}
	if isHiddenAttr(name) {
		return 0, fuse.ENODATA
	}
	e, err := o.path()
	if err != nil {
		return 0, status(err)
	}
	defer e.put()
	n, err := unix.Getxattr(procPath(e.fd), name, dest)
	if err == unix.ERANGE { // the size that is wanted
		n, _ = unix.Getxattr(procPath(e.fd), name, nil)
		return uint32(max(n, 0)), fuse.ERANGE
	}
	if err != nil {
		return 0, status(err)
	}
	return uint32(n), fuse.OK
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	o, s := f.node(h)
	if !s.Ok() {
		return 0, s
	}
	names, err := f.tree.listxattr(o)
	if err != nil {
		return 0, status(err)
	}
	n := 0
	for _, name := range names {
		n += len(name) + 1
	}
	if len(dest) == 0 {
		return uint32(n), fuse.OK
	}
	if n > len(dest) {
		return uint32(n), fuse.ERANGE
	}
	dest = dest[:0]
	for _, name := range names {
		dest = append(append(dest, name...), 0)
	}
	return uint32(n), fuse.OK
}

// listxattr returns the names of the xattrs that applications see.
func (t *Tree) listxattr(o *object) ([]string, error) {
	e, err := o.path()
	if err != nil {
		return nil, err
	}
	defer e.put()
	b := make([]byte, 1024)
	for {
		n, err := unix.Listxattr(procPath(e.fd), b)
		if err == unix.ERANGE {
			if n, err = unix.Listxattr(procPath(e.fd), nil); err == nil {
				b = make([]byte, n+256)
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		var names []string
		for _, name := range strings.Split(string(b[:n]), "\x00") {
			if name != "" && !isHiddenAttr(name) {
				names = append(names, name)
			}
		}
		return names, nil
	}
}

// xattrs returns the xattrs that applications see, with their values.
func (t *Tree) xattrs(o *object) (map[string][]byte, error) {
	names, err := t.listxattr(o)
	if err != nil {
		if err == unix.EOPNOTSUPP {
			return nil, nil
		}
		return nil, err
	}
	if len(names) == 0 {
		return nil, nil
	}
	e, err := o.path()
	if err != nil {
		return nil, err
	}
	defer e.put()
	m := make(map[string][]byte, len(names))
	for _, name := range names {
		b := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Getxattr(procPath(e.fd), name, b)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, err
		}
		m[name] = append([]byte(nil), b[:n]...)
	}
	return m, nil
}

// sumXattrs is journal.SumXattrs of the object at path, by calls that follow what it
// ends in or do not.
func sumXattrs(path string, list func(string, []byte) (int, error), get func(string, string, []byte) (int, error)) (uint64, error) {
	var small [256]byte
	b := small[:]
	n, err := list(path, b)
	for err == unix.ERANGE {
		if n, err = list(path, nil); err == nil {
			b = make([]byte, n+256)
			n, err = list(path, b)
		}
	}
	if err == unix.EOPNOTSUPP {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var all []journal.Xattr
	for names := b[:n]; len(names) > 0; {
		i := bytes.IndexByte(names, 0)
		name := string(names[:i])
		names = names[i+1:]
		if isHiddenAttr(name) {
			continue
		}
		value := make([]byte, 1024)
		k, err := get(path, name, value)
		if err == unix.ERANGE {
			value = make([]byte, 64<<10) // XATTR_SIZE_MAX
			k, err = get(path, name, value)
		}
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return 0, err
		}
		all = append(all, journal.Xattr{Name: name, Value: value[:k]})
	}
	return journal.SumXattrs(all), nil
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	o, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	return f.xattr(o, &journal.Op{Kind: journal.KindSetXattr, Tree: f.tree.num, ID: o.id, Name: name, Data: data, Flags: in.Flags},
		func() error { return f.tree.setxattr(o, name, data, 0) })
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	o, s := f.node(h)
	if !s.Ok() {
		return s
	}
	return f.xattr(o, &journal.Op{Kind: journal.KindRemoveXattr, Tree: f.tree.num, ID: o.id, Name: name},
		func() error { return f.tree.removexattr(o, name) })
}

func (f *FS) xattr(o *object, op *journal.Op, exec func() error) fuse.Status {
	if isHiddenAttr(op.Name) {
		return fuse.EPERM
	}
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	// The usual refusals cost no round trip, and the peer never has to refuse.
	switch have := func() error { return o.hasXattr(op.Name) }; {
	case op.Kind == journal.KindRemoveXattr:
		if err := have(); err != nil {
			return status(err)
		}
	case op.Flags == unix.XATTR_CREATE:
		if err := have(); err == nil {
			return status(unix.EEXIST)
		} else if err != unix.ENODATA {
			return status(err)
		}
	case op.Flags == unix.XATTR_REPLACE:
		if err := have(); err != nil {
			return status(err)
		}
	}
	op.Flags = 0
	tk, err := f.enterObject(o, op)
	if err != nil {
		return status(err)
	}
	err = exec()
	f.leave(tk, err)
	return status(err)
}

// hasXattr returns ENODATA if o does not have the xattr.
func (o *object) hasXattr(name string) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	_, err = unix.Getxattr(procPath(e.fd), name, nil)
	return err
}
