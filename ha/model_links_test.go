package ha

import "errors"

// linkMoves: heartbeats of one direction are cut, and heal in the end.
func (w *world) linkMoves(ms *[]move) {
	if !w.links {
		return
	}
	for i := range w.cut {
		if w.cut[i] {
			*ms = append(*ms, move{"heartbeats from %d arrive again", []any{i}, false, false, func(w *world) { w.cut[i] = false }})
		} else {
			*ms = append(*ms, move{"heartbeats from %d are cut", []any{i}, true, false, func(w *world) { w.cut[i], w.cuts, w.apart = true, true, true }})
		}
	}
}

var errModel = errors.New("the call failed")

// failMoves: calls to the replica of node i fail and change nothing.
func (w *world) failMoves(i int, add func(bool, func(*world), string, ...any)) {
	if !w.fails {
		return
	}
	for k, t := range w.n[i].tasks {
		switch kind := t.run.Task.Kind; kind {
		case TaskStart, TaskStop, TaskPromote, TaskFollow, TaskDemote, TaskAlone, TaskOutdate, TaskStatus, TaskAbandon, TaskShare:
			if !t.done {
				add(true, func(w *world) {
					w.n[i].tasks[k].done, w.n[i].tasks[k].res = true, Done{ID: t.run.ID, Err: errModel}
				}, "%d: %v fails", i, kind)
			}
		}
	}
}
