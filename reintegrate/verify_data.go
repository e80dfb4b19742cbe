package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/skfs/skfs/journal"
)

// verifyFile is a file whose content is to be compared.
type verifyFile struct {
	verifyDir
	size         int64 // the greater one
	mine, theirs int64 // sizes that were compared while they could not change; else both 0
}

// compareFiles compares files as they come, many small ones at once.
func (v *Verification) compareFiles(ctx context.Context) error {
	var left *verifyFile // taken, but not of the batch
	for {
		batch, open := v.takeBatch(&left)
		if len(batch) == 0 {
			return context.Cause(ctx)
		}
		if err := v.compareBatch(ctx, batch); err != nil {
			return err
		}
		if !open && left == nil {
			return nil
		}
	}
}

// takeBatch takes the files that are there, up to a zone; a larger one alone.
func (v *Verification) takeBatch(left **verifyFile) (batch []verifyFile, open bool) {
	if *left != nil {
		batch = append(batch, **left)
		*left = nil
	} else {
		f, ok := <-v.files
		if !ok {
			return nil, false
		}
		batch = append(batch, f)
	}
	for sum := batch[0].size; len(batch) < maxBatch; {
		select {
		case f, ok := <-v.files:
			if !ok {
				return batch, false
			}
			if sum += f.size; sum > v.o.ZoneSize || f.tree != batch[0].tree {
				*left = &f
				return batch, true
			}
			batch = append(batch, f)
		default:
			return batch, true
		}
	}
	return batch, true
}

// compareBatch looks at the files of a batch, without locks, and then again at what
// differs.
func (v *Verification) compareBatch(ctx context.Context, batch []verifyFile) error {
	bs := int64(v.o.BlockSize)
	found := make([][]Range, len(batch))
	for off := int64(0); ; off += v.o.ZoneSize { // more than one only for a large file, which is alone
		qs := make([]question, len(batch))
		var bytes int64
		for i := range batch {
			n := max(0, min(batch[i].size-off, v.o.ZoneSize))
			bytes += n
			qs[i] = question{batch[i].id, off, (n + bs - 1) / bs * bs}
		}
		suspects, err := v.look(batch[0].tree, qs)
		if err != nil {
			return err
		}
		for i, s := range suspects {
			if s == (Range{}) {
				continue
			}
			rs, err := v.rangeAgain(ctx, &batch[i], s)
			if err != nil {
				return fmt.Errorf("object %s: %w", batch[i].id, err)
			}
			found[i] = append(found[i], rs...)
		}
		v.meter.passed(time.Now(), bytes, &delta{compared: bytes, read: bytes})
		if err := v.limit.pay(ctx, bytes); err != nil {
			return err
		}
		if len(batch) > 1 || off+v.o.ZoneSize >= batch[0].size {
			break
		}
	}
	for i := range batch {
		f := &batch[i]
		v.regular.Add(1)
		v.meter.done(true, false)
		diff := Difference{Tree: f.tree, Path: f.path, ID: f.id, What: WhatData, Ranges: found[i]}
		if f.mine != f.theirs {
			diff.Ranges = append(diff.Ranges, Range{Off: min(f.mine, f.theirs), End: max(f.mine, f.theirs)})
			diff.Detail = fmt.Sprintf("%d bytes, on the secondary %d", f.mine, f.theirs)
		}
		if diff.Ranges = joinRanges(diff.Ranges); len(diff.Ranges) == 0 {
			continue
		}
		if err := v.report(diff); err != nil {
			return err
		}
	}
	return nil
}

// joinRanges joins ranges, of which the last may begin anywhere.
func joinRanges(rs []Range) []Range {
	var out []Range
	for _, r := range rs {
		for len(out) > 0 && r.Off <= out[len(out)-1].End {
			last := out[len(out)-1]
			r = Range{Off: min(r.Off, last.Off), End: max(r.End, last.End)}
			out = out[:len(out)-1]
		}
		out = append(out, r)
	}
	return out
}

// look returns, for each question, what may differ: from the first block that does
// to the last. PRIM hashes while SECOND does.
func (v *Verification) look(tree uint8, qs []question) ([]Range, error) {
	wait, err := v.askHashes(tree, qs)
	if err != nil {
		return nil, err
	}
	src := v.trees[tree]
	mine := make([][]blockHash, len(qs))
	gone := make([]bool, len(qs))
	for i, q := range qs {
		switch mine[i], err = hashFile(src, q, v.o.BlockSize); {
		case errors.Is(err, os.ErrNotExist):
			gone[i] = true
		case err != nil:
			wait()
			return nil, fmt.Errorf("object %s: %w", q.ID, err)
		}
	}
	theirs, err := wait()
	if err != nil {
		return nil, err
	}
	suspects := make([]Range, len(qs))
	for i, q := range qs {
		if gone[i] {
			continue
		}
		if rs := v.unequal(q, mine[i], theirs[i], math.MaxInt64); len(rs) > 0 {
			suspects[i] = Range{Off: rs[0].Off, End: rs[len(rs)-1].End}
		}
	}
	return suspects, nil
}

// askHashes sends a question; what it returns waits for the answer.
func (v *Verification) askHashes(tree uint8, qs []question) (func() ([]theirs, error), error) {
	a, err := v.s.Start(&journal.Op{Kind: journal.KindSyncHash, Tree: tree, Data: appendQuestions(nil, v.o.BlockSize, qs)})
	return func() ([]theirs, error) {
		data, err := answer(a)
		if err != nil {
			return nil, fmt.Errorf("hashes: %w", err)
		}
		return parseHashes(data, v.o.BlockSize, qs)
	}, err
}

// unequal returns the blocks of q that differ, as ranges, where PRIM's file has
// size bytes.
func (v *Verification) unequal(q question, mine []blockHash, t theirs, size int64) (rs []Range) {
	bs := int64(v.o.BlockSize)
	n := int64(max(len(mine), len(t.hashes)))
	for i := int64(0); i < n; i++ {
		r := Range{Off: q.Off + i*bs, End: q.Off + (i+1)*bs}
		if i < int64(len(mine)) && i < int64(len(t.hashes)) && sameBlock(mine[i], t.hashes[i], min(bs, size-r.Off)) {
			continue
		}
		if i < int64(len(mine)) { // else SECOND's is longer
			r.End = min(r.End, size)
		}
		if len(rs) > 0 && rs[len(rs)-1].End == r.Off {
			rs[len(rs)-1].End = r.End
		} else {
			rs = append(rs, r)
		}
	}
	return rs
}

// sameBlock says whether two blocks of n bytes are equal: a hole is zeros.
func sameBlock(a, b blockHash, n int64) bool {
	return a == b || a.isHole() && b == hashBlock(make([]byte, n)) || b.isHole() && a == hashBlock(make([]byte, n))
}

// rangeAgain looks at a range of a file, in one zone, while it cannot change. If the
// file ends in it, then neither can that: whoever moves the end locks from the new
// one on, which may lie behind the range and still lengthen the last block.
func (v *Verification) rangeAgain(ctx context.Context, f *verifyFile, r Range) (rs []Range, err error) {
	src := v.trees[f.tree]
	for locked, settled := r.End, false; !settled; locked = math.MaxInt64 {
		err := src.WithRange(f.id, r.Off, locked-r.Off, func(file File) error {
			size, err := file.Size()
			if err != nil {
				return err
			}
			if settled = locked == math.MaxInt64 || size >= r.End; !settled {
				return nil
			}
			v.again.Add(1)
			if err := v.passed(ctx); err != nil {
				return err
			}
			qs := []question{{f.id, r.Off, r.End - r.Off}}
			wait, err := v.askHashes(f.tree, qs)
			if err != nil {
				return err
			}
			mine, err := hashRange(file, r.Off, r.End-r.Off, v.o.BlockSize)
			ts, err2 := wait()
			if err = errors.Join(err, err2); err != nil {
				return err
			}
			rs = v.unequal(qs[0], mine, ts[0], size)
			return nil
		})
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return rs, nil
}
