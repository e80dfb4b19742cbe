package journal

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// inbound is an operation that has arrived: its frame, and its place in the
// order of those that conflict.
type inbound struct {
	op    Op     // Data is part of frame
	frame []byte // the raw bytes, as a receive log keeps them
	lazy  bool   // nobody waits for the ack
	class int    // of the pool that frame came from

	// Owned by the scheduler.
	keys    [maxKeys]FileID
	nkeys   int
	barrier bool
	deps    int        // unfinished operations that must come first
	succs   []*inbound // that wait for this one
}

// frameClasses are the sizes of pooled frames: without data, a page, a larger
// write, the largest of FUSE. Larger ones are left to the garbage collector.
var frameClasses = [...]int{512, 8<<10 + 512, 128<<10 + 512, 1<<20 + 512}

var framePools [len(frameClasses)]sync.Pool

// newInbound returns one with a frame of the given size, whose content is
// undefined.
func newInbound(size int) *inbound {
	class := 0
	for class < len(frameClasses) && size > frameClasses[class] {
		class++
	}
	if class == len(frameClasses) {
		return &inbound{class: -1, frame: make([]byte, size)}
	}
	in, _ := framePools[class].Get().(*inbound)
	if in == nil {
		in = &inbound{class: class, frame: make([]byte, frameClasses[class])}
	}
	in.frame = in.frame[:size]
	return in
}

// free gives in back. Nothing may refer to it.
func (in *inbound) free() {
	if in.class < 0 {
		return
	}
	clear(in.succs)
	*in = inbound{class: in.class, frame: in.frame, succs: in.succs[:0]}
	framePools[in.class].Put(in)
}

// readBuffer is how much one read takes from a connection at most.
const readBuffer = 256 << 10

// opReader takes operations from a connection: as many as one read brings. What
// is small is copied out of the read buffer, so that a slow operation holds no
// more memory than its own; what is large is read where it stays.
type opReader struct {
	in    frameReader
	large *inbound // incomplete
	have  int      // bytes of large that are there
	h     header   // of large
}

func newOpReader(c net.Conn, count *atomic.Uint64) *opReader {
	return &opReader{in: frameReader{conn: c, buf: make([]byte, readBuffer), count: count}}
}

// batch appends to out at least one operation, or returns an error, after those
// that came before it.
func (r *opReader) batch(epoch Epoch, out []*inbound) ([]*inbound, error) {
	for {
		if r.large != nil {
			in := r.large
			if _, err := io.ReadFull(r.in.conn, in.frame[r.have:]); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return out, err
			}
			r.in.count.Add(uint64(len(in.frame) - r.have))
			r.large = nil
			if err := in.decode(&r.h, epoch); err != nil {
				return out, err
			}
			out = append(out, in)
		}
		h, size, ok, err := r.in.buffered()
		for ; ok && err == nil; h, size, ok, err = r.in.buffered() {
			in := newInbound(size)
			copy(in.frame, r.in.buf[r.in.r:])
			r.in.r += size
			if err := in.decode(&h, epoch); err != nil {
				return out, err
			}
			out = append(out, in)
		}
		if err != nil {
			return out, err
		}
		if size > readBuffer/4 {
			r.large, r.h = newInbound(size), h
			r.have = copy(r.large.frame, r.in.buf[r.in.r:r.in.w])
			r.in.r, r.in.w = 0, 0
		}
		if len(out) > 0 {
			return out, nil
		}
		if r.large == nil {
			if err := r.in.fill(size); err != nil {
				return out, err
			}
		}
	}
}

// decode fills in.op from in.frame.
func (in *inbound) decode(h *header, epoch Epoch) error {
	if h.epoch != epoch {
		return staleEpoch(h.epoch, epoch)
	}
	in.lazy = h.flags&flagLazy != 0
	return decodeOp(h, in.frame, &in.op)
}
