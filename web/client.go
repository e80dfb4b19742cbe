package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
)

// ErrNoDaemon says that nobody answers at the daemon's socket.
var ErrNoDaemon = errors.New("the skfs daemon is not running")

// Client asks the daemon of this node. It may be used concurrently.
type Client struct {
	h http.Client
}

// NewClient makes a client of the daemon whose socket p names. It connects when
// it is used.
func NewClient(p conf.Paths) *Client {
	return &Client{h: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dialUnix(ctx, p.DaemonSocket())
			if err != nil && ctx.Err() == nil {
				return nil, fmt.Errorf("%w: %w", ErrNoDaemon, err)
			}
			return c, err
		},
	}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.h.CloseIdleConnections() }

// Node asks who answers.
func (c *Client) Node(ctx context.Context) (Node, error) {
	var n Node
	return n, c.call(ctx, "GET", "/v1/node", nil, &n)
}

// Nodes returns the nodes of the cluster, as this one sees them, sorted by name.
func (c *Client) Nodes(ctx context.Context) ([]ha.NodeState, error) {
	var ns []ha.NodeState
	return ns, c.call(ctx, "GET", "/v1/nodes", nil, &ns)
}

// Modules returns all installed modules, sorted by name.
func (c *Client) Modules(ctx context.Context) ([]Module, error) {
	var ms []Module
	return ms, c.call(ctx, "GET", "/v1/modules", nil, &ms)
}

// Module returns one module.
func (c *Client) Module(ctx context.Context, am string) (Module, error) {
	var m Module
	return m, c.call(ctx, "GET", modulePath(am, ""), nil, &m)
}

// Do gives a command to a module and returns when it is accepted. What is
// refused is ha.ErrRefused with the reason.
func (c *Client) Do(ctx context.Context, am string, cmd Command) error {
	return c.call(ctx, "POST", modulePath(am, "command"), cmd, nil)
}

// Errd returns what errd monitors of a module.
func (c *Client) Errd(ctx context.Context, am string) (ha.Detection, error) {
	var d ha.Detection
	return d, c.call(ctx, "GET", modulePath(am, "errd"), nil, &d)
}

// Watch calls each with the state of a module now and after every change, until
// ctx ends (nil), each fails (its error) or the daemon ends.
func (c *Client) Watch(ctx context.Context, am string, each func(ha.ModuleState) error) error {
	return receive(ctx, c, modulePath(am, "watch"), each)
}

// Log calls each with the last n lines of a level up to level, oldest first, and
// if follow is set with those that come until ctx ends.
func (c *Client) Log(ctx context.Context, am string, n int, level ha.Level, follow bool, each func(ha.Line) error) error {
	q := url.Values{"n": {strconv.Itoa(n)}, "level": {level.String()}}
	if follow {
		q.Set("follow", "1")
	}
	return receive(ctx, c, modulePath(am, "log")+"?"+q.Encode(), each)
}

// WriteLog adds a line to the log of a module.
func (c *Client) WriteLog(ctx context.Context, am string, m Message) error {
	return c.call(ctx, "POST", modulePath(am, "log"), m, nil)
}

// Transitions returns the last n changes of state of a module, oldest first.
func (c *Client) Transitions(ctx context.Context, am string, n int) ([]ha.Transition, error) {
	var all []ha.Transition
	err := c.call(ctx, "GET", modulePath(am, "transitions")+"?n="+strconv.Itoa(n), nil, &all)
	return all, err
}

// Configure makes SAFE/modules/AM the active configuration of a module.
func (c *Client) Configure(ctx context.Context, am string) (Configured, error) {
	var r Configured
	return r, c.call(ctx, "POST", modulePath(am, "config"), nil, &r)
}

// Deconfigure takes the active configuration of a module away.
func (c *Client) Deconfigure(ctx context.Context, am string) error {
	return c.call(ctx, "POST", modulePath(am, "deconfig"), nil, nil)
}

// Uninstall removes a module.
func (c *Client) Uninstall(ctx context.Context, am string) error {
	return c.call(ctx, "POST", modulePath(am, "uninstall"), nil, nil)
}

// ConfigureCluster makes a cluster.xml the active one.
func (c *Client) ConfigureCluster(ctx context.Context, cc ClusterConfig) (Configured, error) {
	var r Configured
	return r, c.call(ctx, "POST", "/v1/cluster", cc, &r)
}

// DropCluster takes the cluster configuration away.
func (c *Client) DropCluster(ctx context.Context) error {
	return c.call(ctx, "POST", "/v1/cluster/drop", nil, nil)
}

func modulePath(am, what string) string {
	p := "/v1/modules/" + url.PathEscape(am)
	if what != "" {
		p += "/" + what
	}
	return p
}

func (c *Client) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://skfs"+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.h.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL says nothing that helps
		}
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, readFailure(resp)
	}
	return resp, nil
}

func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	resp, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("answer of the daemon to %s: %w", path, err)
	}
	return nil
}

// receive reads a stream.
func receive[T any](ctx context.Context, c *Client, path string, each func(T) error) error {
	resp, err := c.open(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var v T
		switch err := d.Decode(&v); {
		case ctx.Err() != nil:
			return nil
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("the daemon broke off: %w", err)
		}
		if err := each(v); err != nil {
			return err
		}
	}
}

// readFailure turns an answer back into the error that the daemon had.
func readFailure(resp *http.Response) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f); err != nil || f.Error == "" {
		return fmt.Errorf("the daemon answered %s", resp.Status)
	}
	if len(f.Problems) > 0 {
		return f.Problems
	}
	var kind error
	switch resp.StatusCode {
	case http.StatusNotFound:
		kind = ha.ErrNoModule
	case http.StatusConflict:
		kind = ha.ErrRefused
	}
	return remoteError{f.Error, kind}
}

// remoteError has the text of an error of the daemon, and its kind if it has one.
type remoteError struct {
	text string
	kind error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.kind }
