package reintegrate

import (
	"fmt"
	"io"
)

// segment is a part of a file to be sent: bytes, or a hole if data is nil.
type segment struct {
	Range
	data []byte
}

// delta is how the bytes of a range on PRIM differ from SECOND's.
type delta struct {
	segments []segment
	most     int64 // bytes of a segment
	compared int64 // bytes found equal
	read     int64 // bytes read; holes are not
}

// maxSegment bounds the bytes of one operation. Larger ones would not be faster, and
// hold up what comes behind them.
const maxSegment = 1 << 20

// compare reads [off, end) of f into buf, which is at least as long, and returns
// what has to be sent. Holes stay holes: of a block that differs the stored parts
// are sent, and what is a hole here is punched where SECOND may have bytes. Zeros that
// are stored here and a hole there are sent, too: an application that has written them
// in order to have the room later has it on both hosts. off is
// a multiple of blockSize. No segment of bytes is longer than most, if that is no
// less than a block. The segments refer to buf.
func compare(f File, off, end int64, blockSize int, most int64, t theirs, buf []byte) (delta, error) {
	d := delta{most: most}
	ranges, err := f.DataRanges(off, end-off)
	if err != nil {
		return d, err
	}
	for i := int64(0); off < end; i++ {
		to := min(off+int64(blockSize), end)
		for len(ranges) > 0 && ranges[0].End <= off {
			ranges = ranges[1:]
		}
		h, known := t.at(i)
		theirHole := known && h.isHole()
		block := buf[:to-off]
		n, err := readBlock(f, Range{Off: off, End: to}, ranges, block)
		stored := n > 0
		d.read += n
		switch {
		case err != nil:
			return d, err
		case !stored && theirHole,
			stored && known && !theirHole && hashBlock(block) == h:
			d.compared += to - off
		default:
			d.send(Range{Off: off, End: to}, ranges, block, !theirHole)
		}
		off, buf = to, buf[to-off:]
	}
	return d, nil
}

// readBlock fills b with the bytes of r and says how many of them are stored.
func readBlock(f File, r Range, ranges []Range, b []byte) (stored int64, err error) {
	at := r.Off
	for _, s := range ranges {
		if s.Off >= r.End {
			break
		}
		from, to := max(s.Off, r.Off), min(s.End, r.End)
		clear(b[at-r.Off : from-r.Off])
		if n, err := f.ReadAt(b[from-r.Off:to-r.Off], from); int64(n) < to-from {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return stored, fmt.Errorf("read %d bytes at %d: %w", to-from, from, err)
		}
		stored, at = stored+to-from, to
	}
	if stored > 0 {
		clear(b[at-r.Off:])
	}
	return stored, nil
}

// send adds the block of r to what has to be sent; holes in it only if punch.
func (d *delta) send(r Range, ranges []Range, block []byte, punch bool) {
	at := r.Off
	hole := func(to int64) {
		if punch && to > at {
			d.add(Range{Off: at, End: to}, nil)
		}
	}
	for _, s := range ranges {
		if s.Off >= r.End {
			break
		}
		from, to := max(s.Off, r.Off), min(s.End, r.End)
		hole(from)
		d.add(Range{Off: from, End: to}, block[from-r.Off:to-r.Off])
		at = to
	}
	hole(r.End)
}

// add appends a segment, to the one before where they meet.
func (d *delta) add(r Range, data []byte) {
	if n := len(d.segments); n > 0 {
		l := &d.segments[n-1]
		if l.End == r.Off && (l.data == nil) == (data == nil) && (data == nil || r.End-l.Off <= d.most) {
			l.End = r.End
			if data != nil { // neighbours in the file are neighbours in buf
				l.data = l.data[:r.End-l.Off]
			}
			return
		}
	}
	d.segments = append(d.segments, segment{r, data})
}
