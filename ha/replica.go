package ha

import (
	"context"
	"errors"
	"time"
)

// Launcher finds and starts the process that owns a module's data.
type Launcher interface {
	// Start spawns the replica of a module, detached from this process (it
	// outlives the daemon), and returns when its control socket answers. A
	// replica that cannot start (a directory that does not exist, a mount that
	// fails) is an error whose text says why.
	Start(ctx context.Context, module string, o StartOptions) (Replica, error)

	// Attach finds the replica that already runs; ErrNoReplica if none does. It
	// never starts one.
	Attach(ctx context.Context, module string) (Replica, error)
}

// StartOptions says how a replica starts.
type StartOptions struct {
	// Degraded: the module's data is served here without replication (§5.6).
	// The replica mounts, never listens for a second and never joins a primary.
	Degraded bool
}

// Replica is what the automaton needs of the data side. A replica that has just
// been started is read-only and belongs to nobody until Promote or Follow.
//
// Every call is idempotent: a daemon that was killed between a call and its
// answer makes the call again. Calls may run concurrently (Outdate and Alone in
// particular do not wait for Follow or Demote to end). When the replica dies,
// calls that are under way return an error and Events is closed.
type Replica interface {
	// Status says what the replica is and what it knows of its data.
	Status(ctx context.Context) (ReplicaStatus, error)

	// Promote makes this node the primary of epoch, which is greater than every
	// epoch that either node has seen (not necessarily by one). It ends what
	// Follow started, applies everything that was received, durably records
	// epoch, then turns the mount writable. Until Alone is called or a second
	// has joined, changes by applications wait: the peer may not know yet that it
	// is out of date.
	//
	// On a replica that is primary already it raises the epoch and nothing else.
	// A second is up to date if it was Synced and not outdated since.
	// Without force, ErrNotUptodate or ErrInconsistent refuse; ForcePrim
	// accepts what is not up to date, ForcePrimforce also what is inconsistent.
	Promote(ctx context.Context, epoch uint64, force Force) error

	// Alone lets the primary of epoch go on without the peer: it durably records
	// so (before the first answer), and answers the calls that waited. stream is the
	// last one of the epoch that the caller knows of (ReplicaEvent.Stream; 0: none).
	// When a second has joined since, it has no effect: that stream stays, in sync
	// or not; and if it was lost again, what is to be conceded is another loss.
	Alone(ctx context.Context, epoch, stream uint64) error

	// Configure takes up what of the active configuration may change while the module
	// runs (guide §13.6.2): the next stream goes by it. On error nothing is changed.
	Configure(ctx context.Context) error

	// Cut ends the stream to the second, which is silent on all heartbeats, as if
	// it had broken: PeerLost follows. No effect when there is none.
	Cut(ctx context.Context) error

	// Abandon makes changes that wait, and all that come, fail: the peer has taken
	// over. The replica is of no more use than to be stopped.
	Abandon(ctx context.Context) error

	// Follow makes this node the read-only second of the primary of epoch at
	// addr (host:port) and returns; joining goes on in the background, and is
	// tried again, after every loss too, until another call says otherwise.
	Follow(ctx context.Context, epoch uint64, addr string, o FollowOptions) error

	// Outdate records durably that the data here is not up to date: the primary
	// of epoch goes on without it. It refuses Promote without force until the
	// next Synced. It ends a Follow and its stream, so that no synchronisation
	// that began before can count; Follow is called again afterwards.
	Outdate(ctx context.Context, epoch uint64) error

	// Demote ends the reign of this primary: it waits until the second has
	// applied every operation, then turns read-only. Without a second it only
	// turns read-only. With one that is lost before it has applied all it fails,
	// and nothing is changed.
	Demote(ctx context.Context) error

	// Stop unmounts and ends the process. clean: the data is recorded as ended in
	// order, so that the next start knows what it has.
	Stop(ctx context.Context, clean bool) error

	// Events tells what happens to the data by itself. It is closed when the
	// replica dies or the connection to it is lost.
	Events() <-chan ReplicaEvent
}

// FollowOptions say what a second takes from its primary; zero: what is known to
// differ.
type FollowOptions struct {
	Full  bool      // all files
	Since time.Time // the files changed later, there or here; the rest is trusted
}

// Force says what Promote may overlook.
type Force uint8

// How much Promote is forced.
const (
	NoForce        Force = iota
	ForcePrim            // data that may not be up to date (command prim)
	ForcePrimforce       // data that may be inconsistent (command primforce)
)

// Refusals of the data side.
var (
	ErrNoReplica    = errors.New("no replica runs for this module")
	ErrNotUptodate  = errors.New("data may be not up to date")
	ErrInconsistent = errors.New("data may be inconsistent (stopped during reintegration)")
)

// ReplicaEventKind says what happened to a replica.
type ReplicaEventKind uint8

// The kinds of ReplicaEvent.
const (
	// PeerLost: the stream of this epoch is broken. On the primary, changes by
	// applications wait until Alone, or until a second has joined again.
	PeerLost ReplicaEventKind = iota + 1
	// PeerJoined: a stream is up and synchronisation begins. The second has
	// durably recorded that its data is being changed, so a primary goes on.
	PeerJoined
	// Synced: the second's data is the primary's, and stays so (both sides say so).
	Synced
	// ReplicaFailed: the replica cannot go on (R13: a failed fsync…). Text says why. The
	// module is to be stopped and started; until then every change fails.
	ReplicaFailed
	// ReplicaLog: a line for the module log: Level, Source, Text.
	ReplicaLog
	// ReplicaStuck: a replicated directory does not answer (checktime, §13.6.3). Text
	// says which. The module is to be stopped and started.
	ReplicaStuck
)

// ReplicaEvent is something that happened to a replica by itself.
type ReplicaEvent struct {
	Kind   ReplicaEventKind
	Epoch  uint64
	Stream uint64 // PeerJoined and PeerLost, on the primary: which stream of Epoch, from 1
	Text   string
	Level  Level
	Source string        // "reintegre", "nfsadmin", …
	Follow FollowOptions // Synced, on the second: what the synchronisation that ended was asked for
}

// ReplicaStatus is what a replica knows of itself and of its data.
type ReplicaStatus struct {
	Role       string // as in rfs.state, for people
	Epoch      uint64 // of the primary whose operations the data holds; 0: never had one
	Uptodate   bool   // surely the newest: may be primary without asking the peer
	Consistent bool   // not in the middle of a synchronisation: may be primary at all
	Connected  bool   // the stream to the peer is up
	Synced     bool   // …and the second's data is the primary's
	Stream     uint64 // primary: the last stream of Epoch, 0: none
	Frozen     bool   // primary: changes wait, see PeerLost
	Degraded   bool
	Rank       int           // of two data of the same epoch the greater knows more
	Follow     FollowOptions // second that is synced: what the synchronisation was asked for
	Sent       uint64        // bytes on the stream to the peer so far; a new stream begins at 0
	Received   uint64        // likewise
	Copied     uint64        // primary: of Sent, what the synchronisation has sent
	Progress   ReplicaProgress
}

// ReplicaProgress is how far a synchronisation is. All zero when none runs.
type ReplicaProgress struct {
	FilesDone, FilesLeft int64
	BytesDone, BytesLeft int64
	Rate                 int64         // bytes a second
	Left                 time.Duration // time left
}
