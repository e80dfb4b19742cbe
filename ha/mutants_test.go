package ha

import (
	"math"
	"slices"
	"testing"
	"time"
)

// mutants are automata with one thing wrong each. A walk through the model that
// cannot tell them from the real one checks nothing.
var mutants = []struct {
	name       string
	data, cuts bool
	variant    string
	step       func(State, Event, time.Time) (State, []Action)
}{
	{"a primary goes on without the peer's word", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		if s.Reign && s.Peer.Known {
			s.Peer.Outdated = Drop{math.MaxUint64, 0}
		}
		return s, a
	}},
	{"a second takes over when only the stream is lost", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if t, ok := e.(Told); ok && t.Event.Kind == PeerLost && s.Role == RoleSecond {
			s, _ = Step(s, e, now)
			return Step(s, Linked{0, LinkDown}, now)
		}
		return Step(s, e, now)
	}},
	{"a second concedes and stays up to date", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		was := s.Fresh
		s, a := Step(s, e, now)
		if s.Yield != 0 && was {
			s.Outdated, s.Yield, s.Fresh, s.Followed = s.YieldD, 0, true, true
			return s, nil
		}
		return s, a
	}},
	{"the reign is released before the application has stopped", false, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		for i, t := range s.Plan {
			if t.Kind == MarkRelease {
				s.Plan = append(append([]Task{t}, s.Plan[:i:i]...), s.Plan[i+1:]...)
				return s, a
			}
		}
		return s, a
	}},
	{"both nodes count epochs alike", false, true, "", func(s State, e Event, now time.Time) (State, []Action) {
		second := s.Conf.Second
		s.Conf.Second = false
		s, a := Step(s, e, now)
		s.Conf.Second = second
		return s, a
	}},
	{"WAIT does not look at the peer any more", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if _, ok := e.(Heard); ok && s.Role == RoleWait && s.Why != NoBlock {
			return s, nil
		}
		return Step(s, e, now)
	}},
	{"the death of the replica goes unnoticed", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if _, ok := e.(Gone); ok {
			return s, nil
		}
		return Step(s, e, now)
	}},
	{"a reboot is taken for a restart of the daemon", false, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if a, ok := e.(Adopted); ok {
			a.Reboot = false
			e = a
		}
		return Step(s, e, now)
	}},
	{"a restarted daemon forgets the script that runs", false, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if _, ok := e.(Adopted); ok {
			s.Cur = Task{}
		}
		return Step(s, e, now)
	}},
	{"two primaries that meet both stay", true, true, "", func(s State, e Event, now time.Time) (State, []Action) {
		if h, ok := e.(Heard); ok && s.Reign && s.Established {
			h.Beat.Primary = false
			e = h
		}
		return Step(s, e, now)
	}},
	{"a full copy counts as done when any synchronisation ends", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if t, ok := e.(Told); ok && t.Event.Kind == Synced && s.Reign {
			s.Sync = SyncPolicy{}
		}
		return Step(s, e, now)
	}},
	{"a demand for a full copy is forgotten by the second that is restarted", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		if s.Role == RoleSecond && !s.Reign {
			s.Sync = SyncPolicy{}
		}
		return s, a
	}},
	{"syncdelta is enough while the peer is heard", true, false, "syncdelta", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		if s.Role == RoleWait && s.Why == BlockNotUptodate && s.heard() {
			s, b := Step(s, Linked{0, LinkDown}, now)
			return s, append(a, b...)
		}
		return s, a
	}},
	{"rfs.syncat stays up", true, false, "syncat", func(s State, e Event, now time.Time) (State, []Action) {
		s.SyncDue = s.Role != RoleStop
		return Step(s, e, now)
	}},
	{"the default primary asks, and is not heard", false, false, "lastprim", func(s State, e Event, now time.Time) (State, []Action) {
		if h, ok := e.(Heard); ok {
			h.Beat.SwapAsk = 0
			e = h
		}
		s, a := Step(s, e, now)
		s.Home = s.Home || s.SwapAsk != 0
		return s, a
	}},
	{"the reign is released before the address is taken away", false, false, "address", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		for i, t := range s.Plan {
			if t.Kind == TaskNoAddress {
				s.Plan = append(append(s.Plan[:i:i], s.Plan[i+1:]...), t)
				return s, a
			}
		}
		return s, a
	}},
	{"an address whose lease ran out is set again at once", false, false, "address pause", func(s State, e Event, now time.Time) (State, []Action) {
		if l, ok := e.(AddressLost); ok {
			l.Expired = false
			e = l
		}
		return Step(s, e, now)
	}},
	{"a host that woke takes what it hears first for new", false, false, "address pause", func(s State, e Event, now time.Time) (State, []Action) {
		links, peer := s.Links, s.Peer
		s, a := Step(s, e, now)
		if l, ok := e.(AddressLost); ok && l.Expired {
			s.Links, s.Peer = links, peer
		}
		return s, a
	}},
	{"an address that was lost is not set again", false, false, "address", func(s State, e Event, now time.Time) (State, []Action) {
		if _, ok := e.(AddressLost); ok {
			return s, nil
		}
		return Step(s, e, now)
	}},
	{"the application is started before its address is set", false, false, "address", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		if s.AddressID != 0 {
			id := s.AddressID
			s.AddressID, s.Tried = 0, true
			s, b := Step(s, Tick{}, now)
			s.AddressID = id
			return s, append(a, b...)
		}
		return s, a
	}},
	{"an address stays after the application has stopped", false, false, "address", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		for i, r := range a {
			if r, ok := r.(Run); ok && r.Task.Kind == TaskNoAddress {
				a = append(a[:i:i], a[i+1:]...)
				s, b := Step(s, Done{ID: r.ID}, now)
				return s, append(a, b...)
			}
		}
		return s, a
	}},
	{"what was conceded is forgotten over a stop", true, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		s, a := Step(s, e, now)
		if s.Role == RoleStop {
			s.Stale, s.Handed, s.Data.Uptodate = false, false, true
		}
		if s.Role == RoleWait {
			s.Stale, s.Handed = false, false
			s.Data.Uptodate = s.Data.Running
		}
		return s, a
	}},
	// Rules, and what farm and light modules add.
	{"a module that a rule holds goes on", false, false, "", func(s State, e Event, now time.Time) (State, []Action) {
		if _, ok := e.(Ruled); ok {
			return Step(s, e, now)
		}
		held := s.Held
		s.Held = ""
		s, a := Step(s, e, now)
		if s.Role != RoleStop {
			s.Held = held
		}
		return s, a
	}},
	{"a wakeup is not heard", false, false, "light", on(func(s *State, e *Event) {
		if r, ok := (*e).(Ruled); ok && r.Action == "wakeup" {
			*e = Tick{}
		}
	}, nil)},
	{"a rule that says wait keeps the reign", false, false, "", on(nil, func(was State, s *State, e Event) {
		if r, ok := e.(Ruled); ok && r.Action == "wait" {
			s.Plan = slices.DeleteFunc(s.Plan, func(t Task) bool { return t.Kind == MarkRelease })
		}
	})},
	{"a rule that says wait leaves the application running", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if r, ok := e.(Ruled); ok && r.Action == "wait" && was.Role == RoleUp && was.idle() {
			s.Plan = []Task{{Kind: MarkRole, Role: RoleWait}}
		}
	})},
	{"a stopped module is still held", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if s.Role == RoleStop && s.Held == "" && was.Held != "" {
			s.Held = was.Held
		}
	})},
	{"checkers run on while the application is stopped", false, false, "light", on(nil, func(was State, s *State, e Event) {
		s.Live |= was.Live & s.Up
	})},
	{"checkers of a stopped module run", false, false, "light", on(nil, func(was State, s *State, e Event) {
		s.Live |= was.Live & PartPre
	})},
	{"checkers are not started again after a restart", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if was.Cur.Action == "stopstart" {
			s.Live &= was.Live
		}
	})},
	{"a restart by a rule is planned beside what runs", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if r, ok := e.(Ruled); ok && r.Action == "restart" && was.Role == RoleUp && !was.idle() {
			s.Cur = Task{}
		}
	})},
	{"a farm's application starts before its address is shared", false, false, "farm", on(nil, func(was State, s *State, e Event) {
		for i, t := range s.Plan {
			if t.Kind == TaskShare && len(s.Plan) > i+1 {
				s.Plan[i], s.Plan[i+1] = s.Plan[i+1], s.Plan[i]
				return
			}
		}
	})},
	{"a farm is left before its application has stopped", false, false, "farm", on(nil, func(was State, s *State, e Event) {
		for i, t := range s.Plan {
			if t.Kind == TaskUnshare && i > 0 {
				copy(s.Plan[1:i+1], s.Plan[:i])
				s.Plan[0] = t
				return
			}
		}
	})},
	{"a farm is never left", false, false, "farm", on(nil, func(was State, s *State, e Event) {
		s.Plan = slices.DeleteFunc(s.Plan, func(t Task) bool { return t.Kind == TaskUnshare })
	})},
	{"a stop is taken for a stopwait", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if s.Order == OrderStop {
			s.Order = NoOrder
		}
	})},
	{"a module that was cut short while it started is taken for started", false, false, "light", on(nil, func(was State, s *State, e Event) {
		if _, ok := e.(Adopted); ok && s.Role == RoleUp {
			s.Plan, s.Cur = nil, Task{}
		}
	})},
	{"a release is not told to the peer", true, false, "", on(nil, func(was State, s *State, e Event) {
		if s.Role == RoleSecond && s.Released == s.Epoch {
			s.Released = 0
		}
	})},
	{"a second that concedes does not follow again", true, false, "", on(nil, func(was State, s *State, e Event) {
		if s.Role == RoleSecond && s.Stale && !s.Followed {
			s.Epoch, s.Followed = s.Peer.Epoch, true
		}
	})},
	{"a claim does not wait for the concession", true, false, "", on(nil, func(was State, s *State, e Event) {
		s.Plan = slices.DeleteFunc(s.Plan, func(t Task) bool { return t.Kind == TaskClaim })
	})},
}

// on makes a mutant: before may change the state or the event, after the result.
func on(before func(*State, *Event), after func(was State, s *State, e Event)) func(State, Event, time.Time) (State, []Action) {
	return func(s State, e Event, now time.Time) (State, []Action) {
		s = s.clone()
		if before != nil {
			before(&s, &e)
		}
		was := s.clone()
		s, a := Step(s, e, now)
		if after != nil {
			after(was, &s, e)
		}
		return s, a
	}
}

func TestMutantsAreCaught(t *testing.T) {
	if number(t, "SKFS_EXPLORE", 0) == 0 {
		t.Skip("make explore runs it, without the race detector")
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for seed := range int64(3000) {
				trail, bad := walk(seed, m.data, m.cuts, m.variant, func(w *world) { w.step = m.step })
				if bad != "" {
					t.Logf("caught by walk %d after %d moves: %s", seed, len(trail), bad)
					return
				}
			}
			t.Error("no walk tells it from the automaton")
		})
	}
}
