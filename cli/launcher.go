package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/replica"
)

const (
	startPatience = time.Minute           // for a replica to answer: it may have to replay its receive log
	startPoll     = 20 * time.Millisecond // between looks whether it does
	maxReplicaLog = 1 << 20               // bytes from which replica.log is emptied at a start
)

// launcher starts replicas as processes of their own, which outlive the daemon,
// and finds those that run. It is the ha.Launcher of the daemon.
type launcher struct {
	paths conf.Paths
	node  string // as given to the daemon; "": by address
}

var _ ha.Launcher = (*launcher)(nil)

// Start spawns the replica of a module in its own session.
func (l *launcher) Start(ctx context.Context, am string, o ha.StartOptions) (ha.Replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"replica", "-m", am}
	if l.node != "" {
		args = append(args, "--node", l.node)
	}
	if o.Degraded {
		args = append(args, "--degraded")
	}
	out, err := l.openLog(am)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	from, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...) // not CommandContext: it lives on
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), l.paths.ScriptEnv(am)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the replica of %s: %w", am, err)
	}
	exited := make(chan struct{})
	go func() { // ends with the replica, which must be reaped
		cmd.Wait()
		close(exited)
	}()

	// A replica that never answers is not left behind: it would hold the mounts.
	// Its own clean up gets its time before that is cut off.
	r, err := l.await(ctx, am, exited)
	if err == nil {
		return r, nil
	}
	select {
	case <-exited:
		if text := lastWords(out, from); text != "" {
			err = errors.New(text)
		}
	default:
		cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
	}
	return nil, fmt.Errorf("start the replica of %s: %w", am, err)
}

// await connects to a replica that has just been started.
func (l *launcher) await(ctx context.Context, am string, exited <-chan struct{}) (ha.Replica, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("no answer within %v", startPatience))
	defer cancel()
	poll := time.NewTicker(startPoll)
	defer poll.Stop()
	for {
		r, err := l.Attach(ctx, am)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, ha.ErrNoReplica) {
			return nil, err
		}
		select {
		case <-exited:
			return nil, errors.New("it ended at once")
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-poll.C:
		}
	}
}

// openLog opens replica.log of a module, which starts afresh when it has grown.
func (l *launcher) openLog(am string) (*os.File, error) {
	f, err := os.OpenFile(l.paths.ReplicaLog(am), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && st.Size() > maxReplicaLog {
		err = f.Truncate(0)
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// lastWords is what a replica that ended has said since offset from: its error.
func lastWords(f *os.File, from int64) string {
	b, err := io.ReadAll(io.NewSectionReader(f, from, 4096))
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	for _, line := range lines {
		if text, ok := bytes.CutPrefix(line, []byte("Error: ")); ok {
			return string(text)
		}
	}
	return string(lines[0]) // the head of a panic, or nothing
}

// Attach connects to the replica that runs.
func (l *launcher) Attach(ctx context.Context, am string) (ha.Replica, error) {
	c, err := replica.Dial(ctx, l.paths.ReplicaSocket(am))
	if noReplica(err) {
		return nil, fmt.Errorf("%s: %w", am, ha.ErrNoReplica)
	}
	if err != nil {
		return nil, err
	}
	r := &remoteReplica{c: c, events: make(chan ha.ReplicaEvent)}
	go r.pump()
	return r, nil
}

// noReplica says that err means that no replica listens.
func noReplica(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

// remoteReplica is a replica as ha sees it: the words of replica in those of ha,
// since neither package knows the other.
type remoteReplica struct {
	c      *replica.Client
	events chan ha.ReplicaEvent
}

var _ ha.Replica = (*remoteReplica)(nil)

var eventKinds = map[replica.EventKind]ha.ReplicaEventKind{
	replica.EventPeerLost:   ha.PeerLost,
	replica.EventPeerJoined: ha.PeerJoined,
	replica.EventSynced:     ha.Synced,
	replica.EventFailed:     ha.ReplicaFailed,
	replica.EventLog:        ha.ReplicaLog,
	replica.EventStuck:      ha.ReplicaStuck,
}

// pump passes events on until the replica ends.
func (r *remoteReplica) pump() {
	defer close(r.events)
	for e := range r.c.Events() {
		var level ha.Level
		if err := level.UnmarshalText([]byte(e.Level)); err != nil {
			level = ha.LevelInfo
		}
		r.events <- ha.ReplicaEvent{Kind: eventKinds[e.Kind], Epoch: e.Epoch, Stream: e.Stream, Text: e.Text, Level: level, Source: e.Source, Follow: ha.FollowOptions(e.Follow)}
	}
}

func (r *remoteReplica) Events() <-chan ha.ReplicaEvent { return r.events }

func (r *remoteReplica) Status(ctx context.Context) (ha.ReplicaStatus, error) {
	s, err := r.c.Status(ctx)
	return ha.ReplicaStatus{
		Role: s.Role, Epoch: s.Epoch, Uptodate: s.Uptodate, Consistent: s.Consistent, Connected: s.Connected,
		Synced: s.Synced, Stream: s.Stream, Frozen: s.Frozen, Degraded: s.Degraded, Rank: s.Rank, Follow: ha.FollowOptions(s.Follow), Sent: s.Sent, Received: s.Received, Copied: s.Copied, Progress: ha.ReplicaProgress(s.Progress),
	}, err
}

var forces = map[ha.Force]replica.Force{
	ha.NoForce:        replica.NoForce,
	ha.ForcePrim:      replica.ForcePrim,
	ha.ForcePrimforce: replica.ForcePrimforce,
}

func (r *remoteReplica) Promote(ctx context.Context, epoch uint64, force ha.Force) error {
	err := r.c.Promote(ctx, epoch, forces[force])
	switch {
	case errors.Is(err, replica.ErrNotUptodate):
		return ha.ErrNotUptodate
	case errors.Is(err, replica.ErrInconsistent):
		return ha.ErrInconsistent
	}
	return err
}

func (r *remoteReplica) Abandon(ctx context.Context) error   { return r.c.Abandon(ctx) }
func (r *remoteReplica) Configure(ctx context.Context) error { return r.c.Configure(ctx) }
func (r *remoteReplica) Cut(ctx context.Context) error       { return r.c.Cut(ctx) }
func (r *remoteReplica) Alone(ctx context.Context, epoch, stream uint64) error {
	return r.c.Alone(ctx, epoch, stream)
}

func (r *remoteReplica) Follow(ctx context.Context, epoch uint64, addr string, o ha.FollowOptions) error {
	return r.c.Follow(ctx, epoch, addr, replica.FollowOptions(o))
}

func (r *remoteReplica) Outdate(ctx context.Context, epoch uint64) error {
	return r.c.Outdate(ctx, epoch)
}

func (r *remoteReplica) Demote(ctx context.Context) error { return r.c.Demote(ctx) }

func (r *remoteReplica) Stop(ctx context.Context, clean bool) error { return r.c.Stop(ctx, clean) }
