package fs

import (
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// This file carries operations out on the backing directory. The primary and the
// second run the same code with the same operation, so what it does depends on
// nothing but the operation and the tree.

// create carries out KindCreate on that side and returns the new object with one
// user. For a regular file fd is open for reading and writing; otherwise it is -1.
func (t *Tree) create(parent *object, side *boundary, op *journal.Op, st *unix.Stat_t) (o *object, fd int, err error) {
	p, err := parent.path()
	if err != nil {
		return nil, -1, err
	}
	defer p.put()
	perm := op.Mode & 0o7777
	switch op.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		fd, err = unix.Openat(p.fd, op.Name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	case unix.S_IFDIR:
		if err = unix.Mkdirat(p.fd, op.Name, perm); err == nil {
			fd, err = unix.Openat(p.fd, op.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	case unix.S_IFLNK:
		if err = unix.Symlinkat(string(op.Data), p.fd, op.Name); err == nil {
			fd, err = unix.Openat(p.fd, op.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		if err = unix.Mknodat(p.fd, op.Name, op.Mode&unix.S_IFMT|perm, int(op.Rdev)); err == nil {
			fd, err = unix.Openat(p.fd, op.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	default:
		return nil, -1, unix.EINVAL
	}
	if err != nil {
		return nil, -1, err
	}
	o, err = t.finish(fd, op, side, st)
	if err != nil {
		flags := 0
		if op.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		unix.Unlinkat(p.fd, op.Name, flags) // nobody has seen it
		unix.Close(fd)
		return nil, -1, err
	}
	if op.Mode&unix.S_IFMT != unix.S_IFREG {
		t.fds.add(o, false, fd).put()
		fd = -1
	}
	return o, fd, nil
}

// mktmp carries out KindTmpfile: a regular file without a name in the
// directory dir (any of the tree will do).
func (t *Tree) mktmp(dir *object, op *journal.Op, st *unix.Stat_t) (o *object, fd int, err error) {
	p, err := dir.path()
	if err != nil {
		return nil, -1, err
	}
	defer p.put()
	fd, err = unix.Open(procPath(p.fd), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, op.Mode&0o7777)
	if err != nil {
		return nil, -1, err
	}
	o, err = t.finish(fd, op, dir.mnt, st)
	if err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.unref(o, 1)
		unix.Close(fd)
		return nil, -1, err
	}
	o.mu.Lock()
	o.tmpfile, o.unlinked, o.orphan = true, true, dup
	o.mu.Unlock()
	t.mu.Lock()
	delete(t.inos, o.ino)
	t.mu.Unlock()
	t.index.delete(o.id)
	return o, fd, nil
}

// finish gives a new object, open as fd, its owner, its special mode bits and
// its identity. What the backing file system has made of the directory's
// set-group-ID bit does not matter: see inherit.
func (t *Tree) finish(fd int, op *journal.Op, mnt *boundary, st *unix.Stat_t) (*object, error) {
	if err := unix.Fstat(fd, st); err != nil {
		return nil, err
	}
	typ := op.Mode & unix.S_IFMT
	if st.Uid != op.UID || st.Gid != op.GID {
		if err := unix.Fchownat(fd, "", int(op.UID), int(op.GID), unix.AT_EMPTY_PATH); err != nil {
			return nil, err
		}
		if err := unix.Fstat(fd, st); err != nil {
			return nil, err
		}
	}
	// chown clears these bits and mkdir does not take them. The rest of the mode
	// may come from a default ACL.
	const bits = unix.S_ISUID | unix.S_ISGID
	if (typ == unix.S_IFREG || typ == unix.S_IFDIR) && (st.Mode^op.Mode)&bits != 0 {
		if err := unix.Chmod(procPath(fd), st.Mode&0o7777&^bits|op.Mode&bits); err != nil {
			return nil, err
		}
		if err := unix.Fstat(fd, st); err != nil {
			return nil, err
		}
	}
	h, err := handleAt(fd, "")
	if err != nil {
		return nil, err
	}
	if mnt != nil {
		return t.use(localID(st, h), h, st, mnt), nil
	}
	b := encodeID(op.ID, st.Ino)
	if op.Mode&unix.S_IFMT == unix.S_IFREG {
		err = unix.Fsetxattr(fd, idXattr, b[:], 0)
	} else {
		err = unix.Setxattr(procPath(fd), idXattr, b[:], 0)
	}
	if err != nil {
		return nil, err
	}
	o := t.use(op.ID, h, st, nil)
	o.caps.Store(1)
	return o, nil
}

// link carries out KindLink.
func (t *Tree) link(o, parent *object, name string) error {
	p, err := parent.path()
	if err != nil {
		return err
	}
	defer p.put()
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	if err := unix.Linkat(e.fd, "", p.fd, name, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	o.mu.Lock()
	was := o.unlinked
	o.mu.Unlock()
	if was {
		t.nowNamed(o)
	}
	return nil
}

// unlink carries out KindUnlink and KindRmdir of name in parent, which is o with
// the attributes st.
func (t *Tree) unlink(parent, o *object, name string, st *unix.Stat_t) error {
	p, err := parent.path()
	if err != nil {
		return err
	}
	defer p.put()
	flags := 0
	if o.isDir() {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(p.fd, name, flags); err != nil {
		return err
	}
	if o.isDir() || st.Nlink <= 1 {
		t.nameless(o)
	}
	return nil
}

// rename carries out KindRename. over is what is at the target (nil: nothing),
// with the attributes st.
func (t *Tree) rename(from *object, name string, to *object, name2 string, flags uint32, over *object, st *unix.Stat_t) error {
	p, err := from.path()
	if err != nil {
		return err
	}
	defer p.put()
	q, err := to.path()
	if err != nil {
		return err
	}
	defer q.put()
	if err := unix.Renameat2(p.fd, name, q.fd, name2, uint(flags)); err != nil {
		return err
	}
	if over != nil && flags&unix.RENAME_EXCHANGE == 0 && (over.isDir() || st.Nlink <= 1) {
		t.nameless(over)
	}
	return nil
}

// setattr carries out KindSetAttr. fd is a descriptor open for writing, or -1.
func (t *Tree) setattr(o *object, op *journal.Op, fd int) error {
	if op.Valid&journal.SetSize != 0 {
		if err := t.withWriter(o, fd, func(fd int) error { return unix.Ftruncate(fd, op.Off) }); err != nil {
			return err
		}
	}
	if op.Valid&^journal.SetSize == 0 {
		return nil
	}
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	if op.Valid&(journal.SetUID|journal.SetGID) != 0 {
		uid, gid := -1, -1
		if op.Valid&journal.SetUID != 0 {
			uid = int(op.UID)
		}
		if op.Valid&journal.SetGID != 0 {
			gid = int(op.GID)
		}
		if err := unix.Fchownat(e.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if op.Valid&journal.SetMode != 0 {
		if err := unix.Chmod(procPath(e.fd), op.Mode&0o7777); err != nil {
			return err
		}
	}
	if op.Valid&(journal.SetAtime|journal.SetMtime) != 0 {
		ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if op.Valid&journal.SetAtime != 0 {
			ts[0] = timespec(op.Atime)
		}
		if op.Valid&journal.SetMtime != 0 {
			ts[1] = timespec(op.Mtime)
		}
		return utimes(e.fd, &ts)
	}
	return nil
}

func timespec(t journal.Time) unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }

func timeOf(ts unix.Timespec) journal.Time { return journal.Time{Sec: ts.Sec, Nsec: uint32(ts.Nsec)} }

// utimes sets the times of what is open as fd (O_PATH will do).
func utimes(fd int, ts *[2]unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts[:], 0)
}

// withWriter calls f with a descriptor of o open for writing: fd, or if that is
// -1 one of its own.
func (t *Tree) withWriter(o *object, fd int, f func(fd int) error) error {
	if fd >= 0 {
		return f(fd)
	}
	if o.typ != unix.S_IFREG {
		return unix.EINVAL
	}
	e, err := t.fds.get(o, true)
	if err != nil {
		return err
	}
	defer e.put()
	return f(e.fd)
}

// pwriteMax bounds one pwrite, bytes. ext4 keeps what one call brings in folios
// as large as the call, and later looks at every block of the folio for each small
// write into it: 4 KiB into what came by 1 MiB take 10 µs, into what came by 64 KiB
// less than 3.
const pwriteMax = 64 << 10

// write carries out KindWrite.
func (t *Tree) write(o *object, fd int, data []byte, off int64) (n int, err error) {
	err = t.withWriter(o, fd, func(fd int) error {
		for n < len(data) {
			k, err := unix.Pwrite(fd, data[n:min(n+pwriteMax, len(data))], off+int64(n))
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			n += k
		}
		return nil
	})
	return n, err
}

// fallocate carries out KindFallocate. The size is the same after a failure: ext4 leaves
// a file as long as it got before the disk was full, which is not as far on both hosts
// and not what the kernel takes the size for. part: what is below that may have been
// changed in part.
func (t *Tree) fallocate(o *object, fd int, op *journal.Op) (part bool, err error) {
	err = t.withWriter(o, fd, func(fd int) error {
		var before, after unix.Stat_t
		if err := unix.Fstat(fd, &before); err != nil {
			return err
		}
		err := unix.EINTR
		for err == unix.EINTR {
			err, _ = unix.Fallocate(fd, op.Flags, op.Off, op.Len).(unix.Errno)
		}
		switch err {
		case 0:
			return nil
		case unix.EOPNOTSUPP, unix.EINVAL, unix.EFBIG, unix.EPERM: // refused
			return err
		}
		part = op.Flags&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_UNSHARE_RANGE) != 0
		if e := unix.Fstat(fd, &after); e != nil || after.Size != before.Size && unix.Ftruncate(fd, before.Size) != nil {
			part = true
		}
		return err
	})
	return part, err
}

// setxattr and removexattr carry out KindSetXattr and KindRemoveXattr.
func (t *Tree) setxattr(o *object, name string, value []byte, flags int) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	if err := unix.Setxattr(procPath(e.fd), name, value, flags); err != nil {
		return err
	}
	o.noteXattr(name)
	return nil
}

func (t *Tree) removexattr(o *object, name string) error {
	e, err := o.path()
	if err != nil {
		return err
	}
	defer e.put()
	if err := unix.Removexattr(procPath(e.fd), name); err != nil {
		return err
	}
	o.noteXattr(name)
	return nil
}

// noteXattr forgets what was known about an xattr that has changed.
func (o *object) noteXattr(name string) {
	switch name {
	case capsXattr:
		o.caps.Store(0)
	case defaultACLXattr:
		o.defaultACL.Store(0)
	}
}

const (
	capsXattr       = "security.capability"
	defaultACLXattr = "system.posix_acl_default"
	accessACLXattr  = "system.posix_acl_access"
)

// has answers from known (0 not known, 1 no, 2 yes) or by asking the backing
// object whether it has the xattr.
func (o *object) has(known interface {
	Load() int32
	Store(int32)
}, name string) bool {
	switch known.Load() {
	case 1:
		return false
	case 2:
		return true
	}
	e, err := o.path()
	if err != nil {
		return false
	}
	defer e.put()
	if _, err := unix.Getxattr(procPath(e.fd), name, nil); err != nil {
		if err == unix.ENODATA || err == unix.EOPNOTSUPP {
			known.Store(1)
		}
		return false
	}
	known.Store(2)
	return true
}

func (o *object) hasCaps() bool       { return o.has(&o.caps, capsXattr) }
func (o *object) hasDefaultACL() bool { return o.has(&o.defaultACL, defaultACLXattr) }

// fsync flushes o to disk.
func (t *Tree) fsync(o *object, fd int, dataOnly bool) error {
	if fd < 0 {
		flags := unix.O_RDONLY
		if o.isDir() {
			flags |= unix.O_DIRECTORY
		}
		var err error
		if fd, err = o.open(flags); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	if dataOnly {
		return flush(unix.Fdatasync, fd)
	}
	return flush(unix.Fsync, fd)
}

// flush calls fsync or fdatasync. A signal is no failure.
func flush(call func(fd int) error, fd int) error {
	for {
		if err := call(fd); err != unix.EINTR {
			return err
		}
	}
}
