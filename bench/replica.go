package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/replica"
)

const (
	network     = "repli"
	replicaPort = 35600 // and the number of the target
	epoch       = 1     // of the only primary
	patience    = 30 * time.Second
)

// process is a replica on a host, as this program sees it.
type process struct {
	host    *lab.Host
	started *lab.Started
	client  *replica.Client
	synced  chan struct{} // closed when the pair is in sync
	lost    chan struct{} // closed when the other one has gone
	ended   chan struct{} // closed after the last event
	profile *http.Client
	addr    string      // where it listens
	ending  atomic.Bool // that its peer goes is no news any more
	said    []string    // the texts of its events; after ended
}

// startReplicas starts a replica on each host and makes the first one the primary,
// with the other one, if there is one, in sync.
func (t *target) startReplicas(ctx context.Context, hosts []*lab.Host, async conf.Async) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, h := range hosts {
		p, err := t.startReplica(ctx, h, async)
		if p != nil {
			t.replicas = append(t.replicas, p)
		}
		if err != nil {
			return fmt.Errorf("replica on host %s: %w", h.Name(), err)
		}
	}
	primary := t.replicas[0]
	// New directories are not known to be the newest.
	if err := primary.client.Promote(ctx, epoch, replica.ForcePrim); err != nil {
		return err
	}
	if err := primary.client.Alone(ctx, epoch, replica.AnyStream); err != nil {
		return err
	}
	if len(t.replicas) == 1 {
		return nil
	}
	if err := t.replicas[1].client.Follow(ctx, epoch, primary.addr, replica.FollowOptions{}); err != nil {
		return err
	}
	for _, p := range t.replicas {
		select {
		case <-p.synced:
		case <-p.started.Done():
			return fmt.Errorf("host %s: the replica ended: %w", p.host.Name(), p.started.Wait())
		case <-ctx.Done():
			return fmt.Errorf("host %s does not come in sync: %w", p.host.Name(), ctx.Err())
		}
	}
	return nil
}

// startReplica starts a replica and connects to it.
func (t *target) startReplica(ctx context.Context, h *lab.Host, async conf.Async) (*process, error) {
	state := path.Join(stateDir, t.name)
	if err := os.MkdirAll(h.Path(state), 0o755); err != nil { // it is there if the replica has run before
		return nil, err
	}
	cfg := replica.Config{
		Module: t.name, Node: h.Name(), StateDir: state, Socket: path.Join(state, "replica.sock"),
		Listen: []string{net.JoinHostPort(h.Addr(network).String(), fmt.Sprint(replicaPort+t.number))},
		RFS: &conf.RFS{Async: async, ACL: true, LockTimeout: patience, SendTimeout: patience, NbRemConn: 1, NbRei: workers, ZoneSize: zoneSize,
			Replicated: []conf.Replicated{{Dir: t.dir(), ReadOnly: true}}},
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	cmd := h.RoleCommand(context.WithoutCancel(ctx), "replica", string(arg))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	p := &process{host: h, addr: cfg.Listen[0], synced: make(chan struct{}), lost: make(chan struct{}), ended: make(chan struct{})}
	if p.started, err = h.Start(cmd); err != nil {
		return nil, err
	}
	p.profile = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.Path(profileSocket(state)))
	}}}
	for poll := time.NewTicker(10 * time.Millisecond); ; {
		if p.client, err = replica.Dial(ctx, h.Path(cfg.Socket)); err == nil {
			break
		}
		select {
		case <-poll.C:
		case <-p.started.Done():
			return p, fmt.Errorf("it ended: %w", p.started.Wait())
		case <-ctx.Done():
			return p, errors.Join(err, ctx.Err())
		}
	}
	go p.watch()
	return p, nil
}

// watch reads the events of the replica until its end.
func (p *process) watch() {
	defer close(p.ended)
	synced, lost := p.synced, p.lost
	for e := range p.client.Events() {
		p.said = append(p.said, e.Text)
		switch e.Kind {
		case replica.EventSynced:
			if synced != nil {
				close(synced)
				synced = nil
			}
		case replica.EventPeerLost, replica.EventFailed:
			if e.Kind == replica.EventPeerLost && lost != nil {
				close(lost)
				lost = nil
			}
			if p.ending.Load() {
				continue
			}
			// The work that waits for it would wait for ever: there is no supervisor.
			fmt.Fprintf(os.Stderr, "host %s: %s %s\n", p.host.Name(), e.Kind, e.Text)
		}
	}
}

// stop ends the replica, in order.
func (p *process) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.profile.CloseIdleConnections()
	if p.client == nil {
		return nil // its host is killed
	}
	err := p.client.Stop(ctx, true)
	if err == nil {
		err = p.started.Wait()
	}
	return errors.Join(err, p.client.Close())
}

// logged returns the texts of the events of a replica that has ended which contain
// a text.
func (p *process) logged(text string) (found []string) {
	<-p.ended
	for _, s := range p.said {
		if strings.Contains(s, text) {
			found = append(found, s)
		}
	}
	return found
}

// replicaRole is the replica, in its host.
func replicaRole(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("arguments %q: expected a configuration", args)
	}
	var cfg replica.Config
	if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	stop, err := serveProfiles(profileSocket(cfg.StateDir))
	if err != nil {
		return err
	}
	return errors.Join(replica.Run(context.Background(), cfg), stop())
}

func profileSocket(state string) string { return path.Join(state, "profile.sock") }

// serveProfiles answers startProfile and stopProfile.
func serveProfiles(socket string) (stop func() error, err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	var profile bytes.Buffer
	mux := http.NewServeMux()
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, _ *http.Request) {
		profile.Reset()
		if err := pprof.StartCPUProfile(&profile); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		pprof.StopCPUProfile()
		w.Write(profile.Bytes()) // if the other end is gone nobody wants it
	})
	s := &http.Server{Handler: mux}
	go s.Serve(l) // ends with Close
	return s.Close, nil
}

func (p *process) startProfile(ctx context.Context) error {
	_, err := p.post(ctx, "start")
	return err
}

// stopProfile writes the profile since startProfile to a file.
func (p *process) stopProfile(ctx context.Context, file string) error {
	data, err := p.post(ctx, "stop")
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func (p *process) post(ctx context.Context, what string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://replica/"+what, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.profile.Do(req)
	if err != nil {
		return nil, fmt.Errorf("profile of host %s: %w", p.host.Name(), err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("profile of host %s: %s: %w", p.host.Name(), what, err)
	}
	return data, nil
}
