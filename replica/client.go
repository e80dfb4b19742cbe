package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Client speaks to a replica through its control socket.
type Client struct {
	socket string
	conn   net.Conn // of the events
	events chan Event
}

// NewClient makes a client that leaves the events to somebody else: it connects
// for each call.
func NewClient(socket string) *Client { return &Client{socket: socket} }

// Dial connects to the replica that listens on socket, and takes its events.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if err := json.NewEncoder(conn).Encode(request{Method: "events"}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("replica: %w", err)
	}
	c := &Client{socket: socket, conn: conn, events: make(chan Event, 64)}
	go c.readEvents()
	return c, nil
}

func (c *Client) readEvents() {
	defer close(c.events)
	for dec := json.NewDecoder(c.conn); ; {
		var e Event
		if dec.Decode(&e) != nil {
			return
		}
		c.events <- e
	}
}

// Events tells what happens to the replica by itself. It is closed when the
// replica ends or Close is called, and must be read until then.
func (c *Client) Events() <-chan Event { return c.events }

// Close lets go of the replica, which goes on.
func (c *Client) Close() error { return c.conn.Close() }

// call sends one request and waits for its answer, as long as ctx lets it.
func (c *Client) call(ctx context.Context, req request) (*response, error) {
	conn, err := dialer.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("replica: %s: %w", req.Method, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return nil, fmt.Errorf("replica: %s: %w", req.Method, err)
	}
	var resp response
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("replica: %s: %w", req.Method, err)
	}
	if resp.Error == "" {
		return &resp, nil
	}
	if known := errorCodes[resp.Code]; known != nil {
		return nil, known
	}
	return nil, errors.New(resp.Error)
}

// Status asks how things are.
func (c *Client) Status(ctx context.Context) (Status, error) {
	resp, err := c.call(ctx, request{Method: "status"})
	if err != nil {
		return Status{}, err
	}
	if resp.Status == nil {
		return Status{}, errors.New("replica: status: the answer is empty")
	}
	return *resp.Status, nil
}

// Promote makes the replica the primary of epoch.
func (c *Client) Promote(ctx context.Context, epoch uint64, force Force) error {
	_, err := c.call(ctx, request{Method: "promote", Epoch: epoch, Force: force})
	return err
}

// AnyStream is for who has no supervisor: whichever stream was lost last.
const AnyStream uint64 = math.MaxUint64

// Alone lets the primary go on without its peer, after the loss of stream (see
// ha.Replica) or of AnyStream.
func (c *Client) Alone(ctx context.Context, epoch, stream uint64) error {
	_, err := c.call(ctx, request{Method: "alone", Epoch: epoch, Stream: stream})
	return err
}

// Configure makes it read its configuration again.
func (c *Client) Configure(ctx context.Context) error {
	_, err := c.call(ctx, request{Method: "configure"})
	return err
}

// Cut ends the stream to a second that is silent.
func (c *Client) Cut(ctx context.Context) error {
	_, err := c.call(ctx, request{Method: "cut"})
	return err
}

// Abandon makes changes that wait fail: the peer has taken over.
func (c *Client) Abandon(ctx context.Context) error {
	_, err := c.call(ctx, request{Method: "abandon"})
	return err
}

// Follow makes the replica the second of the primary at addr (host:port).
func (c *Client) Follow(ctx context.Context, epoch uint64, addr string, o FollowOptions) error {
	_, err := c.call(ctx, request{Method: "follow", Epoch: epoch, Addr: addr, Follow: o})
	return err
}

// Outdate records that the primary goes on without this second.
func (c *Client) Outdate(ctx context.Context, epoch uint64) error {
	_, err := c.call(ctx, request{Method: "outdate", Epoch: epoch})
	return err
}

// Demote ends the reign of the primary.
func (c *Client) Demote(ctx context.Context) error {
	_, err := c.call(ctx, request{Method: "demote"})
	return err
}

// endPatience is how long a replica may take to end after it said that it will.
const endPatience = 30 * time.Second

// Stop ends the replica. It returns when its process has: only then its files are not
// locked any more, and another one can start.
func (c *Client) Stop(ctx context.Context, clean bool) error {
	ended := c.processEnd()
	defer ended.close()
	if _, err := c.call(ctx, request{Method: "stop", Clean: clean}); err != nil {
		return err
	}
	return ended.wait(ctx)
}

// processEnd is a pidfd of the process at the other end; -1: there is none to wait for.
type processEnd int

func (c *Client) processEnd() processEnd {
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	raw.Control(func(socket uintptr) {
		// The process is there as long as it has not closed its end.
		if cred, err := unix.GetsockoptUcred(int(socket), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && int(cred.Pid) != os.Getpid() {
			if fd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
				fd = -1
			}
		}
	})
	return processEnd(fd)
}

func (p processEnd) wait(ctx context.Context) error {
	for deadline := time.Now().Add(endPatience); p >= 0; {
		fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
		switch n, err := unix.Poll(fds, 20); {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("replica: wait for its end: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("replica: it has not ended within %v", endPatience)
		}
	}
	return nil
}

func (p processEnd) close() {
	if p >= 0 {
		unix.Close(int(p))
	}
}
