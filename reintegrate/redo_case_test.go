package reintegrate_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

func create(id, parent journal.FileID, name string, mode uint32) journal.Op {
	return journal.Op{Kind: journal.KindCreate, ID: id, Parent: parent, Name: name, Mode: mode}
}

// TestRedoMinimal: what the data holds already costs nothing, and a directory that
// was moved is moved, not made.
func TestRedoMinimal(t *testing.T) {
	h := newHistory()
	root, dir, file := journal.RootID(0), h.id(), h.id()
	h.do(create(dir, root, "d", unix.S_IFDIR))
	h.do(create(file, dir, "f", unix.S_IFREG))
	h.begin()
	x, y := h.id(), h.id()
	h.do(journal.Op{Kind: journal.KindRename, ID: dir, Parent: root, Name: "d", Parent2: root, Name2: "e"})
	h.do(create(x, root, "n", unix.S_IFREG))
	h.do(journal.Op{Kind: journal.KindWrite, ID: x, Data: []byte("gone")})
	h.do(journal.Op{Kind: journal.KindUnlink, ID: x, Parent: root, Name: "n"})
	h.do(create(y, root, "n", unix.S_IFREG))
	if len(h.ops) != 5 {
		t.Fatal(h)
	}
	d := h.killed(func(int) bool { return false })
	if done := h.mustRedo(t, d, "all is there"); done != (reintegrate.Redone{First: 1, Last: 5}) || d.changes != 0 {
		t.Errorf("all is there: %+v, %d changes", done, d.changes)
	}
	d = h.killed(func(int) bool { return true })
	if done := h.mustRedo(t, d, "nothing is there"); done != (reintegrate.Redone{First: 1, Last: 5, Held: 1, Made: 1, Placed: 1}) {
		t.Errorf("nothing is there: %+v", done)
	}
}

// everywhere runs Redo on d, interrupted at every change, and again.
func (h *history) everywhere(t *testing.T, d *disk) {
	t.Helper()
	once := d.clone()
	h.mustRedo(t, once, "once")
	end := h.end
	defer func() { h.end = end }()
	h.end = end.rooted()
	for at := range once.changes {
		for _, torn := range []bool{false, true} {
			cut := d.clone()
			cut.limit, cut.torn = at, torn
			if _, whole, err := h.redo(cut); whole || err != nil {
				t.Fatalf("not interrupted at %d: %v", at, err)
			}
			cut = cut.clone()
			cut.forget(h.base, end, func() bool { return true })
			h.mustRedo(t, cut, fmt.Sprint("interrupted at ", at))
		}
	}
}

// TestRedoInherits: what is made anew inherits from directories that are not there
// any more, however far an earlier Redo has come with them.
func TestRedoInherits(t *testing.T) {
	h := newHistory()
	root, outer, inner, file, kept := journal.RootID(0), h.id(), h.id(), h.id(), h.id()
	h.do(create(kept, root, "kept", unix.S_IFDIR))
	h.begin()
	h.do(create(outer, root, "d", unix.S_IFDIR))
	h.do(journal.Op{Kind: journal.KindSetXattr, ID: outer, Name: "default", Data: []byte("of d")})
	h.do(create(inner, outer, "e", unix.S_IFDIR))
	h.do(create(file, inner, "f", unix.S_IFREG))
	h.do(journal.Op{Kind: journal.KindRemoveXattr, ID: inner, Name: "default"})
	h.do(journal.Op{Kind: journal.KindRename, ID: file, Parent: inner, Name: "f", Parent2: kept, Name2: "g"})
	h.do(journal.Op{Kind: journal.KindRmdir, ID: inner, Parent: outer, Name: "e"})
	h.do(journal.Op{Kind: journal.KindRmdir, ID: outer, Parent: root, Name: "d"})
	if n := h.end.byID[kept].names["g"]; len(h.ops) != 8 || n == nil || n.xattrs["acl"] != "of d" {
		t.Fatal(h)
	}
	for n := range len(h.ops) + 1 {
		h.everywhere(t, h.killed(func(i int) bool { return i >= n }))
	}
}

// TestRedoTimes: a directory gets the time that was set after its last change of
// names; one that was changed later is not set back.
func TestRedoTimes(t *testing.T) {
	h := newHistory()
	root, early, late := journal.RootID(0), h.id(), h.id()
	h.do(create(early, root, "early", unix.S_IFDIR))
	h.do(create(late, root, "late", unix.S_IFDIR))
	for _, n := range h.end.things {
		n.mtime = 2
	}
	h.begin()
	mtime := journal.Time{Sec: 77}
	h.do(journal.Op{Kind: journal.KindSetAttr, ID: early, Valid: journal.SetMtime, Mtime: mtime})
	h.do(create(h.id(), early, "a", unix.S_IFREG))
	h.do(create(h.id(), late, "a", unix.S_IFREG))
	h.do(journal.Op{Kind: journal.KindTimes, ID: late, Mtime: mtime})
	h.do(journal.Op{Kind: journal.KindTimes, ID: early, Mtime: mtime})
	h.do(journal.Op{Kind: journal.KindSetAttr, ID: early, Valid: journal.SetMtime | journal.SetMode, Mode: 0o700, Mtime: mtime})
	h.do(create(h.id(), early, "b", unix.S_IFREG))
	for n := range len(h.ops) + 1 {
		d := h.killed(func(i int) bool { return i >= n })
		h.mustRedo(t, d, fmt.Sprint(n, " operations are there"))
		if got := d.byID[early].mtime; got != now {
			t.Errorf("%d operations are there: the time of what was changed last is %d", n, got)
		}
		if got := d.byID[late].mtime; got != 77 || d.root.mtime != 2 {
			t.Errorf("%d operations are there: times %d, of the root %d", n, got, d.root.mtime)
		}
	}
}

// TestRedoRefuses: what cannot be redone is an error before anything has changed.
func TestRedoRefuses(t *testing.T) {
	h := newHistory()
	root := journal.RootID(0)
	h.do(create(h.id(), root, "a", unix.S_IFREG))
	d := h.base.clone()
	h.ops = append(h.ops, &journal.Op{Seq: 2, Kind: journal.KindSyncDir, ID: root})
	if _, _, err := h.redo(d); err == nil || !strings.Contains(err.Error(), "operation 2") || d.changes != 0 {
		t.Errorf("a step of a reintegration: %v after %d changes", err, d.changes)
	}

	h.ops = h.ops[:1]
	broken := errors.New("the log cannot be read")
	_, err := reintegrate.Redo(func(func(*journal.Op) error) error { return broken }, []reintegrate.Sink{d}, d)
	if !errors.Is(err, broken) {
		t.Errorf("a log that cannot be read: %v", err)
	}
}

// TestRedoFailures: what an operation may have met when it was first carried out
// is counted, a broken disk ends everything.
func TestRedoFailures(t *testing.T) {
	h := newHistory()
	root, a := journal.RootID(0), h.id()
	h.do(create(a, root, "a", unix.S_IFREG))
	h.do(journal.Op{Kind: journal.KindWrite, ID: a, Data: []byte("x")})
	for _, c := range []struct {
		errno syscall.Errno
		fatal bool
	}{{syscall.ENOSPC, false}, {syscall.EDQUOT, false}, {syscall.EIO, true}, {syscall.EROFS, true}} {
		d := h.base.clone()
		d.broken = c.errno
		done, _, err := h.redo(d)
		switch {
		case c.fatal && !errors.Is(err, c.errno):
			t.Errorf("%v: %+v, %v", c.errno, done, err)
		case !c.fatal && (err != nil || done.Failed != 1 || !errors.Is(done.Cause, c.errno) || !strings.Contains(done.Cause.Error(), "operation 2")):
			t.Errorf("%v: %+v, %v", c.errno, done, err)
		}
	}

	// An operation of a directory that is not replicated any more, and a name for
	// an object that is nowhere.
	h.ops = append(h.ops,
		&journal.Op{Seq: 3, Kind: journal.KindWrite, Tree: 7, ID: a},
		&journal.Op{Seq: 4, Kind: journal.KindLink, ID: journal.FileID{99, 9}, Parent: root, Name: "b"},
		&journal.Op{Seq: 5, Kind: journal.KindWrite, ID: journal.FileID{98, 9}, Data: []byte("gone")})
	d := h.base.clone()
	done, _, err := h.redo(d)
	if err != nil || done.Failed != 2 || done.Moot != 1 || done.Last != 5 || !errors.Is(done.Cause, syscall.ENODEV) {
		t.Errorf("%+v, %v", done, err)
	}
	if diff := differences(h.end, d); diff != "" {
		t.Error(diff)
	}
}

// TestRedoUser: a file of a user that has the name which Redo uses for a moment is
// left alone.
func TestRedoUser(t *testing.T) {
	h := newHistory()
	root, u := journal.RootID(0), h.id()
	h.do(create(u, root, reintegrate.RedoName, unix.S_IFREG))
	h.begin()
	h.do(create(h.id(), root, "a", unix.S_IFREG))
	h.mustRedo(t, h.base.clone(), "beside a user's file")
}
