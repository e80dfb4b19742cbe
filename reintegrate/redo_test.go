package reintegrate_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// history is operations that were carried out one after the other on a disk.
type history struct {
	base *disk // before them
	end  *disk // after them
	ops  []*journal.Op
	ids  uint16
}

func newHistory() *history { return &history{base: newDisk(), end: newDisk()} }

func (h *history) id() journal.FileID {
	h.ids++
	return journal.FileID{byte(h.ids), byte(h.ids >> 8), 1}
}

// do carries op out and notes it, if it succeeds.
func (h *history) do(op journal.Op) bool {
	op.Seq = journal.Seq(len(h.ops) + 1)
	if h.end.run(&op) != 0 {
		return false
	}
	h.ops = append(h.ops, &op)
	return true
}

// begin makes what was done so far the base.
func (h *history) begin() {
	h.base, h.ops = h.end.clone(), nil
	h.end = h.base.clone()
}

func (h *history) String() string {
	var b strings.Builder
	for _, op := range h.ops {
		fmt.Fprintf(&b, "%d %s %x in %x %q", op.Seq, op.Kind, op.ID[:2], op.Parent[:2], op.Name)
		if op.Kind == journal.KindRename {
			fmt.Fprintf(&b, " to %x %q over %x flags %d", op.Parent2[:2], op.Name2, op.ID2[:2], op.Flags)
		}
		if len(op.Data) > 0 || op.Len > 0 || op.Valid > 0 {
			fmt.Fprintf(&b, " off %d len %d %q valid %d", op.Off, op.Len, op.Data, op.Valid)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// log gives the operations as a receive log does: they are not to be kept.
func (h *history) log(each func(*journal.Op) error) error {
	for _, op := range h.ops {
		lent := *op
		lent.Data = bytes.Clone(op.Data)
		if err := each(&lent); err != nil {
			return err
		}
		for i := range lent.Data {
			lent.Data[i] = '!'
		}
		lent = journal.Op{}
	}
	return nil
}

// killed is what a process that was killed leaves: no operation without those
// before it of the same objects. skip says which were not reached.
func (h *history) killed(skip func(i int) bool) *disk {
	d := h.base.clone()
	late := map[journal.FileID]bool{}
	for i, op := range h.ops {
		out := skip(i)
		for _, k := range journal.Keys(op) {
			out = out || late[k]
		}
		if out || d.run(op) != 0 { // directories above are no keys: a move may come too early and fails
			for _, k := range journal.Keys(op) {
				late[k] = true
			}
		}
	}
	return d.clone() // without what has no name
}

// powerless is what a power cut leaves: names and attributes as of some moment,
// bytes of any.
func (h *history) powerless(moment int, lost func() bool) *disk {
	d := h.base.clone()
	for i, op := range h.ops {
		write := op.Kind == journal.KindWrite
		switch {
		case i < moment && (!write || !lost()):
			d.run(op)
		case i >= moment && write && !lost():
			if n := d.byID[op.ID]; n != nil && int(op.Off) < len(n.data) { // not the size
				copy(n.data[op.Off:], op.Data)
			}
		}
	}
	return d.clone()
}

// loseBytes takes from d any of the bytes that the log brings.
func (h *history) loseBytes(d *disk, lost func() bool) {
	for _, op := range h.ops {
		if n := d.byID[op.ID]; n != nil && op.Kind == journal.KindWrite && int(op.Off) < len(n.data) && lost() {
			clear(n.data[op.Off:min(int(op.Off)+len(op.Data), len(n.data))])
		}
	}
}

// redo runs Redo on d and says whether it came to its end before the power went.
func (h *history) redo(d *disk) (done reintegrate.Redone, whole bool, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case outage:
			whole = false
		default:
			panic(p)
		}
	}()
	done, err = reintegrate.Redo(h.log, []reintegrate.Sink{d}, d)
	return done, true, err
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// mustRedo runs Redo to its end and compares.
func (h *history) mustRedo(t fataler, d *disk, what string) reintegrate.Redone {
	t.Helper()
	done, whole, err := h.redo(d)
	if err != nil || !whole || done.Failed != 0 {
		t.Fatalf("%s: %+v, to the end: %v: %v\n%s", what, done, whole, err, h)
	}
	if diff := differences(h.end, d); diff != "" {
		t.Fatalf("%s: %s\n%s", what, diff, h)
	}
	return done
}

// rooted takes the modification time of the root from the comparison: that is the
// one thing that a second crash may cost.
func (d *disk) rooted() *disk {
	c := d.clone()
	c.root.mtime = now
	return c
}

// step draws one more operation of a random history.
func (h *history) step(pick func(n int) int) {
	d := h.end
	all := d.live(func(n *thing) bool { return n.nlink > 0 || n.open })
	dirs := d.live(func(n *thing) bool { return n.isDir() })
	files := d.live(func(n *thing) bool { return n.mode&unix.S_IFMT == unix.S_IFREG })
	name := func() string { return string(rune('a' + pick(4))) }
	dir := func() *thing { return dirs[pick(len(dirs))] }
	any := all[pick(len(all))]
	at := func() (*thing, string, *thing) { // a name that there is, if there is one
		p := dir()
		for range 4 {
			if s := name(); p.names[s] != nil {
				return p, s, p.names[s]
			}
		}
		return nil, "", nil
	}
	switch kind := pick(22); kind {
	case 0, 1, 2:
		typ := []uint32{unix.S_IFREG, unix.S_IFREG, unix.S_IFDIR, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO}[pick(6)]
		op := journal.Op{Kind: journal.KindCreate, ID: h.id(), Parent: dir().id, Name: name(), Mode: typ | 0o640}
		if typ == unix.S_IFLNK {
			op.Data = []byte("target")
		}
		h.do(op)
	case 3:
		h.do(journal.Op{Kind: journal.KindTmpfile, ID: h.id(), Mode: unix.S_IFREG | 0o600})
	case 4, 5:
		h.do(journal.Op{Kind: journal.KindLink, ID: any.id, Parent: dir().id, Name: name()})
	case 6, 7, 8:
		p, s, n := at()
		if n == nil {
			return
		}
		op := journal.Op{Kind: journal.KindUnlink, ID: n.id, Parent: p.id, Name: s}
		if n.isDir() {
			op.Kind = journal.KindRmdir
		}
		h.do(op)
	case 9, 10, 11, 12, 13:
		p, s, n := at()
		if n == nil {
			return
		}
		q, s2 := dir(), name()
		op := journal.Op{Kind: journal.KindRename, ID: n.id, Parent: p.id, Name: s, Parent2: q.id, Name2: s2}
		if v := q.names[s2]; v != nil {
			op.ID2 = v.id
			if kind > 11 {
				op.Flags = unix.RENAME_EXCHANGE
			}
		}
		h.do(op)
	case 14:
		mtime := journal.Time{Sec: int64(100 + len(h.ops))}
		if pick(2) == 0 {
			h.do(journal.Op{Kind: journal.KindTimes, ID: any.id, Mtime: mtime})
		} else {
			h.do(journal.Op{Kind: journal.KindSetAttr, ID: any.id, Valid: journal.SetMtime | journal.SetMode, Mtime: mtime, Mode: uint32(pick(0o1000))})
		}
	case 15:
		p := dir()
		if _, has := p.xattrs["default"]; has && pick(2) == 0 {
			h.do(journal.Op{Kind: journal.KindRemoveXattr, ID: p.id, Name: "default"})
		} else {
			h.do(journal.Op{Kind: journal.KindSetXattr, ID: p.id, Name: "default", Data: fmt.Appendf(nil, "of %d", len(h.ops))})
		}
	case 16:
		if _, has := any.xattrs["u"]; !has {
			h.do(journal.Op{Kind: journal.KindSetXattr, ID: any.id, Name: "u", Data: fmt.Append(nil, len(h.ops)), Flags: unix.XATTR_CREATE})
		} else {
			h.do(journal.Op{Kind: journal.KindRemoveXattr, ID: any.id, Name: "u"})
		}
	default:
		if len(files) == 0 {
			return
		}
		n := files[pick(len(files))]
		off, length := int64(pick(12)), int64(1+pick(8))
		switch kind {
		case 17, 18, 19:
			h.do(journal.Op{Kind: journal.KindWrite, ID: n.id, Off: off, Data: bytes.Repeat([]byte{byte('A' + len(h.ops)%26)}, int(length))})
		case 20:
			if n.open && pick(2) == 0 { // its sending is begun again
				h.do(journal.Op{Kind: journal.KindTmpfile, ID: n.id, Mode: unix.S_IFREG | 0o600})
				return
			}
			h.do(journal.Op{Kind: journal.KindSetAttr, ID: n.id, Valid: journal.SetSize, Off: off})
		case 21:
			flags := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE}[pick(3)]
			h.do(journal.Op{Kind: journal.KindFallocate, ID: n.id, Flags: flags, Off: off, Len: length})
		}
	}
}

// TestRedo: whatever part of any history is in the data, and however often Redo is
// interrupted, the end is that of the whole history.
func TestRedo(t *testing.T) {
	start := rand.Uint64() >> 1
	for seed := start; seed < start+1500; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 1))
		tryRedo(seeded{t, seed}, rnd.IntN)
	}
}

// TestRedoSmall tries small histories, and looks for the smallest that fails.
func TestRedoSmall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tryRedo(t, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") })
	})
}

// seeded says with a failure how to have it again.
type seeded struct {
	*testing.T
	seed uint64
}

func (s seeded) Fatalf(format string, args ...any) {
	s.Helper()
	s.T.Fatalf("seed %d: "+format, append([]any{s.seed}, args...)...)
}

// tryRedo tries one history, as pick chooses.
func tryRedo(t fataler, pick func(n int) int) {
	coin := func(percent int) bool { return pick(100) < percent }
	h := newHistory()
	for range pick(30) {
		h.step(pick)
	}
	for _, n := range h.end.things {
		n.mtime = 2
	}
	h.begin()
	for range 1 + pick(60) {
		h.step(pick)
	}
	for _, n := range h.end.live(func(n *thing) bool { return n.open }) { // the log may end before they get a name
		delete(h.end.byID, n.id)
	}

	var data *disk
	if coin(60) {
		percent := []int{0, 3, 10, 30, 100}[pick(5)]
		data = h.killed(func(int) bool { return coin(percent) })
	} else {
		percent := []int{0, 30, 100}[pick(3)]
		data = h.powerless(pick(len(h.ops)+1), func() bool { return coin(percent) })
	}

	forget := func(d *disk) { d.forget(h.base, h.end, func() bool { return coin(70) }) }
	forget(data)

	once := data.clone()
	h.mustRedo(t, once, "once")
	changes := once.changes
	forget(once)
	h.mustRedo(t, once, "again")

	power := coin(30)
	h.end = h.end.rooted()
	for round := 0; changes > 0 && round < 4; round++ {
		data.limit, data.torn = pick(changes), coin(50)
		_, whole, err := h.redo(data)
		if err != nil {
			t.Fatalf("interrupted at %d: %v\n%s", data.limit, err, h)
		}
		if whole {
			break
		}
		data = data.clone()
		forget(data)
		if power {
			h.loseBytes(data, func() bool { return coin(50) })
		}
	}
	data.limit = -1
	h.mustRedo(t, data, "after crashes")
}

// TestRedoAll goes through every history of three changes of names in a small
// tree, every part of each that a killed process can leave, and every moment at
// which Redo can be interrupted.
func TestRedoAll(t *testing.T) {
	start := newHistory()
	root := journal.RootID(0)
	dir, file := start.id(), start.id()
	start.do(journal.Op{Kind: journal.KindCreate, ID: dir, Parent: root, Name: "a", Mode: unix.S_IFDIR})
	start.do(journal.Op{Kind: journal.KindCreate, ID: file, Parent: dir, Name: "a", Mode: unix.S_IFREG})
	start.begin()
	histories, parts, crashes := 0, 0, 0
	var extend func(h *history, depth int)
	extend = func(h *history, depth int) {
		if depth == 0 {
			histories++
			end := h.end.rooted()
			seen := map[string]bool{}
			for mask := range 1 << len(h.ops) {
				did := ""
				data := h.killed(func(i int) bool { return mask>>i&1 == 0 })
				did = differences(newDisk(), data)
				if seen[did] {
					continue
				}
				seen[did] = true
				parts++
				forget := func(d *disk) *disk {
					d.forget(h.base, h.end, func() bool { return true })
					return d
				}
				once := forget(data.clone())
				h.mustRedo(t, once, "once")
				whole := h.end
				h.end = end
				for at := range once.changes {
					crashes++
					d := forget(data.clone())
					d.limit, d.torn = at, true
					if _, whole, err := h.redo(d); whole || err != nil {
						t.Fatalf("not interrupted at %d: %v\n%s", at, err, h)
					}
					h.mustRedo(t, forget(d.clone()), fmt.Sprint("interrupted at ", at))
				}
				h.end = whole
			}
			return
		}
		for _, op := range h.nameChanges() {
			next := &history{base: h.base, end: h.end.clone(), ops: h.ops[:len(h.ops):len(h.ops)], ids: h.ids + 1}
			if next.do(op) {
				extend(next, depth-1)
			}
		}
	}
	depth := 3
	if testing.Short() {
		depth = 2
	}
	extend(start, depth)
	t.Logf("%d histories, %d parts, %d crashes", histories, parts, crashes)
	if histories == 0 || crashes < parts {
		t.Error("nothing was tried")
	}
}

// nameChanges lists the changes of names that may come next.
func (h *history) nameChanges() (ops []journal.Op) {
	names := []string{"a", "b"}
	dirs := h.end.live(func(n *thing) bool { return n.isDir() })
	id := journal.FileID{byte(h.ids + 1), 0, 1}
	for _, p := range dirs {
		for _, s := range names {
			n := p.names[s]
			if n == nil {
				for _, typ := range []uint32{unix.S_IFREG, unix.S_IFDIR} {
					ops = append(ops, journal.Op{Kind: journal.KindCreate, ID: id, Parent: p.id, Name: s, Mode: typ})
				}
				for _, f := range h.end.live(func(n *thing) bool { return !n.isDir() }) {
					ops = append(ops, journal.Op{Kind: journal.KindLink, ID: f.id, Parent: p.id, Name: s})
				}
				continue
			}
			kind := journal.KindUnlink
			if n.isDir() {
				kind = journal.KindRmdir
			}
			ops = append(ops, journal.Op{Kind: kind, ID: n.id, Parent: p.id, Name: s})
			for _, q := range dirs {
				for _, s2 := range names {
					op := journal.Op{Kind: journal.KindRename, ID: n.id, Parent: p.id, Name: s, Parent2: q.id, Name2: s2}
					if v := q.names[s2]; v != nil && v != n {
						op.ID2 = v.id
						exchange := op
						exchange.Flags = unix.RENAME_EXCHANGE
						ops = append(ops, exchange)
					} else if v == n {
						continue
					}
					ops = append(ops, op)
				}
			}
		}
	}
	return ops
}
