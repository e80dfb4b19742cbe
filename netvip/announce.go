package netvip

import "time"

// burst is when an address is announced after it was set, or after its link came
// back: at once, and again for those who missed a frame or whose switch was still
// learning.
var burst = []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond, 700 * time.Millisecond, 2 * time.Second}

// refresh is the slow announcing after the burst: every so often (arpinterval),
// for so long since the start (arpelapse). Zero in either: none.
type refresh struct{ every, during time.Duration }

// at tells when the n-th announcement is due after the start; ok is false when
// there is none any more.
func (r refresh) at(n int) (due time.Duration, ok bool) {
	if n < len(burst) {
		return burst[n], true
	}
	if r.every <= 0 {
		return 0, false
	}
	last := burst[len(burst)-1]
	due = (last/r.every + time.Duration(1+n-len(burst))) * r.every // the first multiple after the burst, and so on
	return due, due <= r.during
}

// announcer sends until stop is closed. It is the only one that sends for its
// address once Add is over, so what goes out and when is decided here alone.
func (h *Held) announcer() {
	if h.claims == nil {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	start, n, failed := time.Now(), 0, false
	for {
		select {
		case <-h.stop:
			return
		case <-h.restart:
			start, n = time.Now(), 0
		case <-h.defend:
			failed = h.announce(failed)
			continue
		case <-timer.C:
			failed = h.announce(failed)
			n++
		}
		timer.Stop()
		if due, ok := h.refresh.at(n); ok {
			timer.Reset(time.Until(start.Add(due)))
		}
	}
}

// announce says once that it cannot, until it can.
func (h *Held) announce(failed bool) bool {
	err := h.claims.announce(h.ownMAC())
	if err != nil && !failed {
		h.emit(Event{Kind: Unannounced, Err: err})
	}
	return err != nil
}
