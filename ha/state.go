package ha

import (
	"slices"
	"time"

	"github.com/skfs/skfs/conf"
)

// State is everything the automaton of one module knows. It is a value: Step
// makes a new one of it. What has a json tag other than "-" is durable: the
// driver writes it before it carries out an action or sends a heartbeat that
// follows from it, so that nothing is promised that a crash can make forget.
type State struct {
	Conf Conf `json:"-"`

	Role  Role
	Since time.Time
	Why   Block // why WAIT is red, or why the module stopped
	Want  Want  // how the module was started; counts until it is primary or second
	Order Order // the command to be carried out next

	// The reign. Reign is true from before the first Promote of Epoch until the
	// application is stopped and what it wrote is with the peer.
	Epoch       uint64 // of the reign, or of the primary that is followed
	Seen        uint64 // the greatest epoch heard of
	Reign       bool
	Established bool // the claim of Epoch was conceded: scripts may start
	Unprotected bool // changes may have been answered in Epoch that the peer lacks
	Drop        Drop // what the peer is asked to concede; zero: nothing
	Drops       uint32
	Lost        bool   // went on alone after the peer was lost, until one joins
	Released    uint64 // the epoch whose reign ended in order here
	Swapping    bool   // the reign ended, or ends, for a swap
	SwapAsk     uint64 // second: asks the primary of this epoch to swap

	// What this node conceded: it is not up to date with respect to Outdated.
	Outdated Drop
	Stale    bool // …and was not synchronised since
	Handed   bool // ended a reign while an up to date second could go on

	Drained  bool // the reign that ends was handed over: the second has applied all
	Rival    bool // primary: met another one that has to give up
	Followed bool // second: the data of the primary of Epoch was asked for
	Follower bool // the replica follows, or tries to, since Followed or before
	Doubt    bool // second: a Synced came that may be of an older stream
	Afresh   bool // what a Follow brought before does not count: it was conceded
	Fresh    bool // second: has everything that was ever answered
	Up       Parts
	Data     Data
	Sync     SyncPolicy
	SyncUsed SyncPolicy    // second: the policy that the Follow under way began with
	SyncWith FollowOptions // …what was asked for then
	FullFor  uint64        // …and the full copy that its primary demanded, see Beat.Full
	FullDid  uint64        // second: the demand that was met
	Pairing  string        // Conf.Pairing as it was when it was looked at last
	SyncedAt time.Time     // when the data was last the peer's; kept with Conf.SyncDelta only
	SyncDue  bool          // rfs.syncat: the data is to be brought up to date now
	WasPrim  bool          // was primary when the module was stopped
	Home     bool          // wants to be primary as soon as it is up to date: the default primary was started
	Loops    int           // automatic restarts since LoopFrom, see loop.go
	LoopFrom time.Time
	Held     string   // the failover rule that keeps the module in WAIT, "": none; see ruled.go
	Checked  bool     // the checkers of class pre have given their first verdict, see Conf.Gate
	Witness  Link     // whether it was reached since the peer is silent, see witness.go
	Split    bool     // …and it was not: splitbrain.uptodate is down
	Live     Parts    // started, and not being stopped: what checkers may look at, see classes.go
	Settings Settings // what commands have changed of the configuration
	Classes  []Class  `json:",omitzero"` // what command errd has said of classes, by name; see detecting. Step replaces it, and never changes it
	Rebooted bool     // it was stopped because its host goes down (shutdown, automatic_reboot), and starts again after that with boot="auto"

	Plan    []Task // what is left of the transition under way
	Cur     Task   // the task under way; Kind 0: none
	CurID   uint64
	TaskID  uint64 // the last one given
	Alone   uint64 // id of a Replica.Alone under way beside the plan
	AloneOf uint64 // …and after the loss of which stream of the reign
	// The virtual addresses, while Up has PartAddress; see address.go.
	Missing   Addresses // not on this host
	Refused   Addresses // …and not to be set again: somebody removed them, and their ip checker tells
	AddressID uint64    // id of a TaskAddress under way beside the plan
	Withdrawn bool      // …or of a TaskNoAddress
	Tried     bool      `json:"-"` // the last attempt is over: not again before the next Tick
	Inherited uint64    `json:"-"` // the reign that followed one which the peer had ended in order, until its addresses are set
	Yield     uint64    // id of a Replica.Outdate under way beside the plan
	YieldD    Drop      // …and what it concedes
	WitnessID uint64    // id of a TaskWitness under way beside the plan

	Links  []Link `json:"-"` // verdicts about the heartbeats, as in Conf.Heartbeats
	Peer   Beat   `json:"-"` // the last word of the peer, zero when it is silent
	Colour Colour `json:"-"`
	Remote Remote `json:"-"` // as it was logged last
}

// Conf is what the automaton needs of the configuration.
type Conf struct {
	Mode         conf.Mode // "": mirror
	Node, Peer   string    // Peer of mirror modules
	Second       bool      // this node is the second of the two in the order of names
	HasData      bool      // there is an <rfs>
	Failover     bool
	Heartbeats   []string // idents
	MaxLoop      int
	LoopInterval time.Duration // 0: loops are not counted
	DefaultPrim  string        // alone, lastprim or a node, see conf.Module
	Pairing      string        // with whom which directories are replicated
	SyncDelta    time.Duration // see conf.RFS
	Addresses    []VirtualAddress
	SyncAt       bool // the data is brought up to date at scheduled times only
	Witness      bool // there is a splitbrain checker
	Reboot       bool // automatic_reboot: an automatic stopstart reboots the host instead
	Gate         bool // leave WAIT only after Checked: there are checkers of class pre
}

// Remote is a role with its colour.
type Remote struct {
	Role   Role
	Colour Colour
}

// Want is how a module was asked to start.
type Want uint8

// The ways to start.
const (
	WantStart Want = iota
	WantPrim
	WantPrimforce
	WantSecond
)

// Order is a command that waits for the transition under way to end.
type Order uint8

// The orders.
const (
	NoOrder Order = iota
	OrderStart
	OrderStop
	OrderForcestop
	OrderStopstart
	OrderRestart
	OrderSwap
	OrderStopwait // stop the application, and wait until no rule holds the module
	OrderReboot   // stop, then reboot the host
)

// stops says that the order takes the module to STOP.
func (o Order) stops() bool {
	return o == OrderStop || o == OrderForcestop || o == OrderStopstart || o == OrderReboot
}

// Block is why a module waits (WAIT red).
type Block uint8

// The reasons to wait.
const (
	NoBlock Block = iota
	BlockNotUptodate
	BlockDegraded
	BlockSyncat   // until the next scheduled synchronisation
	BlockRule     // until no failover rule says wait, see State.Held
	BlockFailover // failover="off": until the other node is started, or command prim
)

// Link is the verdict about one heartbeat.
type Link uint8

// The verdicts.
const (
	LinkUnknown Link = iota // not silent for long enough to say that it is down
	LinkUp
	LinkDown
)

// Drop is what a primary asks its peer to concede: that it goes on without it.
// N counts the losses of the reign.
type Drop struct {
	Epoch uint64
	N     uint32
}

func (d Drop) isZero() bool { return d == Drop{} }
func (d Drop) covers(o Drop) bool { // d concedes o
	return d.Epoch > o.Epoch || d.Epoch == o.Epoch && d.N >= o.N
}

// Parts are the parts of the application that scripts have started.
type Parts uint8

// The parts, in the order in which they start.
const (
	PartBoth Parts = 1 << iota
	PartPrim
	PartSecond
	PartSec
	PartAddress // the virtual addresses; no scripts belong to it
	PartFarm    // membership of the farm, and its share of the virtual addresses; no scripts belong to it
	PartPre     // the module itself, from the end of prestart to the beginning of poststop; in State.Live only
)

// partNames are in the order in which parts start; sec, prim, second, both is
// that in which they stop (guide §14.2). The addresses are there while prim runs,
// those of a farm while both does.
var (
	partNames = []struct {
		part Parts
		name string
	}{{PartFarm, "farm"}, {PartBoth, "both"}, {PartAddress, "address"}, {PartPrim, "prim"}, {PartSecond, "second"}, {PartSec, "sec"}}
	stopOrder = []Parts{PartSec, PartPrim, PartAddress, PartSecond, PartBoth, PartFarm}
)

func (p Parts) name() string {
	i := slices.IndexFunc(partNames, func(n struct {
		part Parts
		name string
	}) bool {
		return n.part == p
	})
	return partNames[i].name
}

// partsOf is what scripts start in a role; see wants.
func partsOf(r Role) Parts {
	switch r {
	case RoleAlone:
		return PartBoth | PartPrim | PartSec
	case RolePrim:
		return PartBoth | PartPrim
	case RoleSecond:
		return PartBoth | PartSecond | PartSec
	case RoleUp:
		return PartBoth
	}
	return 0
}

// Data is what is known of the replica.
type Data struct {
	Running    bool // a replica serves this module
	Gone       bool // it ended by itself
	Degraded   bool
	Epoch      uint64
	Uptodate   bool
	Consistent bool
	Rank       int
	Joined     bool   // a stream is up
	Synced     bool   // …and the second's data is the primary's
	Frozen     bool   // primary: changes wait
	Stream     uint64 // primary: the last stream of its reign that is known, see Replica.Alone
}

// Beat is what a node says of itself in every heartbeat: facts, never requests
// that could be lost. A later beat replaces an earlier one entirely.
type Beat struct {
	Known       bool // false: nothing was heard
	Role        Role
	Colour      Colour
	Epoch       uint64
	Seen        uint64
	Primary     bool // reigns, or claims to, in Epoch
	Established bool
	Unprotected bool
	Open        bool // primary: a second may join
	Degraded    bool
	Drop        Drop
	Outdated    Drop
	Released    uint64
	Swapping    bool
	SwapAsk     uint64
	Fresh       bool // a second that may take over
	HearsMe     bool // hears the receiver of this beat
	Ready       bool // WAIT: knows its data and may decide
	Candidate   bool // …and would start as primary if it knew the most
	Uptodate    bool
	DataEpoch   uint64
	Rank        int
	Held        bool   // WAIT: a rule keeps it there, or may: it starts nothing for now
	WantSecond  bool   // was started to be second
	Full        uint64 // primary: demands a full copy; names the demand
	FullDone    uint64 // second: in sync by the full copy of this name
	SyncUID     string // the external synchronisation that is set here
	SyncSince   int64  // primary of it: what was changed later is to be copied; ns since 1970
}

// gated says that not all checkers of class pre have given a verdict.
func (s *State) gated() bool { return s.Conf.Gate && !s.Checked }

// beat is what the node says of itself in state s.
func (s *State) beat() Beat {
	b := Beat{
		Known: true, Role: s.Role, Colour: s.Colour,
		Epoch: s.Epoch, Seen: s.Seen,
		Primary: s.Reign, Established: s.Established, Unprotected: s.Unprotected,
		Open: s.Reign && !s.Data.Frozen && s.Alone == 0 && (s.Established || s.Cur.Kind == TaskJoin), Degraded: s.Data.Degraded,
		Drop: s.Drop, Outdated: s.Outdated, Released: s.Released,
		Swapping: s.Swapping, SwapAsk: s.SwapAsk, Fresh: s.Role == RoleSecond && s.Fresh,
		HearsMe: s.Peer.Known,
		Ready:   s.Role == RoleWait && s.dataKnown() && s.idle(), Candidate: s.candidate(),
		Uptodate: s.Data.Uptodate, DataEpoch: s.dataEpoch(), Rank: s.rank(),
		Held:       s.Role == RoleWait && (s.Held != "" || s.gated()),
		WantSecond: s.Want == WantSecond, Full: s.demanded(),
	}
	if b.Fresh {
		b.FullDone = s.FullDid
	}
	if s.Sync.Mode == SyncExternal {
		b.SyncUID, b.SyncSince = s.Sync.UID, s.Sync.Since
	}
	return b
}

func (s *State) idle() bool { return s.Cur.Kind == 0 && len(s.Plan) == 0 }

// dataKnown says whether this node can say what its data is worth.
func (s *State) dataKnown() bool { return !s.Conf.HasData || s.Data.Running && !s.Data.Gone }

// dataEpoch of a module without data is 0, so that names decide.
func (s *State) dataEpoch() uint64 {
	if !s.Conf.HasData {
		return 0
	}
	return s.Data.Epoch
}

// sure says that no other data can be newer.
func (s *State) sure() bool {
	return s.elsewhere() == "" && (!s.Conf.HasData || s.Data.Uptodate && s.Data.Consistent && !s.Stale && !s.Handed)
}

// elsewhere says why the module is not to start here as long as the other node may: with
// failover="off" it stays with the node that was primary last (§5.7).
func (s *State) elsewhere() string {
	if s.failover() || s.WasPrim {
		return ""
	}
	return "failover-off"
}

// rank is that of the data, and of two that are the same with failover="off" that of the
// node which was primary last.
func (s *State) rank() int {
	if s.failover() {
		return s.Data.Rank
	}
	r := 2 * s.Data.Rank
	if s.WasPrim {
		r++
	}
	return r
}

// candidate says that the data here may be the newest of two that are compared.
func (s *State) candidate() bool {
	if s.Want == WantSecond {
		return false
	}
	return !s.Conf.HasData || s.Data.Consistent && !s.Stale && (s.Data.Uptodate || s.Data.Epoch > 0)
}

// exceeds says whether this node's data wins against the peer's. For two nodes
// that know each other's facts exactly one of a.exceeds(b), b.exceeds(a) holds.
func (s *State) exceeds(p Beat) bool {
	switch {
	case s.candidate() != p.Candidate:
		return s.candidate()
	case s.Data.Uptodate != p.Uptodate:
		return s.Data.Uptodate
	case s.dataEpoch() != p.DataEpoch:
		return s.dataEpoch() > p.DataEpoch
	case s.rank() != p.Rank:
		return s.rank() > p.Rank
	}
	return !s.Conf.Second
}

// silent says that every heartbeat is lost.
func (s *State) silent() bool {
	for _, l := range s.Links {
		if l != LinkDown {
			return false
		}
	}
	return true
}

// heard says that the peer's facts are known and fresh.
func (s *State) heard() bool { return s.Peer.Known && slices.Contains(s.Links, LinkUp) }

// nextEpoch is the epoch of a new reign of this node: greater than every epoch
// heard of. The lowest bit is the node's, so that two nodes never choose the
// same epoch, however little they hear of each other.
func (s *State) nextEpoch() uint64 {
	e := max(s.Epoch, s.Seen, s.Data.Epoch, s.Peer.Epoch, s.Peer.Seen, s.Peer.DataEpoch) + 1
	if (e&1 == 1) != s.Conf.Second {
		e++
	}
	return e
}

// clone copies what Step changes in place.
func (s State) clone() State {
	s.Plan = slices.Clone(s.Plan)
	s.Links = slices.Clone(s.Links)
	return s
}
