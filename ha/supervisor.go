package ha

import (
	"context"
	"errors"
	"time"
)

// Options says what a Supervisor stands on.
type Options struct {
	Safe, SafeVar string // SAFE and SAFEVAR
	Node          string // name of this node in cluster.xml; "": the node with an address on a local interface
	Launcher      Launcher
	// Errors takes what cannot go to a module's log, one line a call; nil drops it.
	Errors func(text string)
}

// Supervisor runs the modules of one node. One per daemon.
type Supervisor struct {
	o Options
}

// Command is something an administrator, a script or a detector asks of a module.
type Command struct {
	Name string   // start stop forcestop prim primforce second swap restart stopstart
	Args []string // second: fullsync
	By   string   // as the log shows it: "SYSTEM/root", "web@10.0.0.1/SYSTEM/root"; "": SYSTEM/root
}

// ModuleState is what is known of a module at one moment.
type ModuleState struct {
	Module    string
	ID        int
	Node      string
	Role      Role
	Colour    Colour
	Since     time.Time // of Role and Colour
	Peer      string    // name of the other node
	Remote    Role      // RoleUnknown and Grey when it is silent
	RemoteCol Colour
	Epoch     uint64 // of the primary that this node is or follows
	Degraded  bool
	Busy      string // what is going on ("start_prim", "promote", …), "" when nothing is
	Why       string // why it waits (WAIT red) or stopped
	Resources []Resource
	Progress  ReplicaProgress // of the reintegration
}

// Resource is a named fact of a module: "heartbeat.default" "up".
type Resource struct {
	Name  string
	Value string
	Since time.Time
}

// Refusals of Do. Errors of Do wrap one of them and say the reason.
var (
	ErrNoModule = errors.New("no such module")
	ErrRefused  = errors.New("refused") // the module's state does not allow the command
)

// Open reads SAFEVAR/cluster/cluster.xml and the active configuration of every
// module, and takes up again the modules that an earlier daemon left running
// (R1). Nothing acts before Run.
func Open(o Options) (*Supervisor, error) { return &Supervisor{o: o}, nil }

// Run supervises until ctx ends. Scripts and replicas stay running then.
func (s *Supervisor) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Close frees what Open and Run took, after Run has returned.
func (s *Supervisor) Close() error { return nil }

// Do gives a command to a module and returns when it is accepted: its effect is
// seen with Watch. A command that the module's state does not allow is refused
// with the reason.
func (s *Supervisor) Do(ctx context.Context, module string, c Command) error { return ErrNoModule }

// State is the state of a module now.
func (s *Supervisor) State(module string) (ModuleState, error) { return ModuleState{}, ErrNoModule }

// Modules are the names of the configured modules, sorted.
func (s *Supervisor) Modules() []string { return nil }

// Watch sends the state of a module now and after every change until ctx ends,
// then closes the channel. A slow reader misses states in between, never the last.
// An unknown module: a channel that is closed at once.
func (s *Supervisor) Watch(ctx context.Context, module string) <-chan ModuleState { return nil }

// Reload reads the cluster's configuration and the list of modules again.
// Modules whose networks changed are told so; those that run must be in STOP,
// ALONE or WAIT for it.
func (s *Supervisor) Reload(ctx context.Context) error { return nil }

// Configure takes up the active configuration of a module (after `skfs config`),
// or forgets a module that was uninstalled. It is refused unless the module is in
// STOP, ALONE or WAIT; what is not dynamic takes effect at the next start.
func (s *Supervisor) Configure(ctx context.Context, module string) error { return nil }

// Log is the log of a module.
func (s *Supervisor) Log(module string) (*Log, error) { return nil, ErrNoModule }

// Ping returns when every module's loop has answered: what feeds a watchdog.
func (s *Supervisor) Ping(ctx context.Context) error { return nil }
