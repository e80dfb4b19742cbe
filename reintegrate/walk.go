package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/journal"
)

// asked is a directory whose names have been sent.
type asked struct {
	dir     dirRef
	answers []Answer
	refs    []fileRef // of its entries, in order
	known   []bool    // the entry was known before
	isDir   []bool
}

// walkAhead bounds the directories that wait for their answers.
const walkAhead = 32

// walk lists directories as they come, breadth first from the roots. What the
// answers say of their files is collected beside it, so that one round trip does
// not wait for the one before.
func (p *Pass) walk(ctx context.Context) error {
	lists := make(chan asked, walkAhead)
	var g errgroup.Group
	g.Go(func() error {
		for l := range lists {
			if err := p.collect(&l); err != nil {
				p.fail(err)
			}
			p.queue.doneDir()
		}
		return nil
	})
	defer g.Wait()
	defer close(lists)
	for {
		d, err := p.queue.takeDir()
		if err != nil {
			return left(err)
		}
		l, err := p.list(d)
		if err != nil {
			p.queue.doneDir()
			if errors.Is(err, os.ErrNotExist) && l == nil {
				continue // removed meanwhile
			}
			p.fail(fmt.Errorf("directory %s: %w", d.id, err))
			continue
		}
		select {
		case lists <- *l:
		case <-ctx.Done():
			p.queue.doneDir()
			return nil // Run knows why
		}
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
		l = &asked{dir: d, refs: make([]fileRef, len(entries)), known: make([]bool, len(entries)), isDir: make([]bool, len(entries))}
		if err := p.sendNames(l, entries); err != nil {
			return err
		}
		p.table.list(d.id)
		for i := range entries {
			e := &entries[i]
			l.refs[i] = fileRef{id: e.ID, size: e.Size, tree: d.tree}
			l.isDir[i] = e.Type() == sIFDIR
			l.known[i] = !p.table.found(e)
			if e.Type() != sIFREG {
				l.refs[i].size = 0
			}
			if l.isDir[i] && !l.known[i] {
				p.queue.addDir(dirRef{e.ID, d.tree})
			}
		}
		p.mu.Lock()
		p.dirs = append(p.dirs, d)
		p.mu.Unlock()
		return nil
	})
	return l, err
}

// sendNames sends the entries in parts.
func (p *Pass) sendNames(l *asked, entries []Entry) error {
	data := make([]byte, 0, min(len(entries)*160, maxPart+maxTarget+512))
	for i := 0; ; {
		data = data[:0]
		for i < len(entries) && len(data) < maxPart {
			data = appendEntry(data, &entries[i])
			i++
		}
		op := &journal.Op{Kind: journal.KindSyncDir, Tree: l.dir.tree, ID: l.dir.id, Data: data}
		last := i == len(entries)
		if !last {
			op.Flags, op.Data = DirMore, append([]byte(nil), data...)
		}
		a, err := p.s.Start(op)
		if err != nil {
			return err
		}
		l.answers = append(l.answers, a)
		if last {
			return nil
		}
	}
}

// collect takes what SECOND says about the names of a directory and queues the
// files. What it had to create although the pass had already been there has been
// lost on the way, by an operation that failed: it is passed again.
func (p *Pass) collect(l *asked) error {
	var made []byte
	for _, a := range l.answers {
		data, err := answer(a)
		if err != nil {
			return fmt.Errorf("names of directory %s: %w", l.dir.id, err)
		}
		made = append(made, data...)
	}
	if len(made) != len(l.refs) {
		return fmt.Errorf("names of directory %s: %w: answer for %d entries, expected %d", l.dir.id, errPayload, len(made), len(l.refs))
	}
	for i, f := range l.refs {
		f.fresh = made[i]&entryCreated != 0
		switch {
		case l.known[i] && !f.fresh:
		case l.isDir[i]:
			if l.known[i] {
				p.queue.addDir(dirRef{f.id, f.tree})
			}
		default:
			f.again = l.known[i]
			p.addFile(f)
		}
	}
	return nil
}

func (p *Pass) addFile(f fileRef) {
	p.meter.found(f.size)
	p.queue.addFile(f)
}

// found queues what Filter has put into a listed directory.
func (p *Pass) found(tree uint8, e *Entry) {
	if !p.table.found(e) {
		return
	}
	if e.Type() == sIFDIR {
		p.queue.addDir(dirRef{e.ID, tree})
		return
	}
	f := fileRef{id: e.ID, tree: tree}
	if e.Type() == sIFREG {
		f.size = e.Size
	}
	p.addFile(f)
}
