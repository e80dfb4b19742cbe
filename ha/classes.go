package ha

import (
	"slices"
	"strings"
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
	if i := s.class(class); i >= 0 {
		return s.Classes[i].Since, !s.Classes[i].Since.IsZero()
	}
	return time.Time{}, s.Live&classParts[class] != 0
}

// Class is what command errd has said of a class of processes.
type Class struct {
	Name  string
	Since time.Time // enabled since; zero: disabled
}

// class is the index of a class in Classes, -1 if no command has spoken of it.
func (s *State) class(name string) int {
	return slices.IndexFunc(s.Classes, func(c Class) bool { return c.Name == name })
}

// setClass enables or disables a class by command. What it says of a class among
// classParts counts until the next script of that part.
func (m *machine) setClass(name string, on bool) {
	c := Class{Name: name}
	if on {
		c.Since = m.now.UTC()
	}
	m.unsetClass(name)
	if on || classParts[name] != 0 {
		m.Classes = append(slices.Clone(m.Classes), c)
		slices.SortFunc(m.Classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	}
}

// unsetClass forgets what commands have said of a class.
func (m *machine) unsetClass(name string) {
	if i := m.class(name); i >= 0 {
		m.Classes = slices.Delete(slices.Clone(m.Classes), i, i+1)
	}
}

// unsetPart forgets what commands have said of the class of a part.
func (m *machine) unsetPart(p Parts) {
	for name, part := range classParts {
		if part == p {
			m.unsetClass(name)
		}
	}
}

// scriptBegins takes a part that is stopped out of Live.
func (m *machine) scriptBegins(t Task) {
	switch {
	case t.Script == "poststop":
		m.Live &^= PartPre
		m.unsetPart(PartPre)
	case !t.starts() && t.Part != 0:
		m.Live &^= t.Part
		m.unsetPart(t.Part)
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
