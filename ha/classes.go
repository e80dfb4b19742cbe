package ha

import (
	"maps"
	"time"
)

// Which checkers (<check when="…">, §13.10) and process monitors (<errd>, class="…",
// §13.9) run in a state. A class is watched from the end of its start script to the
// beginning of its stop script; "pre" from the end of prestart to the beginning of
// poststop.
//
//	class    watched in
//	pre      WAIT and all states after it
//	both     ALONE, PRIM, SECOND, UP
//	prim     ALONE, PRIM
//	second   SECOND
//	sec      ALONE, SECOND
var classParts = map[string]Parts{"pre": PartPre, "both": PartBoth, "prim": PartPrim, "second": PartSecond, "sec": PartSec}

// checking says that the checkers of a class run: not while command checker has them
// off.
func (s *State) checking(class string) bool {
	return !s.Settings.CheckerOff && s.Live&classParts[class] != 0
}

// detecting says that the processes of a class are watched: not while command errd
// has them suspended. Classes that are not among classParts are enabled by scripts
// (§13.9.4).
func (s *State) detecting(class string) bool {
	_, on := s.detectingSince(class)
	return on
}

// detectingSince says also since when, for a class that a command has enabled; else
// since is zero.
func (s *State) detectingSince(class string) (since time.Time, on bool) {
	if s.Settings.ErrdOff || s.Role == RoleStop {
		return time.Time{}, false
	}
	if since, set := s.Classes[class]; set {
		return since, !since.IsZero()
	}
	return time.Time{}, s.Live&classParts[class] != 0
}

// setClass enables or disables a class by command. What it says of a class among
// classParts counts until the next script of that part.
func (m *machine) setClass(class string, on bool) {
	m.Classes = maps.Clone(m.Classes) // the map of State before Step is not ours
	if m.Classes == nil {
		m.Classes = map[string]time.Time{}
	}
	m.Classes[class] = time.Time{}
	if on {
		m.Classes[class] = m.now.UTC()
	} else if classParts[class] == 0 {
		delete(m.Classes, class)
	}
}

// unsetClass forgets what commands have said of the class of a part.
func (m *machine) unsetClass(p Parts) {
	for class, part := range classParts {
		if _, set := m.Classes[class]; set && part == p {
			m.Classes = maps.Clone(m.Classes)
			delete(m.Classes, class)
		}
	}
}

// scriptBegins takes a part that is stopped out of Live.
func (m *machine) scriptBegins(t Task) {
	switch {
	case t.Script == "poststop":
		m.Live &^= PartPre
		m.unsetClass(PartPre)
	case !t.starts() && t.Part != 0:
		m.Live &^= t.Part
		m.unsetClass(t.Part)
	}
}

// scriptEnds adds a part that was started, whatever the script's exit code.
func (m *machine) scriptEnds(t Task) {
	switch {
	case t.Script == "prestart":
		m.Live |= PartPre
	case t.starts():
		m.Live |= t.Part
	}
}
