// Package ha decides what a module does on this node: the automaton of the
// guide's states (§5.2), the heartbeats to the other node, the scripts of the
// application, the log and the resources of the module.
//
//	             commands (web, cli)
//	                   │ Supervisor.Do
//	                   ▼
//	heart ──verdicts─▶ module ──Event──▶ Step ──▶ State, []Action   (pure)
//	  ▲    and beats   (driver)                      │
//	  │                   │ 1. State to ha.state     │
//	  └─── 2. beat ───────┤◀─────────────────────────┘
//	                      │ 3. actions
//	          ┌───────────┼──────────────┐
//	          ▼           ▼              ▼
//	       scripts     Replica        log, resources
//	      (run.go)   (replica.go)   (log.go, resource.go)
//
// # The automaton
//
// Step is in step.go (tasks, their ends), take.go (events to facts), decide.go
// (facts to transitions) and plan.go (what a transition consists of); sync.go is
// what the next synchronisation copies; up.go is farm and light modules. State is a value, and all that is known.
//
// A node reigns from the moment it claims an epoch until its application is
// stopped and its data handed over. Every reign has an epoch of its own: greater
// than all that were heard of, and with this node's bit, so that two nodes never
// reign in the same one, whatever they hear of each other.
//
// A claim is seen by the peer in the next heartbeat (Beat.Drop). Nothing is
// written and no script started before the peer has conceded (Beat.Outdated
// covers Drop) or is silent on all heartbeats. A node concedes only while it does
// not reign, and what it conceded is durable before it is said: from then on it
// takes over only when it was synchronised again. The same exchange lets a
// primary that lost its second go on (docs/ARCHITECTURE.md, "Losing the peer").
//
//	primary                                second
//	stream breaks: frozen                  stream breaks: SECOND magenta
//	beat Drop{epoch, n}      ───────────▶  Replica.Outdate, ha.state
//	Replica.Alone            ◀───────────  beat Outdated{epoch, n}
//	beat Open                ───────────▶  Replica.Follow
//
// Who becomes primary of two that wait: the one whose data may be the newest and
// is not conceded, then the surely up to date one, then the greater epoch, the
// greater rank, the smaller node name (State.exceeds). One that waits for a
// stopped or silent peer starts only if its data is surely the newest.
//
// A second takes over when it has everything that was ever answered (Fresh) and
// the primary is silent, has released its reign (stop, swap), or says that it
// does not reign (it was started again). It never takes over because the stream
// broke while it hears the primary.
//
// Two primaries that meet after a split brain: who answered nothing that the
// other lacks gives up; if both did, the smaller epoch, which held the reign
// before, stays and takes a new epoch above the other's.
//
// # Rules, checkers and detectors
//
// The failover machine says which rule applies (event Ruled, see ruled.go for what
// each action does); a module that a rule holds in WAIT goes on with the wakeup of
// Implicit_WAKEUP. Scripts and detectors give commands with their identity
// (Command.Identity), which are counted (loop.go). Which classes of checkers and
// process monitors run is a function of the State (classes.go); with Conf.Gate a
// module does not leave WAIT before the event Checked.
//
// # What is synchronised, and when
//
// A SyncPolicy asks for more than what is known to differ (second fullsync,
// primforce, rfssync, secondforce). It counts until a synchronisation that began
// with it has ended. The second passes it to its replica with Follow; what the
// primary wants is in its heartbeats.
//
//	primary                                second
//	rfssync full: beat Full=T ─────────▶   Follow{Full}, again if one was under way
//	                                       Synced{Full}
//	policy default again      ◀──────────  beat FullDone=T
//
// With syncat a second that is in sync gives its data up (Outdate) and waits until
// it is due again; the primary goes on alone, and it is never the one that takes
// over. With syncdelta a node whose data is not the newest for sure takes over
// when it is alone and was in sync not long ago: both may serve then. A default
// primary (defaultprim) that was started as a second asks for a swap once.
//
// # Heartbeats
//
// A beat (beat.go) is the State that the peer has to know of, in a datagram that is
// sealed with the cluster's key (seal.go), on every network of the module. What is
// recorded and sent again keeps nobody alive (heart). When the key changes both are
// used until the peer has the new one. Verdicts are passed by a thread that looks first
// at what has arrived, and not when it was late itself.
//
// # Failover rules
//
// Resources are facts with a name (resource.go). The automaton gives some; checkers,
// scripts and commands assign the others (assign.go). After each change, and each
// period, the rules of <failover> are evaluated (package rules) and the failover
// machine (failover.go) says which action is carried out: the event Ruled (ruled.go).
//
//	assign ──▶ resources ──▶ failoverMachine.judge ──▶ Ruled ──▶ Step
//	               ▲ │
//	   of the peer │ ▼ share.go, beside the heartbeats
//
// Checkers (package check) run as checking.go says: those of <check>, and those that
// <vip> asks for. They are switched in the wake of each Step, before its actions, so
// that nobody looks at what is being stopped. A start leaves WAIT when those of class
// pre have given a verdict and the rules have been judged on it (Conf.Gate, Checked).
//
// # The witness
//
// With a splitbrain checker silence is not death: witness.go. The resource
// splitbrain.uptodate goes down and the module to WAIT at once, not after handle_time;
// what lets it go on is the rule.
//
// # Virtual addresses
//
// They are on the primary from before start_prim until after stop_prim (address.go),
// each with a lease in its kernel (netvip) that the loop of the module renews every
// third of it (vip.go, modulevip.go; leaseOf says how long it is).
//
//	step          ──▶ address: missing, and certain() ──▶ TaskAddress ──▶ vips.set
//	module.renew  ──▶ lost: lease over, or removed    ──▶ AddressLost ──▶ Missing
//
// Who was stopped for longer than the lease has lost them when it wakes, and knows
// nothing that is worth anything: heart.doubt begins all verdicts anew, and then a
// beat counts only if it echoes one that was sent since (message.Echo). They are set
// again when the peer is known to be silent, or to hear this node and not to reign.
// A daemon that was killed finds its addresses and goes on to renew them; one that
// finds them gone is in the same position as a host that was stopped.
//
// In a swap or a stop they are set as soon as the claim is conceded, while the second
// still joins, and without asking the link: the peer said that it has taken them away.
//
// With <interface check="on"> an address goes with the carrier of its interface, long
// before the rule interface_failure acts (handle_time): nobody reaches it there, and the
// neighbours would be led to it when the cable is plugged in, while the other node has it.
// It comes back with the carrier, when the peer is heard, or silent for its timeout (vips.linkBack).
//
// An address that cannot be set is tried again every second; so is one that somebody
// removed, unless it has check="on": then its ip checker tells, and the rule ip_failure
// decides.
// A conflict is logged and answered, never given in to: which of two primaries
// stays is decided by their beats, and the one that gives way drops its addresses
// before it stops its application.
//
// # Processes of the application
//
// A class of <proc> is monitored from the end of its start script to the beginning of
// its stop script, or as command errd says (classes.go). tellErrd tells errd.Watcher so
// after each step, before the script that ends a process is run.
//
//	errd.Watcher ──Report──▶ errdReports: log, proc.NAME ──▶ Asked{restart…} or a handler
//
// What the state does not allow in this moment (a transition is under way) is tried
// again until it does, or nothing is wrong any more. Handlers are scripts of the same
// runner, so one that outlived its daemon is found again, and its exit code counts.
//
// # Farms
//
// A farm module has no peer: its automaton is that of a light module with one more
// part (PartFarm). What it shares with others is in farm.go and modulefarm.go, what it
// does with what all agree on in farmtake.go, its lease in farmlease.go, the
// messages in membership.go, the protocol in ha/group, the table in farmtable.go. A
// member without a carrier stands still as if it were stopped (carrier.go).
//
//	other members ◀─membership─▶ group.Node ─view─▶ farm.take ─table─▶ lbfilter
//	                                 ▲                   │
//	                     farmInfo ───┘                   └─▶ log, resources, farm.state
//
// The loop of the module renews the leases of the filters, from the moment at which
// the view was known to be in force (membership.aliveAt).
//
// # Guarantees
//
//   - Never two nodes that serve in the same epoch. While the nodes hear each
//     other, or one is dead: no start_prim on one before the other's stop_prim
//     has ended (R12).
//   - A primary answers nothing alone while its peer could be promoted as up to
//     date, unless all heartbeats are lost.
//   - Every wait ends with its cause: decide looks at all facts after each event,
//     and no task waits for something that only the peer's goodwill ends.
//   - What a state promises is durable (ha.state) before it is said or done. If
//     it cannot be written the module stands still and keeps saying the old truth.
//   - A virtual address is set only by a node that reigns and knows that the peer does
//     not. While the nodes hear each other it is on one of them; a host that is paused
//     or whose daemon is dead keeps it for netvip.Bound(lease) at most.
//   - A daemon that is killed and started again repeats nothing: scripts that run
//     are found by the path of their status file, replicas by Launcher.Attach,
//     tasks that were under way keep their numbers (R1).
//
// explore_test.go holds these against a model of two hosts (model_test.go) with
// crashes, cut links, late events and restarted daemons; mutants_test.go checks
// that the model would notice.
//
// # Assumptions
//
//   - A peer that is silent on all heartbeats for their timeout is dead. When it is
//     only cut off, both nodes end as ALONE (§4.2.10) unless a witness tells them
//     apart (witness.go). The same holds for a daemon that stays away longer than the timeout while its
//     application runs.
//   - Clocks of the nodes need not agree: nothing compares them. syncdelta and
//     syncat go by this node's own; a clock that was set back makes nothing recent.
//   - A call that cuts the stream does not take as long as a join.
//   - The disk under SAFEVAR does not hang for as long as a lease while the state of
//     a primary changes: the loop that renews writes it. (One that fails is no matter.)
//   - Scripts do not leave their process group if they want to be killable.
//
// # What a crash leaves
//
// Of the daemon: see R1; it finds ha.state or, if that was written later, ha.state.run,
// which nobody flushes; that a module is still to be started with its host (boot_delay)
// is in there. Of the host: ha.state says STOP to the next boot (another bootID) but
// keeps epochs and concessions, all that State.lasting tells apart; "Previous halt
// unexpected" is logged. Half-written files are *.new and are overwritten. Log lines of the last moment
// may be lost (SQLite, synchronous=NORMAL); a damaged database is put aside.
//
// # Goroutines and locks
//
// Supervisor.Run waits for one loop a module (module.run), which owns the State;
// others hand it closures (post). A loop's tasks end with its context and leave
// what they started. heart has one goroutine, on a thread of its own with real-time
// priority, that sends and receives on all networks (heartloop.go); it takes heart.mu
// only, and never touches disk or log. Lock order: Supervisor.change, Supervisor.mu, module.mu; heart.mu,
// Log.mu and store.mu are leaves.
// vips.mu and Supervisor.hostMu are leaves too. Tasks and watchers of addresses are
// goroutines of the loop, and hand it what they find.
package ha
