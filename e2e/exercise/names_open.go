package exercise

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// openFile opens a file, which may then lose its names.
func (w *names) openFile() error {
	if len(w.handles) >= maxHandles {
		return w.handleClose()
	}
	p := w.taken()
	n := p.node()
	flags, want := unix.O_RDWR, unix.Errno(0)
	if w.rnd.IntN(4) == 0 {
		flags |= unix.O_TRUNC
	}
	w.log("open %v flags %#o", p, flags)
	switch {
	case n == nil:
		want = unix.ENOENT
	case n.isDir():
		want = unix.EISDIR
	case n.kind() == unix.S_IFLNK:
		want = unix.ELOOP
	case !n.isFile():
		return nil // opening a fifo would wait for its other end
	}
	fd, err := unix.Open(w.abs(p), flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if d := w.errno(err, want); d != nil || want != 0 {
		if err == nil {
			unix.Close(fd)
		}
		return d
	}
	if flags&unix.O_TRUNC != 0 {
		n.resize(0)
	}
	n.open++
	w.handles = append(w.handles, &handle{fd, n})
	return nil
}

// tmpfile makes a file without a name, and usually names it.
func (w *names) tmpfile() error {
	p, mode := w.somePlace(), w.perm()|0o600
	w.log("tmpfile in %s %04o, link as %v", p.dir.path(), mode, p)
	fd, err := unix.Open(w.abs(place{p.dir, "."}), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, mode)
	if d := w.errno(err, 0); d != nil {
		return d
	}
	defer unix.Close(fd)
	n := w.newNode(p.dir, unix.S_IFREG|mode)
	n.data = bytes.Repeat([]byte{byte(w.op)}, w.rnd.IntN(5000))
	if len(n.data) > 0 {
		if got, err := unix.Write(fd, n.data); err != nil || got != len(n.data) {
			return w.diverged("write: %d, %v", got, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 {
		return w.diverged("a file without a name has %d links, %v", st.Nlink, err)
	}
	n.ino = st.Ino
	return w.made(p, n, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, w.abs(p), unix.AT_SYMLINK_FOLLOW))
}

// someHandle returns an open file, nil if there is none.
func (w *names) someHandle() *handle {
	if len(w.handles) == 0 {
		return nil
	}
	return w.handles[w.rnd.IntN(len(w.handles))]
}

func (h *handle) String() string {
	return fmt.Sprintf("handle %d (%d links)", h.fd, h.n.nlink)
}

func (w *names) handleWrite() error {
	h := w.someHandle()
	if h == nil {
		return w.openFile()
	}
	off := w.rnd.IntN(maxContent)
	b := bytes.Repeat([]byte{byte(w.op)}, 1+w.rnd.IntN(maxContent-off))
	w.log("write %d at %d of %v", len(b), off, h)
	got, err := unix.Pwrite(h.fd, b, int64(off))
	if err != nil || got != len(b) {
		return w.diverged("wrote %d, %v", got, err)
	}
	if len(h.n.data) < off+len(b) {
		h.n.resize(off + len(b))
	}
	copy(h.n.data[off:], b)
	h.n.touch()
	return nil
}

func (w *names) handleRead() error {
	h := w.someHandle()
	if h == nil {
		return w.openFile()
	}
	w.log("read %v", h)
	return w.content(h.fd, h.n)
}

// content compares what is in an open file.
func (w *names) content(fd int, n *node) error {
	buf := make([]byte, len(n.data)+1)
	got := 0
	for {
		k, err := unix.Pread(fd, buf[got:], int64(got))
		if err != nil {
			return w.diverged("read: %v", err)
		}
		if got += k; k == 0 || got == len(buf) {
			break
		}
	}
	if got != len(n.data) {
		return w.diverged("read %d bytes or more, expected %d", got, len(n.data))
	}
	if !bytes.Equal(buf[:got], n.data) {
		i := 0
		for buf[i] == n.data[i] {
			i++
		}
		return w.diverged("byte %d is %#02x, expected %#02x", i, buf[i], n.data[i])
	}
	return nil
}

func (w *names) handleTruncate() error {
	h := w.someHandle()
	if h == nil {
		return w.openFile()
	}
	size := w.rnd.IntN(maxContent)
	w.log("truncate %v to %d", h, size)
	if d := w.errno(unix.Ftruncate(h.fd, int64(size)), 0); d != nil {
		return d
	}
	h.n.resize(size)
	return nil
}

// handleAttr changes an attribute through an open file.
func (w *names) handleAttr() error {
	h := w.someHandle()
	if h == nil {
		return w.openFile()
	}
	switch w.rnd.IntN(5) {
	case 0:
		mode := w.perm()
		w.log("fchmod %v %04o", h, mode)
		h.n.setMode(mode)
		return w.errno(unix.Fchmod(h.fd, mode), 0)
	case 1:
		uid, gid := w.someOwner()
		w.log("fchown %v %d:%d", h, uid, gid)
		h.n.uid, h.n.gid = uid, gid
		return w.errno(unix.Fchown(h.fd, uid, gid), 0)
	case 2:
		ts := []unix.Timespec{w.nextTime(), w.nextTime()}
		w.log("futimens %v %d.%09d", h, ts[1].Sec, ts[1].Nsec)
		h.n.mtime, h.n.timed = ts[1], true
		return w.errno(unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", h.fd), ts, 0), 0)
	case 3:
		name, value := w.someXattr()
		w.log("fsetxattr %v %s, %d bytes", h, name, len(value))
		h.n.xattrs[name] = value
		return w.errno(unix.Fsetxattr(h.fd, name, []byte(value), 0), 0)
	default:
		w.log("fsync and stat %v", h)
		if d := w.errno(unix.Fsync(h.fd), 0); d != nil {
			return d
		}
		var st unix.Stat_t
		if d := w.errno(unix.Fstat(h.fd, &st), 0); d != nil {
			return d
		}
		return w.attributes("open file", h.n, &st)
	}
}

func (w *names) handleClose() error {
	if len(w.handles) == 0 {
		return w.openFile()
	}
	i := w.rnd.IntN(len(w.handles))
	h := w.handles[i]
	w.log("close %v", h)
	w.handles = append(w.handles[:i], w.handles[i+1:]...)
	h.n.open--
	return w.errno(unix.Close(h.fd), 0)
}
