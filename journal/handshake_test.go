package journal

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func listen(t *testing.T) (*Listener, func(context.Context) (net.Conn, error)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(ln)
	t.Cleanup(func() { l.Close() })
	return l, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
}

// TestJoin: a link over three connections, and work over it.
func TestJoin(t *testing.T) {
	l, dial := listen(t)
	type joined struct {
		link *Link
		w    Welcome
		err  error
	}
	done := make(chan joined)
	go func() {
		link, w, err := Join(t.Context(), dial, Hello{Module: "mirror", Node: "b", Epoch: 6, Payload: []byte("mine")}, 3)
		done <- joined{link, w, err}
	}()
	req, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if req.Module != "mirror" || req.Node != "b" || req.Epoch != 6 || req.Conns != 3 || string(req.Payload) != "mine" {
		t.Errorf("the request is %+v", req.Hello)
	}
	link, err := req.Welcome(Welcome{Epoch: 7, Payload: []byte("yours")})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSender(link, SenderOptions{Epoch: 7})
	// The first operation may travel right behind the welcome.
	if err := s.Post(&Op{Kind: KindMark}); err != nil {
		t.Fatal(err)
	}
	j := <-done
	if j.err != nil || !j.w.Accepted || j.w.Epoch != 7 || string(j.w.Payload) != "yours" {
		t.Fatalf("joined with %+v: %v", j.w, j.err)
	}
	m := newModel(false)
	r := NewReceiver(j.link, m, ReceiverOptions{Epoch: 7})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(context.Background()) }()
	for range 10 {
		if err := s.Commit(&Op{Kind: KindMark}); err != nil {
			t.Fatal(err)
		}
	}
	s.Close(nil)
	<-ran
	if r.Applied() != 11 {
		t.Errorf("applied %d", r.Applied())
	}
}

func TestRefuse(t *testing.T) {
	l, dial := listen(t)
	done := make(chan error)
	go func() {
		_, _, err := Join(t.Context(), dial, Hello{Module: "mirror"}, 2)
		done <- err
	}()
	req, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req.Refuse("not the primary")
	var refused *RefusedError
	if err := <-done; !errors.As(err, &refused) || refused.Reason != "not the primary" {
		t.Errorf("joined: %v", err)
	}
}

// TestStrangers: connections that say nothing, half of something, or nonsense
// delay nobody.
func TestStrangers(t *testing.T) {
	l, dial := listen(t)
	hello := appendHello(nil, &testHello)
	for _, say := range [][]byte{nil, hello[:20], []byte("GET / HTTP/1.1\r\nHost: 10.0.0.1:1234\r\n\r\n"), hello, bytes.Repeat([]byte{0xff}, 100)} {
		c, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(say)
	}
	done := make(chan error)
	go func() {
		link, _, err := Join(t.Context(), dial, Hello{Module: "mirror"}, 2)
		if err == nil {
			link.Close()
		}
		done <- err
	}()
	req, err := l.Accept(t.Context())
	if err != nil || req.Conns != 2 {
		t.Fatalf("accepted %+v: %v", req, err)
	}
	link, err := req.Welcome(Welcome{})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOtherVersion: both ends say what is wrong.
func TestOtherVersion(t *testing.T) {
	_, dial := listen(t)
	c, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := appendHello(nil, &testHello)
	hello[4] = 200
	c.Write(hello)
	h, frame, err := readFrame(c, frameWelcome)
	if err != nil {
		t.Fatal(err)
	}
	w, err := decodeWelcome(&h, frame)
	if err != nil || w.Accepted || !strings.Contains(w.Reason, "version is 200, expected 1") {
		t.Errorf("answered %+v, %v", w, err)
	}
	old := appendWelcome(nil, &Welcome{Accepted: true})
	old[4] = 0
	var version *VersionError
	if _, err := parseHeader(old); !errors.As(err, &version) || version.Got != 0 {
		t.Errorf("a welcome of another version: %v", err)
	}
}

// TestSessionClash: a connection that does not fit its session is closed and the
// session goes on.
func TestSessionClash(t *testing.T) {
	l, dial := listen(t)
	say := func(h Hello) net.Conn {
		c, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.Write(appendHello(nil, &h))
		return c
	}
	h := Hello{Module: "m", Session: [16]byte{9}, Conns: 2}
	say(h)
	waitFor(l, func() bool { return len(l.sessions) == 1 })
	for _, c := range []net.Conn{say(h), say(Hello{Module: "m", Session: [16]byte{9}, Conn: 1, Conns: 3})} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection that does not fit was answered")
		}
	}
	h.Conn = 1
	say(h)
	req, err := l.Accept(t.Context())
	if err != nil || req.Conns != 2 {
		t.Fatalf("accepted %+v: %v", req, err)
	}
	req.Refuse("enough")
}

// waitFor polls what has no event of its own, under the listener's lock.
func waitFor(l *Listener, ok func() bool) {
	for {
		l.mu.Lock()
		done := ok()
		l.mu.Unlock()
		if done {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestJoinGivesUp(t *testing.T) {
	l, dial := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := Join(ctx, dial, Hello{Module: "mirror"}, 1)
		done <- err
	}()
	req, err := l.Accept(t.Context()) // and no answer
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("joined: %v", err)
	}
	req.Refuse("too late")
}

func TestListenerClose(t *testing.T) {
	l, dial := listen(t)
	c, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	half, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	half.Write(appendHello(nil, &Hello{Conns: 2}))
	waitFor(l, func() bool { return len(l.sessions) == 1 })
	done := make(chan error)
	go func() {
		_, err := l.Accept(context.Background())
		done <- err
	}()
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v", err)
	}
	if _, err := half.Read(make([]byte, 1)); err == nil {
		t.Error("a half-open session outlives its listener")
	}
}
