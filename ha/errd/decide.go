package errd

import (
	"cmp"
	"slices"
	"time"

	"github.com/skfs/skfs/ha/process"
)

// Conf is an <errd>.
type Conf struct {
	Poll    time.Duration // polltimer
	Watches []Watch
}

// Watch is a <proc>: what is monitored, and what is to be done.
type Watch struct {
	Name           string // the resource is proc.Name
	Class          string
	Service        bool           // Name is a unit of systemd
	Match          process.Filter // else these processes
	AtLeast, AtMax int            // -1: no bound
	StartAfter     int            // polls
	Action         string         // a command, NoAction, or a handler
}

// NoAction as an action: a message only.
const NoAction = "noaction"

// Kind is what is wrong with the number of processes.
type Kind string

// The kinds, as the log names them.
const (
	AtLeast Kind = "atleast" // too few
	AtMax   Kind = "atmax"   // too many
)

// Alarm says that a Watch calls for its action.
type Alarm struct {
	Watch Watch
	Kind  Kind
	Since time.Time // its class was enabled since
}

// unknown as a count: it could not be found out.
const unknown = -1

// standing is what is known of one Watch.
type standing struct {
	since time.Time // its class is enabled since; zero: it is not
	armed bool      // that it is missing means something
	count int
	wrong Kind // "": nothing
	acted time.Time
}

// ok says whether the condition holds; false while that is not decided.
func (s standing) ok() bool { return s.armed && s.wrong == "" && s.count != unknown }

// firstLook is how soon processes that have just been started are looked for again.
const firstLook = 50 * time.Millisecond

// enable takes note of the classes that are monitored, and since when.
func enable(c Conf, was []standing, classes map[string]time.Time) []standing {
	now := make([]standing, len(c.Watches))
	for i, w := range c.Watches {
		since, on := classes[w.Class]
		if on && i < len(was) && was[i].since.Equal(since) {
			now[i] = was[i]
			continue
		}
		now[i] = standing{since: since, count: unknown}
	}
	return now
}

// effective says whether a Watch is monitored at a moment.
func effective(c Conf, w Watch, s standing, now time.Time) bool {
	return !s.since.IsZero() && !now.Before(s.since.Add(delay(c, w)))
}

// delay is for how long nothing is monitored after the class was enabled (§13.9.3).
func delay(c Conf, w Watch) time.Duration { return time.Duration(max(0, w.StartAfter-1)) * c.Poll }

// decide compares the counts with the bounds. It returns when to look again at the
// latest; zero: not before something changes.
func decide(c Conf, was []standing, counts []int, now time.Time) (is []standing, alarms []Alarm, next time.Time) {
	is = slices.Clone(was)
	again := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for i, w := range c.Watches {
		s := &is[i]
		if s.since.IsZero() {
			continue
		}
		if !effective(c, w, *s, now) {
			again(s.since.Add(delay(c, w)))
			continue
		}
		again(now.Add(c.Poll))
		if s.count = counts[i]; s.count == unknown {
			continue
		}
		few, many := w.AtLeast >= 0 && s.count < w.AtLeast, w.AtMax >= 0 && s.count > w.AtMax
		decided := s.since.Add(max(c.Poll, delay(c, w)))
		s.armed = s.armed || !few || delay(c, w) > 0 || !now.Before(decided)
		wrong := Kind("")
		switch {
		case many:
			wrong = AtMax
		case few && s.armed:
			wrong = AtLeast
		case few:
			again(now.Add(max(firstLook, now.Sub(s.since)))) // more and more seldom
			again(decided)
		}
		if wrong != "" && (wrong != s.wrong || w.Action != NoAction && now.Sub(s.acted) >= c.Poll) {
			s.acted = now
			alarms = append(alarms, Alarm{w, wrong, s.since})
		}
		s.wrong = wrong
	}
	return is, alarms, next
}

// sentinels are the processes whose end can leave a Watch with too few: the oldest of
// each, as many as there have to be.
func sentinels(c Conf, st []standing, matching [][]process.Process, now time.Time) map[process.ID]bool {
	ids := map[process.ID]bool{}
	for i, w := range c.Watches {
		if w.AtLeast <= 0 || !effective(c, w, st[i], now) {
			continue
		}
		some := slices.Clone(matching[i])
		slices.SortFunc(some, func(a, b process.Process) int {
			return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
		})
		for _, p := range some[:min(len(some), w.AtLeast)] {
			ids[p.ID] = true
		}
	}
	return ids
}
