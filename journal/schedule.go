package journal

// scheduler says which operations may run now: those whose predecessors, the
// earlier ones with a key in common, have finished. Operations enter in Seq
// order without gaps and finish in any order that respects this. It is a value
// without locks or goroutines.
//
//	window   applied+1 ✓ ·  ✓ ·  ▮ ·  ·     ▮ barrier: runs when it is first,
//	                   └───key──┘  └──┘       those behind it wait for it
type scheduler struct {
	applied Seq         // all up to here have finished
	window  fifo[entry] // what entered after it
	ready   fifo[*inbound]
	tails   map[FileID]*inbound // the last that entered with a key, unless finished
	barrier *inbound            // the last that entered, unless finished
}

// entry is a place in the window; nil when the operation has finished.
type entry struct{ in *inbound }

func newScheduler(applied Seq) scheduler {
	return scheduler{applied: applied, tails: map[FileID]*inbound{}}
}

// add enters the operation that follows the last one.
func (s *scheduler) add(in *inbound) {
	s.window.push(entry{in})
	if isBarrier(&in.op) {
		in.barrier, s.barrier = true, in
		if s.window.len() == 1 {
			s.ready.push(in)
		}
		return
	}
	if s.barrier != nil {
		s.follow(in, s.barrier)
	}
	in.nkeys = opKeys(&in.op, &in.keys)
	for _, k := range in.keys[:in.nkeys] {
		if t := s.tails[k]; t != nil {
			s.follow(in, t)
		}
		s.tails[k] = in
	}
	if in.deps == 0 {
		s.ready.push(in)
	}
}

func (s *scheduler) follow(in, before *inbound) {
	before.succs = append(before.succs, in)
	in.deps++
}

// finish takes in out, which makes others ready. Nothing refers to it then.
func (s *scheduler) finish(in *inbound) {
	s.window.at(int(in.op.Seq - s.applied - 1)).in = nil
	for _, k := range in.keys[:in.nkeys] {
		if s.tails[k] == in {
			delete(s.tails, k)
		}
	}
	if s.barrier == in {
		s.barrier = nil
	}
	for _, n := range in.succs {
		if n.deps--; n.deps == 0 {
			s.ready.push(n)
		}
	}
	moved := false
	for s.window.len() > 0 && s.window.front().in == nil {
		s.window.pop()
		s.applied++
		moved = true
	}
	if moved && s.window.len() > 0 {
		if first := s.window.front().in; first.barrier {
			s.ready.push(first)
		}
	}
}
