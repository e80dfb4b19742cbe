package replica

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// Diff is how much the peer lacks, from the notes of this primary: no file is read
// and no directory but to find the sizes of what was noted.
type Diff struct {
	All         bool   `json:"all"`         // no peer was ever brought up to date: it lacks everything
	Connected   bool   `json:"connected"`   // the peer is here: what is noted is on its way
	Directories int    `json:"directories"` // of which names were changed
	Files       int    `json:"files"`       // of which data was changed
	Attributes  int    `json:"attributes"`  // objects of which only attributes were changed
	Born        int    `json:"born"`        // objects made since the peer left; the bytes of them are not counted
	Bytes       int64  `json:"bytes"`       // in zones of Files that were changed: as much is compared, at most as much is copied
	Limit       int64  `json:"limit"`       // reiallowedbw, bytes a second; 0: none
	Peer        string `json:"peer"`        // the last one of this reign
}

// errNotPrimary refuses a Diff on a node that knows nothing of another's lack.
var errNotPrimary = errors.New("this node is not the primary: ask the one that is ALONE or PRIM")

// Diff counts what the peer lacks.
func (r *Replica) Diff() (Diff, error) {
	r.mu.Lock()
	prim, l := r.prim, r.link
	r.mu.Unlock()
	if !prim {
		return Diff{}, errNotPrimary
	}
	d := Diff{All: !r.notes.on.Load(), Limit: r.cfg.RFS.ReiAllowedBW << 10}
	if l != nil {
		d.Connected, d.Peer = l.sender.Err() == nil, l.node
	}
	d.Born = r.notes.Stats().Born
	err := r.notes.Each(func(tree uint8, id journal.FileID, lack journal.Lack) error {
		if lack.Names {
			d.Directories++
		}
		if !lack.HasData() {
			if lack.Attrs && !lack.Names {
				d.Attributes++
			}
			return nil
		}
		if int(tree) >= len(r.trees) {
			return nil // a directory that is not replicated any more
		}
		e, err := r.trees[tree].Tree().Stat(id)
		if errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("object %s: %w", id, err)
		}
		if e.Mode&unix.S_IFMT != unix.S_IFREG {
			if e.Mode&unix.S_IFMT == unix.S_IFDIR && !lack.Names {
				d.Directories++
			}
			return nil
		}
		d.Files++
		lack.Ranges(e.Size, zoneSize(r.cfg.RFS), func(off, end int64) { d.Bytes += end - off })
		return nil
	})
	if err != nil {
		return Diff{}, fmt.Errorf("what the peer lacks: %w", err)
	}
	return d, nil
}

// Diff asks how much the peer lacks.
func (c *Client) Diff(ctx context.Context) (Diff, error) {
	resp, err := c.call(ctx, request{Method: "diff"})
	if err != nil {
		return Diff{}, err
	}
	if resp.Diff == nil {
		return Diff{}, errors.New("replica: diff: the answer is empty")
	}
	return *resp.Diff, nil
}
