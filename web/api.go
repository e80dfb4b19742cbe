package web

import (
	"context"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
)

// Supervisor is what the service needs of the control side; *ha.Supervisor is
// one.
type Supervisor interface {
	Do(ctx context.Context, module string, c ha.Command) error
	State(module string) (ha.ModuleState, error)
	Watch(ctx context.Context, module string) <-chan ha.ModuleState
	Rules(ctx context.Context, module string) (ha.RulesView, error)
	History(ctx context.Context, module, name string, since time.Time, each func(ha.Change) error) error
	Reload(ctx context.Context) error
	Configure(ctx context.Context, module string) error
	Errd(module string) (ha.Detection, error)
	FarmSupervisor
}

var _ Supervisor = (*ha.Supervisor)(nil)

// Log is what it needs of the log of a module; *ha.Log is one.
type Log interface {
	Write(level ha.Level, source, text string)
	Tail(ctx context.Context, n int, max ha.Level) ([]ha.Line, error)
	Follow(ctx context.Context, after int64, max ha.Level, each func(ha.Line) error) error
	Transitions(ctx context.Context, n int) ([]ha.Transition, error)
}

var _ Log = (*ha.Log)(nil)

// Node says who answers.
type Node struct {
	Name    string
	Version string
	PID     int
	Safe    string
	SafeVar string
	Started time.Time
}

// Module is an installed module.
type Module struct {
	Name       string
	ID         int
	Configured bool   // it has a configuration that the daemon runs; else State means nothing
	Problem    string `json:",omitempty"` // why it has one that the daemon cannot run
	State      ha.ModuleState
}

// Command is a command to a module, see ha.Command.
type Command struct {
	Name string
	Args []string `json:",omitempty"`
	By   string   `json:",omitempty"`
	// Identity is the detector or script that asks, "": an administrator.
	Identity string `json:",omitempty"`
}

// Message is a line for the log of a module.
type Message struct {
	Level  ha.Level
	Source string
	Text   string
}

// Configured is the answer to a change of configuration.
type Configured struct {
	Signature conf.Signature
	Date      time.Time
	Warnings  []string `json:",omitempty"`
}

// ClusterConfig is what conf.Paths.ApplyCluster takes.
type ClusterConfig struct {
	File string // for messages
	Data []byte
	Lock conf.Locking
}

// failure is the body of an answer that is no success.
type failure struct {
	Error    string
	Problems conf.Problems `json:",omitempty"`
}
