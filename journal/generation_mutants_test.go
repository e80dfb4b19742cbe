package journal

import "testing"

// The mutants are decisions and steps with one thing wrong each. A model that
// cannot tell them from the real ones checks nothing.
// A few are caught by the table alone: another rule makes them harmless in every
// history that is walked, which twin names.
var generationMutants = []struct {
	name string
	make func(r *rules)
	twin string // what makes it harmless; empty: the model must catch it
}{
	{"everything is copied", looks(func(v *Verdict, p, s *View) {
		if v.Copy == CopyDelta {
			v.Copy = CopyFull
		}
	}), ""},
	{"everything is scanned", looks(func(v *Verdict, p, s *View) {
		if v.Copy == CopyDelta {
			v.Copy = CopyScan
			v.Since = earlier(p.At, s.At)
		}
	}), ""},
	{"a scan is refused a delta", looks(func(v *Verdict, p, s *View) {
		if v.Copy == CopyScan {
			v.Copy = CopyDelta
		}
	}), ""},
	{"a scan begins with the later checkpoint", looks(func(v *Verdict, p, s *View) {
		if v.Since == p.At {
			v.Since = s.At
		} else {
			v.Since = p.At
		}
	}), ""},
	{"who ended in order lacks nothing", looks(func(v *Verdict, p, s *View) {
		if v.Copy == CopyDelta && s.Clean {
			v.Copy = CopyNothing
		}
	}), ""},
	{"the same number of operations is the same data", looks(func(v *Verdict, p, s *View) {
		if v.Copy == CopyDelta && p.Current == s.Current && p.Seq == s.Seq {
			v.Copy = CopyNothing
		}
	}), ""},
	{"every reunion is a split brain", looks(func(v *Verdict, p, s *View) { v.SplitBrain = v.SplitBrain || v.Copy == CopyDelta && p.Base != 0 }), ""},
	{"a split brain goes unnoticed", looks(func(v *Verdict, p, s *View) { v.SplitBrain = false }), ""},
	{"a newer second is never refused", looks(func(v *Verdict, p, s *View) {
		if v.Copy == Refuse {
			v.Copy = CopyFull
		}
	}), ""},
	{"what was forced is refused all the same", seen(func(p, s *View, f *Force) { *f = 0 }), ""},
	{"a full copy mints nothing", looks(func(v *Verdict, p, s *View) { v.Renew = false }), ""},
	{"the primary's lost notes are overlooked", seen(func(p, s *View, f *Force) { p.Lost = false }), ""},
	{"the second's lost notes are overlooked", seen(func(p, s *View, f *Force) { s.Lost = false }), ""},
	{"lost notes of one host are both hosts'", seen(func(p, s *View, f *Force) { p.Lost = p.Lost || s.Lost; s.Lost = p.Lost }), ""},
	{"strange data of the primary is overlooked", seen(func(p, s *View, f *Force) { p.Strange = false }), ""},
	{"strange data of the second is overlooked", seen(func(p, s *View, f *Force) { s.Strange = false }), ""},
	{"a second put back in time is overlooked", seen(func(p, s *View, f *Force) { p.Noted = min(p.Noted, s.Checkpoint) }), ""},
	{"a primary put back in time is overlooked", seen(func(p, s *View, f *Force) { s.Noted = min(s.Noted, p.Checkpoint) }), ""},
	{"a base is never a base", seen(func(p, s *View, f *Force) { p.Base, s.Base = 0, 0 }), ""},
	{"history is not looked at", seen(func(p, s *View, f *Force) { p.History, s.History = [4]Generation{}, [4]Generation{} }), ""},
	{"a generation is minted only once", func(r *rules) {
		r.mint = func(s Standing, g Generation) Standing {
			if s.Base != 0 {
				return s
			}
			return s.Mint(g)
		}
	}, ""},
	{"the former generation is always the base", func(r *rules) {
		r.mint = func(s Standing, g Generation) Standing {
			old := s.Current
			s = s.Mint(g)
			s.Base = old
			return s
		}
	}, ""},
	{"a generation that was offered is still one's own", func(r *rules) {
		r.offered = func(s Standing, n uint64, at Time) Standing {
			shared := s.Shared
			s = s.Offered(n, at)
			s.Shared = shared
			return s
		}
	}, ""},
	{"the base is forgotten when the copy is offered", func(r *rules) {
		r.offered = func(s Standing, n uint64, at Time) Standing {
			s = s.Offered(n, at)
			s.Base = 0
			return s
		}
	}, ""},
	{"the base is kept when the second has recorded", func(r *rules) {
		r.met = func(s Standing, n uint64) Standing {
			base := s.Base
			s = s.Met(n)
			s.Base = base
			return s
		}
	}, "a second from before the end of the copy has too old a checkpoint"},
	{"who has met still has lost notes", func(r *rules) {
		r.met = func(s Standing, n uint64) Standing {
			lost := s.Lost
			s = s.Met(n)
			s.Lost = lost
			return s
		}
	}, ""},
	{"the second keeps its own line", func(r *rules) {
		r.adopted = func(s, p Standing, n uint64, at Time) Standing {
			a := s.Adopted(p, n, at)
			a.Lineage = s.Lineage
			return a
		}
	}, ""},
	{"the second takes the primary's base too", func(r *rules) {
		r.adopted = func(s, p Standing, n uint64, at Time) Standing {
			a := s.Adopted(p, n, at)
			a.Base = p.Base
			return a
		}
	}, "a host from before the end of the copy has too old a checkpoint"},
	{"the second takes its generation for its own", func(r *rules) {
		r.adopted = func(s, p Standing, n uint64, at Time) Standing {
			a := s.Adopted(p, n, at)
			a.Shared = false
			return a
		}
	}, ""},
	{"the second does not count the end of a copy as a checkpoint", func(r *rules) {
		r.adopted = func(s, p Standing, n uint64, at Time) Standing {
			a := s.Adopted(p, n, at)
			a.Checkpoint = s.Checkpoint
			return a
		}
	}, ""},
	{"checkpoints are counted by the primary alone", func(r *rules) {
		r.next = func(p, s Standing) uint64 { return p.Checkpoint + 1 }
	}, "it takes two backups and the loss of the record"},
	{"an interrupted full copy is forgotten", func(r *rules) {
		r.begun = func(s Standing, c Copy, n uint64) Standing {
			strange := s.Strange
			s = s.Begun(c, n)
			s.Strange = strange
			return s
		}
	}, "what asked for a full copy asks for it again, but for `second fullsync`"},
	{"the notes of a half-copied second count", func(r *rules) {
		r.begun = func(s Standing, c Copy, n uint64) Standing {
			lost := s.Lost
			s = s.Begun(c, n)
			s.Lost = lost
			return s
		}
	}, "they begin at a checkpoint that it does not have"},
	{"a half-copied second does not know from when", func(r *rules) {
		r.begun = func(s Standing, c Copy, n uint64) Standing {
			noted := s.Noted
			s = s.Begun(c, n)
			s.Noted = noted
			return s
		}
	}, ""},
	{"the second's notes, once merged, are worth nothing", func(r *rules) {
		r.merged = func(p, s Standing) Standing { return p }
	}, ""},
	{"merged notes are always complete", func(r *rules) {
		r.merged = func(p, s Standing) Standing { p = p.Merged(s); p.Lost = false; return p }
	}, ""},
	{"a power cut takes no notes", func(r *rules) {
		r.restart = func(s Standing, booted, second bool) Standing { return s.Restarted(false, second) }
	}, ""},
	{"any start loses notes", func(r *rules) {
		r.restart = func(s Standing, booted, second bool) Standing { return s.Restarted(true, second) }
	}, ""},
	{"a power cut always takes notes", func(r *rules) {
		r.restart = func(s Standing, booted, second bool) Standing {
			s.Loose = true
			return s.Restarted(booted, second)
		}
	}, ""},
	{"a killed second had applied everything", func(r *rules) {
		r.restart = func(s Standing, booted, second bool) Standing { return s.Restarted(booted, false) }
	}, ""},
}

// looks changes a verdict, seen what it is made from.
func looks(change func(v *Verdict, p, s *View)) func(*rules) {
	return func(r *rules) {
		r.decide = func(p, s View, f Force) Verdict {
			v := Decide(p, s, f)
			change(&v, &p, &s)
			return v
		}
	}
}

func seen(change func(p, s *View, f *Force)) func(*rules) {
	return func(r *rules) {
		r.decide = func(p, s View, f Force) Verdict {
			change(&p, &s, &f)
			return Decide(p, s, f)
		}
	}
}

func TestGenerationMutantsAreCaught(t *testing.T) {
	for _, m := range generationMutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			r := theRules()
			m.make(&r)
			if m.twin != "" {
				if bad := r.checkTable(); bad != "" {
					t.Logf("caught by the table: %s (in the model harmless: %s)", bad, m.twin)
					return
				}
				t.Error("the table does not tell it from the real one")
				return
			}
			for _, w := range walks(t, &r) {
				states, _, trail, bad := explore(w.start, w.b)
				if bad != "" {
					t.Logf("caught in %q after %d states by %v: %s", w.name, states, trail, bad)
					return
				}
			}
			t.Error("no history tells it from the real one")
		})
	}
}
