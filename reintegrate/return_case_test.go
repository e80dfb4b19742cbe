package reintegrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// library is a tree of directories of files, the same on two hosts.
func library(dirs, files, size int) (w twins, dir []journal.FileID, file [][]journal.FileID) {
	h := hand{newTree(1 << 20), nil}
	for d := range dirs {
		dir = append(dir, h.newDir(h.root.id, fmt.Sprint("d", d)))
		file = append(file, nil)
		for f := range files {
			file[d] = append(file[d], h.newFile(dir[d], fmt.Sprint("f", f), bytes.Repeat([]byte{byte(d + 1), byte(f + 1)}, size/2)))
		}
	}
	return newTwins(h.tree), dir, file
}

// TestDeltaCost: what a delta reads and sends is what was noted.
func TestDeltaCost(t *testing.T) {
	w, dir, file := library(20, 20, 1000)
	h := hand{w.prim, w.notes}
	h.write(file[3][4], 2*64+5, []byte("new")) // in zone 2, in one block of it
	h.write(file[3][5], 3*64, []byte("x"))     // and zone 7, the same as before
	h.write(file[3][5], 7*64+1, []byte{6})
	h.chmod(file[7][0], 0o600)
	h.newFile(dir[9], "new", filled(100))
	h.unlink(dir[9], "f1", file[9][1])
	p := w.join(t, Delta)
	stats := p.mustRun()
	want := Stats{Files: 4, Others: 1, Sent: 3, Copied: 16 + 16 + 100, Compared: 48 + 48 + 64, Dropped: 1, Listed: 1, Opened: 3, Read: 3*64 + 100}
	want.Duration = stats.Duration
	if stats != want {
		t.Errorf("%+v,\nwant %+v", stats, want)
	}
	if w.second.begun != 0 {
		t.Error("SECOND has looked through its tree")
	}
	// Once more, with nothing noted, nothing happens.
	p.stop()
	w.notes.clear()
	if stats = w.join(t, Delta).mustRun(); stats.Listed+stats.Opened+stats.Read+stats.Files+stats.Others != 0 {
		t.Errorf("nothing is noted: %+v", stats)
	}
}

// TestDeltaProgress: what is left is known before the first byte is copied.
func TestDeltaProgress(t *testing.T) {
	w, _, file := library(1, 2, 1000)
	h := hand{w.prim, w.notes}
	h.write(file[0][0], 0, []byte("a"))
	h.write(file[0][0], 15*64, []byte("b")) // the last zone, of 40 bytes
	h.write(file[0][1], 64, []byte("c"))
	p := w.join(t, Delta)
	var first Progress
	step := &stepStream{Stream: p.pass.s, kind: journal.KindWrite}
	step.step = func() {
		if step.steps == 1 {
			first = p.pass.Progress()
		}
	}
	p.pass.s = step
	p.mustRun()
	if first.BytesDone != 0 || first.BytesLeft != 64+40+64 || first.FilesLeft != 2 || first.Walking {
		t.Errorf("at the first byte: %+v", first)
	}
	if pr := p.pass.Progress(); pr.BytesDone != 64+40+64 || pr.BytesLeft != 0 || pr.FilesDone != 2 || pr.FilesLeft != 0 {
		t.Errorf("at the end: %+v", pr)
	}
}

// TestDeltaBelowMoved: directories that were moved into each other, and made new,
// by one host or the other.
func TestDeltaBelowMoved(t *testing.T) {
	for _, bySecond := range []bool{false, true} {
		h := hand{newTree(1 << 20), nil}
		root := h.root.id
		a := h.newDir(root, "a")
		b := h.newDir(a, "b")
		c := h.newDir(b, "c")
		f := h.newFile(c, "f", filled(500))
		w := newTwins(h.tree)
		h = hand{w.prim, w.notes}
		if bySecond {
			h.tree = w.second
		}
		h.move(c, b, "c", root, "c") // c/n/b/a, where a/b/c was
		n := h.newDir(c, "n")
		h.move(b, a, "b", n, "b")
		h.move(a, root, "a", b, "a")
		h.unlink(c, "f", f)
		h.newFile(h.newDir(n, "deep"), "g", filled(100))
		p := w.join(t, Delta)
		stats := p.mustRun()
		if !bySecond && (stats.Copied != 100 || len(p.refused) > 0) {
			t.Errorf("%+v, refused %v", stats, p.refused)
		}
		if bySecond && stats.Copied != 500 {
			t.Errorf("only SECOND has deleted a file: %+v", stats)
		}
		p.stop()
	}
}

// TestDeltaMoveBelow: while a delta runs, a directory is moved into one that has
// no notes, but lies on SECOND still below the first.
func TestDeltaMoveBelow(t *testing.T) {
	h := hand{newTree(1 << 20), nil}
	root := h.root.id
	from, to := h.newDir(root, "from"), h.newDir(root, "to")
	d := h.newDir(from, "d")
	l := h.newDir(d, "l")
	w := newTwins(h.tree)
	h = hand{w.prim, w.notes}
	h.move(l, d, "l", to, "l") // d and to are noted, l and from are not
	p := w.join(t, Delta)
	src := &onceSource{source: source{w.prim}, before: func() {
		if !p.do(moveOp(d, from, "d", l, "d")) {
			t.Error("cannot be moved")
		}
		p.do(&journal.Op{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: l, Name: "new", Mode: unix.S_IFREG | 0o600})
	}}
	p.pass.sources[0] = src
	p.mustRun()
	if len(p.refused) > 0 {
		t.Errorf("SECOND refused %v", p.refused)
	}
}

// onceSource does something before the first directory is listed.
type onceSource struct {
	source
	before func()
	done   atomic.Bool
}

func (s *onceSource) WithDir(dir journal.FileID, f func([]Entry) error) error {
	if s.done.CompareAndSwap(false, true) {
		s.before()
	}
	return s.source.WithDir(dir, f)
}

// TestDeltaStub: SECOND has deleted files that PRIM has changed a little. The pass
// makes them again and is cut off before their data: the next one knows by their
// mode that there is more to copy than the notes say.
func TestDeltaStub(t *testing.T) {
	w, dir, file := library(1, 3, 1000)
	h, s := hand{w.prim, w.notes}, hand{w.second, w.notes}
	h.write(file[0][0], 5*64, []byte("new"))
	h.chmod(file[0][1], 0o600)
	for i := range 3 {
		s.unlink(dir[0], fmt.Sprint("f", i), file[0][i])
	}
	p := w.join(t, Delta)
	ctx, cancel := context.WithCancelCause(context.Background())
	cut := &kindStream{Stream: p.pass.s, kind: journal.KindWrite, err: errCut, cut: func() { cancel(errCut) }}
	p.pass.s = cut
	if _, err := p.pass.Run(ctx); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	p.drain()
	p.stop()
	for _, f := range file[0] {
		if n := w.second.byID[f]; n == nil || n.mode&0o7777 != stubMode {
			t.Fatalf("%s: %+v, want a stub", f, n)
		}
	}
	if stats := w.join(t, Delta).mustRun(); stats.Copied != 3000 {
		t.Errorf("%+v, want all of three files", stats)
	}
}

// kindStream breaks at the first operation of a kind.
type kindStream struct {
	Stream
	kind journal.Kind
	err  error
	cut  func()
}

func (k *kindStream) Submit(op *journal.Op) (journal.Seq, error) {
	if op.Kind == k.kind {
		k.cut()
		return 0, k.err
	}
	return k.Stream.Submit(op)
}

// TestDeltaCertificate: of what a listed directory names, and is not noted, that is
// passed which SECOND has not as it is here.
func TestDeltaCertificate(t *testing.T) {
	w, dir, file := library(2, 6, 1000)
	sub := hand{w.prim, nil}.newDir(dir[0], "sub")
	inSub := hand{w.prim, nil}.newFile(sub, "g", filled(200))
	w = newTwins(w.prim)
	for i, f := range []func(n *node){
		func(n *node) { n.mtime.Sec++ },
		func(n *node) { n.mode ^= 0o100 },
		func(n *node) { n.uid++ },
		func(n *node) { n.resize(900) },
		func(n *node) { n.data[7] ^= 1 }, // nothing tells
		func(n *node) { n.xattrs["user.a"] = "1" },
	} {
		f(w.second.byID[file[0][i]])
		f(w.second.byID[file[1][i]]) // its directory is not listed
	}
	w.second.byID[sub].mtime.Sec++
	w.second.byID[inSub].mtime.Sec++
	w.second.byID[inSub].data[5] = 'y'
	hand{w.prim, w.notes}.newFile(dir[0], "new", nil)
	p := w.join(t, Delta)
	stats, err := p.pass.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Opened != 6 || stats.Listed != 2 || stats.Copied != (1000-896)+16 {
		t.Errorf("%+v", stats)
	}
	p.drain()
	for i := range 6 {
		x, y := w.prim.byID[file[0][i]], w.second.byID[file[0][i]]
		if same := bytes.Equal(x.data, y.data) && x.mtime == y.mtime && x.mode == y.mode && x.uid == y.uid && maps.Equal(x.xattrs, y.xattrs); same != (i != 4) {
			t.Errorf("file %d: the same %v", i, same)
		}
	}
	if !bytes.Equal(w.prim.byID[inSub].data, w.second.byID[inSub].data) {
		t.Error("what is below a directory that differs was not passed")
	}
	if x, y := w.prim.byID[file[1][0]], w.second.byID[file[1][0]]; x.mtime == y.mtime {
		t.Error("a file of a directory that is not listed was passed")
	}
}

// TestDeltaMissed: a file that SECOND vouches for is changed before the answer is
// there: it is passed.
func TestDeltaMissed(t *testing.T) {
	w, dir, file := library(1, 2, 1000)
	hand{w.prim, w.notes}.newFile(dir[0], "new", nil)
	p := w.join(t, Delta)
	hold := &answerStream{Stream: p.pass.s, before: func() {
		p.do(&journal.Op{Kind: journal.KindWrite, ID: file[0][1], Off: 3 * 64, Data: []byte("now")})
		p.do(&journal.Op{Kind: journal.KindSetAttr, ID: file[0][0], Valid: journal.SetMode, Mode: 0o600})
	}}
	p.pass.s = hold
	stats := p.mustRun()
	if stats.Copied != 16 || stats.Read != 64 || stats.Files != 3 {
		t.Errorf("%+v: one zone of a file was changed, the mode of another", stats)
	}
}

// answerStream does something before the first answer to a list is read.
type answerStream struct {
	Stream
	before func()
	done   atomic.Bool
}

func (s *answerStream) Start(op *journal.Op) (Answer, error) {
	a, err := s.Stream.Start(op)
	if err == nil && op.Kind == journal.KindSyncDir && s.done.CompareAndSwap(false, true) {
		return lateAnswer{a, s.before}, nil
	}
	return a, err
}

type lateAnswer struct {
	Answer
	before func()
}

func (a lateAnswer) Result() (journal.Result, error) {
	a.before()
	return a.Answer.Result()
}

// TestDeltaLoading: changes while the notes are being read are not lost.
func TestDeltaLoading(t *testing.T) {
	w, dir, file := library(2, 2, 1000)
	h := hand{w.prim, w.notes}
	h.chmod(file[0][0], 0o600)
	p := w.join(t, Delta)
	made := journal.NewFileID()
	p.pass.o.Notes = &lateNotes{w.notes, func() {
		p.do(&journal.Op{Kind: journal.KindWrite, ID: file[0][0], Off: 64, Data: []byte("now")})
		p.do(&journal.Op{Kind: journal.KindWrite, ID: file[0][1], Off: 64, Data: []byte("now")})
		p.do(&journal.Op{Kind: journal.KindCreate, ID: made, Parent: dir[1], Name: "new", Mode: unix.S_IFREG | 0o600})
		p.do(&journal.Op{Kind: journal.KindWrite, ID: made, Data: filled(100)})
		p.do(moveOp(file[1][0], dir[1], "f0", dir[0], "f9"))
	}}
	p.mustRun()
	if len(p.refused) > 0 {
		t.Errorf("SECOND refused %v", p.refused)
	}
}

// lateNotes does something when the notes have been read.
type lateNotes struct {
	*noteBook
	after func()
}

func (n *lateNotes) Each(f func(tree uint8, id journal.FileID, l journal.Lack) error) error {
	err := n.noteBook.Each(f)
	n.after()
	return err
}

// TestDeltaNotes: notes that cannot be read end the pass; those of what is gone, or
// of a tree that is not there any more, mean nothing.
func TestDeltaNotes(t *testing.T) {
	w, _, _ := library(1, 1, 10)
	w.notes.of(journal.NewFileID()).Names = true
	w.notes.of(journal.NewFileID()).Whole = true
	if stats := w.join(t, Delta).mustRun(); stats.Listed != 0 || stats.Opened != 0 {
		t.Errorf("%+v", stats)
	}
	p := w.join(t, Delta)
	p.pass.o.Notes = badNotes{}
	if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Errorf("notes that cannot be read: %v", err)
	}
}

type badNotes struct{}

func (badNotes) Each(func(uint8, journal.FileID, journal.Lack) error) error { return syscall.EIO }
func (badNotes) Get(journal.FileID) (journal.Lack, bool)                    { return journal.Lack{}, false }

// TestDeltaImpossible: names that SECOND can never make end the pass, with the
// reason.
func TestDeltaImpossible(t *testing.T) {
	w, dir, _ := library(1, 1, 10)
	hand{w.prim, w.notes}.newFile(dir[0], "new", nil)
	w.second.unlink(w.second.root, "d0") // noted nowhere
	p := w.join(t, Delta)
	if _, err := p.pass.Run(context.Background()); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v", err)
	}
}

// TestDeltaMany: what fails again and again while it waits to be passed is passed
// once, and ends nothing.
func TestDeltaMany(t *testing.T) {
	w, dir, file := library(1, 2, 1000)
	s := hand{w.second, w.notes}
	s.unlink(dir[0], "f1", file[0][1])
	p := w.join(t, Delta)
	src := &onceSource{source: source{w.prim}, before: func() {
		for i := range 50 {
			p.do(&journal.Op{Kind: journal.KindWrite, ID: file[0][1], Off: int64(i), Data: []byte("x")})
		}
	}}
	p.pass.sources[0] = src
	p.mustRun()
}

// TestScan: files are read only if SECOND does not have them as they are here, or
// if they were changed after a time by either host's clock.
func TestScan(t *testing.T) {
	w, dir, file := library(2, 6, 1000)
	const before, after = 100, 101
	o := w.options(Scan)
	o.Since = journal.Time{Sec: before}
	w.second.byID[file[0][0]].data[3] ^= 1 // nothing tells
	w.second.byID[file[0][0]].ctime = before
	w.second.byID[file[0][1]].data[3] ^= 1
	w.second.byID[file[0][1]].ctime = after
	w.prim.byID[file[0][2]].data[3] ^= 1
	w.prim.byID[file[0][2]].ctime = after
	w.second.byID[file[0][3]].mtime.Sec++
	w.second.resizeOf(file[1][4], 500)
	hand{w.second, nil}.unlink(dir[1], "f5", file[1][5])
	p := joinWith(t, w.prim, w.second, o, false)
	stats, err := p.pass.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	p.drain()
	if stats.Listed != 3 || stats.Opened != 5 || stats.Copied != 16+16+(1000-496)+1000 {
		t.Errorf("%+v", stats)
	}
	if w.second.begun != 1 {
		t.Errorf("SECOND's tree was looked through %d times", w.second.begun)
	}
	if bytes.Equal(w.prim.byID[file[0][0]].data, w.second.byID[file[0][0]].data) {
		t.Error("a file was read of which nothing says that it differs")
	}
	w.second.byID[file[0][0]].data[3] ^= 1
	for _, d := range differences(w.prim, w.second) {
		t.Error(d)
	}
}

func (t *tree) resizeOf(id journal.FileID, size int64) { t.byID[id].resize(size) }

// TestKeep: SECOND is told at the beginning that nothing is to be deleted.
func TestKeep(t *testing.T) {
	for _, keep := range []bool{true, false} {
		w, _, _ := library(1, 1, 10)
		w.second.keep = !keep
		o := w.options(Delta)
		o.Keep = keep
		joinWith(t, w.prim, w.second, o, false).mustRun()
		if w.second.keep != keep {
			t.Errorf("keep %v has not come through", keep)
		}
	}
}

// TestBeginnings: a beginning that cannot be understood begins nothing.
func TestBeginnings(t *testing.T) {
	tr := newTree(0)
	target := NewTarget([]Sink{sink{tr}})
	for _, op := range []journal.Op{
		{Flags: 1 << 7}, {Data: []byte("x")}, {Data: append(appendTime(nil, journal.Time{Sec: 1}), 0)},
		{Data: appendTime(nil, journal.Time{Nsec: 1e9})},
	} {
		op.Kind = journal.KindSyncBegin
		if r := target.Apply(&op); r.Errno != syscall.EBADMSG || tr.begun > 0 {
			t.Errorf("flags %#x data %x: %v", op.Flags, op.Data, r.Errno)
		}
	}
}

// TestFilterDelta: what differs from the table of a full pass.
func TestFilterDelta(t *testing.T) {
	w, dir, file := library(3, 2, 10)
	h := hand{w.prim, w.notes}
	sub := h.newDir(dir[1], "sub") // dir[1] is noted
	p := w.join(t, Delta)
	if got := p.pass.Filter(&journal.Op{Kind: journal.KindWrite, ID: file[0][0], Data: []byte("x")}); len(got) != 0 {
		t.Error("forwarded before the notes are loaded")
	}
	w.notes.of(file[0][0])
	if err := p.pass.load(); err != nil {
		t.Fatal(err)
	}
	tb := p.pass.table
	for _, c := range []struct {
		what string
		op   journal.Op
		want string
	}{
		{"a write to what is not noted", journal.Op{Kind: journal.KindWrite, ID: file[2][0], Data: []byte("x")}, "op"},
		{"a write to what is noted for its attributes", journal.Op{Kind: journal.KindWrite, ID: file[0][0], Data: []byte("x")}, "op"},
		{"its mode", journal.Op{Kind: journal.KindSetAttr, ID: file[0][0], Valid: journal.SetMode}, ""},
		{"create where nothing is noted", journal.Op{Kind: journal.KindCreate, ID: fid(1), Parent: dir[0]}, "op"},
		{"create in what is noted", journal.Op{Kind: journal.KindCreate, ID: fid(2), Parent: dir[1]}, ""},
		{"a write to that", journal.Op{Kind: journal.KindWrite, ID: fid(2), Data: []byte("x")}, ""},
		{"unlink before all is listed", journal.Op{Kind: journal.KindUnlink, ID: file[2][0], Parent: dir[2], Name: "f0"}, "take x"},
		{"rename onto a name before all is listed", *moveOp(file[2][0], dir[2], "f0", dir[0], "f1"), "take v, op without victim"},
	} {
		if c.op.Kind == journal.KindRename {
			c.op.ID2 = file[0][1]
		}
		ids := map[string]journal.FileID{"x": c.op.ID, "v": c.op.ID2}
		c.op.Name = map[bool]string{true: "from", false: c.op.Name}[c.op.Name == ""]
		if got := show(tb.decide(&c.op), &c.op, ids); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	// A directory into one that lies below a noted one.
	if barred := p.pass.bar(moveOp(dir[2], w.prim.root.id, "d2", sub, "d2")); len(barred) != 0 {
		t.Errorf("barred %v, which is pending anyway", barred)
	}
	if barred := p.pass.bar(moveOp(dir[2], w.prim.root.id, "d2", dir[0], "d2")); len(barred) != 0 {
		t.Errorf("barred %v, with all above it in place", barred)
	}
	tb.objects[sub] = settled
	if barred := p.pass.bar(moveOp(dir[2], w.prim.root.id, "d2", sub, "d2")); len(barred) != 1 || barred[0] != sub {
		t.Errorf("barred %v, want the directory below a pending one", barred)
	}
	if barred := p.pass.bar(moveOp(file[0][0], dir[0], "f0", sub, "f0")); len(barred) != 0 {
		t.Errorf("barred %v for a file", barred)
	}
}

// TestDeltaRestarted: what is started again is not ended by those who were to pass
// less of it.
func TestDeltaRestarted(t *testing.T) {
	w, dir, file := library(1, 1, 1000)
	f, d := file[0][0], dir[0]
	w.notes.of(f)
	p := w.join(t, Delta)
	if err := p.pass.load(); err != nil {
		t.Fatal(err)
	}
	tb := p.pass.table
	if !tb.attrsOnly(f) {
		t.Fatal("it is noted for its attributes alone")
	}
	tb.begin(f, newRegion(1000)) // by Failed
	tb.demote(d)                 // by later
	c := copier{p: p.pass, buf: make([]byte, 64)}
	if err := c.copyFile(context.Background(), fileRef{id: f, part: partAttrs}, theirs{}); err != nil {
		t.Fatal(err)
	}
	if err := p.pass.sendAttrsOf(dirRef{d, 0}); err != nil {
		t.Fatal(err)
	}
	if tb.get(f) != passing || tb.get(d) != dirNamed {
		t.Errorf("the file is %d, the directory %d: want %d, %d", tb.get(f), tb.get(d), passing, dirNamed)
	}
}

// TestDeltaTable: the last moment before a delta begins, and a list that SECOND
// could not make.
func TestDeltaTable(t *testing.T) {
	w, dir, file := library(1, 2, 1000)
	p := w.join(t, Delta)
	tb := p.pass.table
	l := newLoader(p.pass)
	w.notes.note(&journal.Op{Kind: journal.KindWrite, ID: file[0][0], Data: []byte("x")})
	tb.miss(&journal.Op{Kind: journal.KindWrite, ID: file[0][0]})
	if err := tb.start(l); err != nil {
		t.Fatal(err)
	}
	if tb.get(file[0][0]) != pending || tb.get(file[0][1]) != settled {
		t.Errorf("states %d, %d", tb.get(file[0][0]), tb.get(file[0][1]))
	}
	e := Entry{ID: file[0][1], Mode: sIFREG}
	for range 2 {
		if met := tb.suspend(e.ID); met != metNew {
			t.Errorf("met %d, want as new: SECOND has not been told", met)
		}
		tb.found(&e)
		tb.forget(e.ID)
	}
	tb.settle(e.ID)
	if tb.forget(e.ID); tb.get(e.ID) != settled {
		t.Error("what is settled was forgotten")
	}
	if tb.demote(dir[0]); tb.get(dir[0]) != dirNamed {
		t.Error("not demoted")
	}
}
