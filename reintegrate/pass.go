package reintegrate

import (
	"context"
	"time"

	"github.com/skfs/skfs/journal"
)

// Options of a pass. Zero values mean the defaults.
type Options struct {
	Workers   int   // nbrei: files copied at a time; 3
	ZoneSize  int64 // ruzone_blocksize: bytes of a large file locked at a time; 8 MiB
	BlockSize int   // bytes compared by one hash, a divisor of ZoneSize; 64 KiB
	Bandwidth int64 // reiallowedbw, but in bytes a second: the most that the copy sends; 0: no limit
	Detail    bool  // reidetail: Logf each object that is changed on SECOND
	Logf      func(format string, args ...any)
}

// Stats says what a pass did.
type Stats struct {
	Files    int64 // regular files passed
	Others   int64 // directories, symlinks, devices, …
	Copied   int64 // bytes sent
	Compared int64 // bytes found equal by their hashes
	Sent     int64 // files of which bytes were sent
	Dropped  int64 // names of SECOND that PRIM does not have
	Duration time.Duration
}

// Progress of a running pass.
type Progress struct {
	Walking              bool // directories are still being read: what is left grows
	FilesDone, FilesLeft int64
	BytesDone, BytesLeft int64         // of file content, sent or found equal
	Rate                 int64         // content bytes a second, lately
	Left                 time.Duration // estimate; 0: not known
}

// Pass brings SECOND up to date: one for each join, over all trees of a module.
type Pass struct {
	sources []Source
	s       Stream
	o       Options
}

// NewPass prepares a pass. From the moment that live operations ask Filter,
// everything counts as pending: nothing is forwarded. Run may begin later.
func NewPass(trees []Source, s Stream, o Options) *Pass {
	return &Pass{sources: trees, s: s, o: o}
}

// Run carries the pass out. When it returns nil SECOND has everything, and Filter
// lets everything through. After an error the next pass starts again.
func (p *Pass) Run(ctx context.Context) (Stats, error) { panic("not yet") }

// Progress says how far Run is.
func (p *Pass) Progress() Progress { panic("not yet") }

// Filter returns the operations to forward in place of a live op: op itself,
// none, or parts of it. It is called where op would be numbered, under the locks
// that order it with all that it conflicts with, names and objects alike; op has
// not been carried out here yet. What SECOND needs besides, Filter has put into
// the stream itself when it returns.
func (p *Pass) Filter(op *journal.Op) []*journal.Op { panic("not yet") }

// Failed tells the pass that op, which Filter let through or replaced, ended
// differently on the two hosts: the names and the object are passed again. False
// means that the pass is over and cannot do it any more.
func (p *Pass) Failed(op *journal.Op) bool { panic("not yet") }
