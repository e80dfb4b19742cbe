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

// defendDelay is how long a claim of another host stands before it is answered. If that
// host has taken over, who holds the address here hears of it meanwhile and gives it
// up: an answer before that would lead the neighbours back to where it vanishes.
const defendDelay = 500 * time.Millisecond

// An address that was taken without asking may still be at a host that is silent but
// whose kernel answers, until the lease there ends. Neighbours that ask meanwhile may
// hear that host first, and would go on sending to it. So it is asked with each
// announcement of the burst; while it answers, every contestEvery; and when it has not
// for contestMisses times, all are told anew.
const (
	contestEvery  = 20 * time.Millisecond
	contestMisses = 3
)

// announcer sends until stop is closed. It is the only one that sends for its
// address once Add is over, so what goes out and when is decided here alone.
func (h *Held) announcer() {
	if h.claims == nil {
		return
	}
	timer, defend, contest := time.NewTimer(0), time.NewTimer(0), time.NewTicker(contestEvery)
	defend.Stop()
	contest.Stop()
	defer timer.Stop()
	defer defend.Stop()
	defer contest.Stop()
	start, n, failed := time.Now(), 0, false
	contested, missed := start.Add(Bound(h.options.Lease)), 0 // until then, at the most
	ask := func() {
		if h.options.Probe < 0 && time.Now().Before(contested) {
			h.claims.ask(h.ownMAC()) // who cannot ask will say that it cannot announce
		}
	}
	for {
		select {
		case <-h.stop:
			return
		case <-h.restart:
			start, n = time.Now(), 0
		case <-h.defend:
			defend.Reset(defendDelay)
			continue
		case <-defend.C:
			failed = h.announce(failed)
			continue
		case <-h.answered:
			if h.options.Probe < 0 && time.Now().Before(contested) {
				missed = 0
				contest.Reset(contestEvery)
			}
			continue
		case <-contest.C:
			if missed++; missed < contestMisses && time.Now().Before(contested) {
				ask()
				continue
			}
			contest.Stop()
			start, n = time.Now(), 0
		case <-timer.C:
			failed = h.announce(failed)
			ask()
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
