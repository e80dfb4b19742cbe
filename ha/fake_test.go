package ha

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// fakeData is the data side of a pair of nodes in memory: a Launcher for each
// that keeps the contracts of replica.go. What a node's disk remembers survives
// its replica.
type fakeData struct {
	mu    sync.Mutex
	nodes [2]fakeNode
	calls []string
}

type fakeNode struct {
	proc  *fakeReplica // nil: no replica runs
	fail  error        // Start fails with it
	epoch uint64
	// What the disk says: "" (never used), clean, alone, connected, second, syncing, outdated.
	role string
}

type fakeLauncher struct {
	d *fakeData
	i int
}

// fakeReplica is a running replica.
type fakeReplica struct {
	d                *fakeData
	i                int
	events           chan ReplicaEvent
	primary, frozen  bool
	degraded         bool
	follow           uint64 // 0: nobody
	o                FollowOptions
	joined, synced   bool
	stopped, drained bool
}

func (l fakeLauncher) Start(ctx context.Context, module string, o StartOptions) (Replica, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	n := &l.d.nodes[l.i]
	if n.fail != nil {
		return nil, n.fail
	}
	if n.proc != nil {
		return nil, errors.New("a replica runs already")
	}
	n.proc = &fakeReplica{d: l.d, i: l.i, events: make(chan ReplicaEvent, 100), degraded: o.Degraded}
	l.d.note(l.i, "start")
	return n.proc, nil
}

func (l fakeLauncher) Attach(ctx context.Context, module string) (Replica, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if p := l.d.nodes[l.i].proc; p != nil {
		l.d.note(l.i, "attach")
		return p, nil
	}
	return nil, ErrNoReplica
}

func (d *fakeData) note(i int, format string, args ...any) {
	d.calls = append(d.calls, fmt.Sprintf("%d %s", i, fmt.Sprintf(format, args...)))
}

// with runs f on a replica that lives.
func (r *fakeReplica) with(f func(n, peer *fakeNode) error) error {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if r.stopped {
		return errors.New("the replica has ended")
	}
	return f(&r.d.nodes[r.i], &r.d.nodes[1-r.i])
}

func (r *fakeReplica) Status(ctx context.Context) (st ReplicaStatus, err error) {
	err = r.with(func(n, _ *fakeNode) error {
		st = ReplicaStatus{Role: n.role, Epoch: n.epoch, Uptodate: n.role == "clean" || n.role == "alone",
			Consistent: n.role != "syncing", Connected: r.joined, Synced: r.synced, Frozen: r.frozen, Degraded: r.degraded, Follow: r.o}
		if n.role == "connected" {
			st.Rank = 1
		}
		return nil
	})
	return st, err
}

func (r *fakeReplica) Promote(ctx context.Context, epoch uint64, force Force) error {
	return r.with(func(n, _ *fakeNode) error {
		r.d.note(r.i, "promote %d %d", epoch, force)
		if !r.primary {
			switch {
			case n.role == "syncing" && force < ForcePrimforce:
				return ErrInconsistent
			case n.role != "clean" && n.role != "alone" && n.role != "second" && n.role != "connected" && force < ForcePrim:
				return ErrNotUptodate
			}
		}
		r.cut()
		r.primary, r.frozen, r.follow = true, true, 0
		n.epoch, n.role = epoch, "connected"
		r.d.join()
		return nil
	})
}

func (r *fakeReplica) Alone(ctx context.Context, epoch, stream uint64) error {
	return r.with(func(n, _ *fakeNode) error {
		r.d.note(r.i, "alone %d", epoch)
		if r.frozen {
			r.frozen, n.role = false, "alone"
		}
		r.d.join()
		return nil
	})
}

// Streams of the fake break by themselves, and nothing waits in it.
func (r *fakeReplica) Cut(ctx context.Context) error { return nil }
func (r *fakeReplica) Configure(ctx context.Context) error {
	return r.with(func(*fakeNode, *fakeNode) error { r.d.note(r.i, "configure"); return nil })
}
func (r *fakeReplica) Abandon(ctx context.Context) error { return nil }

func (r *fakeReplica) Follow(ctx context.Context, epoch uint64, addr string, o FollowOptions) error {
	return r.with(func(n, _ *fakeNode) error {
		r.d.note(r.i, "follow %d %s", epoch, optionsText(o))
		if r.follow == epoch && r.joined && o == (FollowOptions{}) {
			return nil
		}
		r.cut()
		r.primary, r.follow, r.o = false, epoch, o
		r.d.join()
		return nil
	})
}

func (r *fakeReplica) Outdate(ctx context.Context, epoch uint64) error {
	return r.with(func(n, _ *fakeNode) error {
		r.d.note(r.i, "outdate %d", epoch)
		r.cut()
		r.follow = 0
		if n.role != "syncing" {
			n.role = "outdated"
		}
		return nil
	})
}

func (r *fakeReplica) Demote(ctx context.Context) error {
	return r.with(func(n, peer *fakeNode) error {
		r.d.note(r.i, "demote")
		if r.frozen && r.primary {
			return errors.New("the stream is broken")
		}
		r.primary, r.drained = false, true
		return nil
	})
}

func (r *fakeReplica) Stop(ctx context.Context, clean bool) error {
	return r.with(func(n, _ *fakeNode) error {
		r.d.note(r.i, "stop clean=%v", clean)
		r.cut()
		if clean && (n.role == "second" || n.role == "connected" && r.drained || n.role == "alone") {
			n.role = "clean"
		}
		r.end()
		return nil
	})
}

func (r *fakeReplica) Events() <-chan ReplicaEvent { return r.events }

func (r *fakeReplica) end() {
	r.stopped = true
	close(r.events)
	r.d.nodes[r.i].proc = nil
}

// kill is the death of node i's replica.
func (d *fakeData) kill(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.nodes[i].proc; p != nil {
		p.cut()
		p.end()
	}
}

// breakStream cuts the stream between the nodes.
func (d *fakeData) breakStream() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.nodes {
		if p := d.nodes[i].proc; p != nil {
			p.cut()
			return
		}
	}
}

// cut ends the stream that r is part of.
func (r *fakeReplica) cut() {
	if !r.joined {
		return
	}
	for i := range r.d.nodes {
		if p := r.d.nodes[i].proc; p != nil && p.joined {
			p.joined, p.synced = false, false
			if p.primary {
				p.frozen = true
			}
			p.events <- ReplicaEvent{Kind: PeerLost, Epoch: r.d.nodes[i].epoch}
		}
	}
}

// join lets a follower join a primary that goes on.
func (d *fakeData) join() {
	for i := range d.nodes {
		p, f := d.nodes[i].proc, d.nodes[1-i].proc
		if p == nil || f == nil || !p.primary || p.degraded || f.follow == 0 || f.follow != d.nodes[i].epoch || f.joined {
			continue
		}
		p.joined, f.joined, p.frozen = true, true, false
		d.nodes[1-i].role, d.nodes[1-i].epoch = "syncing", d.nodes[i].epoch
		for _, r := range []*fakeReplica{p, f} {
			r.events <- ReplicaEvent{Kind: PeerJoined, Epoch: d.nodes[i].epoch}
		}
		f.events <- ReplicaEvent{Kind: ReplicaLog, Level: LevelEvent, Source: "reintegre", Text: "Updating directory tree from /replicated"}
		d.nodes[i].role, d.nodes[1-i].role = "connected", "second"
		for _, r := range []*fakeReplica{p, f} {
			r.synced = true
			e := ReplicaEvent{Kind: Synced, Epoch: d.nodes[i].epoch}
			if r == f {
				e.Follow = r.o
			}
			r.events <- e
		}
	}
}

func optionsText(o FollowOptions) string {
	switch {
	case o.Full:
		return "full"
	case !o.Since.IsZero():
		return "since " + o.Since.UTC().Format(time.RFC3339)
	}
	return "default"
}
