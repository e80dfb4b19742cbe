package ha

import (
	"fmt"
	"time"

	"github.com/skfs/skfs/lbfilter"
)

// checkEvery is how often the filters and their interfaces are looked at.
const checkEvery = 2 * time.Second

// renew lets the filters go on for a lease from when the view was known to be in
// force.
func (f *farm) renew() {
	if f.member == nil || f.applied.N == 0 {
		return
	}
	alive := f.member.aliveAt() // not that of f.view: a pulse that passes is nothing to take
	if alive == 0 {
		return
	}
	for _, filter := range f.filters {
		if err := filter.Renew(alive + f.c.lease); err != nil {
			f.complain(err.Error())
		}
	}
}

// check puts back what others may have taken away from the filters, and tells the other
// members when an interface has got another hardware address.
func (f *farm) check(now time.Time) {
	if now.Sub(f.looked).Abs() < checkEvery {
		return
	}
	f.looked = now
	for k, filter := range f.filters {
		if err := filter.Check(); err != nil {
			f.complain(err.Error())
			continue
		}
		mac, err := filter.MAC()
		if err != nil {
			f.complain(err.Error())
			continue
		}
		if old := f.info.MACs[k]; old != mac {
			f.moveTo(k, old, mac)
		}
	}
}

// moveTo takes up that interface k has another hardware address: the other members send
// on to it from now on, and clients that have found this one are told.
func (f *farm) moveTo(k int, old, mac lbfilter.MAC) {
	f.log(LevelInfo, fmt.Sprintf("The interface of the virtual addresses has another hardware address: %s, before %s", mac, old))
	f.info.MACs = append([]lbfilter.MAC(nil), f.info.MACs...)
	f.info.MACs[k] = mac
	f.member.tell(f.info.encode())
	f.beginTelling(boottime())
}
