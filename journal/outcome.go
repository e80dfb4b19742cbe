package journal

import (
	"syscall"
	"time"
)

// outcomeGrace is how long after the peer reported a failure the primary may
// take to report the same one of its own half. Later than that the peer's
// failure counts as a difference: too early only costs sending an object again.
const outcomeGrace = 2 * time.Second

// outcomes compares how an operation ended on both nodes. Successes, nearly all
// there is, are not recorded: an operation that the peer has applied and not
// reported has succeeded there; one that LocalFailed was not called for has
// succeeded here. It is a value without clock or locks.
type outcomes struct {
	local  map[Seq]outcome // failed here, the peer has not got there yet
	remote map[Seq]outcome // failed there, not heard of it here yet
}

type outcome struct {
	op    Op // without Data
	errno syscall.Errno
	at    time.Time
}

// ending is how an operation ended that failed on one node at least; the same error
// on both is no difference.
type ending struct {
	op            Op
	local, remote syscall.Errno
}

func newOutcomes() outcomes {
	return outcomes{local: map[Seq]outcome{}, remote: map[Seq]outcome{}}
}

// failedHere takes a failure on this node; applied is how far the peer is.
func (o *outcomes) failedHere(op Op, errno syscall.Errno, applied Seq, found []ending) []ending {
	if there, ok := o.remote[op.Seq]; ok {
		delete(o.remote, op.Seq)
		return append(found, ending{op, errno, there.errno})
	}
	if op.Seq <= applied {
		return append(found, ending{op, errno, 0})
	}
	o.local[op.Seq] = outcome{op: op, errno: errno}
	return found
}

// failedThere takes a failure on the peer.
func (o *outcomes) failedThere(op Op, errno syscall.Errno, now time.Time, found []ending) []ending {
	if here, ok := o.local[op.Seq]; ok {
		delete(o.local, op.Seq)
		return append(found, ending{op, here.errno, errno})
	}
	o.remote[op.Seq] = outcome{op: op, errno: errno, at: now}
	return found
}

// passed takes how far the peer is: it has reported all failures up to there.
func (o *outcomes) passed(applied Seq, found []ending) []ending {
	for seq, here := range o.local {
		if seq <= applied {
			delete(o.local, seq)
			found = append(found, ending{here.op, here.errno, 0})
		}
	}
	return found
}

// settle gives up waiting for this node's half of what failed on the peer
// before the given time.
func (o *outcomes) settle(before time.Time, found []ending) []ending {
	for seq, there := range o.remote {
		if there.at.Before(before) {
			delete(o.remote, seq)
			found = append(found, ending{there.op, 0, there.errno})
		}
	}
	return found
}

// settleBelow is settle for what was numbered before seq: this node's half of that has
// ended.
func (o *outcomes) settleBelow(seq Seq, found []ending) []ending {
	for s, there := range o.remote {
		if s < seq {
			delete(o.remote, s)
			found = append(found, ending{there.op, 0, there.errno})
		}
	}
	return found
}

// settleAll ends the comparison: nothing more will come from the peer.
func (o *outcomes) settleAll(found []ending) []ending {
	for seq, there := range o.remote {
		delete(o.remote, seq)
		found = append(found, ending{there.op, 0, there.errno})
	}
	return o.passed(^Seq(0), found)
}
