package exercise

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// present returns a place with an object that allow accepts, and false when none
// was found soon.
func (w *names) present(allow func(*node) bool) (place, bool) {
	for range 8 {
		if p := w.taken(); p.node() != nil && allow(p.node()) {
			return p, true
		}
	}
	return place{}, false
}

func anything(*node) bool      { return true }
func fileOrDir(n *node) bool   { return n.isFile() || n.isDir() }
func notSymlink(n *node) bool  { return n.kind() != unix.S_IFLNK }
func regularFile(n *node) bool { return n.isFile() }
func (w *names) nextTime() unix.Timespec {
	w.clock++
	return unix.Timespec{Sec: w.clock, Nsec: w.rnd.Int64N(1_000_000_000)}
}

func (w *names) chmod() error {
	p, ok := w.present(notSymlink)
	if !ok {
		return w.create()
	}
	mode := w.perm()
	if p.node().isDir() && w.rnd.IntN(4) == 0 {
		mode |= unix.S_ISVTX
	}
	w.log("chmod %v %04o", p, mode)
	if d := w.errno(unix.Chmod(w.abs(p), mode), 0); d != nil {
		return d
	}
	p.node().setMode(mode)
	return nil
}

func (w *names) someOwner() (uid, gid int) { return w.rnd.IntN(4) * 1000, w.rnd.IntN(4) * 1000 }

func (w *names) chown() error {
	p, ok := w.present(anything)
	if !ok {
		return w.create()
	}
	uid, gid := w.someOwner()
	w.log("lchown %v %d:%d", p, uid, gid)
	if d := w.errno(unix.Lchown(w.abs(p), uid, gid), 0); d != nil {
		return d
	}
	p.node().uid, p.node().gid = uid, gid
	return nil
}

func (w *names) utimens() error {
	p, ok := w.present(anything)
	if !ok {
		return w.create()
	}
	ts := []unix.Timespec{w.nextTime(), w.nextTime()}
	w.log("utimens %v %d.%09d", p, ts[1].Sec, ts[1].Nsec)
	if d := w.errno(unix.UtimesNanoAt(unix.AT_FDCWD, w.abs(p), ts, unix.AT_SYMLINK_NOFOLLOW), 0); d != nil {
		return d
	}
	p.node().mtime, p.node().timed = ts[1], true
	return nil
}

func (w *names) someXattr() (name, value string) {
	return fmt.Sprintf("user.x%d", w.rnd.IntN(5)), strings.Repeat(string(rune('a'+w.rnd.IntN(26))), w.rnd.IntN(300))
}

// xattrError is the error of setting an attribute with the XATTR_ flags.
func xattrError(n *node, name string, flags int) unix.Errno {
	_, there := n.xattrs[name]
	switch {
	case flags == unix.XATTR_CREATE && there:
		return unix.EEXIST
	case flags == unix.XATTR_REPLACE && !there:
		return unix.ENODATA
	}
	return 0
}

func (w *names) setXattr() error {
	p, ok := w.present(fileOrDir)
	if !ok {
		return w.create()
	}
	name, value := w.someXattr()
	flags := []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[w.rnd.IntN(4)]
	w.log("setxattr %v %s, %d bytes, flags %d", p, name, len(value), flags)
	want := xattrError(p.node(), name, flags)
	if d := w.errno(unix.Lsetxattr(w.abs(p), name, []byte(value), flags), want); d != nil || want != 0 {
		return d
	}
	p.node().xattrs[name] = value
	return nil
}

func (w *names) removeXattr() error {
	p, ok := w.present(fileOrDir)
	if !ok {
		return w.create()
	}
	name, _ := w.someXattr()
	w.log("removexattr %v %s", p, name)
	want := unix.Errno(0)
	if _, there := p.node().xattrs[name]; !there {
		want = unix.ENODATA
	}
	delete(p.node().xattrs, name)
	return w.errno(unix.Lremovexattr(w.abs(p), name), want)
}

// setACL sets an access ACL, or the default ACL of a directory.
func (w *names) setACL() error {
	p, ok := w.present(fileOrDir)
	if !ok {
		return w.create()
	}
	n := p.node()
	bits := func() uint16 { return uint16(w.rnd.IntN(8)) }
	a := &acl{user: bits(), named: bits(), group: bits(), mask: bits(), other: bits(), uid: 1000 + w.rnd.Uint32N(3)}
	if n.isDir() && w.rnd.IntN(2) == 0 {
		if n.defacl != nil && w.rnd.IntN(2) == 0 {
			w.log("remove default ACL of %v", p)
			n.defacl = nil
			return w.errno(unix.Lremovexattr(w.abs(p), aclDefault), 0)
		}
		w.log("default ACL of %v: %v", p, a)
		n.defacl = a
		return w.errno(unix.Lsetxattr(w.abs(p), aclDefault, a.encode(), 0), 0)
	}
	w.log("ACL of %v: %v", p, a)
	n.setACL(a)
	return w.errno(unix.Lsetxattr(w.abs(p), aclAccess, a.encode(), 0), 0)
}

func (w *names) truncate() error {
	p, ok := w.present(regularFile)
	if !ok {
		return w.create()
	}
	size := w.rnd.IntN(maxContent)
	w.log("truncate %v to %d", p, size)
	if d := w.errno(unix.Truncate(w.abs(p), int64(size)), 0); d != nil {
		return d
	}
	p.node().resize(size)
	return nil
}

func (n *node) resize(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size]
	} else {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
	n.touch()
}
