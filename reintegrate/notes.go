package reintegrate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/skfs/skfs/journal"
)

// Mode is how a pass finds what SECOND lacks.
type Mode uint8

const (
	Full  Mode = iota // all directories, all files by hash
	Delta             // what is noted
	Scan              // all directories; files by size, times and identity
)

func (m Mode) String() string {
	switch m {
	case Full:
		return "full"
	case Delta:
		return "delta"
	case Scan:
		return "scan"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Notes are what SECOND may lack. *journal.Lacks has such methods.
type Notes interface {
	// Each calls f for every object with notes as they are now, each once.
	Each(f func(tree uint8, id journal.FileID, l journal.Lack) error) error
	// Get returns the notes of one object. A live operation is noted before Filter
	// is asked about it. Get is called under the locks of the object and waits for
	// nothing.
	Get(id journal.FileID) (journal.Lack, bool)
}

// after says whether a is later than b.
func after(a, b journal.Time) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}

// loader turns notes into the states that a delta begins with.
//
//	noted                        begins as
//	names, or whole: directory   dirNamed, its names are to be sent
//	attributes: directory        dirListed
//	data, or whole: others       pending, until a list names it; its turn comes by its notes
//	attributes: others           passing, with nothing of its data pending
//	gone                         pending: what is done to it while it is open stays here
//	open without a name          pending, until it is adopted
//	not noted                    settled
type loader struct {
	p       *Pass
	objects map[journal.FileID]state
	noted   map[journal.FileID]*fileRef
	dirs    map[journal.FileID]uint8
	depths  map[journal.FileID]int

	// Set when all is loaded, and the maps above, but for dirs and depths, are the
	// table's.
	attrDirs []dirRef
	sizes    []int64 // of the files of noted
}

func newLoader(p *Pass) *loader {
	return &loader{
		p: p, objects: map[journal.FileID]state{}, noted: map[journal.FileID]*fileRef{},
		dirs: map[journal.FileID]uint8{}, depths: map[journal.FileID]int{},
	}
}

// load makes the table that of a delta, and queues the directories that are noted.
// Before, everything is pending; what Filter has held back until then is noted, and
// loaded last.
func (p *Pass) load() error {
	l := newLoader(p)
	for tree, src := range p.sources {
		orphans, err := src.Orphans()
		if err != nil {
			return fmt.Errorf("open files without a name: %w", err)
		}
		for _, id := range orphans {
			l.objects[id] = pending
		}
		l.depths[journal.RootID(tree)] = 0
	}
	if err := p.o.Notes.Each(l.note); err != nil {
		return fmt.Errorf("notes of what the other host lacks: %w", err)
	}
	for range loadRounds {
		if err := l.again(p.table.takeMissed()); err != nil {
			return err
		}
	}
	if err := p.table.start(l); err != nil {
		return err
	}
	for _, d := range l.listing() {
		p.queue.addDir(d)
	}
	for _, size := range l.sizes {
		p.meter.found(size)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirs = append(p.dirs, l.attrDirs...)
	return nil
}

// loadRounds is how often what was changed during the load is loaded while other
// changes go on, before they wait for it.
const loadRounds = 3

// again loads objects of which changes were held back.
func (l *loader) again(missed map[journal.FileID]uint8) error {
	for id, tree := range missed {
		if n, ok := l.p.o.Notes.Get(id); ok {
			if err := l.note(tree, id, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// note loads the notes of one object; what was loaded of it before does not count
// any more.
func (l *loader) note(tree uint8, id journal.FileID, n journal.Lack) error {
	src := l.p.source(tree)
	if src == nil || n.Empty() {
		return nil // of a directory that is not replicated any more
	}
	delete(l.dirs, id)
	delete(l.noted, id)
	e, err := src.Stat(id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		l.objects[id] = pending
		return nil
	case err != nil:
		return fmt.Errorf("object %s, which is noted: %w", id, err)
	}
	f := fileRef{id: id, tree: tree, part: partNoted}
	switch isDir := e.Type() == sIFDIR; {
	case isDir && (n.Names || n.Whole):
		l.objects[id] = dirNamed
		l.dirs[id] = tree
		return l.measure(src, id)
	case isDir:
		l.objects[id], f.part = dirListed, partAttrs
	case n.HasData():
		l.objects[id] = pending
		if e.Type() == sIFREG {
			f.length = e.Size
			f.size = notedBytes(&n, e.Size, l.p.o.ZoneSize).bytes()
		}
	default:
		l.objects[id], f.part = passing, partAttrs
	}
	l.noted[id] = &f
	return nil
}

// end says that all is loaded.
func (l *loader) end() {
	for id, f := range l.noted {
		if l.objects[id] == dirListed {
			l.attrDirs = append(l.attrDirs, dirRef{id, f.tree})
		} else {
			l.sizes = append(l.sizes, f.size)
		}
	}
}

// notedBytes is the region that is noted of a file of that size.
func notedBytes(n *journal.Lack, size, zoneSize int64) *region {
	if n.Whole {
		return newRegion(size)
	}
	r := &region{}
	n.Ranges(size, zoneSize, r.add)
	return r
}

// measure notes how deep a directory lies.
func (l *loader) measure(src Source, dir journal.FileID) error {
	var path []journal.FileID
	depth := math.MaxInt32 // it is being removed, or moved
	for at := dir; len(path) < maxDepth; {
		if d, ok := l.depths[at]; ok {
			depth = d
			break
		}
		path = append(path, at)
		up, err := src.Parent(at)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("directory above %s: %w", at, err)
		}
		at = up
	}
	if depth == math.MaxInt32 {
		return nil
	}
	for _, id := range slices.Backward(path) {
		depth++
		l.depths[id] = depth
	}
	return nil
}

// maxDepth is more than any path can have.
const maxDepth = 1 << 20

// listing returns the directories whose names are to be sent, from the top down:
// SECOND then has each of them, and where it is here, when its turn comes.
func (l *loader) listing() []dirRef {
	dirs := make([]dirRef, 0, len(l.dirs))
	for id, tree := range l.dirs {
		dirs = append(dirs, dirRef{id, tree})
	}
	depth := func(d dirRef) int {
		if n, ok := l.depths[d.id]; ok {
			return n
		}
		return math.MaxInt32
	}
	slices.SortFunc(dirs, func(a, b dirRef) int { return cmp.Compare(depth(a), depth(b)) })
	return dirs
}
