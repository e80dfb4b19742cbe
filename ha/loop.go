package ha

import (
	"strconv"
	"time"
)

// The loop counter (§13.2.3): what detectors and rules do to a module is counted, and
// when it was too often within loop_interval, the module stops instead. A command of
// an administrator resets the counter.

// LoopCount is the counter as others see it.
type LoopCount struct {
	Count    int // automatic restarts since From
	Max      int
	From     time.Time     // when the counter was reset
	Interval time.Duration // for which it counts; 0: always inactive
}

func (s *State) loopCount() LoopCount {
	return LoopCount{s.Loops, s.Conf.MaxLoop, s.LoopFrom, s.Conf.LoopInterval}
}

// active says that what was counted still counts.
func (l LoopCount) active(now time.Time) bool {
	return l.Interval > 0 && now.Sub(l.From) < l.Interval && now.Sub(l.From) > -time.Minute
}

// Reached says that one more restart would stop the module (command checkloop).
func (l LoopCount) Reached(now time.Time) bool { return l.active(now) && l.Count >= l.Max }

// Exceeded says that there was one too many (command incloop).
func (l LoopCount) Exceeded(now time.Time) bool { return l.active(now) && l.Count > l.Max }

// resetLoop is what a command of an administrator does.
func (m *machine) resetLoop() { m.Loops, m.LoopFrom = 0, m.now.UTC() }

// incLoop counts one more.
func (m *machine) incLoop() {
	if !m.loopCount().active(m.now) {
		m.resetLoop()
	}
	m.Loops++
}

// counts counts an action, and says whether it may be carried out; if not, the module
// is stopped.
func (m *machine) counts(action, why string) bool {
	m.incLoop()
	if m.loopCount().Exceeded(m.now) {
		m.say("heart", "Stopping loop")
		m.cut(OrderStop)
		return false
	}
	m.acts(action, why)
	return true
}

// again orders an automatic stopstart.
func (m *machine) again(by string) { m.loop("called by " + by) }

// loop orders a stopstart, unless there were too many. With automatic_reboot the host
// is rebooted instead.
func (m *machine) loop(why string) {
	switch {
	case m.Order.stops() || !m.counts("stopstart", why):
	case m.Conf.Reboot:
		m.say("heart", "Automatic reboot of the server")
		m.cut(OrderReboot)
	default:
		m.cut(OrderStopstart)
	}
}

// loopResource is the counter among the resources. Its value is when the counter was
// reset, its history shows each increment.
const loopResource = "heart.stopstartloop"

// loopSince is its value, in seconds since 1970.
func (s *State) loopSince() string {
	if s.LoopFrom.IsZero() {
		return "0"
	}
	return strconv.FormatInt(s.LoopFrom.Unix(), 10)
}
