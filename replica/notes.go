package replica

import (
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
)

// defaultZoneSize is ruzone_blocksize where the configuration says nothing, bytes.
const defaultZoneSize = 8 << 20

func zoneSize(rfs *conf.RFS) int64 {
	if rfs.ZoneSize > 0 {
		return rfs.ZoneSize
	}
	return defaultZoneSize
}

// notes is what the peer may lack. It is kept from the moment on at which there is
// a peer: before that the first one gets everything anyway.
type notes struct {
	*journal.Lacks
	on atomic.Bool
}

var _ fs.Notes = (*notes)(nil)

// Note implements fs.Notes.
func (n *notes) Note(op *journal.Op, durable bool) error {
	if !n.on.Load() {
		return nil
	}
	return n.Lacks.Note(op, durable)
}

// openNotes opens the notes of this host.
func openNotes(cfg *Config, s State) (*notes, error) {
	l, err := journal.OpenLacks(filepath.Join(cfg.StateDir, "lacks"), journal.LacksOptions{ZoneSize: zoneSize(cfg.RFS)})
	if err != nil {
		return nil, fmt.Errorf("notes of what the peer lacks: %w", err)
	}
	n := &notes{Lacks: l}
	n.on.Store(s.Shared || s.Base != 0)
	return n, nil
}
