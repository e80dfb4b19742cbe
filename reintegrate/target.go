package reintegrate

import "github.com/skfs/skfs/journal"

// Target is SECOND's end of a pass.
type Target struct{ sinks []Sink }

// NewTarget returns the applier of the reintegration of trees.
func NewTarget(trees []Sink) *Target { return &Target{sinks: trees} }

// Apply carries out an operation of the kinds KindSyncBegin to KindPunch. All
// other kinds, KindWrite included, are for the ordinary applier.
func (t *Target) Apply(op *journal.Op) journal.Result { panic("not yet") }
