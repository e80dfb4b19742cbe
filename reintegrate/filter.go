package reintegrate

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// verdict is what becomes of a live operation: first what the pass sends itself
// (take, put, keep), in this order, then what is forwarded.
type verdict struct {
	take    *nameOf // to the holding area on SECOND
	put     *nameOf // to be made on SECOND
	keep    bool    // op.ID gets a name in the holding area
	forward []*journal.Op
}

// nameOf is a name in a directory and what it names.
type nameOf struct {
	dir  journal.FileID
	name string
	id   journal.FileID
}

func forward(op *journal.Op) verdict { return verdict{forward: []*journal.Op{op}} }

// decide is the table of doc.go. It takes no lock but t.mu and waits for nothing.
func (t *table) decide(op *journal.Op) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch op.Kind {
	case journal.KindCreate:
		if !t.objects[op.Parent].listed() {
			return verdict{}
		}
		t.objects[op.ID] = settled
		if t.objects[op.Parent] == dirListed {
			// SECOND's directory may have another default ACL or group to inherit.
			if op.Mode&sIFMT == sIFDIR {
				t.objects[op.ID] = dirListed
			}
			t.born = append(t.born, dirRef{op.ID, op.Tree})
		}
		return forward(op)

	case journal.KindTmpfile:
		t.objects[op.ID] = settled
		t.nameless[op.ID] = struct{}{}
		return forward(op)

	case journal.KindLink:
		return t.decideLink(op)

	case journal.KindUnlink, journal.KindRmdir:
		switch {
		case !t.objects[op.Parent].listed():
			return verdict{}
		case t.hidden(op.ID):
			return verdict{take: &nameOf{op.Parent, op.Name, op.ID}}
		}
		return forward(op)

	case journal.KindRename:
		return t.decideRename(op)

	case journal.KindWrite, journal.KindFallocate, journal.KindPunch:
		return t.decideRange(op)

	case journal.KindSetAttr:
		switch s := t.objects[op.ID]; {
		case s == settled:
			return forward(op)
		case s == passing && op.Valid&journal.SetSize != 0:
			t.regions[op.ID].cut(op.Off)
			size := *op
			size.Valid = journal.SetSize
			return forward(&size)
		}
		return verdict{}

	case journal.KindSetXattr, journal.KindRemoveXattr, journal.KindTimes, journal.KindFsync:
		if t.objects[op.ID] != settled {
			return verdict{}
		}
		return forward(op)

	case journal.KindRelease:
		delete(t.nameless, op.ID)
		if t.objects[op.ID] == pending {
			return verdict{}
		}
		return forward(op)
	}
	return forward(op) // KindMark and the pass's own
}

func (t *table) decideLink(op *journal.Op) verdict {
	_, nameless := t.nameless[op.ID]
	delete(t.nameless, op.ID)
	t.mayBeElsewhere(op.ID)
	switch {
	case !t.objects[op.Parent].listed():
		// The name waits for its directory. Until then the object must not go
		// when PRIM closes it.
		return verdict{keep: nameless}
	case t.objects[op.ID] == pending:
		return verdict{put: &nameOf{op.Parent, op.Name, op.ID}}
	}
	return forward(op)
}

func (t *table) decideRename(op *journal.Op) verdict {
	from, to := t.objects[op.Parent].listed(), t.objects[op.Parent2].listed()
	exchange := op.Flags&unix.RENAME_EXCHANGE != 0
	if op.ID == op.ID2 && !exchange {
		return verdict{} // two names of one object: POSIX does nothing
	}
	source := &nameOf{op.Parent, op.Name, op.ID}
	target := &nameOf{op.Parent2, op.Name2, op.ID}
	switch {
	case from && to:
		if exchange || op.ID2.IsZero() || !t.hidden(op.ID2) {
			return forward(op)
		}
		without := *op
		without.ID2 = journal.FileID{}
		return verdict{take: &nameOf{op.Parent2, op.Name2, op.ID2}, forward: []*journal.Op{&without}}
	case from && exchange:
		return verdict{take: source, put: &nameOf{op.Parent, op.Name, op.ID2}}
	case from:
		return verdict{take: source}
	case to:
		return verdict{put: target}
	}
	return verdict{}
}

// decideRange is for what changes a range of bytes.
func (t *table) decideRange(op *journal.Op) verdict {
	switch t.objects[op.ID] {
	case settled:
		return forward(op)
	case passing:
	default:
		return verdict{}
	}
	n := op.Len
	if op.Kind == journal.KindWrite {
		n = int64(len(op.Data))
	}
	parts, count := t.regions[op.ID].outside(op.Off, n)
	var v verdict
	for _, r := range parts[:count] {
		if r.Off == op.Off && r.End == op.Off+n {
			return forward(op)
		}
		part := *op
		part.Off = r.Off
		if op.Kind == journal.KindWrite {
			part.Data = op.Data[r.Off-op.Off : r.End-op.Off]
		} else {
			part.Len = r.End - r.Off
		}
		v.forward = append(v.forward, &part)
	}
	return v
}

// Filter returns the operations to forward in place of a live op: op itself,
// none, or parts of it. It is called where op would be numbered, under the locks
// that order it with all that it conflicts with, names and objects alike; op has
// not been carried out here yet. What SECOND needs besides, Filter has put into
// the stream itself when it returns.
func (p *Pass) Filter(op *journal.Op) []*journal.Op {
	v := p.table.decide(op)
	if v.take == nil && v.put == nil && !v.keep {
		return v.forward
	}
	if err := p.carryOut(op, &v); err != nil {
		p.fail(fmt.Errorf("%s during the reintegration: %w", op.Kind, err))
	}
	return v.forward
}

// carryOut sends what the pass itself has to say about a live operation. Nobody
// waits for it: SECOND is of use to nobody before the pass ends, and the pass
// ends after it.
func (p *Pass) carryOut(op *journal.Op, v *verdict) error {
	if v.take != nil {
		t := taken{ID: v.take.id, Name: v.take.name}
		err := p.s.Post(&journal.Op{Kind: journal.KindSyncDir, Tree: op.Tree, ID: v.take.dir, Flags: DirTake, Data: appendTaken(nil, &t)})
		if err != nil {
			return err
		}
	}
	if v.keep {
		return p.s.Post(&journal.Op{Kind: journal.KindSyncDir, Tree: op.Tree, ID: op.ID, Flags: DirKeep})
	}
	if v.put == nil {
		return nil
	}
	e, err := p.source(op.Tree).Stat(v.put.id)
	if err != nil {
		return fmt.Errorf("object %s: %w", v.put.id, err)
	}
	e.Name, e.ID = v.put.name, v.put.id
	err = p.s.Post(&journal.Op{Kind: journal.KindSyncDir, Tree: op.Tree, ID: v.put.dir, Flags: DirPut, Data: appendEntry(nil, &e)})
	if err != nil {
		return err
	}
	p.found(op.Tree, &e)
	return nil
}
