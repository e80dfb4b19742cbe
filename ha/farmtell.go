package ha

import (
	"time"

	"github.com/skfs/skfs/lbfilter"
	"github.com/skfs/skfs/netvip"
)

// telling is how far this member is with saying on the link that it answers for the
// addresses, to clients that have found them at a member that answers no more.
type telling struct {
	on    bool
	since time.Duration   // boottime
	times int             // how often it was said
	last  []time.Duration // by interface: when by ARP
}

// retells is how often it is said at once, a look of the loop apart: a frame may be lost.
const retells = 3

// tells says whether ARP and whether neighbour advertisements are due on an interface:
// both at first, then ARP every arpinterval until arpelapse is over (§13.5.7.3). IPv6
// hosts find out by themselves that a neighbour is gone.
func (s sharedConf) tells(t telling, k int, now time.Duration) (arp, nd bool) {
	if !t.on || s.mode != lbfilter.Directed {
		return false, false
	}
	nd = t.times < retells
	if s.every == 0 {
		return false, nd
	}
	return nd || now-t.since <= s.elapse && now-t.last[k] >= s.every, nd
}

// reroute tells the link who answers now, when a member has no buckets any more that
// clients may have found (§13.5.7.3): the first one that has some does. IPv4 is told
// with arpreroute="on" only.
func (f *farm) reroute(old farmState) {
	now := owners(f.table.groups[0])
	switch {
	case now.First() != int(f.self()):
		f.telling = telling{}
	case len(old.groups) > 0 && owners(old.groups[0])&^now != 0:
		f.beginTelling(boottime())
	}
}

func (f *farm) beginTelling(now time.Duration) {
	f.telling = telling{on: true, since: now, last: make([]time.Duration, len(f.c.shared))}
	f.tell(now)
}

// tell says what is due.
func (f *farm) tell(now time.Duration) {
	if !f.telling.on {
		return
	}
	for k, s := range f.c.shared {
		arp, nd := s.tells(f.telling, k, now)
		if !arp && !nd {
			continue
		}
		host, err := f.vips.open()
		if err != nil {
			f.complain(err.Error())
			return
		}
		if arp {
			f.telling.last[k] = now
		}
		for _, i := range s.vips {
			a, err := f.vips.resolve(i)
			if err != nil || a.Addr.Is4() && !arp || a.Addr.Is6() && !nd {
				continue
			}
			if err := host.Tell(netvip.Address{Addr: a.Addr, Interface: s.netif}); err != nil {
				f.complain(err.Error())
			}
		}
	}
	f.telling.times = min(f.telling.times+1, retells)
}
