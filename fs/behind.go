package fs

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// ChangedBetween calls f for every object whose ctime lies after from and before to,
// a time at which skfs did not run: it was changed behind skfs's back. What has no
// identity is not among them, but its directory is. Nothing but names and attributes
// is read. Other file systems below the tree are left out.
func (t *Tree) ChangedBetween(ctx context.Context, from, to time.Time, f func(journal.FileID) error) error {
	w := behind{ctx: ctx, t: t, from: from, to: to, f: f}
	var st unix.Stat_t
	err := unix.Fstat(t.root, &st)
	if err == nil && w.changed(&st) {
		err = f(journal.RootID(t.num))
	}
	if err == nil {
		err = w.look(t.root, t.rootObject())
	}
	if err != nil {
		return fmt.Errorf("what was changed in %s while skfs did not run: %w", t.dir, err)
	}
	return nil
}

// behind is one walk of ChangedBetween.
type behind struct {
	ctx      context.Context
	t        *Tree
	from, to time.Time
	f        func(journal.FileID) error
}

func (w *behind) changed(st *unix.Stat_t) bool {
	at := time.Unix(st.Ctim.Unix())
	return at.After(w.from) && at.Before(w.to)
}

// look looks at the directory open as fd and what is below it; root is nil but for
// the root.
func (w *behind) look(fd int, root *object) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(dup)
	d := dirStream{fd: dup}
	for {
		e, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if e.name == "." || e.name == ".." || root != nil && w.t.hidden(root, e.name) {
			continue
		}
		if w.t.excludesAt(dup, e.name) {
			continue
		}
		if err := w.entry(dup, e.name); err != nil && err != unix.ENOENT {
			return err
		}
	}
}

func (w *behind) entry(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Dev != w.t.dev {
		return nil
	}
	if w.changed(&st) {
		id, err := w.t.idAt(dir, nil, name, st.Ino)
		if err != nil {
			return err
		}
		if !id.IsZero() {
			if err := w.f(id); err != nil {
				return err
			}
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.look(fd, nil)
}
