package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// The control socket. A client connects, writes one request, a JSON object on a
// line, and reads one response; a request for events is answered by events, one
// a line, until either end closes; one for quarantines by a line with a descriptor
// for each directory that has some, and a response; one for a verification by what
// it finds, a VerifyLine a line, the last of which is its summary.

// request is one line of a client.
type request struct {
	Method string        `json:"method"` // status configure promote alone cut abandon follow outdate demote stop diff quarantines verify events
	Epoch  uint64        `json:"epoch,omitempty"`
	Stream uint64        `json:"stream,omitempty"` // of alone
	Force  Force         `json:"force,omitempty"`
	Addr   string        `json:"addr,omitempty"`
	Follow FollowOptions `json:"follow,omitzero"`
	Clean  bool          `json:"clean,omitempty"`
	Repair bool          `json:"repair,omitempty"` // of verify: and mend
}

// response is the answer to a request.
type response struct {
	Error  string  `json:"error,omitempty"`
	Code   string  `json:"code,omitempty"` // of the errors that clients tell apart
	Status *Status `json:"status,omitempty"`
	Diff   *Diff   `json:"diff,omitempty"`
}

var errorCodes = map[string]error{
	"notuptodate":  ErrNotUptodate,
	"inconsistent": ErrInconsistent,
}

// EventKind says what an Event is about.
type EventKind string

// The kinds of Event; see ha.ReplicaEventKind.
const (
	EventPeerLost   EventKind = "peerlost"
	EventPeerJoined EventKind = "peerjoined"
	EventSynced     EventKind = "synced"
	EventFailed     EventKind = "failed"
	EventLog        EventKind = "log"
	EventStuck      EventKind = "stuck"
)

// Event is something that happened to a replica by itself.
type Event struct {
	Kind   EventKind `json:"kind"`
	Epoch  uint64    `json:"epoch,omitempty"`
	Stream uint64    `json:"stream,omitempty"` // of EventPeerJoined and EventPeerLost on the primary: which of Epoch
	Level  string    `json:"level,omitempty"`  // of EventLog: E or I
	Source string    `json:"source,omitempty"` // of EventLog
	Text   string    `json:"text,omitempty"`

	Follow FollowOptions `json:"follow,omitzero"` // of EventSynced on the second: what Follow had asked for
}

// Status is what a replica knows of itself and of its data; see ha.ReplicaStatus.
type Status struct {
	Role       string   `json:"role"`
	Epoch      uint64   `json:"epoch"`
	Uptodate   bool     `json:"uptodate"`
	Consistent bool     `json:"consistent"`
	Connected  bool     `json:"connected"`
	Synced     bool     `json:"synced"`
	Noted      int      `json:"noted"`  // objects of which the peer may lack something
	Stream     uint64   `json:"stream"` // primary: the last of Epoch
	Frozen     bool     `json:"frozen"`
	Degraded   bool     `json:"degraded"`
	Rank       int      `json:"rank"`
	Sent       uint64   `json:"sent"`     // bytes on the stream so far
	Received   uint64   `json:"received"` // likewise
	Copied     uint64   `json:"copied"`   // primary: of Sent, what the reintegration has sent
	Progress   Progress `json:"progress"`

	Follow FollowOptions `json:"follow,omitzero"` // second that is synced: what Follow had asked for
}

// Progress is how far a reintegration is.
type Progress struct {
	FilesDone int64         `json:"files_done"`
	FilesLeft int64         `json:"files_left"`
	BytesDone int64         `json:"bytes_done"`
	BytesLeft int64         `json:"bytes_left"`
	Rate      int64         `json:"rate"` // bytes a second
	Left      time.Duration `json:"left"`
}

func progressOf(pass *reintegrate.Pass) Progress {
	p := pass.Progress()
	return Progress{p.FilesDone, p.FilesLeft, p.BytesDone, p.BytesLeft, p.Rate, p.Left}
}

// Status says how things are.
func (r *Replica) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{
		Role: r.state.Role.String(), Epoch: uint64(r.state.Epoch), Rank: r.state.Rank(r.booted, asyncOf(r.rfs()) == journal.AsyncNone),
		Uptodate: r.prim || r.synced || r.state.Uptodate(), Consistent: r.state.Consistent(),
		Synced: r.synced, Stream: r.streams, Degraded: r.cfg.Degraded,
	}
	if l := r.link; r.prim && l != nil {
		s.Connected = l.sender.Err() == nil
		s.Synced = s.Connected && l.synced.Load()
		stats := l.sender.Stats()
		s.Sent, s.Received = stats.SentBytes, stats.BytesIn
		if l.pass != nil {
			s.Copied = uint64(l.pass.Sent())
		}
		if l.copying() {
			s.Progress = progressOf(l.pass)
		}
	}
	if f := r.follow; f != nil {
		s.Connected, s.Follow = f.joined.Load(), f.did
		if recv := f.recv.Load(); recv != nil && s.Connected {
			stats := recv.Stats()
			s.Sent, s.Received = stats.BytesOut, stats.BytesIn
		}
		if p := f.progress.Load(); p != nil && s.Connected && !s.Synced {
			s.Progress = *p
		}
	}
	s.Noted = r.notes.Len()
	s.Frozen = r.prim && r.gate.Frozen()
	return s
}

// maxKept bounds the events kept while nobody listens.
const maxKept = 1000

// hub passes events to whoever listens, and keeps them while nobody does: a
// daemon that was restarted misses nothing.
type hub struct {
	mu   sync.Mutex
	kept []Event
	wake chan struct{} // 1
}

func newHub() *hub { return &hub{wake: make(chan struct{}, 1)} }

func (h *hub) send(e Event) {
	h.mu.Lock()
	if len(h.kept) == maxKept { // a line of the log is the least loss
		for i := range h.kept {
			if h.kept[i].Kind == EventLog || i == len(h.kept)-1 {
				h.kept = append(h.kept[:i], h.kept[i+1:]...)
				break
			}
		}
	}
	h.kept = append(h.kept, e)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *hub) take() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.kept
	h.kept = nil
	return list
}

// putBack returns events that could not be delivered.
func (h *hub) putBack(list []Event) {
	h.mu.Lock()
	h.kept = append(list, h.kept...)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}: // for who listens now: the last token may be used up
	default:
	}
}

// listenControl opens the control socket. That another replica answers on it is
// an error; one that does not answer is dead.
func listenControl(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("control socket %s: a replica of this module runs already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return ln, nil
}

// serveControl answers clients until ln is closed and the last of them is gone.
func (r *Replica) serveControl(ctx context.Context, ln net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			r.serveClient(ctx, c)
		})
	}
}

func (r *Replica) serveClient(ctx context.Context, c net.Conn) {
	var req request
	dec := json.NewDecoder(c)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	if err := dec.Decode(&req); err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	enc := json.NewEncoder(c)
	if req.Method == "events" {
		r.serveEvents(ctx, c, enc)
		return
	}
	if req.Method == "verify" {
		r.serveVerify(ctx, c, enc, req.Repair)
		return
	}
	var resp response
	var err error
	if req.Method == "quarantines" {
		err = r.sendQuarantines(c)
	} else {
		err = r.do(ctx, &req, &resp)
	}
	if err != nil {
		resp.Error = err.Error()
		for code, known := range errorCodes {
			if errors.Is(err, known) {
				resp.Code = code
			}
		}
	}
	enc.Encode(resp)
	if req.Method == "stop" && resp.Error == "" {
		r.stop(errStopped) // after the answer
	}
}

func (r *Replica) do(ctx context.Context, req *request, resp *response) error {
	switch req.Method {
	case "status":
		s := r.Status()
		resp.Status = &s
		return nil
	case "diff":
		d, err := r.Diff()
		resp.Diff = &d
		return err
	case "promote":
		return r.Promote(ctx, req.Epoch, req.Force)
	case "alone":
		return r.Alone(ctx, req.Epoch, req.Stream)
	case "configure":
		return r.Configure(ctx)
	case "cut":
		return r.Cut()
	case "abandon":
		return r.Abandon()
	case "follow":
		return r.Follow(ctx, req.Epoch, req.Addr, req.Follow)
	case "outdate":
		return r.Outdate(ctx, req.Epoch)
	case "demote":
		return r.Demote(ctx)
	case "stop":
		return r.Stop(ctx, req.Clean)
	}
	return fmt.Errorf("method %q: expected status, configure, promote, alone, cut, abandon, follow, outdate, demote, stop, diff, quarantines, verify or events", req.Method)
}

// serveEvents streams events to the one client that listens.
func (r *Replica) serveEvents(ctx context.Context, c net.Conn, enc *json.Encoder) {
	gone := make(chan struct{})
	go func() { // the client says nothing more; this notices its end
		defer close(gone)
		c.Read(make([]byte, 1))
	}()
	defer func() {
		c.Close()
		<-gone
	}()
	for {
		list := r.events.take()
		for i, e := range list {
			if err := enc.Encode(e); err != nil {
				r.events.putBack(list[i:])
				return
			}
		}
		select {
		case <-r.events.wake:
		case <-gone:
			return
		case <-ctx.Done():
			for _, e := range r.events.take() {
				enc.Encode(e)
			}
			return
		}
	}
}
