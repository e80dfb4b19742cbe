package journal

import (
	"net"
	"time"
)

// inlineData is the payload up to which copying it beside its header is cheaper
// than one more piece for the kernel to gather.
const inlineData = 8 << 10

// keepBuffer is the largest buffer that is kept for reuse.
const keepBuffer = 1 << 20

// batch is the frames that go out with one system call: headers and small
// payloads in buf, large payloads where their owners have them.
type batch struct {
	buf   []byte
	refs  []ref
	vec   net.Buffers
	bytes int // of all frames
	last  Seq
	since time.Time // when the first operation came in
}

// ref is a payload that goes out after buf[:at].
type ref struct {
	at   int
	data []byte
}

func (b *batch) empty() bool { return b.bytes == 0 }

// add appends the frame of op, whose Seq is given, with data as its payload,
// which is copied if it is small.
func (b *batch) add(epoch Epoch, flags uint8, op *Op, data []byte, crc uint32) {
	before := len(b.buf)
	b.buf = appendOpHead(b.buf, epoch, flags, op, crc)
	if len(data) <= inlineData {
		b.buf = append(b.buf, data...)
		b.bytes += len(b.buf) - before
	} else {
		b.refs = append(b.refs, ref{len(b.buf), data})
		b.bytes += len(b.buf) - before + len(data)
	}
	b.last = op.Seq
}

// writeTo sends the batch. When it returns nothing refers to a payload.
func (b *batch) writeTo(c net.Conn) (err error) {
	if len(b.refs) == 0 {
		_, err = c.Write(b.buf)
		return err
	}
	at, vec := 0, b.vec[:0]
	for _, r := range b.refs {
		vec = append(vec, b.buf[at:r.at], r.data)
		at = r.at
	}
	if at < len(b.buf) {
		vec = append(vec, b.buf[at:])
	}
	b.vec = vec // WriteTo eats its receiver: keep the start
	_, err = b.vec.WriteTo(c)
	clear(vec)
	b.vec = vec[:0]
	return err
}

func (b *batch) reset() {
	clear(b.refs)
	b.refs = b.refs[:0]
	b.buf = b.buf[:0]
	if cap(b.buf) > keepBuffer {
		b.buf = nil
	}
	b.bytes, b.last, b.since = 0, 0, time.Time{}
}
