package ha

import (
	"strings"
	"time"
)

// TaskKind is one kind of step of a transition.
type TaskKind uint8

// The kinds of Task. Marks change the State when their turn comes and take no
// time; the others are carried out by the driver and come back as Done.
const (
	TaskScript  TaskKind = iota + 1
	TaskStart            // start the replica (Degraded)
	TaskStop             // stop the replica (Clean)
	TaskPromote          // Epoch, Force
	TaskFollow           // Epoch, Full, Since
	TaskDemote
	TaskAlone   // Epoch
	TaskOutdate // Epoch
	TaskStatus
	TaskCut     // end the stream to a peer that is silent
	TaskAbandon // fail the changes that wait: the peer has taken over
	TaskJoin    // swap: give the former primary some time to join before anything is written

	TaskClaim   // wait until the peer has conceded Drop, or is silent
	MarkRole    // Role
	MarkRelease // the reign has ended
	MarkEnd     // the module is stopped

	TaskAddress   // set the addresses that are missing (Ask); in a plan: they are to be set from now on
	TaskNoAddress // take the addresses away
	TaskAnnounce  // tell the link again where they are

	TaskShare   // farm: become a member that answers for the virtual addresses; Done when the filter is in force
	TaskUnshare // …and leave; Done when it answers no more, by whatever means
	TaskReboot  // reboot the host; Done when that is under way

	TaskWitness // reach the witness; Done with an error when it does not answer
)

var taskNames = [...]string{"", "script", "start replica", "stop replica", "promote", "follow", "demote", "alone",
	"outdate", "status", "cut", "abandon", "join", "claim", "role", "release", "end", "set address", "remove address", "announce address",
	"share address", "unshare address", "reboot", "reach witness"}

func (k TaskKind) String() string { return taskNames[k] }

// Task is one step of a transition.
type Task struct {
	Kind     TaskKind  `json:",omitempty"`
	Script   string    `json:",omitempty"` // start_prim, …
	Part     Parts     `json:",omitempty"` // of the application that Script starts or stops
	Force    bool      `json:",omitempty"` // of a stop script: the second call
	From, To Role      `json:",omitempty"`
	Action   string    `json:",omitempty"` // start, stop, stopstart, stopwait: third argument of scripts
	Role     Role      `json:",omitempty"`
	Epoch    uint64    `json:",omitempty"`
	Stream   uint64    `json:",omitempty"` // of Alone: see Replica.Alone
	Forced   Force     `json:",omitempty"` // of Promote
	Full     bool      `json:",omitempty"`
	Since    time.Time `json:",omitzero"`
	Degraded bool      `json:",omitempty"`
	Clean    bool      `json:",omitempty"`
	Ask      bool      `json:",omitempty"` // whether another host has the address
}

// name is what the state shows while the task runs.
func (t Task) name() string {
	if t.Kind == TaskScript {
		return t.Script
	}
	return t.Kind.String()
}

// starts says that the task runs a start script.
func (t Task) starts() bool { return t.Kind == TaskScript && strings.HasPrefix(t.Script, "start_") }

// Action is something that Step wants done.
type Action interface{ isAction() }

type (
	// Run carries out a task; Done comes back with its ID.
	Run struct {
		ID   uint64
		Task Task
	}
	// Kill ends the script of this task with all its processes.
	Kill struct{ ID uint64 }
	// Say adds a line to the module log.
	Say struct {
		Level        Level
		Source, Text string
	}
)

func (Run) isAction()  {}
func (Kill) isAction() {}
func (Say) isAction()  {}

// Event is something that happened.
type Event interface{ isEvent() }

type (
	// Asked is a command that Refusal let pass.
	Asked struct{ Command Command }
	// Done says how a task ended.
	Done struct {
		ID     uint64
		Err    error
		Exit   int           // of a script
		Status ReplicaStatus // after a task of the replica that did not fail
		// Of a TaskAddress:
		Missing Addresses // what is still missing
		Late    bool      // this host did not run meanwhile
	}
	// AddressLost says that a virtual address is not there any more. Expired: because
	// its lease ran out, else because somebody removed it.
	AddressLost struct {
		Index   int
		Expired bool
		CutOff  bool // its interface has no carrier
	}
	// Told is an event of the replica.
	Told struct{ Event ReplicaEvent }
	// Tick comes now and then while there is something to do with the time.
	Tick struct{}
	// Due says that the time of a scheduled synchronisation has come. By is who says
	// so: the schedule, or a command.
	Due struct{ By string }
	// Gone says that the replica ended by itself.
	Gone struct{}
	// Heard is a beat of the peer.
	Heard struct{ Beat Beat }
	// Linked is a verdict about a heartbeat.
	Linked struct {
		Index int
		Link  Link
	}
	// Adopted says what was found of the replica after the daemon was started
	// again in the middle of this state. Reboot: the host was restarted, nothing
	// of the module runs.
	Adopted struct {
		Reboot bool
		Found  bool // a replica runs
		Status ReplicaStatus
		// Missing are the addresses that were not found.
		Missing Addresses
	}
	// Ruled says that a failover rule applies; see ruled.go.
	Ruled struct{ Rule, Action string }
	// Checked says that the checkers of class pre have given their first verdict, and
	// that the rules were evaluated on it. It has to come at the latest when their
	// timeouts are over.
	Checked struct{}
	// Reconfigured brings the active configuration.
	Reconfigured struct{ Conf Conf }
)

func (Asked) isEvent()        {}
func (Done) isEvent()         {}
func (Told) isEvent()         {}
func (Tick) isEvent()         {}
func (Due) isEvent()          {}
func (Gone) isEvent()         {}
func (AddressLost) isEvent()  {}
func (Heard) isEvent()        {}
func (Linked) isEvent()       {}
func (Adopted) isEvent()      {}
func (Ruled) isEvent()        {}
func (Checked) isEvent()      {}
func (Reconfigured) isEvent() {}

// machine is a Step at work.
type machine struct {
	State
	now     time.Time
	actions []Action
}

func (m *machine) say(source, text string) {
	m.actions = append(m.actions, Say{LevelEvent, source, text})
}

func (m *machine) info(source, text string) {
	m.actions = append(m.actions, Say{LevelInfo, source, text})
}

// run gives a task to the driver and returns its id.
func (m *machine) run(t Task) uint64 {
	m.TaskID++
	m.actions = append(m.actions, Run{m.TaskID, t})
	return m.TaskID
}
