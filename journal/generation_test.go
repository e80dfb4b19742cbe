package journal

import (
	"fmt"
	"testing"
)

// decisions are the rows of the table, and what the notes make of them. All hosts
// have checkpoint 5 and notes from there unless a case says otherwise.
var decisions = []struct {
	name   string
	p, s   Lineage
	change func(p, s *View)
	force  Force
	want   Verdict
}{
	{name: "first start", want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "first start of the second", p: line(1, 0), want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "a blank primary", s: line(1, 0), want: Verdict{}},
	{name: "a blank primary, fullsync", s: line(1, 0), force: ForceFull, want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "a blank primary that was forced", s: line(1, 0), force: ForcePrimary, want: Verdict{}},

	{name: "in order", p: line(1, 0), s: line(1, 0), change: clean(7, 7), want: Verdict{Copy: CopyNothing}},
	{name: "in order, at other operations", p: line(1, 0), s: line(1, 0), change: clean(7, 8), want: Verdict{Copy: CopyDelta}},
	{name: "in order, of other epochs", p: line(1, 0), s: line(1, 0),
		change: func(p, s *View) { clean(7, 7)(p, s); s.Epoch = 3 }, want: Verdict{Copy: CopyDelta}},
	{name: "in order, fullsync", p: line(1, 0), s: line(1, 0), change: clean(7, 7), force: ForceFull, want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "in order, another disk", p: line(1, 0), s: line(1, 0),
		change: func(p, s *View) { clean(7, 7)(p, s); s.Strange = true }, want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "not in order", p: line(1, 0), s: line(1, 0), want: Verdict{Copy: CopyDelta}},

	{name: "the second away", p: line(2, 1, 1), s: line(1, 0), want: Verdict{Copy: CopyDelta}},
	{name: "the second away, in order", p: line(2, 1, 1), s: line(1, 0), change: clean(7, 7), want: Verdict{Copy: CopyDelta}},
	{name: "the second away, the primary's notes lost", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { p.Lost = true }, want: Verdict{Copy: CopyDelta}},
	{name: "the second away, its notes lost", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { s.Lost = true }, want: Verdict{Copy: CopyDelta}},
	{name: "the second away, all notes lost", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { p.Lost, s.Lost, p.At = true, true, Time{Sec: 50} }, want: Verdict{Copy: CopyScan, Since: Time{Sec: 50}}},
	{name: "the second away, its notes lost, the primary's go back to less than its disk", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { s.Lost, s.Checkpoint, p.Noted = true, 6, 6; s.At = Time{Sec: 101} }, want: Verdict{Copy: CopyScan, Since: Time{Sec: 100}}},
	{name: "the second put back in time", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { s.Checkpoint = 4 }, want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "the primary put back in time and changed", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { s.Noted = 6 }, want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},
	{name: "the primary put back in time", p: line(1, 0), s: line(1, 0),
		change: func(p, s *View) { s.Noted = 6 }, want: Verdict{}},
	{name: "the primary put back in time, forced", p: line(1, 0), s: line(1, 0), force: ForcePrimary,
		change: func(p, s *View) { s.Noted = 6 }, want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},
	{name: "a strange primary", p: line(2, 1, 1), s: line(1, 0),
		change: func(p, s *View) { p.Strange = true }, want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "a second that missed an end of a copy", p: line(3, 1, 2, 1), s: line(1, 0), want: Verdict{Copy: CopyDelta}},
	{name: "a second whose end of a copy the primary missed", p: line(3, 1, 2, 1), s: line(2, 0, 1), want: Verdict{Copy: CopyDelta}},
	{name: "a base that the history has forgotten", p: line(9, 1, 8, 7, 6, 5), s: line(1, 0), want: Verdict{Copy: CopyDelta}},

	{name: "a newer second", p: line(1, 0), s: line(2, 1, 1), want: Verdict{}},
	{name: "a newer second, the primary forced", p: line(1, 0), s: line(2, 1, 1), force: ForcePrimary, want: Verdict{Copy: CopyDelta, SplitBrain: true}},
	{name: "a newer second, fullsync", p: line(1, 0), s: line(2, 1, 1), force: ForceFull, want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},

	{name: "split brain", p: line(2, 1, 1), s: line(3, 1, 1), want: Verdict{Copy: CopyDelta, SplitBrain: true}},
	{name: "split brain, all notes lost", p: line(2, 1, 1), s: line(3, 1, 1),
		change: func(p, s *View) { p.Lost, s.Lost = true, true }, want: Verdict{Copy: CopyScan, SplitBrain: true, Since: Time{Sec: 100}}},
	{name: "split brain, an interrupted full copy", p: line(2, 1, 1), s: line(3, 1, 1),
		change: func(p, s *View) { s.Strange = true }, want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},
	{name: "split brain after a missed end of a copy", p: line(3, 1, 2, 1), s: line(4, 2, 2, 1), want: Verdict{Copy: CopyDelta, SplitBrain: true}},

	{name: "a second from before the notes", p: line(3, 2, 2, 1), s: line(1, 0), want: Verdict{Copy: CopyFull, Renew: true}},
	{name: "a primary from before the notes", p: line(1, 0), s: line(3, 2, 2, 1), want: Verdict{}},
	{name: "a primary from before the notes, forced", p: line(1, 0), s: line(3, 2, 2, 1), force: ForcePrimary,
		want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},
	{name: "split brain from before the notes", p: line(3, 2, 2, 1), s: line(4, 1, 1), want: Verdict{Copy: CopyFull, SplitBrain: true, Renew: true}},

	{name: "unrelated", p: line(2, 1, 1), s: line(4, 3, 3), want: Verdict{}},
	{name: "unrelated, the primary forced", p: line(2, 1, 1), s: line(4, 3, 3), force: ForcePrimary, want: Verdict{}},
	{name: "unrelated, fullsync", p: line(2, 1, 1), s: line(4, 3, 3), force: ForceFull, want: Verdict{Copy: CopyFull, Renew: true}},
}

// line is a lineage: its history begins with the latest.
func line(current, base Generation, history ...Generation) Lineage {
	l := Lineage{Current: current, Base: base}
	copy(l.History[:], history)
	return l
}

func clean(p, s Seq) func(a, b *View) {
	return func(a, b *View) { a.Clean, a.Seq, b.Clean, b.Seq = true, p, true, s }
}

type stepCase struct {
	name string
	ok   bool
}

// steps are what the steps of a standing leave.
func (r *rules) steps() []stepCase {
	full := Standing{Lineage: Lineage{Current: 3, Base: 1, History: [4]Generation{2, 1}, Shared: true},
		Checkpoint: 5, Noted: 4, At: Time{Sec: 9}, Loose: true, Lost: true, Strange: true}
	met, adopted := r.met(full, 6), r.adopted(full, Standing{Lineage: line(9, 8, 8, 7)}, 6, Time{Sec: 10})
	begun := r.begun(Standing{Lineage: full.Lineage, Checkpoint: 5, Noted: 4}, CopyFull, 7)
	own := r.mint(r.mint(full, 4), 5)
	return []stepCase{
		{"Met: the peer has Current", met.Base == 0 && met.Current == 3 && met.Shared},
		{"Met: the notes begin at n and are not flushed", met.Noted == 6 && met.Loose && !met.Lost && !met.Strange},
		{"Adopted: the primary's line, without its base", adopted.Lineage == Lineage{Current: 9, History: [4]Generation{8, 7}, Shared: true}},
		{"Adopted: nothing is left of before", adopted.Checkpoint == 6 && adopted.Noted == 6 && adopted.Loose && !adopted.Lost && !adopted.Strange},
		{"Begun: the notes count no more", begun.Lost && begun.Noted == 7 && begun.Checkpoint == 5},
		{"Begun: a full copy goes on as one", begun.Strange && !r.begun(Standing{}, CopyScan, 7).Strange},
		{"Begun: the lineage stays", begun.Lineage == full.Lineage},
		{"Mint: the first keeps the base", own.Base == 1},
		{"Mint: the second leaves no trace of the first", own.Lineage == Lineage{Current: 5, Base: 1, History: [4]Generation{3, 2, 1}}},
		{"Mint: a generation that the peer has is a base", r.mint(Standing{Lineage: Lineage{Current: 3, Shared: true}}, 4).Base == 3},
		{"Mint: the very first has none", r.mint(Standing{}, 4).Lineage == Lineage{Current: 4}},
		{"Next: above all that the primary knows", r.next(Standing{Checkpoint: 7}, Standing{Checkpoint: 3}) > 7},
		{"Next: above all that the second knows", r.next(Standing{Checkpoint: 3}, Standing{Checkpoint: 3, Noted: 9}) > 9},
		{"Restarted: a second has not applied all", r.restart(Standing{}, false, true).Lost},
		{"Restarted: a power cut takes loose notes", r.restart(Standing{Loose: true}, true, false).Lost},
		{"Restarted: a kill takes none", !r.restart(Standing{Loose: true}, false, false).Lost},
		{"Restarted: a power cut takes no flushed notes", !r.restart(Standing{Loose: true}.Secured(), true, false).Lost},
		{"Merged: complete notes of the second count", !r.merged(Standing{Checkpoint: 5, Noted: 5, Lost: true}, Standing{Checkpoint: 5, Noted: 5}).Lost},
		{"Merged: lost notes of the second do not", r.merged(Standing{Checkpoint: 5, Noted: 5, Lost: true}, Standing{Checkpoint: 5, Noted: 5, Lost: true}).Lost},
		{"Merged: the union goes back as far as either's", r.merged(Standing{Checkpoint: 5, Noted: 5}, Standing{Checkpoint: 5, Noted: 4}).Noted == 4},
		{"Offered: the second may have Current, base stays", r.offered(Standing{Lineage: line(3, 1, 1)}, 6, Time{}).Lineage == Lineage{Current: 3, Base: 1, History: [4]Generation{1}, Shared: true}},
	}
}

// checkTable returns the first row that is not as it should be.
func (r *rules) checkTable() string {
	for _, d := range decisions {
		p := View{Standing: Standing{Lineage: d.p, Checkpoint: 5, Noted: 5, At: Time{Sec: 100}}, Epoch: 2}
		s := View{Standing: Standing{Lineage: d.s, Checkpoint: 5, Noted: 5, At: Time{Sec: 100}}, Epoch: 2}
		if d.change != nil {
			d.change(&p, &s)
		}
		got := r.decide(p, s, d.force)
		reason := got.Reason
		if got.Reason = ""; got != d.want {
			return fmt.Sprintf("%s: %+v, expected %+v (%s)", d.name, got, d.want, reason)
		}
		if reason == "" {
			return d.name + ": no reason"
		}
	}
	for _, s := range r.steps() {
		if !s.ok {
			return s.name
		}
	}
	return ""
}

func TestDecideTable(t *testing.T) {
	r := theRules()
	if bad := r.checkTable(); bad != "" {
		t.Error(bad)
	}
	reached := map[relation]bool{}
	for _, d := range decisions {
		reached[relate(d.p, d.s)] = true
	}
	for rel, row := range table {
		if !reached[relation(rel)] {
			t.Errorf("no case for: %s", row.reason)
		}
	}
}
