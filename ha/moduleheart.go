package ha

import (
	"context"
	"time"

	"github.com/skfs/skfs/conf"
)

// How the loop of a module (module.run) drives its heartbeats.

// openHeart opens the heartbeats; what keeps it from doing so (an address that
// is not there yet) is tried again.
func (m *module) openHeart(ctx context.Context) {
	if len(m.mc.beats) == 0 {
		return // a module of one node
	}
	h, err := openHeart(m.name, m.state.Conf.Node, m.state.Conf.Peer, m.inc, newSeals(m.mc.key), m.mc.signature, m.mc.beats)
	if err != nil {
		if err.Error() != m.heartDown {
			m.heartDown = err.Error()
			m.log.Write(LevelEvent, "heart", m.heartDown)
		}
		return
	}
	m.heartDown = ""
	if m.mc.key == (conf.ClusterKey{}) {
		m.log.Write(LevelInfo, "heart", "Heartbeats are not signed: the cluster has no key (skfs cluster genkey makes one)")
	}
	h.tell(m.state.beat())
	hctx, cancel := context.WithCancel(ctx)
	m.heart, m.heartEnd = h, cancel
	m.tellResources()
	m.heartWG.Go(func() { h.run(hctx) })
}

func (m *module) closeHeart() {
	if m.heart != nil {
		m.heartEnd()
		m.heartWG.Wait()
		m.heart.close()
		m.heart = nil
		m.freeNeighbours()
	}
}

func (m *module) takeHeart(ctx context.Context) {
	links, beat, ok, wrong := m.heart.take()
	for _, text := range wrong {
		m.log.Write(LevelEvent, "heart", text)
	}
	if len(links) > 0 {
		m.fixedAt = time.Time{} // look again soon
	}
	m.seen.silences = m.heart.silences()
	for i := range m.mc.beats {
		if l, changed := links[i]; changed {
			m.step(ctx, Linked{i, l})
		}
	}
	if ok {
		m.step(ctx, Heard{beat})
	}
	m.hearOfPeer()
}
