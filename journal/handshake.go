package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// handshakeTimeout is how long a connection may take to say who it is, and a
// session to gather its connections.
const handshakeTimeout = 10 * time.Second

// maxGathering bounds the connections that are shaking hands at one moment, so
// that a port scanner costs a bounded number of descriptors.
const maxGathering = 4 * MaxConns

// maxHandshakePayload bounds what a stranger can make us read.
const maxHandshakePayload = 1 << 20

// Hello is what the second host says first, on each connection.
type Hello struct {
	Module  string
	Node    string
	Epoch   Epoch    // of the operations that the second host's data holds
	Session [16]byte // the same on all connections of a link; Join makes it
	Conn    int      // which of them this is, from 0
	Conns   int      // how many there are
	Payload []byte   // for the owners of both ends
}

// Welcome is the primary's answer, on the first connection when it accepts and
// on all when it refuses.
type Welcome struct {
	Accepted bool
	Reason   string // of a refusal
	Epoch    Epoch  // of the operations that will come
	Payload  []byte
}

// RefusedError is the primary's no.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the primary refused the connection: " + e.Reason }

// Join is the second host's side: it opens conns connections, says hello on
// each, and waits for the answer, as long as ctx lets it. A refusal is a
// *RefusedError, with the Welcome that said it.
func Join(ctx context.Context, dial func(context.Context) (net.Conn, error), hello Hello, conns int) (*Link, Welcome, error) {
	if conns < 1 || conns > MaxConns {
		return nil, Welcome{}, fmt.Errorf("join module %s with %d connections: expected 1 to %d", hello.Module, conns, MaxConns)
	}
	if len(hello.Module) > MaxName || len(hello.Node) > MaxName || len(hello.Payload) > maxHandshakePayload {
		return nil, Welcome{}, errors.New("join: the hello is too long")
	}
	rand.Read(hello.Session[:])
	hello.Conns = conns
	var open []net.Conn
	done := false
	defer func() {
		if !done {
			closeAll(open)
		}
	}()
	for i := range conns {
		c, err := dial(ctx)
		if err != nil {
			return nil, Welcome{}, fmt.Errorf("join module %s: connection %d of %d: %w", hello.Module, i+1, conns, err)
		}
		open = append(open, c)
	}
	stop := context.AfterFunc(ctx, func() {
		for _, c := range open {
			c.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	fail := func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("join module %s at %s: %w", hello.Module, open[0].RemoteAddr(), err)
	}
	for i, c := range open {
		hello.Conn = i
		if _, err := c.Write(appendHello(nil, &hello)); err != nil {
			return nil, Welcome{}, fail(err)
		}
	}
	h, frame, err := readFrame(open[0], frameWelcome)
	if err != nil {
		return nil, Welcome{}, fail(err)
	}
	w, err := decodeWelcome(&h, frame)
	if err != nil {
		return nil, Welcome{}, fail(err)
	}
	if !w.Accepted {
		return nil, w, &RefusedError{Reason: w.Reason}
	}
	if !stop() { // ctx ended meanwhile and has set deadlines
		return nil, Welcome{}, fail(context.Cause(ctx))
	}
	done = true
	return NewLink(open...), w, nil
}

// readFrame reads exactly one frame of the handshake and nothing of what
// follows it.
func readFrame(c net.Conn, want frameType) (header, []byte, error) {
	frame := make([]byte, headerSize)
	if _, err := io.ReadFull(c, frame); err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(frame)
	if err != nil {
		return h, nil, err
	}
	if h.typ != want {
		return h, nil, badField("type", h.typ, want)
	}
	if h.payloadLen > maxHandshakePayload {
		return h, nil, badField("length of payload", h.payloadLen, fmt.Sprintf("at most %d", maxHandshakePayload))
	}
	frame = append(frame, make([]byte, h.size()-headerSize)...)
	_, err = io.ReadFull(c, frame[headerSize:])
	return h, frame, err
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// Listener is the primary's side: it turns connections into requests to join.
// A connection that says nothing, or nonsense, delays nobody and is closed
// after a while.
type Listener struct {
	ln       net.Listener
	requests chan *Request
	closed   chan struct{}
	slots    chan struct{} // bounds the connections that shake hands
	wg       sync.WaitGroup

	mu       sync.Mutex
	sessions map[[16]byte]*gathering
	conns    map[net.Conn]struct{} // not yet in a session
	err      error                 // why the socket failed
}

// gathering is a session of which not all connections are there yet.
type gathering struct {
	hello   Hello
	conns   []net.Conn
	missing int
	expire  *time.Timer
}

// Request is a second host that wants to join. It must be answered once, with
// Welcome or Refuse.
type Request struct {
	Hello
	conns []net.Conn
}

// NewListener takes over ln.
func NewListener(ln net.Listener) *Listener {
	l := &Listener{
		ln:       ln,
		requests: make(chan *Request),
		closed:   make(chan struct{}),
		slots:    make(chan struct{}, maxGathering),
		sessions: map[[16]byte]*gathering{},
		conns:    map[net.Conn]struct{}{},
	}
	l.wg.Go(l.listen)
	return l
}

// Addr is where the listener listens.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

func (l *Listener) listen() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			select {
			case <-l.closed:
				return
			default:
			}
			if ne, ok := err.(net.Error); ok && ne.Timeout() || errors.Is(err, io.ErrNoProgress) {
				continue
			}
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			go l.Close() // Close waits for this goroutine
			return
		}
		select {
		case l.slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		l.mu.Lock()
		select {
		case <-l.closed: // Close has not seen this one
			c.Close()
		default:
			l.conns[c] = struct{}{}
		}
		l.mu.Unlock()
		l.wg.Go(func() {
			defer func() { <-l.slots }()
			l.greet(c)
		})
	}
}

// greet reads the hello of one connection and puts it into its session; the
// last connection of a session makes it a request.
func (l *Listener) greet(c net.Conn) {
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	h, frame, err := readFrame(c, frameHello)
	var hello Hello
	if err == nil {
		hello, err = decodeHello(&h, frame)
	}
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	if err != nil {
		if errors.Is(err, ErrFrame) {
			refuse([]net.Conn{c}, err.Error())
		}
		c.Close()
		return
	}
	if req := l.gather(hello, c); req != nil {
		t := time.NewTimer(handshakeTimeout)
		defer t.Stop()
		select {
		case l.requests <- req:
		case <-t.C:
			req.Refuse("the primary is busy, try again")
		case <-l.closed:
			closeAll(req.conns)
		}
	}
}

func (l *Listener) gather(hello Hello, c net.Conn) *Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		c.Close()
		return nil
	default:
	}
	g := l.sessions[hello.Session]
	if g == nil {
		if len(l.sessions) >= maxGathering {
			c.Close()
			return nil
		}
		g = &gathering{hello: hello, conns: make([]net.Conn, hello.Conns), missing: hello.Conns}
		g.expire = time.AfterFunc(handshakeTimeout, func() { l.expire(hello.Session, g) })
		l.sessions[hello.Session] = g
	}
	if hello.Conns != len(g.conns) || g.conns[hello.Conn] != nil {
		c.Close() // does not fit its session; whoever owns the session is not disturbed
		return nil
	}
	if hello.Conn == 0 {
		g.hello = hello
	}
	g.conns[hello.Conn] = c
	if g.missing--; g.missing > 0 {
		return nil
	}
	g.expire.Stop()
	delete(l.sessions, hello.Session)
	return &Request{Hello: g.hello, conns: g.conns}
}

func (l *Listener) expire(session [16]byte, g *gathering) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[session] == g {
		delete(l.sessions, session)
		closeAll(g.conns)
	}
}

// Accept returns the next request to join. When the listener is closed it
// returns net.ErrClosed, or why its socket failed.
func (l *Listener) Accept(ctx context.Context) (*Request, error) {
	select {
	case r := <-l.requests:
		return r, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.closed:
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.err != nil {
			return nil, fmt.Errorf("accept at %s: %w", l.ln.Addr(), l.err)
		}
		return nil, net.ErrClosed
	}
}

// Close closes the socket and every connection that is no link yet.
func (l *Listener) Close() error {
	l.mu.Lock()
	select {
	case <-l.closed:
	default:
		close(l.closed)
		l.ln.Close()
		for c := range l.conns {
			c.Close()
		}
		for s, g := range l.sessions {
			g.expire.Stop()
			closeAll(g.conns)
			delete(l.sessions, s)
		}
	}
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// Welcome accepts the second host: what w says goes to it, and the link is
// open. The caller must know how to serve it before the call.
func (r *Request) Welcome(w Welcome) (*Link, error) {
	w.Accepted, w.Reason = true, ""
	r.conns[0].SetDeadline(time.Now().Add(handshakeTimeout))
	if _, err := r.conns[0].Write(appendWelcome(nil, &w)); err != nil {
		closeAll(r.conns)
		return nil, fmt.Errorf("welcome node %s: %w", r.Node, err)
	}
	for _, c := range r.conns {
		c.SetDeadline(time.Time{})
	}
	return NewLink(r.conns...), nil
}

// Refuse says no, and why.
func (r *Request) Refuse(reason string) {
	refuse(r.conns, reason)
	closeAll(r.conns)
}

func refuse(conns []net.Conn, reason string) {
	if len(reason) > MaxName {
		reason = reason[:MaxName]
	}
	frame := appendWelcome(nil, &Welcome{Reason: reason})
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write(frame)
	}
}
