package ha

// The splitbrain checker (§13.17): silence on all heartbeats does not tell a peer that
// is dead from one that is cut off. With a witness, a node takes the peer for dead only
// if it reaches the witness after the silence began; one that does not is itself cut
// off, as far as can be known, and waits.
//
//	all heartbeats lost ──▶ TaskWitness ──▶ reached: Witness up, the peer is dead
//	                             │
//	                             └────────▶ not: Split, splitbrain.uptodate down,
//	                                        WAIT (rule splitbrain_failure)
//
// Until the answer is there nothing happens that only a dead peer allows: a primary's
// changes stay frozen, a second stays one. Split ends when a heartbeat is heard, or when
// the module is stopped; the command prim needs no witness.
//
// The witness is not exclusive: where both nodes reach it, both serve.

// splitRule is the rule that splitbrain.uptodate is for.
const splitRule = "splitbrain_failure"

// peerDead says that the peer is dead as far as can be known.
func (s *State) peerDead() bool {
	return s.silent() && (!s.Conf.Witness || s.Witness == LinkUp)
}

// askWitness asks it once for each silence.
func (m *machine) askWitness() {
	if m.Conf.Witness && m.Role != RoleStop && m.silent() && m.Witness == LinkUnknown && m.WitnessID == 0 {
		m.WitnessID = m.run(Task{Kind: TaskWitness})
	}
}

// witnessed takes its answer.
func (m *machine) witnessed(d Done) {
	m.WitnessID = 0
	switch {
	case !m.silent() || m.Role == RoleStop || m.Witness != LinkUnknown: // of no interest any more
	case d.Err == nil:
		m.Witness = LinkUp
	default:
		m.info("splitbraincheck", "All heartbeats are lost, and the witness too: "+d.Err.Error())
		m.Witness = LinkDown
		m.split()
	}
}

// split: this node is cut off.
func (m *machine) split() {
	m.Split = true
	m.say("splitbraincheck", "Resource splitbrain.uptodate set to down by splitbraincheck")
	if m.Reign && m.Conf.HasData && m.Data.Running && !m.Data.Gone {
		// Nobody will say that what waits may be answered, and a process that waits for
		// its file system cannot be stopped.
		m.run(Task{Kind: TaskAbandon})
	}
	// As the rule says; at once, since the other node may start in this moment.
	m.detected("wait", splitRule, "from failover rule "+splitRule)
}

// rejoined: the peer is heard again, or what was known of it is worth nothing.
func (m *machine) rejoined() {
	m.Witness, m.WitnessID = LinkUnknown, 0
	if m.Split {
		m.Split = false
		m.say("splitbraincheck", "Resource splitbrain.uptodate set to up by splitbraincheck")
	}
}

// overruled: an administrator decided that this node is primary.
func (m *machine) overruled() {
	if m.silent() {
		m.Witness, m.WitnessID = LinkUp, 0
	}
}
