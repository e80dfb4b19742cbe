package ha

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/skfs/skfs/netvip"
)

// How the loop of a module (module.run) drives its virtual addresses.

const (
	addressRetry = time.Second      // for an address that could not be set
	countEvery   = 10 * time.Second // connections (§13.5.5.2)
)

// openVips is called by the loop before it adopts, and when the configuration is
// another.
func (m *module) openVips() {
	m.vips = newVips(m.mc, m.host, func(text string) { m.log.Write(LevelEvent, "vip", text) })
	every := time.Hour
	if len(m.mc.vips) > 0 {
		every = m.mc.lease / 3
	}
	if m.mc.farm != nil {
		every = m.mc.farm.lease / 3
	}
	m.openFarm()
	m.renewal = time.NewTicker(every)
}

// closeVips leaves the addresses to the next daemon.
func (m *module) closeVips() {
	m.renewal.Stop()
	m.closeFarm()
	m.vips.release()
}

// adoptVips takes over the addresses that an earlier daemon left, or drops what no
// state wants. It says what is missing.
func (m *module) adoptVips(ctx context.Context, reboot bool) Addresses {
	switch {
	case len(m.mc.vips) == 0, m.farm != nil: // see adoptFarm
	case m.state.Up&PartAddress != 0 && !reboot:
		missing := m.vips.adopt()
		m.watchVips(ctx)
		return missing
	default:
		m.vips.remove(ctx)
	}
	return 0
}

// renew gives the addresses a new lease. The loop does it, so that a daemon that
// hangs loses them.
func (m *module) renew(ctx context.Context) {
	for _, e := range m.vips.renew() {
		m.addressLost(ctx, e)
	}
	m.renewFarm()
}

// renewFarm is renew for the filters of a farm.
func (m *module) renewFarm() {
	if m.farm != nil && !m.farmBusy {
		m.farm.renew()
	}
}

func (m *module) addressLost(ctx context.Context, e AddressLost) {
	if e.Expired && m.heart != nil {
		m.heart.doubt()
	}
	m.step(ctx, e)
}

// watchVips forwards what happens to the addresses that are held and not watched
// yet. Each watcher ends with its address.
func (m *module) watchVips(ctx context.Context) {
	v := m.vips
	for i, h := range v.unwatched() {
		m.tasks.Go(func() {
			for {
				var e netvip.Event
				var ok bool
				select {
				case e, ok = <-h.Events():
				case <-ctx.Done():
				}
				if !ok {
					return
				}
				m.post(ctx, func() {
					if e.Kind != netvip.Gone {
						m.log.Write(LevelEvent, "vip", conflictText(v.confs[i].name, e))
						return
					}
					for _, e := range v.lost(i, h, e.Err) {
						m.addressLost(ctx, e)
					}
				})
			}
		})
	}
}

// countConnections is the guide's connections="on".
func (m *module) countConnections(ctx context.Context, now time.Time) {
	if now.Sub(m.counted).Abs() < countEvery {
		return
	}
	m.counted = now
	v := m.vips
	if !v.counts() {
		return
	}
	m.tasks.Go(func() {
		counts := v.connections()
		m.post(ctx, func() {
			m.conns = counts
			m.publish()
		})
	})
}

// addressResources are those of the addresses, besides what the automaton knows.
func (m *module) addressResources(r map[string]string) {
	for _, c := range m.mc.vips {
		if c.connections {
			r["connections."+c.name] = strconv.Itoa(m.conns[c.name])
		}
	}
}

// counts says that the connections of an address are to be counted.
func (v *vips) counts() bool {
	for _, c := range v.confs {
		if c.connections {
			return true
		}
	}
	return false
}

// connections counts those of the addresses that are held.
func (v *vips) connections() map[string]int {
	counts := map[string]int{}
	for i, c := range v.confs {
		v.mu.Lock()
		h := v.held[i]
		v.mu.Unlock()
		if h == nil || !c.connections {
			continue
		}
		n, err := h.Connections()
		if err != nil {
			v.log(fmt.Sprintf("virtual address %s: counting its connections: %v", c.name, err))
			continue
		}
		counts[c.name] = n
	}
	return counts
}
