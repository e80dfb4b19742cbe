package journal

import "fmt"

// The model: two hosts with two blocks each, which hold versions, on disk and in
// the page cache; the records and notes as the design keeps them; and what really
// happened. Every history of its events up to a bound is walked, and at each join
// the verdict is held against the truth. Who may be primary is not the subject:
// any host may be made one at any time, as an administrator may do.

const mBlocks = 2

// rules are the functions under test; a mutant replaces one.
type rules struct {
	decide  func(p, s View, f Force) Verdict
	restart func(s Standing, booted, second bool) Standing
	mint    func(Standing, Generation) Standing
	merged  func(Standing, Standing) Standing
	begun   func(Standing, Copy, uint64) Standing
	offered func(Standing, uint64, Time) Standing
	adopted func(Standing, Standing, uint64, Time) Standing
	met     func(Standing, uint64) Standing
	next    func(Standing, Standing) uint64
}

func theRules() rules {
	return rules{Decide, Standing.Restarted, Standing.Mint, Standing.Merged, Standing.Begun, Standing.Offered, Standing.Adopted, Standing.Met, Standing.Next}
}

// mRole is the role in the record, as package replica keeps it.
type mRole uint8

const (
	mNone mRole = iota
	mSyncing
	mSecond
	mConnected
	mAlone
	mClean
)

// mNotes are sets of blocks; old is what Rotate has set apart.
type mNotes struct{ old, fresh uint8 }

func (n mNotes) all() uint8 { return n.old | n.fresh }

// mSaved is what a backup of a host holds.
type mSaved struct {
	has  bool
	data [mBlocks]uint16
	note mNotes
	std  Standing
	role mRole
	seq  uint16
	own  uint16
	got  uint16
}

type mHost struct {
	mem, disk   [mBlocks]uint16 // versions; mem is what anybody reads
	note, dnote mNotes          // as read, and as after a power cut
	std         Standing
	role        mRole
	boot        bool   // the host has booted since the role was recorded
	seq         uint16 // with mClean: of the record; else the last operation done in sync

	// Of the process:
	up, prim, alone bool
	synced          bool   // second that has all it was sent, or will when it has drained
	forced          bool   // made primary although it was not sure
	minted          bool   // Current is of this reign and not offered
	base            bool   // primary: nothing changed since the operation seq, the last in sync
	queue           [2]mOp // second: received, not applied

	// The truth, which no rule sees:
	own, got      uint16 // the last change made alone; the last such of the peer that this host was given
	killed, power bool   // since the two were last in sync
	back          bool   // data or record were put back since then
	saved         mSaved
}

type mOp struct {
	block   uint8
	version uint16 // 0: none
}

// mLink is the stream between the hosts.
type mLink uint8

const (
	mCut     mLink = iota
	mPass          // a copy is under way
	mOffered       // the copy is complete; the second is being told
	mAdopted       // it has recorded that; the primary does not know
	mSync
)

// Bits of mWorld.ck, the steps of a checkpoint.
const (
	ckBegun   = 1 << iota
	ckSecond  // on the second's disk
	ckAnswer  // the primary knows, and has cleared
	ckPrimary // on the primary's disk
	ckMark    // the second knows, and has cleared
	ckDone    = ckBegun | ckSecond | ckAnswer | ckPrimary | ckMark
)

type mWorld struct {
	h    [2]mHost
	link mLink
	prim uint8 // of the link
	copy Copy
	at   uint16 // with mPass: Verdict.Since; else when the checkpoint under way began
	ck   uint8
	num  uint64 // of the checkpoint under way, or of the end of the copy

	clock uint16 // versions, operations and times
	gens  Generation

	met        bool // the two were in sync once
	halfway    bool // the last time in sync ended amid a checkpoint
	faults     uint8
	writes     uint8
	admissions uint8
	r          *rules
	bad        string
}

func (w *mWorld) fail(format string, args ...any) { w.bad = fmt.Sprintf(format, args...) }

func (w *mWorld) tick() uint16 { w.clock++; return w.clock }

func (w *mWorld) newGen() Generation { w.gens++; return w.gens }

func mTime(t uint16) Time { return Time{Sec: int64(t)} }

// secure makes the notes of a host survive a power cut.
func (h *mHost) secure() { h.dnote, h.std = h.note, h.std.Secured() }

func (h *mHost) set(r mRole) { h.role, h.boot = r, false }

// begin is the start of the process.
func (w *mWorld) begin(h *mHost) {
	if !h.up {
		h.std = w.r.restart(h.std, h.boot, h.role == mSecond)
	}
	h.up = true
}

// drain applies what the second has received.
func (h *mHost) drain() {
	for _, op := range h.queue {
		if op.version != 0 {
			h.note.fresh |= 1 << op.block
			h.mem[op.block], h.seq = op.version, op.version
		}
	}
	h.queue = [2]mOp{}
}

func (h *mHost) end() {
	h.up, h.prim, h.alone, h.synced, h.forced, h.minted, h.base, h.queue = false, false, false, false, false, false, false, [2]mOp{}
}

// unlink ends the stream. A process that lives drains; one that is killed does not.
func (w *mWorld) unlink(killed int) {
	if w.link == mCut {
		return
	}
	p, s := &w.h[w.prim], &w.h[1-w.prim]
	if int(1-w.prim) != killed {
		if w.link >= mAdopted {
			s.drain()
		}
	}
	s.queue = [2]mOp{}
	if w.link >= mOffered {
		p.base = true // of what was in sync; nothing is Clean by this alone
	}
	if w.ck != 0 {
		w.halfway = true
	}
	w.link, w.ck, w.num, w.at, w.copy = mCut, 0, 0, 0, 0
}

func (h *mHost) view() View {
	return View{Standing: h.std, Clean: h.role == mClean || h.prim && h.base, Seq: Seq(h.seq)}
}

// goAlone lets the primary change things without a second.
func (h *mHost) goAlone() {
	h.secure()
	h.set(mAlone)
	h.alone = true
}

// write changes a block on the primary.
func (w *mWorld) write(i int, b uint8) {
	h := &w.h[i]
	w.writes++
	v := w.tick()
	if w.link >= mOffered && int(w.prim) == i {
		h.note.fresh |= 1 << b
		if w.link != mSync {
			h.dnote = h.note
		}
		w.h[1-i].receive(mOp{b, v})
		h.mem[b], h.seq = v, v
		return
	}
	if !h.minted {
		h.std = w.r.mint(h.std, w.newGen())
		h.minted = true
	}
	h.note.fresh |= 1 << b
	h.dnote = h.note
	h.mem[b], h.base, h.own = v, false, v
}

func (h *mHost) full() bool { return h.queue[len(h.queue)-1].version != 0 }

func (h *mHost) receive(op mOp) {
	for i := range h.queue {
		if h.queue[i].version == 0 {
			h.queue[i] = op
			return
		}
	}
}

// kill ends a process; with a block, the primary was about to change it: the
// second has received that.
func (w *mWorld) kill(i int, inFlight int) {
	h := &w.h[i]
	if inFlight >= 0 {
		h.note.fresh |= 1 << inFlight
		if w.link != mSync {
			h.dnote = h.note
		}
		w.h[1-i].receive(mOp{uint8(inFlight), w.tick()})
	}
	w.unlink(i)
	h.end()
	h.killed = true
}

// power cuts the power of a host; of what was not flushed, the blocks of keep are
// on its disk all the same.
func (w *mWorld) power(i int, keep uint8) {
	w.unlink(i)
	h := &w.h[i]
	h.end()
	for b := range h.mem {
		if keep>>b&1 == 0 {
			h.mem[b] = h.disk[b]
		}
	}
	h.disk, h.note, h.boot, h.power = h.mem, h.dnote, true, true
}

// promote makes a host primary, by force if it is not sure to have all.
func (w *mWorld) promote(i int) {
	h := &w.h[i]
	inOrder := h.up && h.synced
	w.begin(h)
	if h.role == mSyncing {
		h.std.Strange = true
	}
	h.base = inOrder || h.role == mClean
	h.secure()
	h.set(mConnected)
	h.prim, h.alone, h.synced, h.forced, h.minted = true, false, false, !inOrder, false
}

func (w *mWorld) join(i int) {
	w.admissions++
	p, s := &w.h[i], &w.h[1-i]
	if s.prim { // demoted, which says nothing of its data
		s.prim, s.alone, s.base, s.forced, s.minted = false, false, false, false, false
	}
	w.begin(s)
	var f Force
	if p.forced {
		f = ForcePrimary
	}
	v := w.r.decide(p.view(), s.view(), f)
	w.judge(v, p, s)
	if w.bad != "" {
		return
	}
	w.prim = uint8(i)
	switch v.Copy {
	case Refuse:
		w.prim = 0
		return
	case CopyNothing:
		if p.mem != s.mem {
			w.fail("nothing is copied, but the primary has %v, the second %v", p.mem, s.mem)
		}
		w.offer()
		return
	}
	p.goAlone()
	p.note.fresh |= s.note.all()
	p.secure()
	p.disk = p.mem
	p.std = w.r.merged(p.std, s.std).Flushed(w.r.next(p.std, s.std), mTime(w.tick()))
	if v.Renew && !p.minted {
		p.std = w.r.mint(p.std, w.newGen())
		p.minted = true
	}
	s.secure()
	s.set(mSyncing)
	s.synced = false
	s.std = w.r.begun(s.std, v.Copy, p.std.Checkpoint)
	w.link, w.copy, w.at = mPass, v.Copy, uint16(v.Since.Sec)
}

// judge holds a verdict against what really happened.
func (w *mWorld) judge(v Verdict, p, s *mHost) {
	pOwn, sOwn := p.own > s.got, s.own > p.got // changes that the other never saw
	strange, back := p.std.Strange || s.std.Strange, p.back || s.back
	switch {
	case sOwn && v.Copy != Refuse && !v.SplitBrain && w.met && s.std.Current != 0:
		w.fail("%v copy: changes of the second are given up without a word (%s)", v.Copy, v.Reason)
	case v.Copy == Refuse && !sOwn && !p.back && w.met && s.std.Current != 0:
		w.fail("refused, though the second has nothing of its own (%s)", v.Reason)
	case strange || back:
	case !w.met:
		if v.Copy != CopyFull && v.Copy != Refuse {
			w.fail("%v copy between hosts that never met", v.Copy)
		}
		if s.std.Current == 0 && v.Copy != CopyFull {
			w.fail("%v at the first start", v.Copy)
		}
	case v.Copy == Refuse:
		if !sOwn || pOwn || p.forced {
			w.fail("refused (%s)", v.Reason)
		}
	case v.SplitBrain != sOwn:
		w.fail("split brain: said %v, was %v (%s)", v.SplitBrain, sOwn, v.Reason)
	case sOwn && !pOwn && !p.forced:
		w.fail("changes of the second are given up, though the primary has none and nobody asked for it")
	case v.Copy == CopyFull:
		w.fail("full copy, though the notes or ctimes tell all (%s)", v.Reason)
	case v.Copy == CopyScan && !w.halfway && !(p.power && (s.power || s.killed) || s.power && p.killed):
		w.fail("scan after a single failure (%s)", v.Reason)
	}
	if v.Copy == CopyDelta && p.std == s.std && p.note == (mNotes{}) && s.note == (mNotes{}) && p.mem != s.mem {
		w.fail("an empty delta between %v and %v", p.mem, s.mem)
	}
}

// passed ends the copy on the primary: it is as complete as the notes say.
func (w *mWorld) passed() {
	p, s := &w.h[w.prim], &w.h[1-w.prim]
	for b := range p.mem {
		copied := w.copy == CopyFull
		switch w.copy {
		case CopyDelta:
			copied = (p.note.all()|s.note.all())>>b&1 == 1
		case CopyScan: // versions are ctimes
			copied = p.mem[b] > w.at || s.mem[b] > w.at
		}
		if copied {
			s.mem[b] = p.mem[b]
		}
	}
	if p.mem != s.mem {
		w.fail("after a %v copy the primary has %v, the second %v", w.copy, p.mem, s.mem)
		return
	}
	w.offer()
}

// offer is the end of a copy, or what there is instead if nothing is missing.
func (w *mWorld) offer() {
	p, s := &w.h[w.prim], &w.h[1-w.prim]
	w.num = w.r.next(p.std, s.std)
	w.at = w.tick()
	p.note, p.dnote = mNotes{old: p.note.all()}, mNotes{old: p.dnote.all()}
	p.disk = p.mem
	p.std = w.r.offered(p.std, w.num, mTime(w.at))
	p.set(mConnected)
	p.alone, p.minted, p.forced, p.base, p.seq = false, false, false, false, w.at
	w.link, w.copy = mOffered, 0
}

func (w *mWorld) adopt() {
	p, s := &w.h[w.prim], &w.h[1-w.prim]
	s.disk = s.mem
	s.std = w.r.adopted(s.std, p.std, w.num, mTime(w.at))
	s.set(mSecond)
	s.seq = w.at
	s.note, s.dnote, s.synced = mNotes{}, mNotes{}, true
	s.own, s.got = 0, max(s.got, p.own)
	p.back, s.back = false, false
	w.met, w.link = true, mAdopted
}

func (w *mWorld) finish() {
	p := &w.h[w.prim]
	p.std = w.r.met(p.std, w.num)
	p.note.old, p.dnote.old = 0, 0
	w.link, w.at, w.num, w.halfway = mSync, 0, 0, false
	for i := range w.h {
		w.h[i].killed, w.h[i].power = false, false
	}
}

// checkpoint takes one step of a checkpoint.
func (w *mWorld) checkpoint(step uint8) {
	p, s := &w.h[w.prim], &w.h[1-w.prim]
	switch step {
	case ckBegun:
		s.drain()
		w.num, w.at = w.r.next(p.std, s.std), w.tick()
		p.note = mNotes{old: p.note.all()}
		s.note = mNotes{old: s.note.all()}
		p.dnote, s.dnote = mNotes{old: p.dnote.all()}, mNotes{old: s.dnote.all()}
	case ckSecond:
		s.disk = s.mem
		s.std = s.std.Flushed(w.num, mTime(w.at))
	case ckAnswer:
		p.std = p.std.Cleared(w.num)
		p.note.old, p.dnote.old = 0, 0
	case ckPrimary:
		p.disk = p.mem
		p.std = p.std.Flushed(w.num, mTime(w.at))
	case ckMark:
		s.std = s.std.Cleared(w.num)
		s.note.old, s.dnote.old = 0, 0
	}
	if w.ck |= step; w.ck == ckDone {
		w.ck, w.num, w.at = 0, 0, 0
	}
}

// stop ends the second, or the reign of the primary, in order.
func (w *mWorld) stop(i int) {
	h := &w.h[i]
	w.h[1-w.prim].drain()
	h.disk = h.mem
	h.secure()
	h.set(mClean)
	if h.prim {
		h.prim, h.base = false, false
	}
	h.synced = false
	w.unlink(i)
	h.base = false
}

func (w *mWorld) save(i int) {
	h := &w.h[i] // as a snapshot of a file system does, it flushes
	h.disk, h.dnote = h.mem, h.note
	h.saved = mSaved{true, h.mem, h.note, h.std, h.role, h.seq, h.own, h.got}
}

// restore puts a host that is down back to its backup: data and record, or data
// alone, which is found out at the next start.
func (w *mWorld) restore(i int, record bool) {
	h := &w.h[i]
	c := h.saved
	h.saved = mSaved{}
	h.mem, h.disk, h.boot, h.back, h.power = c.data, c.data, true, true, true
	if record {
		h.note, h.dnote, h.std, h.role, h.seq, h.own, h.got = c.note, c.note, c.std, c.role, c.seq, c.own, c.got
	} else {
		h.std.Strange = true
	}
}

// bounds of a walk.
type bounds struct {
	depth                      int
	faults, writes, admissions uint8
	backups                    bool
}

type mEvent struct {
	name string
	host int
	do   func(w *mWorld)
}

// events are all that can happen next, in a fixed order.
func (w *mWorld) events(b bounds) []mEvent {
	var es []mEvent
	add := func(name string, i int, do func(*mWorld)) { es = append(es, mEvent{name, i, do}) }
	joined := func(i int) bool { return w.link != mCut && int(w.prim) == i }
	for i := range w.h {
		h, o := &w.h[i], &w.h[1-i]
		if h.prim && w.writes < b.writes {
			for blk := range uint8(mBlocks) {
				switch {
				case joined(i) && w.link >= mOffered:
					if !o.full() {
						add(fmt.Sprintf("write %d in sync", blk), i, func(w *mWorld) { w.write(i, blk) })
						if w.faults < b.faults {
							add(fmt.Sprintf("killed before writing %d", blk), i, func(w *mWorld) { w.faults++; w.kill(i, int(blk)) })
						}
					}
				case h.alone:
					add(fmt.Sprintf("write %d alone", blk), i, func(w *mWorld) { w.write(i, blk) })
				}
			}
		}
		if h.up && w.faults < b.faults {
			add("killed", i, func(w *mWorld) { w.faults++; w.kill(i, -1) })
		}
		if w.faults < b.faults && (h.up || h.mem != h.disk || h.note != h.dnote) {
			dirty := uint8(0)
			for blk := range h.mem {
				if h.mem[blk] != h.disk[blk] {
					dirty |= 1 << blk
				}
			}
			for keep := range uint8(1 << mBlocks) {
				if keep&^dirty == 0 {
					add(fmt.Sprintf("power cut, blocks %02b kept", keep), i, func(w *mWorld) { w.faults++; w.power(i, keep) })
				}
			}
		}
		if h.prim && !h.alone && w.link == mCut {
			add("goes alone", i, func(w *mWorld) { w.h[i].goAlone() })
		}
		if !h.prim && w.link == mCut && w.admissions < b.admissions {
			add("made primary", i, func(w *mWorld) { w.promote(i) })
		}
		if h.prim && w.link == mCut && w.admissions < b.admissions {
			add("admits the other", i, func(w *mWorld) { w.join(i) })
		}
		if w.link == mSync && w.ck == 0 {
			add("stops in order", i, func(w *mWorld) { w.stop(i) })
		}
		if b.backups {
			// Not amid a copy: that a primary was put back to then is not recognised.
			if !h.saved.has && (w.link == mCut || w.link == mSync) && h.std.Current != 0 && !o.saved.has {
				add("is saved", i, func(w *mWorld) { w.save(i) })
			}
			if h.saved.has && !h.up {
				add("is put back", i, func(w *mWorld) { w.restore(i, true) })
				add("has its data put back", i, func(w *mWorld) { w.restore(i, false) })
			}
		}
	}
	p := int(w.prim)
	if w.link >= mAdopted && w.h[1-p].queue[0].version != 0 {
		add("applies", 1-p, func(w *mWorld) { w.h[1-w.prim].drain() })
	}
	if w.link != mCut && w.faults < b.faults {
		add("link cut", p, func(w *mWorld) { w.faults++; w.unlink(-1) })
	}
	switch w.link {
	case mPass:
		add("copy complete", p, (*mWorld).passed)
	case mOffered:
		add("records that it is in sync", 1-p, (*mWorld).adopt)
	case mAdopted:
		add("learns that the second is in sync", p, (*mWorld).finish)
	case mSync:
		for _, s := range []struct {
			step, after uint8
			name        string
		}{{ckBegun, 0, "begins a checkpoint"}, {ckSecond, ckBegun, "second flushed"}, {ckAnswer, ckSecond, "primary clears"},
			{ckPrimary, ckBegun, "primary flushed"}, {ckMark, ckPrimary, "second clears"}} {
			if w.ck&s.step == 0 && w.ck&s.after == s.after && (s.step != ckBegun || w.h[0].note.all()|w.h[1].note.all() != 0) {
				add(s.name, p, func(w *mWorld) { w.checkpoint(s.step) })
			}
		}
	}
	return es
}
