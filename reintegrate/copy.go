package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
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

	first journal.Seq // the first operation of the object at hand, zero: none yet
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
			qs = append(qs, question{f.id, 0, blocks(f.length, c.p.o.BlockSize) * bs})
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
	return !f.fresh && !f.again && f.size > 0 && f.length <= c.p.o.ZoneSize
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
		c.p.begun(f.id, 0)
		c.p.table.settle(f.id)
		c.p.meter.gone(f.size)
		return nil
	}
	return err
}

// wanted is what of a file of that size is to be copied. Its locks are held.
func (c *copier) wanted(f *fileRef, size int64) *region {
	switch f.part {
	case partAttrs:
		return &region{}
	case partNoted:
		n, _ := c.p.o.Notes.Get(f.id)
		return notedBytes(&n, size, c.p.o.ZoneSize)
	}
	return newRegion(size)
}

// copySmall sends data and attributes of an object whose data fit one zone, or of
// which no data is to be sent. True: they do not, and nothing has been done. f.size
// becomes the part of the file that is still to be counted.
func (c *copier) copySmall(f *fileRef, t theirs) (large bool, err error) {
	p := c.p
	var d delta
	var regular bool
	c.first = 0
	err = p.source(f.tree).WithObject(f.id, func(a *Attrs, file File) error {
		if f.part == partAttrs && !p.table.attrsOnly(f.id) {
			return nil // started again by Failed: another worker does it all
		}
		if regular = file != nil; regular {
			n := c.wanted(f, a.Size).bytes()
			if large = n > 0 && a.Size > p.o.ZoneSize; large {
				return nil
			}
			p.meter.resized(f.size, n)
			if f.size = n; n > 0 {
				p.meter.opened()
				var err error
				if d, err = c.send(f, file, Range{End: a.Size}, t); err != nil {
					return err
				}
			}
		}
		seq, err := p.sendAttrs(f.tree, f.id, a)
		if c.note(seq); err == nil && f.again {
			p.begun(f.id, c.first)
		}
		return err
	})
	if large || err != nil {
		return large, err
	}
	p.meter.passed(time.Now(), f.size, &d)
	c.done(f, regular, d.bytes())
	return false, nil
}

// copyLarge sends a file zone by zone. At its start SECOND's file gets the size
// that PRIM's has, and from then on only the bytes that are still to be copied are
// pending, up to that size: whatever is appended meanwhile is forwarded, so a file
// that grows faster than it can be copied still comes to its end.
func (c *copier) copyLarge(ctx context.Context, f *fileRef) error {
	p, src := c.p, c.p.source(f.tree)
	var r *region
	err := src.WithObject(f.id, func(a *Attrs, _ File) error {
		r = c.wanted(f, a.Size)
		p.meter.resized(f.size, r.bytes())
		f.size = r.bytes()
		op := &journal.Op{Kind: journal.KindSetAttr, Tree: f.tree, ID: f.id, Flags: FlagPass, Valid: journal.SetSize, Off: a.Size}
		if err := p.s.Post(op); err != nil {
			return err
		}
		p.table.begin(f.id, r)
		if f.again {
			p.begun(f.id, op.Seq)
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.meter.opened()
	var copied, uncommitted int64
	off, err := c.passHole(f, r, 0)
	if err != nil {
		return err
	}
	at, more, ahead, err := c.askNext(f, r, off)
	for more && err == nil {
		var t theirs
		if t, err = ahead(); err != nil {
			break
		}
		now := at
		if at, more, ahead, err = c.askNext(f, r, zoneEnd(now.Off, p.o.ZoneSize)); err != nil {
			break
		}
		var d delta
		var n int64
		err = src.WithRange(f.id, now.Off, zoneEnd(now.Off, p.o.ZoneSize)-now.Off, func(file File) error {
			left, ok := p.table.next(f.id, r, now.Off, p.o.ZoneSize)
			if !ok {
				return nil // it was cut meanwhile
			}
			var err error
			if d, err = c.send(f, file, left, t); err != nil {
				return err
			}
			n = left.End - left.Off
			p.table.advance(r, left.End)
			return nil
		})
		if err != nil {
			break
		}
		p.meter.passed(time.Now(), n, &d)
		f.size -= n
		copied += d.bytes()
		if err = c.commit(f, &uncommitted, d.bytes()); err != nil {
			break
		}
		if err = c.pay(ctx); err != nil || !more {
			break
		}
		if off, err = c.passHole(f, r, at.Off); err == nil && off > at.Off {
			if _, err = ahead(); err == nil { // of what was not known to be a hole
				at, more, ahead, err = c.askNext(f, r, off)
			}
		}
	}
	if err != nil {
		return err
	}
	err = src.WithObject(f.id, func(a *Attrs, _ File) error {
		if !p.table.owns(f.id, r) {
			return nil // started again by Failed: another worker does it all
		}
		_, err := p.sendAttrs(f.tree, f.id, a)
		return err
	})
	if err != nil {
		return err
	}
	p.meter.resized(f.size, 0) // it was cut meanwhile
	c.done(f, true, copied)
	return nil
}

// passHole passes the hole at off, where nothing before it is pending, if it is of
// holeZones at least, and returns its end; off if there is none. It costs nothing but a look, whatever its
// size: comparing it zone by zone would cost as much as comparing bytes.
func (c *copier) passHole(f *fileRef, r *region, off int64) (end int64, err error) {
	p := c.p
	least, end := p.o.holeZones*p.o.ZoneSize, off
	part, more := p.table.next(f.id, r, off, math.MaxInt64)
	if !more || part.End-part.Off < least {
		return off, nil
	}
	var n int64
	err = p.source(f.tree).WithRange(f.id, part.Off, part.End-part.Off, func(file File) error {
		left, ok := p.table.next(f.id, r, part.Off, math.MaxInt64)
		if !ok {
			return nil // it was cut meanwhile
		}
		to, err := holeEnd(file, left, p.o.ZoneSize)
		if err != nil || to-left.Off < least {
			return err
		}
		if !f.fresh || f.again {
			op := &journal.Op{Kind: journal.KindPunch, Tree: f.tree, ID: f.id, Off: left.Off, Len: to - left.Off}
			if err := p.s.Post(op); err != nil {
				return err
			}
			c.note(op.Seq)
		}
		p.table.advance(r, to)
		end, n = to, to-left.Off
		return nil
	})
	if n > 0 {
		p.meter.passed(time.Now(), n, &delta{})
		f.size -= n
	}
	return end, err
}

// holeEnd is where the hole at the beginning of part ends, in whole zones unless it is
// all of part. It looks no more than twice as far.
func holeEnd(f File, part Range, zoneSize int64) (int64, error) {
	size := part.End - part.Off
	for n := min(zoneSize, size); ; n += min(n, size-n) {
		data, err := f.DataRanges(part.Off, n)
		switch {
		case err != nil:
			return part.Off, err
		case len(data) > 0:
			return max(part.Off, data[0].Off/zoneSize*zoneSize), nil
		case n == size:
			return part.End, nil
		}
	}
}

// askNext asks for the hashes of what is pending from off on, in one zone. False:
// nothing is.
func (c *copier) askNext(f *fileRef, r *region, off int64) (at Range, more bool, ahead func() (theirs, error), err error) {
	at, more = c.p.table.next(f.id, r, off, c.p.o.ZoneSize)
	if !more || f.fresh || f.again {
		t := theirs{}
		if f.fresh && !f.again {
			t = nothing
		}
		return at, more, func() (theirs, error) { return t, nil }, nil
	}
	wait, err := c.startAsk(f.tree, []question{{f.id, at.Off, at.End - at.Off}})
	return at, more, func() (theirs, error) {
		ts, err := wait()
		if err != nil {
			return theirs{}, err
		}
		return ts[0], nil
	}, err
}

// send puts what differs in a range of a file into the stream. The range is locked.
// The bytes stay in c.buf until wait.
func (c *copier) send(f *fileRef, file File, r Range, t theirs) (delta, error) {
	if int64(len(c.buf)-c.used) < r.End-r.Off {
		if err := c.wait(); err != nil {
			return delta{}, err
		}
	}
	d, err := compare(file, r.Off, r.End, c.p.o.BlockSize, c.p.o.Packet, t, c.buf[c.used:])
	if err != nil {
		return d, err
	}
	for _, s := range d.segments {
		op := &journal.Op{Kind: journal.KindPunch, Tree: f.tree, ID: f.id, Off: s.Off, Len: s.End - s.Off}
		if s.data == nil {
			if err := c.p.s.Post(op); err != nil {
				return d, err
			}
			c.note(op.Seq)
			continue
		}
		op.Kind, op.Flags, op.Len, op.Data = journal.KindWrite, FlagPass, 0, s.data
		if c.last, err = c.p.s.Submit(op); err != nil {
			return d, err
		}
		c.note(c.last)
	}
	if n := d.bytes(); n > 0 {
		c.used += int(r.End - r.Off)
		c.sent += n
	}
	return d, nil
}

// note takes the number of an operation of the object at hand.
func (c *copier) note(seq journal.Seq) {
	if c.first == 0 {
		c.first = seq
	}
}

// wait makes the buffer free again.
func (c *copier) wait() error {
	if c.used == 0 {
		return nil
	}
	c.used = 0
	return c.p.s.Wait(c.last)
}

// commit has SECOND flush a file of which n more bytes were sent, if they are enough
// by now (reicommit), and waits for it.
func (c *copier) commit(f *fileRef, uncommitted *int64, n int64) error {
	if *uncommitted += n; c.p.o.Commit == 0 || *uncommitted < c.p.o.Commit {
		return nil
	}
	*uncommitted = 0
	a, err := c.p.s.Start(&journal.Op{Kind: journal.KindFsync, Flags: FlagPass | journal.FsyncDataOnly, Tree: f.tree, ID: f.id})
	if err != nil {
		return err
	}
	if _, err = answer(a); errors.Is(err, syscall.ENOENT) {
		return nil // it has gone
	}
	return err
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
