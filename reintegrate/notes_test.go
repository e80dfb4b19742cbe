package reintegrate

import (
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// noteBook is what SECOND may lack, kept as simply as can be.
type noteBook struct {
	mu    sync.Mutex
	lacks map[journal.FileID]*journal.Lack
}

func newNotes() *noteBook { return &noteBook{lacks: map[journal.FileID]*journal.Lack{}} }

func (n *noteBook) of(id journal.FileID) *journal.Lack {
	l := n.lacks[id]
	if l == nil {
		l = &journal.Lack{Tail: journal.NoTail, Zones: roaring.New()}
		n.lacks[id] = l
	}
	l.Attrs = true
	return l
}

// note notes an operation that is about to be carried out. Zones are those of
// smallOptions.
func (n *noteBook) note(op *journal.Op) {
	n.mu.Lock()
	defer n.mu.Unlock()
	zone := smallOptions.ZoneSize
	switch op.Kind {
	case journal.KindCreate:
		n.of(op.Parent).Names = true
		n.of(op.ID).Whole = true
	case journal.KindTmpfile:
		n.of(op.ID).Whole = true
	case journal.KindLink, journal.KindUnlink, journal.KindRmdir:
		n.of(op.Parent).Names = true
		n.of(op.ID)
	case journal.KindRename:
		n.of(op.Parent).Names = true
		n.of(op.Parent2).Names = true
	case journal.KindWrite, journal.KindFallocate:
		size := op.Len + int64(len(op.Data))
		n.of(op.ID).Zones.AddRange(uint64(op.Off/zone), uint64((op.Off+size-1)/zone)+1)
	case journal.KindSetAttr:
		l := n.of(op.ID)
		if op.Valid&journal.SetSize != 0 && (l.Tail < 0 || op.Off/zone < l.Tail) {
			l.Tail = op.Off / zone
		}
	case journal.KindSetXattr, journal.KindRemoveXattr, journal.KindTimes:
		n.of(op.ID)
	}
}

func (n *noteBook) whole(id journal.FileID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.of(id).Whole = true
}

func (n *noteBook) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.lacks)
}

// Each implements Notes.
func (n *noteBook) Each(f func(tree uint8, id journal.FileID, l journal.Lack) error) error {
	n.mu.Lock()
	var ids []journal.FileID
	for id := range n.lacks {
		ids = append(ids, id)
	}
	n.mu.Unlock()
	slices.SortFunc(ids, func(a, b journal.FileID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		if l, ok := n.Get(id); ok {
			if err := f(0, id, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// Get implements Notes.
func (n *noteBook) Get(id journal.FileID) (journal.Lack, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.lacks[id]
	if l == nil {
		return journal.Lack{Tail: journal.NoTail}, false
	}
	c := *l
	c.Zones = l.Zones.Clone()
	return c, true
}

// twins are two equal trees as two hosts in sync have them, and the notes of what
// the second lacks from then on.
type twins struct {
	prim, second *tree
	notes        *noteBook
}

func newTwins(prim *tree) twins {
	w := twins{prim, prim.clone(1 << 40), newNotes()}
	for _, t := range []*tree{w.prim, w.second} {
		for _, n := range t.byID {
			n.ctime = 0 // so that Since is a time of both: everything is later
		}
	}
	return w
}

// alone is PRIM without SECOND.
func (w twins) alone(p *pair) *pair {
	return &pair{t: p.t, prim: w.prim, notes: w.notes, dirty: map[journal.FileID]bool{}}
}

// options of a pass of that mode.
func (w twins) options(m Mode) Options {
	o := smallOptions
	if o.Mode = m; m == Delta {
		o.Notes = w.notes
	}
	return o
}

// forget is what a host loses when its replica ends: files that are open without a
// name.
func (t *tree) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, n := range t.byID {
		if n.nlink == 0 {
			delete(t.byID, id)
		}
	}
}

// newDir, newFile, move, … change a tree at rest and note it, for scenarios.
type hand struct {
	*tree
	notes *noteBook
}

func (h hand) do(op *journal.Op) journal.FileID {
	if h.notes != nil {
		h.notes.note(op)
	}
	if errno := h.apply(op, false); errno != 0 {
		panic(op.Kind.String() + " " + op.Name + ": " + errno.Error())
	}
	return op.ID
}

func (h hand) newDir(in journal.FileID, name string) journal.FileID {
	return h.do(&journal.Op{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: in, Name: name, Mode: unix.S_IFDIR | 0o755})
}

func (h hand) newFile(in journal.FileID, name string, data []byte) journal.FileID {
	id := h.do(&journal.Op{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: in, Name: name, Mode: unix.S_IFREG | 0o644})
	h.write(id, 0, data)
	return id
}

func (h hand) write(id journal.FileID, off int64, data []byte) {
	h.do(&journal.Op{Kind: journal.KindWrite, ID: id, Off: off, Data: data})
}

func (h hand) chmod(id journal.FileID, mode uint32) {
	h.do(&journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetMode, Mode: mode})
}

func (h hand) unlink(in journal.FileID, name string, id journal.FileID) {
	h.do(&journal.Op{Kind: journal.KindUnlink, ID: id, Parent: in, Name: name})
	h.do(&journal.Op{Kind: journal.KindRelease, ID: id})
}

func moveOp(id, from journal.FileID, name string, to journal.FileID, name2 string) *journal.Op {
	return &journal.Op{Kind: journal.KindRename, ID: id, Parent: from, Name: name, Parent2: to, Name2: name2}
}

func (h hand) move(id, from journal.FileID, name string, to journal.FileID, name2 string) {
	h.do(moveOp(id, from, name, to, name2))
}
