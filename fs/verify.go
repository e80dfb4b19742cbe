package fs

import (
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// This file is a tree as a verification reads it, on either host.

// Still calls fn while nothing of an object can change: its names, if it is a
// directory, its data and its attributes. If the peer did not have its
// modification time, that is in the stream before. Lists and look-ups take no
// locks, so fn may use them.
func (f *FS) Still(id journal.FileID, fn func() error) error {
	o, err := f.tree.living(id)
	if err != nil {
		return err
	}
	defer f.tree.unref(o, 1)
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	if o.dead() { // while the lock was waited for
		return unix.ENOENT
	}
	f.sendTimesLocked(o)
	return fn()
}

// Xattrs returns the xattrs of an object that applications see. It takes no locks.
func (t *Tree) Xattrs(id journal.FileID) ([]journal.Xattr, error) {
	o, err := t.living(id)
	if err != nil {
		return nil, err
	}
	defer t.unref(o, 1)
	m, err := t.xattrs(o)
	if err != nil {
		return nil, gone(err)
	}
	list := make([]journal.Xattr, 0, len(m))
	for name, value := range m {
		list = append(list, journal.Xattr{Name: name, Value: value})
	}
	return list, nil
}

// ForgetDeleted finds the objects in use that have lost their last name behind
// skfs's back. Their descriptors would keep them alive, and a reintegration would
// take them for something that can be given a name again.
func (t *Tree) ForgetDeleted() {
	t.mu.Lock()
	var list []*object
	for id, o := range t.objects {
		if o.replicated() && id != journal.RootID(t.num) {
			o.refs++
			list = append(list, o)
		}
	}
	t.mu.Unlock()
	for _, o := range list {
		var st unix.Stat_t
		if err := o.stat(&st); o.named() && (err == unix.ESTALE || err == nil && st.Nlink == 0) {
			t.nameless(o)
		}
		t.unref(o, 1)
	}
}
