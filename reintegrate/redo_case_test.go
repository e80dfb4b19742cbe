package reintegrate_test

import (
	"errors"
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
