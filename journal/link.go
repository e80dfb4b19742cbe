package journal

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxConns bounds the connections of one link.
const MaxConns = 16

// Link is the bundle of connections between a primary and its second host. It
// lives and dies as a whole.
type Link struct {
	conns []net.Conn
	once  sync.Once

	in  atomic.Uint64 // bytes received
	out atomic.Uint64 // bytes sent, but for what a Sender counts itself
}

// NewLink makes a link of connections that are already shaken hands on.
func NewLink(conns ...net.Conn) *Link {
	if len(conns) == 0 || len(conns) > MaxConns {
		panic(fmt.Sprintf("journal: a link has 1 to %d connections, not %d", MaxConns, len(conns)))
	}
	for _, c := range conns {
		tune(c)
	}
	return &Link{conns: conns}
}

// tune asks for what a stream of small requests needs. It is best effort: a
// connection that is no TCP has none of it.
func tune(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	t.SetNoDelay(true)
	t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 5})
}

// setSendTimeout lets the kernel give up a connection whose peer has not
// acknowledged sent bytes for d.
func (l *Link) setSendTimeout(d time.Duration) {
	for _, c := range l.conns {
		t, ok := c.(*net.TCPConn)
		if !ok {
			continue
		}
		if raw, err := t.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
			})
		}
	}
}

// Close closes every connection; reads and writes under way fail.
func (l *Link) Close() error {
	l.once.Do(func() {
		for _, c := range l.conns {
			c.Close()
		}
	})
	return nil
}

// RemoteAddr is the address of the peer, for messages.
func (l *Link) RemoteAddr() net.Addr { return l.conns[0].RemoteAddr() }

// interrupt ends reads at once, and writes after grace.
func (l *Link) interrupt(grace time.Duration) {
	now := time.Now()
	for _, c := range l.conns {
		c.SetReadDeadline(now.Add(-time.Second))
		c.SetWriteDeadline(now.Add(grace))
	}
}
