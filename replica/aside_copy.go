package replica

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Restore copies what was kept of p, see find, to dest: an absolute path that does
// not exist yet, in a directory that does. It returns what an administrator should
// know of the copy, "" if it is as the object was. What is below a replicated
// directory is replicated as any other write.
func (a *Aside) Restore(p, dest string) (remark string, err error) {
	k, err := a.find(p)
	if err != nil {
		return "", err
	}
	fail := func(err error) (string, error) { return "", fmt.Errorf("restore %s to %s: %w", p, dest, err) }
	if !k.entry.Kept {
		return fail(errors.New("of this object only the attributes were changed, and only those are known"))
	}
	if !filepath.IsAbs(dest) {
		return fail(errors.New("expected an absolute path"))
	}
	if _, err := os.Lstat(dest); err == nil {
		return fail(errors.New("it exists already: name one that does not"))
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return fail(err)
	}
	dir, err := os.OpenRoot(filepath.Dir(dest))
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	c := copier{from: a.root, to: dir}
	if err := c.copy(k.file, filepath.Base(dest)); err != nil {
		return fail(err)
	}
	if k.entry.Kind == "file" && !k.below { // the copy aside is the quarantine's own file
		e := k.entry
		if err := c.attributes(filepath.Base(dest), int(e.UID), int(e.GID), e.Mode, unix.Timespec{Sec: e.Mtime}); err != nil {
			return fail(err)
		}
	}
	switch {
	case k.entry.Partial:
		return "there was no room to keep the whole file: only the zones that were changed have their content, the others are zeros", nil
	case len(c.skipped) > 0:
		return "not copied: " + strings.Join(c.skipped, ", "), nil
	}
	return "", nil
}

// copier copies objects between two directories; nothing leads out of either.
type copier struct {
	from, to *os.Root
	skipped  []string // sockets
}

// copy copies the object src, and what is below it, as dst.
func (c *copier) copy(src, dst string) error {
	info, err := c.from.Lstat(src)
	if err != nil {
		return err
	}
	st, ok := statOf(info)
	if !ok {
		return fmt.Errorf("%s: its attributes are not known", src)
	}
	switch info.Mode().Type() {
	case 0:
		err = c.copyFile(src, dst)
	case iofs.ModeDir:
		err = c.copyDir(src, dst)
	case iofs.ModeSymlink:
		var target string
		if target, err = c.from.Readlink(src); err == nil {
			err = c.to.Symlink(target, dst)
		}
	case iofs.ModeNamedPipe, iofs.ModeDevice, iofs.ModeDevice | iofs.ModeCharDevice:
		err = c.copyNode(dst, st)
	default:
		c.skipped = append(c.skipped, dst)
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&iofs.ModeSymlink != 0 {
		return c.to.Lchown(dst, int(st.Uid), int(st.Gid))
	}
	if err := c.copyXattrs(src, dst, info); err != nil {
		return err
	}
	return c.attributes(dst, int(st.Uid), int(st.Gid), st.Mode&0o7777, st.Mtim)
}

func (c *copier) copyDir(src, dst string) error {
	if err := c.to.Mkdir(dst, 0o700); err != nil {
		return err
	}
	d, err := c.from.Open(src)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := c.copy(path.Join(src, n), path.Join(dst, n)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies the data of a file; holes stay holes.
func (c *copier) copyFile(src, dst string) (err error) {
	in, err := c.from.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	err = eachData(in, info.Size(), func(off, end int64) error {
		_, err := io.Copy(io.NewOffsetWriter(out, off), io.NewSectionReader(in, off, end-off))
		return err
	})
	if err != nil {
		return err
	}
	return out.Sync()
}

// copyNode makes a pipe or a device. os.Root has no mknod: the parent is opened
// through it, so that the name is resolved below it.
func (c *copier) copyNode(dst string, st *unix.Stat_t) error {
	d, err := c.to.Open(path.Dir(dst))
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Mknodat(int(d.Fd()), path.Base(dst), st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
}

// attributes are set owner first, since chown takes mode bits away.
func (c *copier) attributes(dst string, uid, gid int, mode uint32, mtime unix.Timespec) error {
	if err := c.to.Lchown(dst, uid, gid); err != nil {
		return err
	}
	d, err := c.to.Open(path.Dir(dst))
	if err != nil {
		return err
	}
	defer d.Close()
	base := path.Base(dst)
	if err := unix.Fchmodat(int(d.Fd()), base, mode&0o7777, 0); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(d.Fd()), base, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyXattrs copies extended attributes, ACLs among them, but not skfs's own.
func (c *copier) copyXattrs(src, dst string, info iofs.FileInfo) error {
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil
	}
	in, err := c.from.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.Open(dst)
	if err != nil {
		return err
	}
	defer out.Close()
	list := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Flistxattr(int(in.Fd()), list)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: extended attributes: %w", src, err)
	}
	value := make([]byte, 64<<10) // the kernel's limit
	for name := range strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.skfs.") {
			continue
		}
		n, err := unix.Fgetxattr(int(in.Fd()), name, value)
		if err == nil {
			err = unix.Fsetxattr(int(out.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("%s: attribute %s: %w", src, name, err)
		}
	}
	return nil
}

// eachData calls f with the ranges of a file that hold data, in order.
func eachData(file *os.File, size int64, f func(off, end int64) error) error {
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(file.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO { // a hole to the end
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if end = min(end, size); data >= end {
			return nil
		}
		if err := f(data, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}
