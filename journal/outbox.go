package journal

import (
	"net"
	"sync"
	"sync/atomic"
)

// outbox sends small frames on a connection. Whoever finds no writer becomes it
// and sends for all.
type outbox struct {
	conn   net.Conn
	failed func(error)
	count  *atomic.Uint64 // of bytes sent

	mu         sync.Mutex
	buf, spare []byte
	busy       bool // somebody writes spare
	broken     bool
}

// add appends frames and sends them, unless a writer is there who will. encode
// is called once, under the lock: what frames say is in the order of their
// bytes.
func (o *outbox) add(encode func(b []byte) []byte) {
	o.mu.Lock()
	o.buf = encode(o.buf)
	if o.busy || o.broken {
		o.mu.Unlock()
		return
	}
	o.busy = true
	for len(o.buf) > 0 && !o.broken {
		b := o.buf
		o.buf = o.spare[:0]
		o.mu.Unlock()
		n, err := o.conn.Write(b)
		o.count.Add(uint64(n))
		if err != nil {
			o.failed(err)
		}
		o.mu.Lock()
		o.broken = err != nil
		if o.spare = b; cap(b) > keepBuffer {
			o.spare = nil
		}
	}
	o.busy = false
	o.mu.Unlock()
}
