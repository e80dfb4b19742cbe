package exercise

import (
	"encoding/binary"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// node is one object of the model.
type node struct {
	mode     uint32 // with the type
	uid, gid int
	nlink    int
	ino      uint64 // as first seen; 0 before that
	mtime    unix.Timespec
	timed    bool // mtime is known: it was set, and nothing has changed the object since
	xattrs   map[string]string
	acl      *acl // access ACL beyond what mode says
	defacl   *acl // default ACL of a directory

	data     []byte           // of a file
	target   string           // of a symlink
	children map[string]*node // of a directory
	parent   *node            // of a directory; nil for the root
	name     string           // of a directory, in parent
	open     int              // handles
}

func (n *node) kind() uint32 { return n.mode & unix.S_IFMT }
func (n *node) isDir() bool  { return n.kind() == unix.S_IFDIR }
func (n *node) isFile() bool { return n.kind() == unix.S_IFREG }

// path is a directory's path below the root.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	return path.Join(n.parent.path(), n.name)
}

func (n *node) depth() int {
	d := 0
	for ; n.parent != nil; n = n.parent {
		d++
	}
	return d
}

// within says whether the directory n is dir or below it.
func (n *node) within(dir *node) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

// touch notes that the object's modification time is the clock's now.
func (n *node) touch() { n.timed = false }

// attach gives n a name in dir.
func (dir *node) attach(name string, n *node) {
	dir.children[name] = n
	if n.isDir() {
		n.parent, n.name = dir, name
		dir.nlink++
	}
	dir.touch()
}

// detach takes a name away and returns what had it. Its link count is the
// caller's business.
func (dir *node) detach(name string) *node {
	n := dir.children[name]
	delete(dir.children, name)
	if n.isDir() {
		n.parent = nil
		dir.nlink--
	}
	dir.touch()
	return n
}

// acl is a POSIX ACL with one named user and a mask: the permissions of owner,
// named user, group, mask and others.
type acl struct {
	user, named, group, mask, other uint16
	uid                             uint32
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// encode gives the value of the extended attribute, linux/posix_acl_xattr.h.
func (a *acl) encode() []byte {
	const undefined = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2) // version
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, a.user, undefined}, {0x02, a.named, a.uid}, {0x04, a.group, undefined}, {0x10, a.mask, undefined}, {0x20, a.other, undefined}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func (a *acl) String() string {
	return fmt.Sprintf("u%o u:%d:%o g%o m%o o%o", a.user, a.uid, a.named, a.group, a.mask, a.other)
}

// setMode is what chmod does: with an ACL the group bits are the mask.
func (n *node) setMode(perm uint32) {
	n.mode = n.kind() | perm
	if n.acl != nil {
		n.acl.user, n.acl.mask, n.acl.other = uint16(perm>>6&7), uint16(perm>>3&7), uint16(perm&7)
	}
}

// setACL is what setting the access ACL does to the mode.
func (n *node) setACL(a *acl) {
	n.acl = a
	n.mode = n.mode&^0o777 | uint32(a.user)<<6 | uint32(a.mask)<<3 | uint32(a.other)
}

// inherit gives a new object what the default ACL of its directory says; the
// umask is 0.
func (n *node) inherit(dir *node) {
	if dir.defacl == nil {
		return
	}
	a := *dir.defacl
	a.user &= uint16(n.mode >> 6 & 7)
	a.mask &= uint16(n.mode >> 3 & 7)
	a.other &= uint16(n.mode & 7)
	n.setACL(&a)
	if n.isDir() {
		d := *dir.defacl
		n.defacl = &d
	}
}
