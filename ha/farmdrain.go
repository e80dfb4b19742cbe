package ha

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skfs/skfs/lbfilter"
)

// serve says whether the application of this node runs.
func (f *farm) serve(on bool) {
	if f.member != nil && f.info.Serving != on {
		f.info.Serving = on
		f.member.tell(f.info.encode())
	}
}

// drain orders that a member gets no new connections, or gets some again.
func (f *farm) drain(node string, on bool, now time.Time) error {
	switch {
	case !slices.Contains(f.c.membership.Members, node):
		return fmt.Errorf("%w: node %s is no member of the farm; there are %s", ErrRefused, node, strings.Join(f.c.membership.Members, ", "))
	case f.member == nil:
		return fmt.Errorf("%w: this node takes no part in the farm now: start the module first", ErrRefused)
	}
	mark := drainMark{Stamp: max(now.UnixNano(), f.info.Drains[node].Stamp+1), On: on}
	f.info.Drains = mergeDrains(f.info.Drains, map[string]drainMark{node: mark})
	f.member.tell(f.info.encode())
	return nil
}

// draining says that a member gets no new connections by order.
func (f *farm) draining(node string) bool { return f.info.Drains[node].On }

// counts is the part of counting the connections of buckets that others have now that
// may take its time: it is called beside the loop.
func (f *farm) counts(filters []*lbfilter.Filter) ([]lbfilter.Bitmap, error) {
	var all []lbfilter.Bitmap
	for _, filter := range filters {
		held, err := filter.Held()
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = held
			continue
		}
		for g := range all {
			for w := range all[g] {
				all[g][w] |= held[g][w]
			}
		}
	}
	return all, nil
}

// counted takes how counts ended, for the table that was in force when it began.
func (f *farm) counted(moved uint64, held []lbfilter.Bitmap) {
	if f.member == nil || f.info.HeldAt == moved && slices.Equal(f.info.Held, held) {
		return
	}
	f.info.Held, f.info.HeldAt = held, moved
	f.member.tell(f.info.encode())
}
