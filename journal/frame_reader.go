package journal

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// frameReader reads frames from a connection into one buffer, which grows for a
// frame that does not fit.
type frameReader struct {
	conn net.Conn
	buf  []byte
	r, w int // what is read and not taken is buf[r:w]

	count *atomic.Uint64 // of bytes read
}

// buffered returns the next frame if all of it is in the buffer. size is how
// many bytes a frame needs as far as is known.
func (f *frameReader) buffered() (h header, size int, ok bool, err error) {
	if f.w-f.r < headerSize {
		return h, headerSize, false, nil
	}
	if h, err = parseHeader(f.buf[f.r:f.w]); err != nil {
		return h, headerSize, false, err
	}
	return h, h.size(), f.w-f.r >= h.size(), nil
}

// next returns a frame, which stays valid until the next call.
func (f *frameReader) next() (header, []byte, error) {
	for {
		h, size, ok, err := f.buffered()
		if err != nil {
			return h, nil, err
		}
		if ok {
			frame := f.buf[f.r : f.r+size]
			f.r += size
			return h, frame, nil
		}
		if err := f.fill(size); err != nil {
			return h, nil, err
		}
	}
}

// more says whether next would return without reading.
func (f *frameReader) more() bool {
	_, _, ok, err := f.buffered()
	return ok || err != nil
}

// fill reads once, after making room for a frame of size bytes.
func (f *frameReader) fill(size int) error {
	switch {
	case f.r == f.w:
		f.r, f.w = 0, 0
	case f.r+size > len(f.buf):
		f.w = copy(f.buf, f.buf[f.r:f.w])
		f.r = 0
	}
	if size > len(f.buf) {
		grown := make([]byte, size)
		f.w = copy(grown, f.buf[f.r:f.w])
		f.r, f.buf = 0, grown
	}
	n, err := f.conn.Read(f.buf[f.w:])
	f.w += n
	f.count.Add(uint64(n))
	if n > 0 {
		return nil // an error comes again
	}
	if errors.Is(err, io.EOF) && f.r < f.w {
		return io.ErrUnexpectedEOF
	}
	return err
}
