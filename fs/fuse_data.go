package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// openFlags is how the kernel is to treat an open file.
//
// On the primary the page cache stays from one open to the next. O_DIRECT files
// bypass it, and their writers may run side by side. close sends no FLUSH: there
// is nothing left to do at close that its answer depends on (locks are the
// kernel's own). On SECOND the applier changes files behind the kernel's back,
// so nothing is cached.
func (f *FS) openFlags(flags uint32) uint32 {
	out := uint32(fuse.FOPEN_NOFLUSH)
	switch {
	case !f.gate.Writable():
		out |= fuse.FOPEN_DIRECT_IO
	case flags&unix.O_DIRECT != 0:
		out |= fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	default:
		out |= fuse.FOPEN_KEEP_CACHE
	}
	return out
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	o, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	acc := in.Flags & unix.O_ACCMODE
	if (acc != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0) && !f.gate.Writable() {
		return fuse.EROFS
	}
	// O_APPEND is the kernel's business (it knows the size), and so is O_SYNC (it
	// sends FSYNC, or leaves it to Write); with either of them the backing descriptor
	// would do it twice.
	flags := int(in.Flags) & (unix.O_ACCMODE | unix.O_NOATIME)
	if acc == unix.O_WRONLY {
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	fd, err := o.open(flags | unix.O_NOFOLLOW)
	if err != nil {
		return status(err)
	}
	if in.Flags&unix.O_TRUNC != 0 {
		op := &journal.Op{Kind: journal.KindSetAttr, ID: o.id, Tree: f.tree.num, Valid: journal.SetSize}
		writer := fd
		if acc == unix.O_RDONLY { // O_RDONLY|O_TRUNC is allowed
			writer = -1
		}
		if err := f.change(o, writer, op, in.Mode&fuse.OPEN_KILL_SUIDGID != 0); err != nil {
			unix.Close(fd)
			return status(err)
		}
	}
	out.OpenFlags = f.openFlags(in.Flags)
	out.Fh = f.addFile(&file{o: o, fd: fd, write: acc != unix.O_RDONLY, direct: in.Flags&unix.O_DIRECT != 0})
	return fuse.OK
}

// Read implements fuse.RawFileSystem.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	x := f.file(in.Fh)
	if x == nil {
		return nil, fuse.EBADF
	}
	n := 0
	for n < len(buf) {
		k, err := unix.Pread(x.fd, buf[n:], int64(in.Offset)+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, status(err)
		}
		if k == 0 {
			break
		}
		n += k
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// pieceMax is the most that a write sends in one operation, bytes: the second
// checks one piece while the next arrives.
const pieceMax = 256 << 10

// Write implements fuse.RawFileSystem.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	x := f.file(in.Fh)
	if x == nil || !x.write {
		return 0, fuse.EBADF
	}
	n, s := f.write(x, in, data)
	// After a write through its cache the kernel sends FSYNC itself; of one that bypasses
	// it the flags say that it is to be on disk (O_SYNC, O_DSYNC, RWF_DSYNC).
	if s.Ok() && x.direct && in.Flags&unix.O_DSYNC != 0 {
		if s = f.sync(x, in.Flags&unix.O_SYNC != unix.O_SYNC); !s.Ok() {
			return 0, s
		}
	}
	return n, s
}

func (f *FS) write(x *file, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	o := x.o
	off := int64(in.Offset)
	l := o.lock.lock(off, off+int64(len(data)))
	defer o.lock.unlock(l)
	ops := make([]*journal.Op, 0, 3)
	ops, err := f.killPriv(ops, o, x.fd, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0, in.WriteFlags&fuse.WRITE_CACHE == 0)
	if err != nil {
		return 0, status(err)
	}
	for n := 0; n < len(data) || n == 0; n += pieceMax {
		ops = append(ops, &journal.Op{Kind: journal.KindWrite, Tree: f.tree.num, ID: o.id, Off: off + int64(n), Data: data[n:min(n+pieceMax, len(data))]})
	}
	tk, err := f.enterObject(o, ops...)
	if err != nil {
		return 0, status(err)
	}
	n := 0
	if err = f.execPriv(o, x.fd, ops); err == nil {
		n, err = f.tree.write(o, x.fd, data, off)
	}
	if err != nil && n > 0 {
		f.leave(tk, errPartThere)
		return uint32(n), fuse.OK
	}
	f.leave(tk, err, o)
	return uint32(n), status(err)
}

// A write, or a range to be zeros, that was done in part only (a full disk) is a
// difference between the hosts, whatever became of it on the other one: that stops at another byte. So
// the two say so with errors that are never equal.
const (
	errPartThere = unix.ENOTRECOVERABLE // on the primary
	errPartHere  = unix.EUCLEAN         // on the second
)

// Writev implements fuse.RawFileSystem: Write serves.
func (f *FS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// killPriv appends the operations that take suid, sgid and file capabilities
// from o, which is about to be changed. With HANDLE_KILLPRIV_V2 the kernel leaves
// that to us: suid asks for the mode bits, caps for the capability.
func (f *FS) killPriv(ops []*journal.Op, o *object, fd int, suid, caps bool) ([]*journal.Op, error) {
	if suid {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, err
		}
		if mode := withoutSuid(st.Mode); mode != st.Mode {
			ops = append(ops, &journal.Op{Kind: journal.KindSetAttr, Tree: f.tree.num, ID: o.id, Valid: journal.SetMode, Mode: mode})
		}
	}
	if caps && o.hasCaps() {
		ops = append(ops, &journal.Op{Kind: journal.KindRemoveXattr, Tree: f.tree.num, ID: o.id, Name: capsXattr})
	}
	return ops, nil
}

// withoutSuid is what the kernel makes of a mode when an unprivileged process
// changes the file (setattr_should_drop_suidgid): sgid without group execution
// is mandatory locking's and stays.
func withoutSuid(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// execPriv carries out what killPriv appended.
func (f *FS) execPriv(o *object, fd int, ops []*journal.Op) error {
	for _, op := range ops {
		var err error
		switch op.Kind {
		case journal.KindSetAttr:
			err = f.tree.setattr(o, op, fd)
		case journal.KindRemoveXattr:
			if err = f.tree.removexattr(o, op.Name); err == unix.ENODATA {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enterObject is Gate.enter for a change of o itself. A file without names is
// nobody else's business, nor is one on another file system.
func (f *FS) enterObject(o *object, ops ...*journal.Op) (ticket, error) {
	return f.enter(o.named() && o.replicated(), ops...)
}

// change carries out a KindSetAttr on o, which is not locked.
func (f *FS) change(o *object, fd int, op *journal.Op, killSuid bool) error {
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	sized := op.Valid&journal.SetSize != 0
	ops := []*journal.Op{op}
	if sized && killSuid {
		var st unix.Stat_t
		if err := o.stat(&st); err != nil {
			return err
		}
		if mode := withoutSuid(st.Mode); mode != st.Mode && op.Valid&journal.SetMode == 0 {
			op.Valid |= journal.SetMode
			op.Mode = mode
		}
	}
	if (sized || op.Valid&(journal.SetUID|journal.SetGID) != 0) && o.hasCaps() {
		ops = append(ops, &journal.Op{Kind: journal.KindRemoveXattr, Tree: f.tree.num, ID: o.id, Name: capsXattr})
	}
	tk, err := f.enterObject(o, ops...)
	if err != nil {
		return err
	}
	if err = f.tree.setattr(o, op, fd); err == nil {
		err = f.execPriv(o, fd, ops[1:])
	}
	if err == nil && op.Valid&journal.SetMtime != 0 {
		f.tree.cleanTimes(o) // the peer was told
	}
	if sized && op.Valid&journal.SetMtime == 0 {
		f.leave(tk, err, o)
	} else {
		f.leave(tk, err)
	}
	return err
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	o, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	op := &journal.Op{Kind: journal.KindSetAttr, Tree: f.tree.num, ID: o.id}
	if mode, ok := in.GetMode(); ok {
		op.Valid |= journal.SetMode
		op.Mode = mode
	}
	if uid, ok := in.GetUID(); ok {
		op.Valid |= journal.SetUID
		op.UID = uid
	}
	if gid, ok := in.GetGID(); ok {
		op.Valid |= journal.SetGID
		op.GID = gid
	}
	if size, ok := in.GetSize(); ok {
		op.Valid |= journal.SetSize
		op.Off = int64(size)
	}
	if t, ok := in.GetATime(); ok {
		op.Valid |= journal.SetAtime
		op.Atime = journal.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
	}
	if t, ok := in.GetMTime(); ok {
		op.Valid |= journal.SetMtime
		op.Mtime = journal.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
	}
	fd := -1
	if fh, ok := in.GetFh(); ok {
		if x := f.file(fh); x != nil && x.o == o && x.write {
			fd = x.fd
		}
	}
	if op.Valid != 0 {
		if err := f.change(o, fd, op, in.Valid&fuse.FATTR_KILL_SUIDGID != 0); err != nil {
			return status(err)
		}
	}
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return status(err)
	}
	out.SetTimeout(f.valid(o))
	fillAttr(&out.Attr, &st, o.id)
	return fuse.OK
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	x := f.file(in.Fh)
	if x == nil || !x.write {
		return fuse.EBADF
	}
	o := x.o
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	op := &journal.Op{Kind: journal.KindFallocate, Tree: f.tree.num, ID: o.id, Flags: in.Mode, Off: int64(in.Offset), Len: int64(in.Length)}
	ops, err := f.killPriv(nil, o, x.fd, true, true)
	if err != nil {
		return status(err)
	}
	tk, err := f.enterObject(o, append(ops, op)...)
	if err != nil {
		return status(err)
	}
	part := false
	if err = f.execPriv(o, x.fd, ops); err == nil {
		part, err = f.tree.fallocate(o, x.fd, op)
	}
	if part {
		f.leave(tk, errPartThere)
	} else {
		f.leave(tk, err, o)
	}
	return status(err)
}

// Lseek implements fuse.RawFileSystem (SEEK_DATA and SEEK_HOLE).
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	x := f.file(in.Fh)
	if x == nil {
		return fuse.EBADF
	}
	off, err := unix.Seek(x.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// Flush implements fuse.RawFileSystem.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync implements fuse.RawFileSystem: on both hosts at once.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	x := f.file(in.Fh)
	if x == nil {
		return fuse.EBADF
	}
	return f.sync(x, in.FsyncFlags&1 != 0)
}

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	x := f.file(in.Fh)
	if x == nil {
		return fuse.EBADF
	}
	return f.sync(x, false)
}

func (f *FS) sync(x *file, dataOnly bool) fuse.Status {
	o := x.o
	if !o.named() || !o.replicated() || !f.gate.Writable() {
		o.flushed.Store(true)
		return status(f.syncHere(x, dataOnly))
	}
	op := &journal.Op{Kind: journal.KindFsync, Tree: f.tree.num, ID: o.id}
	if dataOnly {
		op.Flags = journal.FsyncDataOnly
	}
	return status(f.gate.fsync(op, func() error { return f.tree.fsync(o, x.fd, dataOnly) }))
}

// syncHere flushes what is no other host's business, or not now.
func (f *FS) syncHere(x *file, dataOnly bool) error {
	if f.gate.Failed() != nil {
		return unix.EIO
	}
	err := f.tree.fsync(x.o, x.fd, dataOnly)
	if err != nil && err != unix.EINVAL && x.o.replicated() && f.gate.Writable() { // it may get a name
		f.gate.suspect(err)
	}
	return err
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	x := f.takeFile(in.Fh)
	if x == nil {
		return
	}
	if x.write {
		f.sendTimes(x.o)
	}
	unix.Close(x.fd)
	x.o.mu.Lock()
	x.o.opens--
	orphan := -1
	if x.o.opens == 0 && x.o.unlinked && !x.o.tmpfile {
		orphan, x.o.orphan = x.o.orphan, -1
	}
	x.o.mu.Unlock()
	if orphan >= 0 {
		unix.Close(orphan)
		f.tree.fds.purge(x.o)
	}
	f.tree.unref(x.o, 1)
}

// dataRanges calls fn for every range of [off, end) of fd that is not a hole.
func dataRanges(fd int, off, end int64, fn func(off, end int64) error) error {
	for off < end {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		if data >= end {
			return nil
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err == unix.ENXIO {
			return nil // cut off meanwhile
		}
		if err != nil {
			return err
		}
		hole = min(hole, end)
		if err := fn(data, hole); err != nil {
			return err
		}
		off = hole
	}
	return nil
}
