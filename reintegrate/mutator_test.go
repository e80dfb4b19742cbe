package reintegrate

import (
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// mutator makes random live operations.
type mutator struct {
	p *pair
	r *rand.Rand
}

var names = []string{"a", "b", "c", "d", "e"}

// pick returns a random name: its directory, what it names now (nil: nothing).
func (m *mutator) pick() (dir journal.FileID, name string, n *node) {
	t := m.p.prim
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.root
	for {
		name = names[m.r.IntN(len(names))]
		n = d.names[name]
		if n == nil || !n.isDir() || m.r.IntN(3) == 0 {
			return d.id, name, n
		}
		d = n
	}
}

func (m *mutator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.r.IntN(3)) // few values: blocks are often equal
	}
	return b
}

func (m *mutator) step() bool {
	r, p := m.r, m.p
	dir, name, n := m.pick()
	if n == nil {
		switch r.IntN(10) {
		case 0: // a file without a name, which may get one
			id := journal.NewFileID()
			if !p.do(&journal.Op{Kind: journal.KindTmpfile, ID: id, Mode: unix.S_IFREG | 0o600}) {
				return false
			}
			p.do(&journal.Op{Kind: journal.KindWrite, ID: id, Off: int64(r.IntN(100)), Data: m.bytes(40)})
			if r.IntN(2) == 0 {
				// Named, then closed: it must not go on SECOND, which may not have
				// the name yet.
				return p.do(&journal.Op{Kind: journal.KindLink, ID: id, Parent: dir, Name: name}) &&
					p.do(&journal.Op{Kind: journal.KindRelease, ID: id})
			}
			return true
		case 1, 2: // a name for something that is there
			if _, _, o := m.pick(); o != nil {
				return p.do(&journal.Op{Kind: journal.KindLink, ID: o.id, Parent: dir, Name: name})
			}
			p.prim.mu.Lock()
			var tmp journal.FileID
			for id, o := range p.prim.byID {
				if o.tmp {
					tmp = id
				}
			}
			p.prim.mu.Unlock()
			return !tmp.IsZero() && p.do(&journal.Op{Kind: journal.KindLink, ID: tmp, Parent: dir, Name: name})
		}
		op := &journal.Op{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: dir, Name: name, UID: uint32(r.IntN(9))}
		switch r.IntN(8) {
		case 0:
			op.Mode, op.Data = unix.S_IFLNK|0o777, []byte(names[r.IntN(len(names))])
		case 1:
			op.Mode, op.Rdev = unix.S_IFCHR|0o600, uint32(r.IntN(4))
		case 2, 3, 4:
			op.Mode = unix.S_IFDIR | 0o755
		default:
			op.Mode = unix.S_IFREG | 0o644
		}
		if !p.do(op) {
			return false
		}
		if op.Mode&unix.S_IFMT == unix.S_IFREG && r.IntN(3) > 0 {
			p.do(&journal.Op{Kind: journal.KindWrite, ID: op.ID, Off: int64(r.IntN(3) * r.IntN(100)), Data: m.bytes(1 + r.IntN(300))})
		}
		return true
	}
	regular := n.typ() == unix.S_IFREG
	switch k := r.IntN(20); {
	case k < 2:
		kind := journal.KindUnlink
		if n.isDir() {
			kind = journal.KindRmdir
		}
		return p.do(&journal.Op{Kind: kind, ID: n.id, Parent: dir, Name: name})
	case k < 9:
		op := &journal.Op{Kind: journal.KindRename, ID: n.id, Parent: dir, Name: name}
		var v *node
		op.Parent2, op.Name2, v = m.pick()
		if v != nil {
			op.ID2 = v.id
			if r.IntN(2) == 0 {
				op.Flags = unix.RENAME_EXCHANGE
			}
		}
		return p.do(op)
	case k < 10:
		return p.do(&journal.Op{Kind: journal.KindSetAttr, ID: n.id, Valid: journal.SetMode | journal.SetUID, Mode: uint32(r.IntN(0o1000)), UID: uint32(r.IntN(9))})
	case k < 11:
		return p.do(&journal.Op{Kind: journal.KindSetXattr, ID: n.id, Name: "user." + names[r.IntN(len(names))], Data: m.bytes(5)})
	case k < 12:
		p.prim.mu.Lock()
		attr := "user." + names[r.IntN(len(names))]
		_, ok := n.xattrs[attr]
		p.prim.mu.Unlock()
		// Somebody else may remove it first: then there is nothing to do.
		return ok && p.do(&journal.Op{Kind: journal.KindRemoveXattr, ID: n.id, Name: attr})
	case !regular:
		return false
	case k < 14:
		return p.do(&journal.Op{Kind: journal.KindSetAttr, ID: n.id, Valid: journal.SetSize | journal.SetMode, Mode: 0o640, Off: int64(r.IntN(400))})
	case k < 15:
		flags := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		if r.IntN(2) == 0 {
			flags = unix.FALLOC_FL_ZERO_RANGE
		}
		return p.do(&journal.Op{Kind: journal.KindFallocate, ID: n.id, Flags: flags, Off: int64(r.IntN(300)), Len: 1 + int64(r.IntN(200))})
	case k < 16:
		return m.openUnlinked(dir, name, n)
	}
	return p.do(&journal.Op{Kind: journal.KindWrite, ID: n.id, Off: int64(r.IntN(500)), Data: m.bytes(1 + r.IntN(200))})
}

// openUnlinked opens a file, removes it and closes it.
func (m *mutator) openUnlinked(dir journal.FileID, name string, n *node) bool {
	t := m.p.prim
	t.mu.Lock()
	n.opens++
	t.mu.Unlock()
	done := m.p.do(&journal.Op{Kind: journal.KindUnlink, ID: n.id, Parent: dir, Name: name})
	defer t.locks.lock(span{n.id, 0, whole})()
	t.mu.Lock()
	n.opens--
	gone := n.nlink == 0 && n.opens == 0 && t.byID[n.id] == n
	t.mu.Unlock()
	if gone {
		m.p.run(&journal.Op{Kind: journal.KindRelease, ID: n.id})
	}
	return done
}
