package reintegrate

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// verdict is what becomes of a live operation: first what the pass sends itself
// (take, put, keep), in this order, then what is forwarded.
type verdict struct {
	take    *nameOf          // to the holding area on SECOND
	put     *nameOf          // to be made on SECOND
	keep    bool             // op.ID gets a name in the holding area
	relist  []journal.FileID // directories whose names are pending again
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
// barred are listed directories that cannot take in a directory now, see bar.
func (t *table) decide(op *journal.Op, barred ...journal.FileID) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range barred {
		t.objects[d] = dirNamed
	}
	v := t.choose(op)
	v.relist = barred
	if len(v.forward) != 1 || v.forward[0] != op {
		t.miss(op)
	}
	return v
}

func (t *table) choose(op *journal.Op) verdict {
	switch op.Kind {
	case journal.KindCreate:
		if !t.at(op.Parent).listed() {
			if t.delta {
				t.objects[op.ID] = pending // until its name is sent
			}
			return verdict{}
		}
		t.objects[op.ID] = settled
		if t.at(op.Parent) == dirListed {
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
		case !t.at(op.Parent).listed():
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
		switch s := t.at(op.ID); {
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
		if t.at(op.ID) != settled {
			return verdict{}
		}
		return forward(op)

	case journal.KindRelease:
		delete(t.nameless, op.ID)
		if t.at(op.ID) == pending {
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
	case !t.at(op.Parent).listed():
		// The name waits for its directory. Until then the object must not go
		// when PRIM closes it.
		return verdict{keep: nameless}
	case t.at(op.ID) == pending:
		return verdict{put: &nameOf{op.Parent, op.Name, op.ID}}
	}
	return forward(op)
}

func (t *table) decideRename(op *journal.Op) verdict {
	from, to := t.at(op.Parent).listed(), t.at(op.Parent2).listed()
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
	switch t.at(op.ID) {
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
	var v verdict
	for _, r := range t.regions[op.ID].outside(op.Off, n) {
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
	var barred []journal.FileID
	if op.Kind == journal.KindRename && p.table.delta && p.table.isWalking() {
		barred = p.bar(op)
	}
	v := p.table.decide(op, barred...)
	for _, d := range v.relist {
		p.queue.addDir(dirRef{d, op.Tree})
	}
	if v.take == nil && v.put == nil && !v.keep {
		return v.forward
	}
	if err := p.carryOut(op, &v); err != nil {
		p.fail(fmt.Errorf("%s during the reintegration: %w", op.Kind, err))
	}
	return v.forward
}

// bar returns the listed directories into which op would move a directory although
// SECOND may have them elsewhere, below that very directory even: in a delta a
// directory without notes counts as listed, but one above it may be pending. Their
// names become pending again, and are sent when those above are.
func (p *Pass) bar(op *journal.Op) (dirs []journal.FileID) {
	if op.Parent == op.Parent2 {
		return nil
	}
	if p.table.get(op.Parent2).listed() && p.isDir(op.Tree, op.ID) && !p.inPlace(op.Tree, op.Parent2) {
		dirs = append(dirs, op.Parent2)
	}
	if op.Flags&unix.RENAME_EXCHANGE != 0 && p.table.get(op.Parent).listed() &&
		p.isDir(op.Tree, op.ID2) && !p.inPlace(op.Tree, op.Parent) {
		dirs = append(dirs, op.Parent)
	}
	return dirs
}

// inPlace says whether SECOND has a directory where PRIM has it: all above it is
// listed.
func (p *Pass) inPlace(tree uint8, dir journal.FileID) bool {
	for root := journal.RootID(tree); ; {
		if !p.table.get(dir).listed() {
			return false
		}
		if dir == root {
			return true
		}
		var err error
		if dir, err = p.source(tree).Parent(dir); err != nil {
			return false
		}
	}
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
	put := &journal.Op{Kind: journal.KindSyncDir, Tree: op.Tree, ID: v.put.dir, Flags: DirPut, Data: appendEntry(nil, &e)}
	if !p.table.delta {
		if err := p.s.Post(put); err != nil {
			return err
		}
		p.found(op.Tree, &e)
		return nil
	}
	// Most likely SECOND has it, and complete. It will say so.
	l := &asked{dir: dirRef{v.put.dir, op.Tree}, put: true, entries: []askedEntry{p.suspend(op.Tree, &e)}}
	put.Flags |= DirVouch
	a, err := p.s.Start(put)
	if err != nil {
		return err
	}
	l.answers = []Answer{a}
	p.table.found(&e)
	p.queue.addAsked(l)
	return nil
}
