package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/skfs/skfs/journal"
)

// copier is one of the workers that copy files.
type copier struct {
	p    *Pass
	buf  []byte // ZoneSize bytes
	used int    // of buf, referenced by operations up to last
	last journal.Seq
	sent int64 // bytes, not yet paid for
}

// copyFiles copies files until the pass is over.
func (p *Pass) copyFiles(ctx context.Context) error {
	c := &copier{p: p, buf: make([]byte, p.o.ZoneSize)}
	var batch []fileRef
	for {
		var err error
		if batch, err = p.queue.takeFiles(batch, p.o.ZoneSize, p.o.Workers); err != nil {
			return left(err)
		}
		err = c.copyBatch(ctx, batch)
		if err != nil {
			p.fail(err)
		}
		p.queue.doneFiles()
	}
}

// copyBatch asks once for the hashes of all small files of a batch, then copies
// file after file.
func (c *copier) copyBatch(ctx context.Context, batch []fileRef) error {
	var qs []question
	for _, f := range batch {
		if c.asks(f) {
			// Whole blocks: it may have grown when its turn comes.
			bs := int64(c.p.o.BlockSize)
			qs = append(qs, question{f.id, 0, blocks(f.size, c.p.o.BlockSize) * bs})
		}
	}
	hashes, err := c.ask(batch[0].tree, qs)
	if err != nil {
		return err
	}
	for _, f := range batch {
		t := theirs{}
		switch {
		case c.asks(f):
			t, hashes = hashes[0], hashes[1:]
		case f.fresh && !f.again:
			t = nothing
		}
		if err := c.copyFile(ctx, f, t); err != nil {
			return fmt.Errorf("object %s: %w", f.id, err)
		}
		if err := c.pay(ctx); err != nil {
			return err
		}
	}
	return c.wait()
}

// asks says whether the hashes of a file are asked for with those of its batch.
func (c *copier) asks(f fileRef) bool {
	return !f.fresh && !f.again && f.size > 0 && f.size <= c.p.o.ZoneSize
}

// ask waits for the hashes of ranges.
func (c *copier) ask(tree uint8, qs []question) ([]theirs, error) {
	wait, err := c.startAsk(tree, qs)
	if err != nil {
		return nil, err
	}
	return wait()
}

// startAsk sends a question; what it returns waits for the answer. SECOND may
// answer it beside operations that were numbered before: it is asked about
// pending bytes only, which none of them changes.
func (c *copier) startAsk(tree uint8, qs []question) (func() ([]theirs, error), error) {
	if len(qs) == 0 {
		return func() ([]theirs, error) { return nil, nil }, nil
	}
	a, err := c.p.s.Start(&journal.Op{Kind: journal.KindSyncHash, Tree: tree, Data: appendQuestions(nil, c.p.o.BlockSize, qs)})
	if err != nil {
		return nil, err
	}
	return func() ([]theirs, error) {
		data, err := answer(a)
		if err != nil {
			return nil, fmt.Errorf("hashes: %w", err)
		}
		return parseHashes(data, c.p.o.BlockSize, qs)
	}, nil
}

// copyFile passes one object: a small one at once, under all its locks; a large
// file zone by zone.
func (c *copier) copyFile(ctx context.Context, f fileRef, t theirs) error {
	large, err := c.copySmall(&f, t)
	if large && err == nil {
		err = c.copyLarge(ctx, &f)
	}
	if errors.Is(err, os.ErrNotExist) {
		// It has lost its last name and nobody has it open. Should somebody have,
		// then what becomes of it matters to nobody after a failover: let changes
		// go through, as they do for an object that is complete.
		c.p.table.settle(f.id)
		c.p.meter.gone(f.size)
		return nil
	}
	return err
}

// copySmall sends data and attributes of an object whose data fit one zone. True:
// they do not, and nothing has been done. f.size becomes the part of the file
// that is still to be counted.
func (c *copier) copySmall(f *fileRef, t theirs) (large bool, err error) {
	p := c.p
	var d delta
	var regular bool
	err = p.source(f.tree).WithObject(f.id, func(a *Attrs, file File) error {
		if regular = file != nil; regular {
			if large = a.Size > p.o.ZoneSize; large {
				return nil
			}
			p.meter.resized(f.size, a.Size)
			f.size = a.Size
			var err error
			if d, err = c.send(f, file, 0, a.Size, t); err != nil {
				return err
			}
		}
		return p.sendAttrs(f.tree, f.id, a)
	})
	if large || err != nil {
		return large, err
	}
	p.meter.passed(time.Now(), f.size, d.bytes(), d.compared)
	c.done(f, regular, d.bytes())
	return false, nil
}

// copyLarge sends a file zone by zone. At its start SECOND's file gets the size
// that PRIM's has, and from then on only the bytes between the frontier and that
// end are pending: whatever is appended meanwhile is forwarded, so a file that
// grows faster than it can be copied still comes to its end.
func (c *copier) copyLarge(ctx context.Context, f *fileRef) error {
	p, src := c.p, c.p.source(f.tree)
	var r *region
	err := src.WithObject(f.id, func(a *Attrs, _ File) error {
		p.meter.resized(f.size, a.Size)
		f.size = a.Size
		err := p.s.Post(&journal.Op{Kind: journal.KindSetAttr, Tree: f.tree, ID: f.id, Flags: FlagPass, Valid: journal.SetSize, Off: a.Size})
		if err == nil {
			r = p.table.begin(f.id, a.Size)
		}
		return err
	})
	if err != nil {
		return err
	}
	var copied int64
	ahead, err := c.askZone(f, r, 0)
	if err != nil {
		return err
	}
	for off, more := int64(0), true; more; off += p.o.ZoneSize {
		t, err := ahead()
		if err != nil {
			return err
		}
		if ahead, err = c.askZone(f, r, off+p.o.ZoneSize); err != nil {
			return err
		}
		var d delta
		var n int64
		err = src.WithRange(f.id, off, p.o.ZoneSize, func(file File) error {
			var end int64
			if end, more = p.table.next(f.id, r, off, p.o.ZoneSize); !more {
				return nil
			}
			var err error
			if d, err = c.send(f, file, off, end, t); err != nil {
				return err
			}
			n = end - off
			p.table.advance(r, off+p.o.ZoneSize)
			return nil
		})
		if err != nil {
			return err
		}
		p.meter.passed(time.Now(), n, d.bytes(), d.compared)
		f.size -= n
		copied += d.bytes()
		if err := c.pay(ctx); err != nil {
			return err
		}
	}
	err = src.WithObject(f.id, func(a *Attrs, _ File) error {
		if !p.table.owns(f.id, r) {
			return nil // started again by Failed: another worker does it all
		}
		return p.sendAttrs(f.tree, f.id, a)
	})
	if err != nil {
		return err
	}
	p.meter.resized(f.size, 0) // it was cut meanwhile
	c.done(f, true, copied)
	return nil
}

// askZone asks for the hashes of the pending part of the zone at off.
func (c *copier) askZone(f *fileRef, r *region, off int64) (func() (theirs, error), error) {
	end, ok := c.p.table.next(f.id, r, off, c.p.o.ZoneSize)
	if !ok || f.fresh || f.again {
		t := theirs{}
		if f.fresh && !f.again {
			t = nothing
		}
		return func() (theirs, error) { return t, nil }, nil
	}
	wait, err := c.startAsk(f.tree, []question{{f.id, off, end - off}})
	return func() (theirs, error) {
		ts, err := wait()
		if err != nil {
			return theirs{}, err
		}
		return ts[0], nil
	}, err
}

// send puts what differs in [off, end) of a file into the stream. The range is
// locked. The bytes stay in c.buf until wait.
func (c *copier) send(f *fileRef, file File, off, end int64, t theirs) (delta, error) {
	if int64(len(c.buf)-c.used) < end-off {
		if err := c.wait(); err != nil {
			return delta{}, err
		}
	}
	d, err := compare(file, off, end, c.p.o.BlockSize, t, c.buf[c.used:])
	if err != nil {
		return d, err
	}
	for _, s := range d.segments {
		op := &journal.Op{Kind: journal.KindPunch, Tree: f.tree, ID: f.id, Off: s.Off, Len: s.End - s.Off}
		if s.data == nil {
			if err := c.p.s.Post(op); err != nil {
				return d, err
			}
			continue
		}
		op.Kind, op.Flags, op.Len, op.Data = journal.KindWrite, FlagPass, 0, s.data
		if c.last, err = c.p.s.Submit(op); err != nil {
			return d, err
		}
	}
	if n := d.bytes(); n > 0 {
		c.used += int(end - off)
		c.sent += n
	}
	return d, nil
}

// wait makes the buffer free again.
func (c *copier) wait() error {
	if c.used == 0 {
		return nil
	}
	c.used = 0
	return c.p.s.Wait(c.last)
}

// pay waits, with nothing locked, until the limit allows what was sent.
func (c *copier) pay(ctx context.Context) error {
	n := c.sent
	c.sent = 0
	return c.p.limit.pay(ctx, n)
}

func (c *copier) done(f *fileRef, regular bool, copied int64) {
	c.p.meter.done(regular, copied > 0)
	if copied > 0 && c.p.o.Detail {
		c.p.o.Logf("Copied %d bytes of object %s", copied, f.id)
	}
}

// bytes is how many bytes of content d sends.
func (d *delta) bytes() (n int64) {
	for _, s := range d.segments {
		if s.data != nil {
			n += s.End - s.Off
		}
	}
	return n
}
