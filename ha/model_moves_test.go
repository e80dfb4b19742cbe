package ha

import (
	"slices"
)

// moves lists what can happen now.
func (w *world) moves(commands bool) []move {
	var ms []move
	add := func(fault bool, do func(*world), format string, args ...any) {
		ms = append(ms, move{format, args, fault, false, do})
	}
	w.linkMoves(&ms)
	for i := range w.n {
		if w.solo && i > 0 {
			break
		}
		n, o := &w.n[i], &w.n[1-i]
		w.addressMoves(i, add)
		if n.v.paused {
			continue
		}
		if n.daemon {
			hears := o.daemon && !o.v.paused && !w.cut[1-i]
			beat := o.say
			beat.HearsMe = !w.solo && o.s.Links[0] == LinkUp
			if w.solo {
				hears = false
			}
			if hears && (n.s.Links[0] != LinkUp || n.s.Peer != beat) {
				add(false, func(w *world) {
					w.n[1-i].before = Beat{}
					w.n[i].v.hears(beat)
					w.event(i, Linked{0, LinkUp})
					w.event(i, Heard{beat})
				}, "%d hears %v %v", i, beat.Role, beat.Colour)
			}
			if before := o.before; w.late && hears && before.Known && n.s.Links[0] != LinkDown && n.s.Peer != before {
				ms = append(ms, move{"%d hears late: %v %v", []any{i, before.Role, before.Colour}, false, true, func(w *world) {
					w.n[1-i].before = Beat{}
					w.n[i].v.hears(before)
					w.event(i, Linked{0, LinkUp})
					w.event(i, Heard{before})
				}})
			}
			if !w.solo && n.s.Links[0] != LinkDown && (!o.up || o.v.paused || w.cut[1-i]) {
				add(false, func(w *world) {
					w.n[i].v.knows()
					w.event(i, Linked{0, LinkDown})
				}, "%d: heartbeat lost", i)
			}
			for k, t := range n.tasks {
				if !t.done {
					add(false, func(w *world) { w.exec(i, k) }, "%d does %v %s", i, t.run.Task.Kind, t.run.Task.Script)
				} else {
					add(false, func(w *world) {
						d := w.n[i].tasks[k].res
						w.n[i].tasks = slices.Delete(w.n[i].tasks, k, k+1)
						if v := w.n[i].v; t.run.Task.Kind == TaskAddress && !v.there && !v.lost {
							d.Missing = 1 // it was lost since, and that was told
						}
						if d.Late {
							w.n[i].v.knows() // heart.doubt
						}
						w.event(i, d)
					}, "%d knows of %v %s", i, t.run.Task.Kind, t.run.Task.Script)
				}
			}
			w.failMoves(i, add)
			if len(n.r.events) > 0 {
				e := n.r.events[0]
				add(false, func(w *world) {
					w.n[i].r.events = w.n[i].r.events[1:]
					w.event(i, Told{e})
				}, "%d is told %d", i, e.Kind)
			} else if n.r.gone {
				add(false, func(w *world) {
					w.n[i].r.gone = false
					w.event(i, Gone{})
				}, "%d: replica gone", i)
			}
			if n.s.Conf.SyncAt && !n.s.SyncDue && n.s.Role != RoleStop && w.dues < 3 {
				add(true, func(w *world) {
					w.dues++
					w.event(i, Due{"syncat"})
				}, "%d: a synchronisation is due", i)
			}
			add(true, func(w *world) { w.killDaemon(i) }, "%d: daemon killed", i)
			if n.s.Held != "" && !n.s.Split {
				add(false, func(w *world) { w.event(i, Ruled{ImplicitWakeup, "wakeup"}) }, "%d: no rule says wait any more", i)
				ms[len(ms)-1].free = w.holds
			}
			if commands && n.s.Role != RoleStop {
				for _, action := range []string{"wait", "restart", "stopstart", "stop", "swap"} {
					add(true, func(w *world) { w.event(i, Ruled{"rule", action}) }, "%d: a rule says %s", i, action)
				}
			}
			if commands {
				for _, c := range []Command{{Name: "start"}, {Name: "stop"}, {Name: "stopstart"}, {Name: "restart"}, {Name: "swap"},
					{Name: "prim"}, {Name: "primforce"}, {Name: "second"}, {Name: "second", Args: []string{"fullsync"}},
					{Name: "rfssync", Args: []string{"full"}}, {Name: "forcestop"}} {
					full := c.Name == "primforce" || len(c.Args) > 0
					if full && (w.asks == 3 || !n.s.Conf.HasData) {
						continue
					}
					if n.s.Refusal(c) == nil {
						add(true, func(w *world) {
							w.forced = w.forced || c.Name == "prim" || c.Name == "primforce" || c.Name == "forcestop"
							if full {
								w.asks++
								w.owed[i] = true
							}
							w.event(i, Asked{c})
						}, "%d: command %s %v", i, c.Name, c.Args)
					}
				}
			}
		}
		if n.up && !n.daemon {
			add(false, func(w *world) { w.startDaemon(i, false) }, "%d: daemon started", i)
		}
		if n.up {
			add(true, func(w *world) { w.crash(i) }, "%d: host crashes", i)
		} else {
			add(false, func(w *world) { w.startDaemon(i, true) }, "%d: host boots", i)
		}
		if n.r.run {
			add(true, func(w *world) { w.killReplica(i, true) }, "%d: replica killed", i)
		}
		if n.r.primary && !n.r.frozen && w.writes < 6 && n.r.run && !(n.r.joined && o.v.paused) {
			add(true, func(w *world) { w.write(i) }, "%d: write", i)
		}
	}
	if w.n[0].v.paused || w.n[1].v.paused {
		return ms
	}
	if w.n[0].r.joined {
		add(true, func(w *world) { w.unjoin() }, "stream breaks")
	}
	for i := range w.n {
		p, f := &w.n[i].r, &w.n[1-i].r
		if w.canJoin(i) {
			add(false, func(w *world) { w.join(i) }, "%d joins %d", 1-i, i)
		}
		if p.joined && !p.synced && p.primary {
			add(false, func(w *world) { w.sync(i) }, "%d synced", 1-i)
		}
		_ = f
	}
	return ms
}
