package fs

import (
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// Modification times. A write or a change of names sets the time by itself on
// each host, a little apart. The primary's is the right one: it is sent when it
// has settled, at close, when the reign ends, and once a second for what else has
// changed, so that both hosts show the same times whenever nobody is writing.
//
// It is not sent with every fsync. To ask for the time of a file makes the kernel
// give the next write a time of fine grain (since Linux 6.13), which costs a commit
// of the file system's journal at the next fsync: a third of the fsyncs a second
// of eight writers, measured on ext4. A second that takes over may show a time
// that is up to a second older.

// dirtyTimes notes that the peer's modification time of o differs.
func (t *Tree) dirtyTimes(o *object) {
	o.mu.Lock()
	was := o.timesDirty
	o.timesDirty = true
	o.mu.Unlock()
	if was {
		return
	}
	t.mu.Lock()
	t.dirty[o] = struct{}{}
	o.refs++
	t.mu.Unlock()
}

// cleanTimes forgets a note of dirtyTimes and says whether there was one.
func (t *Tree) cleanTimes(o *object) bool {
	o.mu.Lock()
	was := o.timesDirty
	o.timesDirty = false
	o.mu.Unlock()
	if was {
		t.mu.Lock()
		delete(t.dirty, o)
		t.mu.Unlock()
		t.unref(o, 1)
	}
	return was
}

// sendTimes sends the modification time of o if the peer's differs. The caller
// uses o and holds no lock of it.
func (f *FS) sendTimes(o *object) {
	if !o.owesTimes() {
		return
	}
	l := o.lock.lockAll()
	defer o.lock.unlock(l)
	f.sendTimesLocked(o)
}

// sendTimesLocked is sendTimes for who holds the lock of o.
func (f *FS) sendTimesLocked(o *object) {
	if !f.tree.cleanTimes(o) || !o.named() {
		return
	}
	var st unix.Stat_t
	if o.stat(&st) != nil {
		return // gone
	}
	if !f.gate.post(&journal.Op{Kind: journal.KindTimes, Tree: f.tree.num, ID: o.id, Mtime: timeOf(st.Mtim)}) {
		f.tree.dirtyTimes(o) // a second that lacks nothing else may join next
	}
}

func (o *object) owesTimes() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.timesDirty
}

// named says whether o has a name. Under the lock of o that does not change.
func (o *object) named() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.unlinked
}

// FlushTimes sends all modification times that the peer does not have yet.
func (f *FS) FlushTimes() {
	for _, o := range f.tree.takeDirty() {
		f.sendTimes(o)
		f.tree.unref(o, 1)
	}
}

// OwedTimes calls fn for each object whose modification time the peer does not
// have yet.
func (f *FS) OwedTimes(fn func(journal.FileID)) {
	for _, o := range f.tree.takeDirty() {
		fn(o.id)
		f.tree.unref(o, 1)
	}
}

// takeDirty returns the objects whose times are to be sent, each with one more user.
func (t *Tree) takeDirty() []*object {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*object
	for o := range t.dirty {
		o.refs++
		list = append(list, o)
	}
	return list
}
