package reintegrate

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// redoPlan is what a log says of names: nothing but a function of its operations.
type redoPlan struct {
	names []finalName // every name that the log touches, in the order in which it first does
	at    map[slot]int
	born  map[journal.FileID]birth
	dirs  map[journal.FileID]dirEnd
}

// slot is a place for a name.
type slot struct {
	dir  journal.FileID
	name string
}

// finalName is what a name is at the end of the log.
type finalName struct {
	slot
	tree    uint8
	id      journal.FileID // zero: there is no such name
	settled bool           // the data has it so
}

// birth is an object that the log makes.
type birth struct {
	parent  journal.FileID // the directory of then; of a file without a name the root
	names   int            // how many it has at the end
	wanted  bool           // it is to have a name, or what is to be made inherits from it
	missing bool           // it has to be made
}

// dirEnd is a directory of which the log changes names, or a root.
type dirEnd struct {
	tree  uint8
	timed bool         // its modification time is not that of its last change of names,
	mtime journal.Time // but this
}

func newRedoPlan() *redoPlan {
	return &redoPlan{at: map[slot]int{}, born: map[journal.FileID]birth{}, dirs: map[journal.FileID]dirEnd{}}
}

// lookup returns what the log says of a name, nil if nothing.
func (p *redoPlan) lookup(dir journal.FileID, name string) *finalName {
	if i, ok := p.at[slot{dir, name}]; ok {
		return &p.names[i]
	}
	return nil
}

// add takes the next operation of the log.
func (p *redoPlan) add(op *journal.Op) error {
	none := journal.FileID{}
	switch op.Kind {
	case journal.KindCreate:
		p.born[op.ID] = birth{parent: op.Parent}
		p.set(op.Tree, op.Parent, op.Name, op.ID)
	case journal.KindTmpfile:
		p.born[op.ID] = birth{parent: journal.RootID(op.Tree)}
	case journal.KindLink:
		p.set(op.Tree, op.Parent, op.Name, op.ID)
	case journal.KindUnlink, journal.KindRmdir:
		p.set(op.Tree, op.Parent, op.Name, none)
	case journal.KindRename:
		if op.ID == op.ID2 {
			return nil // two names of one object: rename(2) does nothing
		}
		left := none
		if op.Flags&unix.RENAME_EXCHANGE != 0 {
			left = op.ID2
		}
		p.set(op.Tree, op.Parent, op.Name, left)
		p.set(op.Tree, op.Parent2, op.Name2, op.ID)
	case journal.KindTimes:
		p.setTime(op)
	case journal.KindSetAttr:
		if op.Valid&journal.SetMtime != 0 {
			p.setTime(op)
		}
	case journal.KindWrite, journal.KindFallocate, journal.KindSetXattr, journal.KindRemoveXattr, journal.KindFsync,
		journal.KindRelease, journal.KindMark, journal.KindCheckpoint, journal.KindLacks:
	default:
		return fmt.Errorf("redo: operation %d is %q, a step of a reintegration, expected none in what a receive log is asked for: "+
			"this host must be synchronized again: remove its receive log and start it with `second fullsync`", op.Seq, op.Kind)
	}
	return nil
}

// set says that a name means id from now on.
func (p *redoPlan) set(tree uint8, dir journal.FileID, name string, id journal.FileID) {
	s := slot{dir, name}
	i, ok := p.at[s]
	if !ok {
		i = len(p.names)
		p.at[s] = i
		p.names = append(p.names, finalName{slot: s, tree: tree})
	}
	p.count(p.names[i].id, -1)
	p.count(id, 1)
	p.names[i].id = id
	p.dirs[dir] = dirEnd{tree: tree}
}

// count adds n to the names of what the log makes.
func (p *redoPlan) count(id journal.FileID, n int) {
	if b, ok := p.born[id]; ok {
		b.names += n
		p.born[id] = b
	}
}

// setTime notes that a modification time is set. Those of files are none of it:
// placing names does not change them.
func (p *redoPlan) setTime(op *journal.Op) {
	if d, ok := p.dirs[op.ID]; ok {
		d.timed, d.mtime = true, op.Mtime
		p.dirs[op.ID] = d
	}
}
