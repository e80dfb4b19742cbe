package ha

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/errd"
)

// detection is what a module's loop has to do with errd (§13.9). The loop owns it;
// others read watcher, under module.mu.
type detection struct {
	watcher  *errd.Watcher
	told     map[string]time.Time // the classes that it was told to monitor, and since when
	toldConf *moduleConf
	adopted  bool                     // told once: what is enabled from now on was not before
	refused  []errd.Alarm             // alarms whose action the module's state did not allow yet
	handlers map[string]chan struct{} // those that run, by key; closed: killed
}

// byErrd is who gives the commands of errd.
const byErrd = "errd"

func (m *module) openErrd(ctx context.Context) {
	w := errd.New(errd.Options{Report: func(r errd.Report) {
		m.post(ctx, func() { m.errdReports(ctx, r) }) // else the module ends
	}})
	m.mu.Lock()
	m.errd = detection{watcher: w, handlers: map[string]chan struct{}{}}
	m.mu.Unlock()
	m.tasks.Go(func() { w.Run(ctx) })
}

// tellErrd tells which classes are monitored in this state.
func (m *module) tellErrd() {
	d := &m.errd
	if d.watcher == nil {
		return
	}
	now := time.Now()
	classes := map[string]time.Time{}
	for _, w := range m.mc.errd.Watches {
		since, on := m.state.detectingSince(w.Class)
		if !on {
			continue
		}
		told, was := d.told[w.Class]
		switch {
		case !since.IsZero():
		case was:
			since = told
		case !d.adopted: // enabled under an earlier daemon, not after it said so
			since = m.state.Since
		default:
			since = now
		}
		if since.After(now) { // the clock was set back
			since = now
		}
		classes[w.Class] = since
	}
	if d.adopted && d.toldConf == m.mc && maps.EqualFunc(d.told, classes, time.Time.Equal) {
		return
	}
	d.adopted = true
	d.told, d.toldConf = classes, m.mc
	d.watcher.Set(m.mc.errd, classes)
	d.refused = slices.DeleteFunc(d.refused, func(a errd.Alarm) bool { _, on := classes[a.Watch.Class]; return !on })
	if m.state.Role == RoleStop {
		for _, kill := range d.handlers { // nothing of a stopped module runs
			close(kill)
		}
		clear(d.handlers)
	}
}

// errdReports takes what errd found.
func (m *module) errdReports(ctx context.Context, r errd.Report) {
	if r.Problem != "" {
		m.log.Write(LevelEvent, byErrd, "Processes cannot be watched: "+r.Problem)
	}
	// What was disabled since errd looked, by the alarm before most often, is none.
	r.Alarms = slices.DeleteFunc(r.Alarms, func(a errd.Alarm) bool {
		since, on := m.errd.told[a.Watch.Class]
		return !on || !since.Equal(a.Since)
	})
	for _, a := range r.Alarms {
		m.log.Write(LevelEvent, byErrd, fmt.Sprintf("event %s on proc %s", a.Kind, a.Watch.Name))
	}
	for _, name := range m.procNames() {
		value := "init"
		if up, known := r.Up[name]; known && up {
			value = "up"
		} else if known {
			value = "down"
		}
		m.assign(ctx, "proc."+name, value, byErrd)
	}
	m.errd.refused = slices.DeleteFunc(m.errd.refused, func(a errd.Alarm) bool { return r.Up[a.Watch.Name] })
	for _, a := range r.Alarms {
		m.alarm(ctx, a)
	}
}

// procNames are the resources of errd, without their class.
func (m *module) procNames() []string {
	var names []string
	for _, w := range m.mc.errd.Watches {
		if !slices.Contains(names, w.Name) {
			names = append(names, w.Name)
		}
	}
	return names
}

// forgetProcs forgets the resources of what is not configured any more.
func (m *module) forgetProcs() {
	names := m.procNames()
	for _, r := range m.res.list() {
		if name, ok := cutProc(r); ok && !slices.Contains(names, name) {
			m.forgetResources(r.Name)
		}
	}
}

func cutProc(r Resource) (string, bool) {
	const class = "proc."
	if r.By != byErrd || len(r.Name) <= len(class) || r.Name[:len(class)] != class {
		return "", false
	}
	return r.Name[len(class):], true
}

// alarm carries out the action of an alarm. One that the state does not allow is kept
// until it does, or nothing is wrong any more.
func (m *module) alarm(ctx context.Context, a errd.Alarm) {
	w := a.Watch
	if !m.state.detecting(w.Class) {
		return // disabled meanwhile
	}
	if w.Action == errd.NoAction {
		return
	}
	if err := m.mayAct(w.Action); err != nil {
		if !slices.ContainsFunc(m.errd.refused, func(o errd.Alarm) bool { return fmt.Sprint(o) == fmt.Sprint(a) }) {
			m.log.Write(LevelInfo, byErrd, err.Error())
			m.errd.refused = append(m.errd.refused, a)
		}
		return
	}
	if isHandler(w.Action) {
		m.startHandler(ctx, w)
	} else {
		m.step(ctx, Asked{Command{Name: w.Action, Identity: byErrd}})
	}
}

func isHandler(action string) bool { return !slices.Contains(conf.ErrdActions, action) }

// mayAct says why an action of errd has to wait, or returns nil. A handler, which
// restarts a part of the application, does so only while no script does.
func (m *module) mayAct(action string) error {
	s := &m.state
	switch {
	case !isHandler(action):
		return s.Refusal(Command{Name: action, Identity: byErrd})
	case !s.idle() || s.Order != NoOrder:
		return fmt.Errorf("%s %w: a transition is under way (%s)", action, ErrRefused, s.Cur.name())
	}
	return nil
}

// retryAlarms tries again what was refused.
func (m *module) retryAlarms(ctx context.Context) {
	for _, a := range m.errd.refused {
		if m.mayAct(a.Watch.Action) == nil {
			m.errd.refused = slices.DeleteFunc(m.errd.refused, func(o errd.Alarm) bool { return fmt.Sprint(o) == fmt.Sprint(a) })
			m.alarm(ctx, a)
			return // one at a time: it may have changed what the others are allowed
		}
	}
}

// handlerKey names the handler of a <proc> among the module's scripts. At most one of
// each runs.
func handlerKey(w errd.Watch) string {
	return "errd." + url.PathEscape(w.Class) + "." + url.PathEscape(w.Name)
}

// adoptHandlers waits for the handlers that an earlier daemon started (R1).
func (m *module) adoptHandlers(ctx context.Context) {
	r := m.runnerOf(m.mc, "")
	for _, w := range m.mc.errd.Watches {
		if !isHandler(w.Action) || !r.begun(handlerKey(w)) {
			continue
		}
		if m.state.Role != RoleStop {
			m.startHandler(ctx, w)
		} else if err := r.forget(handlerKey(w)); err != nil {
			m.log.Write(LevelInfo, byErrd, err.Error())
		}
	}
}

// signalled and the number of a signal is what a shell says of a command that it ended.
const signalled = 128

// startHandler runs the handler of a <proc>, or waits for the one that runs. One that
// does not end with 0 leads to a stopstart (§13.9.3).
func (m *module) startHandler(ctx context.Context, w errd.Watch) {
	key := handlerKey(w)
	if m.errd.handlers[key] != nil {
		return
	}
	kill := make(chan struct{})
	m.errd.handlers[key] = kill
	role := m.state.Role
	r := m.runnerOf(m.mc, m.mc.hostnameIn(role))
	if !r.begun(key) {
		if err := r.forget(key); err != nil {
			m.log.Write(LevelInfo, byErrd, err.Error())
		}
	}
	s := script{key: key, name: w.Action, args: []string{role.String(), role.String(), "stopstart"}, kill: kill}
	m.tasks.Go(func() {
		exit, err := r.run(ctx, s, func() { m.log.Write(LevelEvent, byErrd, "Script "+w.Action) })
		if ctx.Err() != nil {
			return
		}
		m.post(ctx, func() {
			wanted := m.errd.handlers[key] == kill // else the module was stopped
			if wanted {
				delete(m.errd.handlers, key)
			}
			switch {
			case err != nil:
				m.log.Write(LevelEvent, byErrd, fmt.Sprintf("Script %s: %v", w.Action, err))
			case exit != 0:
				m.log.Write(LevelEvent, byErrd, fmt.Sprintf("Script %s ended with exit code %d", w.Action, exit))
			}
			// A script that stops the application may kill the handler, too.
			stopped := (err != nil || exit > signalled) && !m.state.idle()
			if wanted && (err != nil || exit != 0) && !stopped {
				m.step(ctx, Asked{Command{Name: "stopstart", Identity: byErrd}})
			}
			if err := r.forget(key); err != nil {
				m.log.Write(LevelInfo, byErrd, err.Error())
			}
		})
	})
}

// Detection is what errd list shows.
type Detection struct {
	Suspended bool
	Procs     []errd.Found
}

// Errd says what errd monitors of a module.
func (s *Supervisor) Errd(module string) (Detection, error) {
	m, err := s.module(module)
	if err != nil {
		return Detection{}, err
	}
	m.mu.Lock()
	w, suspended := m.errd.watcher, m.facts.Settings.ErrdOff
	m.mu.Unlock()
	d := Detection{Suspended: suspended}
	if w != nil {
		d.Procs = w.Found()
	}
	return d, nil
}
