package ha

import "context"

// How the loop of a module (module.run) carries out the tasks of the automaton.

// carryOut begins a task; its end comes back as Done. When ctx ends the task is
// left as it is: the next daemon takes it up.
func (m *module) carryOut(ctx context.Context, a Run) {
	var work func() Done
	before, after := func(*Done) {}, func() {}
	mc, v := m.mc, m.vips
	switch a.Task.Kind {
	case TaskScript:
		kill := make(chan struct{})
		m.kills[a.ID] = kill
		f := m.farm
		work = func() Done {
			if f != nil && a.Task.Script == "stop_both" && !a.Task.Force {
				m.handOver(ctx, f, kill)
			}
			return m.runScript(ctx, mc, a, kill)
		}
	case TaskAddress:
		work = func() Done {
			d := v.set(ctx, a.Task.Ask)
			d.ID = a.ID
			return d
		}
		after = func() { m.watchVips(ctx) }                 // what happens to an address follows the word that it is set
		before = func(d *Done) { d.Missing |= v.missing() } // a renewal may have found one lost since
	case TaskNoAddress:
		work = func() Done {
			v.remove(ctx)
			return Done{ID: a.ID}
		}
	case TaskWitness:
		work = func() Done { return Done{ID: a.ID, Err: mc.reachWitness(ctx)} }
		before = func(d *Done) { m.showWitness(ctx, d.Err) }
	case TaskAnnounce:
		work = func() Done {
			v.announce()
			return Done{ID: a.ID}
		}
	case TaskShare, TaskUnshare:
		f := m.farm
		m.farmBusy = true
		work = func() Done {
			if a.Task.Kind == TaskShare {
				return Done{ID: a.ID, Err: m.shareFarm(ctx, f)}
			}
			return Done{ID: a.ID, Err: f.unshare(ctx)}
		}
		before = func(*Done) { m.farmBusy = false }
		after = m.takeFarm
	case TaskReboot:
		work = func() Done { return Done{ID: a.ID, Err: m.reboot()} }
	default:
		r := m.replica
		if a.Task.Kind == TaskStart || a.Task.Kind == TaskStop {
			m.replica = nil // its end is expected
		}
		work = func() Done { return m.callReplica(ctx, mc, r, a) }
	}
	m.tasks.Go(func() {
		d := work()
		if ctx.Err() != nil {
			return
		}
		m.post(ctx, func() {
			delete(m.kills, a.ID)
			before(&d)
			if d.Late && m.heart != nil {
				m.heart.doubt()
			}
			m.step(ctx, d)
			after()
		})
	})
}
