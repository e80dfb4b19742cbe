package exercise

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lookup compares one name.
func (w *names) lookup() error {
	p := w.somePlace()
	w.log("stat %v", p)
	var st unix.Stat_t
	err := unix.Lstat(w.abs(p), &st)
	if p.node() == nil {
		return w.errno(err, unix.ENOENT)
	}
	if d := w.errno(err, 0); d != nil {
		return d
	}
	return w.attributes(p.String(), p.node(), &st)
}

// readFile compares the content of one file.
func (w *names) readFile() error {
	p, ok := w.present(regularFile)
	if !ok {
		return w.create()
	}
	w.log("read %v", p)
	return w.fileContent(p)
}

func (w *names) fileContent(p place) error {
	fd, err := unix.Open(w.abs(p), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if d := w.errno(err, 0); d != nil {
		return d
	}
	defer unix.Close(fd)
	return w.content(fd, p.node())
}

// attributes compares what stat says of an object.
func (w *names) attributes(what string, n *node, st *unix.Stat_t) error {
	switch {
	case st.Mode != n.mode:
		return w.diverged("%s: mode %#o, expected %#o", what, st.Mode, n.mode)
	case int(st.Uid) != n.uid || int(st.Gid) != n.gid:
		return w.diverged("%s: owner %d:%d, expected %d:%d", what, st.Uid, st.Gid, n.uid, n.gid)
	case n.isFile() && st.Size != int64(len(n.data)):
		return w.diverged("%s: size %d, expected %d", what, st.Size, len(n.data))
	case !n.isDir() && int(st.Nlink) != n.nlink:
		return w.diverged("%s: %d links, expected %d", what, st.Nlink, n.nlink)
	// File systems that do not count subdirectories say 1.
	case n.isDir() && st.Nlink != 1 && int(st.Nlink) != n.nlink:
		return w.diverged("%s: %d links, expected %d", what, st.Nlink, n.nlink)
	case n.timed && (st.Mtim.Sec != n.mtime.Sec || st.Mtim.Nsec != n.mtime.Nsec):
		return w.diverged("%s: mtime %d.%09d, expected %d.%09d", what, st.Mtim.Sec, st.Mtim.Nsec, n.mtime.Sec, n.mtime.Nsec)
	}
	if n.ino == 0 {
		n.ino = st.Ino
	}
	if st.Ino != n.ino {
		return w.diverged("%s: st_ino %d, it was %d", what, st.Ino, n.ino)
	}
	return nil
}

// verify compares the whole tree, and what is open without a name.
func (w *names) verify() error {
	w.log("verify the tree")
	inos := map[uint64]*node{}
	for _, dir := range w.dirs {
		if err := w.verifyDir(dir, inos); err != nil {
			return err
		}
	}
	for _, h := range w.handles {
		var st unix.Stat_t
		if d := w.errno(unix.Fstat(h.fd, &st), 0); d != nil {
			return d
		}
		if err := w.attributes(h.String(), h.n, &st); err != nil {
			return err
		}
		if err := w.content(h.fd, h.n); err != nil {
			return err
		}
	}
	return nil
}

func (w *names) verifyDir(dir *node, inos map[uint64]*node) error {
	entries, err := os.ReadDir(w.abs(place{dir, "."}))
	if err != nil {
		return w.diverged("list %s: %v", dir.path(), err)
	}
	found := map[string]bool{}
	for _, e := range entries {
		if found[e.Name()] {
			return w.diverged("%s is listed twice in %s", e.Name(), dir.path())
		}
		found[e.Name()] = true
	}
	for name := range found {
		if dir.children[name] == nil {
			return w.diverged("%s: listed, expected nothing", place{dir, name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		p := place{dir, name}
		if !found[name] {
			return w.diverged("%s: not listed", p)
		}
		if err := w.verifyObject(p, inos); err != nil {
			return err
		}
	}
	return nil
}

func (w *names) verifyObject(p place, inos map[uint64]*node) error {
	n, path := p.node(), w.abs(p)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return w.diverged("stat %s: %v", p, err)
	}
	if err := w.attributes(p.String(), n, &st); err != nil {
		return err
	}
	if other := inos[st.Ino]; other != nil && other != n {
		return w.diverged("%s: st_ino %d is another object's, too", p, st.Ino)
	}
	inos[st.Ino] = n
	switch n.kind() {
	case unix.S_IFLNK:
		if target, err := os.Readlink(path); err != nil || target != n.target {
			return w.diverged("readlink %s: %q, %v, expected %q", p, target, err, n.target)
		}
		return nil
	case unix.S_IFREG:
		if err := w.fileContent(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	case unix.S_IFIFO:
		return nil
	}
	return w.verifyXattrs(p, n, path)
}

// verifyXattrs compares the user attributes and the ACLs.
func (w *names) verifyXattrs(p place, n *node, path string) error {
	want := maps.Clone(n.xattrs)
	if n.acl != nil {
		want[aclAccess] = string(n.acl.encode())
	}
	if n.defacl != nil {
		want[aclDefault] = string(n.defacl.encode())
	}
	buf := make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		return w.diverged("list xattrs of %s: %v", p, err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:size]), "\x00"), "\x00") {
		if _, ok := want[name]; !ok && strings.HasPrefix(name, "user.") {
			return w.diverged("%s has the xattr %s, expected none", p, name)
		}
	}
	acls := []string{aclAccess, aclDefault}
	if w.noACL {
		acls = nil
	}
	for _, name := range append(slices.Sorted(maps.Keys(n.xattrs)), acls...) {
		expected, there := want[name]
		size, err := unix.Lgetxattr(path, name, buf)
		switch {
		case !there && (errors.Is(err, unix.ENODATA) || name == aclDefault && !n.isDir()):
		case !there:
			return w.diverged("%s has an ACL %s, expected none: %v", p, name, err)
		case err != nil:
			return w.diverged("xattr %s of %s: %v", name, p, err)
		case string(buf[:size]) != expected:
			return w.diverged("xattr %s of %s: %q, expected %q", name, p, buf[:size], expected)
		}
	}
	return nil
}

// removeAll removes the tree, which may hold directories without permissions for
// anybody but root.
func removeAll(root string) error { return os.RemoveAll(root) }
