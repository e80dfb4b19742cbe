package journal

// Keys are the objects that op touches. Operations with a key in common are
// applied in the order of their Seqs.
func Keys(op *Op) []FileID {
	var keys [maxKeys]FileID
	n := opKeys(op, &keys)
	return append([]FileID(nil), keys[:n]...)
}

// maxKeys is how many keys an operation has at most.
const maxKeys = 5

// moving is a key of every operation that moves a name to another directory: two of
// them may need each other's order without sharing a directory (what is above one
// may be what the other moves). The kernel has a lock for it too.
var moving = FileID{15: 0xff}

func opKeys(op *Op, keys *[maxKeys]FileID) (n int) {
	switch op.Kind {
	case KindSyncHash, KindSyncList, KindMark, KindCheckpoint, KindLacks: // order does not matter to them
		return 0
	}
	if isBarrier(op) {
		return 0 // ordered with everything
	}
candidates:
	for _, id := range [...]*FileID{&op.ID, &op.Parent, &op.Parent2, &op.ID2} {
		if id.IsZero() {
			continue
		}
		for i := range n {
			if keys[i] == *id {
				continue candidates
			}
		}
		keys[n] = *id
		n++
	}
	if op.Kind == KindRename && op.Parent != op.Parent2 {
		keys[n] = moving
		n++
	}
	return n
}

// isBarrier says whether op comes after everything before it and before
// everything after it: the steps of a reintegration that move names about, and
// a flush of everything.
func isBarrier(op *Op) bool {
	switch op.Kind {
	case KindSyncBegin, KindSyncDir, KindSyncEnd:
		return true
	case KindCheckpoint:
		return op.Flags == CheckpointBegin
	case KindFsync:
		return op.ID.IsZero()
	}
	return false
}
