package reintegrate

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// asked is a directory of which names have been sent.
type asked struct {
	dir     dirRef
	put     bool // single names, put there by a live operation
	answers []Answer
	entries []askedEntry
}

type askedEntry struct {
	fileRef
	met     meeting
	isDir   bool
	changed bool // scan: lately, by its ctime here
}

// walkAhead bounds the lists that wait for their answers.
const walkAhead = 32

// walk lists directories as they come: breadth first from the roots, or in a delta
// those that are noted, from the top down. What the answers say is collected beside
// it, so that one round trip does not wait for the one before.
func (p *Pass) walk() error {
	for {
		d, err := p.queue.takeDir()
		if err != nil {
			return left(err)
		}
		if p.table.delta && !p.reachable(d) {
			p.queue.later(d, fmt.Errorf("names of directory %s: the directories above it cannot be made as they are here", d.id))
			p.queue.doneDir()
			continue
		}
		l, err := p.list(d)
		if err != nil {
			p.queue.doneDir()
			if errors.Is(err, os.ErrNotExist) && l == nil {
				p.begun(d.id, 0) // removed meanwhile
				continue
			}
			p.fail(fmt.Errorf("directory %s: %w", d.id, err))
			continue
		}
		p.queue.answerTo(l)
	}
}

// reachable says whether SECOND has a directory, and where PRIM has it: its turn has
// come. What has been removed is found out by listing it.
func (p *Pass) reachable(d dirRef) bool {
	if d.id == journal.RootID(d.tree) {
		return true
	}
	up, err := p.source(d.tree).Parent(d.id)
	return err != nil || p.inPlace(d.tree, up)
}

// collectAnswers takes what SECOND says about names until the pass is over.
func (p *Pass) collectAnswers() error {
	for {
		l, err := p.queue.takeAsked()
		if err != nil {
			return left(err)
		}
		if err := p.collect(l); err != nil {
			p.fail(err)
		}
		p.queue.doneDir()
	}
}

// left is nil for who leaves because the pass is over.
func left(err error) error {
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// list sends the names of a directory while they cannot change. From then on
// changes of them are forwarded. The list is not nil if anything was sent.
func (p *Pass) list(d dirRef) (*asked, error) {
	var l *asked
	err := p.source(d.tree).WithDir(d.id, func(entries []Entry) error {
		l = &asked{dir: d, entries: make([]askedEntry, len(entries))}
		for i := range entries {
			l.entries[i] = p.suspend(d.tree, &entries[i])
		}
		first, err := p.sendNames(l, entries)
		if err != nil {
			return err
		}
		p.begun(d.id, first)
		p.table.list(d.id)
		for i := range entries {
			met := p.table.found(&entries[i])
			if p.table.delta {
				continue // the answer says what becomes of it
			}
			a := &l.entries[i]
			if a.met = met; met == metNew && a.isDir {
				p.queue.addDir(dirRef{a.id, d.tree})
			}
		}
		p.mu.Lock()
		p.dirs = append(p.dirs, d)
		p.mu.Unlock()
		p.meter.listed()
		return nil
	})
	return l, err
}

// suspend describes an entry that SECOND is about to be told of.
func (p *Pass) suspend(tree uint8, e *Entry) askedEntry {
	a := askedEntry{fileRef: refOf(tree, e), isDir: e.Type() == sIFDIR}
	switch p.o.Mode {
	case Scan:
		a.changed = after(e.Ctime, p.o.Since)
	case Delta:
		a.met = p.table.suspend(e.ID)
	}
	return a
}

// refOf is the object of an entry, all of which is to be passed.
func refOf(tree uint8, e *Entry) fileRef {
	f := fileRef{id: e.ID, tree: tree}
	if e.Type() == sIFREG {
		f.size, f.length = e.Size, e.Size
	}
	return f
}

// sendNames sends the entries in parts, the first of which is operation first.
func (p *Pass) sendNames(l *asked, entries []Entry) (first journal.Seq, err error) {
	var vouch uint32
	if p.o.Mode != Full {
		vouch = DirVouch
	}
	data := make([]byte, 0, min(len(entries)*160, maxPart+maxTarget+512))
	for i := 0; ; {
		data = data[:0]
		for i < len(entries) && len(data) < maxPart {
			data = appendEntry(data, &entries[i])
			i++
		}
		op := &journal.Op{Kind: journal.KindSyncDir, Tree: l.dir.tree, ID: l.dir.id, Flags: vouch, Data: data}
		last := i == len(entries)
		if !last {
			op.Flags, op.Data = vouch|DirMore, append([]byte(nil), data...)
		}
		a, err := p.s.Start(op)
		if err != nil {
			return first, err
		}
		l.answers = append(l.answers, a)
		if first == 0 {
			first = op.Seq
		}
		if last {
			return first, nil
		}
	}
}

// collect takes what SECOND says about the names of a directory, and queues what
// has to be passed.
func (p *Pass) collect(l *asked) error {
	var said []byte
	for _, a := range l.answers {
		data, err := answer(a)
		switch {
		case err != nil && p.table.delta && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL)):
			return p.later(l, err)
		case err != nil:
			return fmt.Errorf("names of directory %s: %w", l.dir.id, err)
		}
		said = append(said, data...)
	}
	if len(said) != len(l.entries) {
		return fmt.Errorf("names of directory %s: %w: answer for %d entries, expected %d", l.dir.id, errPayload, len(said), len(l.entries))
	}
	if !l.put {
		p.queue.listed()
	}
	for i := range l.entries {
		switch e := &l.entries[i]; p.o.Mode {
		case Full:
			p.collectFull(e, said[i])
		case Scan:
			p.collectScan(e, said[i])
		case Delta:
			p.collectDelta(e, said[i])
		}
	}
	return nil
}

// collectFull: what SECOND had to create although the pass had already been there
// has been lost on the way, by an operation that failed: it is passed again.
func (p *Pass) collectFull(e *askedEntry, said byte) {
	known := e.met == metKnown
	e.fresh = said&entryCreated != 0
	switch {
	case known && !e.fresh:
	case e.isDir:
		if known {
			p.queue.addDir(dirRef{e.id, e.tree})
		}
	default:
		e.again = known
		p.addFile(e.fileRef)
	}
}

// collectScan: a file of which nothing says that it differs is settled unread.
func (p *Pass) collectScan(e *askedEntry, said byte) {
	same := said == 0 && !e.changed
	if e.isDir || e.met == metKnown || !same || !p.table.vouch(e.id) {
		p.collectFull(e, said)
	}
}

// collectDelta: what is not noted is passed only if SECOND did not have it, or not
// as it is here, or if it was changed since SECOND was asked.
func (p *Pass) collectDelta(e *askedEntry, said byte) {
	created := said&entryCreated != 0
	if e.isDir {
		switch {
		case said == 0 && (e.met != metNew || p.table.vouch(e.id)):
		case e.met == metNew,
			created && p.table.get(e.id) != dirNamed, // else its turn is to come
			p.table.takeNoted(e.id) != nil:           // for its attributes alone
			p.queue.addDir(dirRef{e.id, e.tree})
		}
		return
	}
	e.fresh = created
	if said&(entryCreated|entryStub) != 0 {
		// Its notes tell what was changed of an object that SECOND had, and it has not.
		if n := p.table.takeNoted(e.id); n != nil {
			p.meter.gone(n.size)
			e.met = metNew
		}
	}
	switch {
	case e.met != metNew && created:
		e.again = true
	case e.met != metNew:
		return
	case said != 0:
	case p.table.vouch(e.id):
		return
	default:
		e.part = partNoted
	}
	p.addFile(e.fileRef)
}

// later makes the names of a directory pending again that SECOND could not make so
// now: it does not have the directory, or one that is to be moved into it is above
// it there. That comes from what went on meanwhile, or from what SECOND did alone.
// There is always one that can be listed: nothing above it is pending. So those that
// could not are tried again after the others.
func (p *Pass) later(l *asked, why error) error {
	for i := range l.entries {
		if e := &l.entries[i]; e.met == metNew {
			p.table.forget(e.id)
		}
	}
	d := l.dir
	err := p.source(d.tree).WithObject(d.id, func(*Attrs, File) error {
		p.table.demote(d.id)
		return nil
	})
	switch {
	case errors.Is(err, os.ErrNotExist): // removed meanwhile
		return nil
	case err != nil:
		return fmt.Errorf("directory %s: %w", d.id, err)
	}
	p.queue.later(d, fmt.Errorf("names of directory %s: %w", d.id, why))
	return nil
}

func (p *Pass) addFile(f fileRef) {
	p.meter.found(f.size)
	p.queue.addFile(f)
}

// found queues what Filter has put into a listed directory.
func (p *Pass) found(tree uint8, e *Entry) {
	switch {
	case p.table.found(e) != metNew:
	case e.Type() == sIFDIR:
		p.queue.addDir(dirRef{e.ID, tree})
	default:
		p.addFile(refOf(tree, e))
	}
}
