package fs

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirStream reads the entries of a directory in the order and with the cookies
// of the backing file system, so that a position stays valid while names come
// and go.
type dirStream struct {
	mu  sync.Mutex // one READDIR at a time
	fd  int
	pos uint64 // cookie of the entry that buf starts with
	buf []byte // what is left of the last getdents
	mem []byte
}

// dirEntry is a struct linux_dirent64.
type dirEntry struct {
	name string
	ino  uint64
	typ  uint8
	off  uint64 // where the next entry is
	size int
}

// peek returns the entry at the position; ok is false at the end.
func (d *dirStream) peek() (e dirEntry, ok bool, err error) {
	if len(d.buf) == 0 {
		if d.mem == nil {
			d.mem = make([]byte, 32<<10)
		}
		n, err := unix.Getdents(d.fd, d.mem)
		if err != nil || n == 0 {
			return e, false, err
		}
		d.buf = d.mem[:n]
	}
	b := d.buf
	e.ino = binary.NativeEndian.Uint64(b)
	e.off = binary.NativeEndian.Uint64(b[8:])
	e.size = int(binary.NativeEndian.Uint16(b[16:]))
	e.typ = b[18]
	name := b[19:e.size]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	e.name = string(name)
	return e, true, nil
}

func (d *dirStream) skip(e dirEntry) {
	d.buf = d.buf[e.size:]
	d.pos = e.off
}

func (d *dirStream) next() (e dirEntry, ok bool, err error) {
	if e, ok, err = d.peek(); ok {
		d.skip(e)
	}
	return e, ok, err
}

// seek goes to the entry with cookie pos.
func (d *dirStream) seek(pos uint64) error {
	if pos == d.pos && (pos != 0 || len(d.buf) > 0) {
		return nil
	}
	d.buf = nil
	d.pos = pos
	_, err := unix.Seek(d.fd, int64(pos), unix.SEEK_SET)
	return err
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	o, s := f.node(&in.InHeader)
	if !s.Ok() {
		return s
	}
	fd, err := o.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	out.Fh = f.addFile(&file{o: o, fd: fd, dir: &dirStream{fd: fd}})
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) { f.Release(nil, in) }

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, out, false)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, out, true)
}

func (f *FS) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	x := f.file(in.Fh)
	if x == nil || x.dir == nil {
		return fuse.EBADF
	}
	d := x.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.seek(in.Offset); err != nil {
		return status(err)
	}
	for {
		e, ok, err := d.peek()
		if err != nil {
			return status(err)
		}
		if !ok {
			return fuse.OK
		}
		if f.tree.hidden(x.o, e.name) {
			d.skip(e)
			continue
		}
		de := fuse.DirEntry{Name: e.name, Mode: uint32(e.typ) << 12, Off: e.off}
		dots := e.name == "." || e.name == ".."
		if e.name == "." {
			de.Ino = x.o.id.Ino()
		}
		var o *object
		var st unix.Stat_t
		if !dots && plus {
			// Look up first: the entry needs the inode number of the identity.
			if o, err = f.tree.lookupAt(x.fd, x.o, e.name, &st); err != nil {
				d.skip(e) // gone meanwhile
				continue
			}
			de.Ino = o.id.Ino()
		} else if !dots {
			de.Ino = f.tree.inoAt(x, e)
		}
		if !plus {
			if !out.AddDirEntry(de) {
				return fuse.OK
			}
			d.skip(e)
			continue
		}
		entry := out.AddDirLookupEntry(de)
		if entry == nil {
			if o != nil {
				f.tree.unref(o, 1)
			}
			return fuse.OK
		}
		if o != nil {
			f.fillEntry(entry, o, &st)
		}
		d.skip(e)
	}
}

// inoAt is the inode number that applications see for an entry of directory x;
// 0 if it cannot be told cheaply.
func (t *Tree) inoAt(x *file, e dirEntry) uint64 {
	if x.o.mnt != nil {
		return e.ino
	}
	if t.excludesAt(x.fd, e.name) {
		var st unix.Stat_t
		o, err := t.lookupAt(x.fd, x.o, e.name, &st)
		if err != nil {
			return 0
		}
		defer t.unref(o, 1)
		return o.id.Ino()
	}
	t.mu.Lock()
	o := t.inos[e.ino]
	t.mu.Unlock()
	if o != nil {
		return o.id.Ino()
	}
	id, err := readID(procPath(x.fd)+"/"+e.name, e.ino)
	if err == nil {
		return id.Ino()
	}
	if !errors.Is(err, errNoID) {
		return 0
	}
	var st unix.Stat_t
	n, err := t.lookupAt(x.fd, x.o, e.name, &st) // gives it an identity
	if err != nil {
		return 0
	}
	defer t.unref(n, 1)
	return n.id.Ino()
}
