package exercise

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxDirs      = 24
	maxDepth     = 5
	maxHandles   = 8
	maxContent   = 32 << 10
	namesPerDir  = 10 // few, so that operations collide
	verifyEvery  = 500
	renameDouble = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE // refused together
)

// names exercises a tree against its model.
type names struct {
	run
	root    string
	top     *node
	dirs    []*node // all directories that have a name, the root first
	handles []*handle
	clock   int64 // gives every time that is set its own value

	noACL bool
}

// handle is an open file.
type handle struct {
	fd int
	n  *node
}

// Names does random operations on names and attributes in a new directory of
// dir, and removes it. The error is a *Divergence when the file system did wrong.
// It sets the process's umask to 0 while it runs. As it changes owners it needs
// root.
func Names(ctx context.Context, dir string, o Options) (*Result, error) {
	w := &names{run: newRun(o), root: filepath.Join(dir, fmt.Sprintf("exercise-names-%d", o.Seed)), clock: 1_000_000_000}
	defer unix.Umask(unix.Umask(0))
	if err := unix.Mkdir(w.root, 0o755); err != nil {
		return nil, fmt.Errorf("exercise: mkdir %s: %w", w.root, err)
	}
	defer removeAll(w.root)
	defer w.closeHandles()
	var st unix.Stat_t
	if err := unix.Stat(w.root, &st); err != nil {
		return nil, fmt.Errorf("exercise: stat %s: %w", w.root, err)
	}
	w.top = &node{mode: st.Mode, uid: int(st.Uid), gid: int(st.Gid), nlink: 2, ino: st.Ino, children: map[string]*node{}, xattrs: map[string]string{}}
	w.dirs = []*node{w.top}
	choices, err := w.choices()
	if err != nil {
		return nil, err
	}
	for w.op = 0; w.op < o.Ops; w.op++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := pick(w.rnd, choices)(); err != nil {
			return nil, err
		}
		if w.after != nil {
			w.after(w.op)
		}
		if w.op%verifyEvery == verifyEvery-1 {
			if err := w.verify(); err != nil {
				return nil, err
			}
		}
	}
	w.op-- // a divergence from here on belongs to the last operation
	if err := w.verify(); err != nil {
		return nil, err
	}
	w.op++
	return w.result(), nil
}

func (w *names) closeHandles() {
	for _, h := range w.handles {
		unix.Close(h.fd)
	}
	w.handles = nil
}

func (w *names) choices() ([]choice, error) {
	all := []choice{
		{12, w.create}, {5, w.mkdir}, {4, w.symlink}, {2, w.mkfifo}, {7, w.link}, {9, w.unlink}, {3, w.rmdir},
		{14, w.rename}, {6, w.chmod}, {4, w.chown}, {5, w.utimens}, {6, w.setXattr}, {3, w.removeXattr},
		{10, w.openFile}, {12, w.handleWrite}, {8, w.handleRead}, {4, w.handleTruncate}, {6, w.handleAttr}, {6, w.handleClose},
		{3, w.truncate}, {4, w.lookup}, {2, w.readFile},
	}
	probe := filepath.Join(w.root, "probe")
	if err := unix.Mkdir(probe, 0o700); err != nil {
		return nil, fmt.Errorf("exercise: mkdir %s: %w", probe, err)
	}
	defer unix.Rmdir(probe)
	for _, optional := range []struct {
		name   string
		choice choice
		try    func() error
	}{
		{"ACL", choice{5, w.setACL}, func() error {
			return unix.Setxattr(probe, aclAccess, (&acl{user: 7, mask: 5, uid: 1}).encode(), 0)
		}},
		{"O_TMPFILE", choice{4, w.tmpfile}, func() error {
			fd, err := unix.Open(probe, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
	} {
		err := optional.try()
		switch {
		case err == nil:
			all = append(all, optional.choice)
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EISDIR):
			w.unsupported = append(w.unsupported, optional.name)
			w.noACL = w.noACL || optional.name == "ACL"
		default:
			return nil, fmt.Errorf("exercise: %s: %w", optional.name, err)
		}
	}
	return all, nil
}

// errno compares the error of a call with what the model says.
func (w *names) errno(err error, want unix.Errno) error {
	var got unix.Errno
	if err != nil && !errors.As(err, &got) {
		return w.diverged("%v", err)
	}
	if got == want {
		return nil
	}
	return w.diverged("got %s, expected %s", errnoName(got), errnoName(want))
}

func errnoName(e unix.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

// place is a name in a directory.
type place struct {
	dir  *node
	name string
}

func (w *names) somePlace() place {
	return place{w.dirs[w.rnd.IntN(len(w.dirs))], fmt.Sprintf("n%d", w.rnd.IntN(namesPerDir))}
}

// taken returns a place with something in it, when luck allows.
func (w *names) taken() place {
	p := w.somePlace()
	for range 6 {
		if p.node() != nil {
			break
		}
		p = w.somePlace()
	}
	return p
}

func (p place) node() *node { return p.dir.children[p.name] }

func (p place) String() string { return p.dir.path() + "/" + p.name }

func (w *names) abs(p place) string { return filepath.Join(w.root, p.dir.path(), p.name) }

// newNode is an object as the calling process makes it.
func (w *names) newNode(dir *node, mode uint32) *node {
	n := &node{mode: mode, uid: unix.Geteuid(), gid: unix.Getegid(), nlink: 1, xattrs: map[string]string{}}
	if n.kind() != unix.S_IFLNK {
		n.inherit(dir)
	}
	if n.isDir() {
		n.nlink, n.children = 2, map[string]*node{}
	}
	return n
}

// made notes that a call made n at p, or that it failed as it should.
func (w *names) made(p place, n *node, err error) error {
	want := unix.Errno(0)
	if p.node() != nil {
		want = unix.EEXIST
	}
	if d := w.errno(err, want); d != nil || want != 0 {
		return d
	}
	p.dir.attach(p.name, n)
	if n.isDir() {
		w.dirs = append(w.dirs, n)
	}
	return nil
}

func (w *names) perm() uint32 { return w.rnd.Uint32N(0o1000) }

func (w *names) create() error {
	p, mode := w.somePlace(), w.perm()
	w.log("create %v %04o", p, mode)
	fd, err := unix.Open(w.abs(p), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, mode)
	if err == nil {
		unix.Close(fd)
	}
	return w.made(p, w.newNode(p.dir, unix.S_IFREG|mode), err)
}

func (w *names) mkdir() error {
	p, mode := w.somePlace(), w.perm()
	if len(w.dirs) >= maxDirs || p.dir.depth() >= maxDepth {
		return w.rmdir()
	}
	w.log("mkdir %v %04o", p, mode)
	return w.made(p, w.newNode(p.dir, unix.S_IFDIR|mode), unix.Mkdir(w.abs(p), mode))
}

func (w *names) symlink() error {
	p := w.somePlace()
	target := strings.Repeat("x", 1+w.rnd.IntN(200))
	w.log("symlink %v, %d bytes", p, len(target))
	n := w.newNode(p.dir, unix.S_IFLNK|0o777)
	n.target = target
	return w.made(p, n, unix.Symlink(target, w.abs(p)))
}

func (w *names) mkfifo() error {
	p, mode := w.somePlace(), w.perm()
	w.log("mkfifo %v %04o", p, mode)
	return w.made(p, w.newNode(p.dir, unix.S_IFIFO|mode), unix.Mkfifo(w.abs(p), mode))
}

func (w *names) link() error {
	from, to := w.taken(), w.somePlace()
	w.log("link %v %v", from, to)
	err := unix.Linkat(unix.AT_FDCWD, w.abs(from), unix.AT_FDCWD, w.abs(to), 0)
	n := from.node()
	switch {
	case n == nil:
		return w.errno(err, unix.ENOENT)
	case to.node() != nil:
		return w.errno(err, unix.EEXIST)
	case n.isDir():
		return w.errno(err, unix.EPERM)
	}
	if d := w.errno(err, 0); d != nil {
		return d
	}
	to.dir.attach(to.name, n)
	n.nlink++
	return nil
}

func (w *names) unlink() error {
	p := w.taken()
	w.log("unlink %v", p)
	err := unix.Unlink(w.abs(p))
	n := p.node()
	switch {
	case n == nil:
		return w.errno(err, unix.ENOENT)
	case n.isDir():
		return w.errno(err, unix.EISDIR)
	}
	if d := w.errno(err, 0); d != nil {
		return d
	}
	p.dir.detach(p.name).nlink--
	return nil
}

func (w *names) rmdir() error {
	p := w.taken()
	w.log("rmdir %v", p)
	err := unix.Rmdir(w.abs(p))
	n := p.node()
	switch {
	case n == nil:
		return w.errno(err, unix.ENOENT)
	case !n.isDir():
		return w.errno(err, unix.ENOTDIR)
	case len(n.children) > 0:
		return w.errno(err, unix.ENOTEMPTY)
	}
	if d := w.errno(err, 0); d != nil {
		return d
	}
	w.dropDir(p.dir.detach(p.name))
	return nil
}

// dropDir forgets a directory that is removed.
func (w *names) dropDir(n *node) {
	for i, d := range w.dirs {
		if d == n {
			w.dirs = append(w.dirs[:i], w.dirs[i+1:]...)
			return
		}
	}
}

func (w *names) rename() error {
	from, to := w.taken(), w.somePlace()
	flags := []uint{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, renameDouble}[w.rnd.IntN(7)]
	if flags&unix.RENAME_EXCHANGE != 0 {
		to = w.taken()
	}
	w.log("rename %v %v flags %d", from, to, flags)
	want := renameError(from, to, flags)
	err := unix.Renameat2(unix.AT_FDCWD, w.abs(from), unix.AT_FDCWD, w.abs(to), flags)
	if d := w.errno(err, want); d != nil || want != 0 {
		return d
	}
	a, b := from.node(), to.node()
	if a == b { // two names of one file, or one name: nothing happens
		return nil
	}
	from.dir.detach(from.name)
	if b != nil {
		to.dir.detach(to.name)
		switch {
		case flags == unix.RENAME_EXCHANGE:
			from.dir.attach(from.name, b)
		case b.isDir():
			w.dropDir(b)
		default:
			b.nlink--
		}
	}
	to.dir.attach(to.name, a)
	return nil
}

// renameError is the error that Linux gives, in the order of its checks
// (do_renameat2, vfs_rename).
func renameError(from, to place, flags uint) unix.Errno {
	a, b := from.node(), to.node()
	exchange := flags == unix.RENAME_EXCHANGE
	switch {
	case flags == renameDouble:
		return unix.EINVAL
	case a == nil:
		return unix.ENOENT
	case flags == unix.RENAME_NOREPLACE && b != nil:
		return unix.EEXIST
	case exchange && b == nil:
		return unix.ENOENT
	case a.isDir() && to.dir.within(a):
		return unix.EINVAL
	case b != nil && b.isDir() && from.dir.within(b):
		if exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	case a == b, b == nil, exchange:
		return 0
	case a.isDir() && !b.isDir():
		return unix.ENOTDIR
	case !a.isDir() && b.isDir():
		return unix.EISDIR
	case b.isDir() && len(b.children) > 0:
		return unix.ENOTEMPTY
	}
	return 0
}
