package lbfilter

import (
	"encoding/binary"
	"fmt"
)

// Count is what became of the packets of a rule on this host, since Open.
type Count struct {
	Group string // "" for the default rule and ping
	Rule  string // as Rule.String, "default" or "ping"

	Accepted, Dropped, Forwarded uint64
	Held                         uint64 // of Accepted: of a bucket that another member owns
	Left                         uint64 // of Dropped and Forwarded: of our bucket, left to who had it before
	Expired                      uint64 // of Dropped: for want of a lease or a table
}

// Stats are the counts of the default rule, of ping, and of each rule of the
// configuration in its order.
func (f *Filter) Stats() ([]Count, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.config.Policy
	all := make([]Count, 0, len(p.rules))
	for i, r := range p.rules {
		c := Count{Group: p.groups[r.group].Name, Rule: r.String()}
		switch i {
		case defaultRule:
			c.Rule = "default"
		case pingRule:
			c.Rule = "ping"
		}
		var perCPU [][]byte
		if err := f.coll.Maps["stats"].Lookup(uint32(i), &perCPU); err != nil {
			return nil, f.errorf("read the counts of", fmt.Errorf("rule %s: %w", c.Rule, err))
		}
		for _, b := range perCPU {
			// In the order of the enum in bpf/table.h.
			for k, n := range []*uint64{&c.Accepted, &c.Dropped, &c.Forwarded, &c.Held, &c.Left, &c.Expired} {
				*n += binary.NativeEndian.Uint64(b[8*k:])
			}
		}
		all = append(all, c)
	}
	return all, nil
}
