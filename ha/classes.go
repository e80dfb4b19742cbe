package ha

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
// has them suspended. Classes that are not among classParts are for scripts to
// enable (§13.9.4).
func (s *State) detecting(class string) bool {
	return !s.Settings.ErrdOff && s.Live&classParts[class] != 0
}

// scriptBegins takes a part that is stopped out of Live.
func (m *machine) scriptBegins(t Task) {
	switch {
	case t.Script == "poststop":
		m.Live &^= PartPre
	case !t.starts():
		m.Live &^= t.Part
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
