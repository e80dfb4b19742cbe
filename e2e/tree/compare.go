package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options of a comparison. The zero value compares everything.
type Options struct {
	Max    int                    // differences to describe, default 20; all are counted
	Ignore func(path string) bool // leaves out what is at path, relative to the roots, and below
}

// Difference is one way in which the trees differ.
type Difference struct {
	Path string // relative to the roots
	What string // which property
	A, B string // its values
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: %s in one, %s in the other", d.Path, d.What, d.A, d.B)
}

// Result says what was compared and how it differed.
type Result struct {
	Files       int   // regular files, each name counted
	Directories int   // the roots included
	Others      int   // symlinks, devices, fifos, sockets
	Bytes       int64 // sum of the sizes of regular files
	Differing   int   // number of differences
	Differences []Difference
}

// Equal says whether the trees are equal.
func (r *Result) Equal() bool { return r.Differing == 0 }

func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d files, %d directories, %d others, %d bytes: %d differences", r.Files, r.Directories, r.Others, r.Bytes, r.Differing)
	for _, d := range r.Differences {
		b.WriteString("\n  " + d.String())
	}
	if more := r.Differing - len(r.Differences); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return b.String()
}

// Compare compares the trees of the directories a and b. Its error says that one
// of them could not be read, not that they differ.
func Compare(ctx context.Context, a, b string, o Options) (*Result, error) {
	if o.Max == 0 {
		o.Max = 20
	}
	c := &comparison{ctx: ctx, o: o, result: &Result{}}
	for i, root := range []string{a, b} {
		fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("compare: open %s: %w", root, err)
		}
		defer unix.Close(fd)
		c.side[i] = &side{root: root, links: map[inode]string{}}
		c.fd[i] = fd
	}
	if err := c.roots(); err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	return c.result, nil
}

// pair holds something of both trees.
type pair[T any] [2]T

type inode struct{ dev, ino uint64 }

// side is what is remembered of one tree.
type side struct {
	root  string
	links map[inode]string // the first name of every file that has several
}

type comparison struct {
	ctx    context.Context
	o      Options
	side   pair[*side]
	fd     pair[int] // the roots
	result *Result
}

func (c *comparison) differ(path, what string, a, b any) {
	c.result.Differing++
	if len(c.result.Differences) < c.o.Max {
		c.result.Differences = append(c.result.Differences, Difference{path, what, fmt.Sprint(a), fmt.Sprint(b)})
	}
}

func (c *comparison) roots() error {
	var st pair[unix.Stat_t]
	var xattrs pair[map[string]string]
	for i, fd := range c.fd {
		if err := unix.Fstat(fd, &st[i]); err != nil {
			return fmt.Errorf("stat %s: %w", c.side[i].root, err)
		}
		var err error
		if xattrs[i], err = readXattrs(fd, "."); err != nil {
			return fmt.Errorf("%s: %w", c.side[i].root, err)
		}
	}
	c.attributes(".", &st, xattrs)
	return c.directory(".", c.fd)
}

// directory compares what is in the directory rel, open as fd in each tree.
func (c *comparison) directory(rel string, fd pair[int]) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.result.Directories++
	var names pair[map[string]bool]
	for i := range fd {
		var err error
		if names[i], err = c.list(rel, fd[i]); err != nil {
			return fmt.Errorf("list %s of %s: %w", rel, c.side[i].root, err)
		}
	}
	all := maps.Clone(names[0])
	maps.Copy(all, names[1])
	for _, name := range slices.Sorted(maps.Keys(all)) {
		at := path.Join(rel, name)
		if !names[0][name] || !names[1][name] {
			c.differ(at, "name", presence(names[0][name]), presence(names[1][name]))
			continue
		}
		if err := c.object(at, name, fd); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

func presence(there bool) string {
	if there {
		return "present"
	}
	return "missing"
}

func (c *comparison) list(rel string, fd int) (map[string]bool, error) {
	names := map[string]bool{}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		var found []string
		_, _, found = unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range found {
			if c.o.Ignore == nil || !c.o.Ignore(path.Join(rel, name)) {
				names[name] = true
			}
		}
	}
}

// object compares what has the name in both directories.
func (c *comparison) object(at, name string, dir pair[int]) error {
	var st pair[unix.Stat_t]
	var xattrs pair[map[string]string]
	for i := range dir {
		if err := unix.Fstatat(dir[i], name, &st[i], unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat in %s: %w", c.side[i].root, err)
		}
		var err error
		if xattrs[i], err = readXattrs(dir[i], name); err != nil {
			return fmt.Errorf("in %s: %w", c.side[i].root, err)
		}
	}
	if !c.attributes(at, &st, xattrs) {
		return nil
	}
	switch st[0].Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.open(name, dir, unix.O_DIRECTORY, func(fd pair[int]) error { return c.directory(at, fd) })
	case unix.S_IFREG:
		c.result.Files++
		c.result.Bytes += st[0].Size
		if c.linked(at, &st) || st[0].Size != st[1].Size || st[0].Size == 0 {
			return nil
		}
		return c.open(name, dir, 0, func(fd pair[int]) error { return c.content(at, fd, st[0].Size) })
	case unix.S_IFLNK:
		c.result.Others++
		var target pair[string]
		for i := range dir {
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(dir[i], name, buf)
			if err != nil {
				return fmt.Errorf("readlink in %s: %w", c.side[i].root, err)
			}
			target[i] = string(buf[:n])
		}
		if target[0] != target[1] {
			c.differ(at, "target", target[0], target[1])
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		c.result.Others++
		if st[0].Rdev != st[1].Rdev {
			c.differ(at, "device", st[0].Rdev, st[1].Rdev)
		}
	default:
		c.result.Others++
	}
	c.linked(at, &st)
	return nil
}

// attributes compares what stat and the extended attributes say. It returns
// whether the types are equal, so that there is more to compare.
func (c *comparison) attributes(at string, st *pair[unix.Stat_t], xattrs pair[map[string]string]) bool {
	a, b := &st[0], &st[1]
	if ta, tb := a.Mode&unix.S_IFMT, b.Mode&unix.S_IFMT; ta != tb {
		c.differ(at, "type", typeName(ta), typeName(tb))
		return false
	}
	if a.Mode != b.Mode {
		c.differ(at, "mode", fmt.Sprintf("%04o", a.Mode&0o7777), fmt.Sprintf("%04o", b.Mode&0o7777))
	}
	if a.Uid != b.Uid || a.Gid != b.Gid {
		c.differ(at, "owner", fmt.Sprintf("%d:%d", a.Uid, a.Gid), fmt.Sprintf("%d:%d", b.Uid, b.Gid))
	}
	if a.Mtim != b.Mtim {
		c.differ(at, "mtime", formatTime(a.Mtim), formatTime(b.Mtim))
	}
	if a.Mode&unix.S_IFMT != unix.S_IFDIR {
		if a.Size != b.Size {
			c.differ(at, "size", a.Size, b.Size)
		}
		if a.Nlink != b.Nlink {
			c.differ(at, "number of links", a.Nlink, b.Nlink)
		}
	}
	if !maps.Equal(xattrs[0], xattrs[1]) {
		all := maps.Clone(xattrs[0])
		maps.Copy(all, xattrs[1])
		for _, name := range slices.Sorted(maps.Keys(all)) {
			va, oka := xattrs[0][name]
			vb, okb := xattrs[1][name]
			if oka != okb || va != vb {
				c.differ(at, "xattr "+name, xattrValue(va, oka), xattrValue(vb, okb))
			}
		}
	}
	return true
}

func formatTime(t unix.Timespec) string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }

func xattrValue(v string, there bool) string {
	if !there {
		return "missing"
	}
	return fmt.Sprintf("%q", v)
}

func typeName(t uint32) string {
	switch t {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return fmt.Sprintf("type %#o", t)
}

// linked compares which name was the first of the same file, and says whether the
// file was compared under that name already.
func (c *comparison) linked(at string, st *pair[unix.Stat_t]) bool {
	var first pair[string]
	for i := range st {
		first[i] = at
		if st[i].Nlink < 2 {
			continue
		}
		id := inode{st[i].Dev, st[i].Ino}
		if earlier, ok := c.side[i].links[id]; ok {
			first[i] = earlier
		} else {
			c.side[i].links[id] = at
		}
	}
	if first[0] != first[1] {
		c.differ(at, "is a link of", first[0], first[1])
	}
	return first[0] == first[1] && first[0] != at
}

// open opens the name in both directories and calls do with the descriptors.
func (c *comparison) open(name string, dir pair[int], flags int, do func(pair[int]) error) error {
	var fd pair[int]
	for i := range dir {
		var err error
		fd[i], err = unix.Openat(dir[i], name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			return fmt.Errorf("open in %s: %w", c.side[i].root, err)
		}
		defer unix.Close(fd[i])
	}
	return do(fd)
}

// readXattrs returns all extended attributes of name in dir but skfs's own.
func readXattrs(dir int, name string) (map[string]string, error) {
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	list, err := growing(func(buf []byte) (int, error) { return unix.Llistxattr(at, buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	found := map[string]string{}
	for _, raw := range bytes.Split(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		attr := string(raw)
		if attr == "" || strings.HasPrefix(attr, "trusted.skfs.") {
			continue
		}
		value, err := growing(func(buf []byte) (int, error) { return unix.Lgetxattr(at, attr, buf) })
		if err != nil {
			return nil, fmt.Errorf("xattr %s: %w", attr, err)
		}
		found[attr] = string(value)
	}
	return found, nil
}

// growing calls get with greater buffers until what it has to say fits.
func growing(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 8 {
		buf := make([]byte, size)
		n, err := get(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
