package errd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha/process"
)

// Services asks systemd. Methods may be called by one goroutine at a time.
type Services interface {
	// Running says whether a unit runs.
	Running(ctx context.Context, name string) (bool, error)
	// Changed receives something after a unit has changed, and when nobody answers any more.
	Changed() <-chan struct{}
	Close()
}

// Options says what a Watcher stands on.
type Options struct {
	Report func(Report)
	// Processes lists those that run; nil: process.List.
	Processes func() ([]process.Process, error)
	// Services connects to systemd; nil: OpenSystemd.
	Services func(context.Context) (Services, error)
}

// Report is what was found.
type Report struct {
	Alarms  []Alarm
	Up      map[string]bool // by name of the Watches: whether their conditions hold. Those that are decided
	Problem string          // why something could not be found out; told when it changes
}

// Watcher monitors what one module runs.
type Watcher struct {
	o      Options
	kicked chan struct{}

	mu      sync.Mutex // guards what follows
	conf    Conf
	classes map[string]time.Time
	found   []Found
}

// Found is what errd list shows of a Watch.
type Found struct {
	Watch
	Enabled bool
	Since   time.Time         // …since
	Up      bool              // the condition holds
	Count   int               // as it was seen last; -1: not looked for, or unknown
	Running []process.Process // those that were counted
}

// New makes a Watcher that monitors nothing yet.
func New(o Options) *Watcher {
	if o.Processes == nil {
		o.Processes = process.List
	}
	if o.Services == nil {
		o.Services = OpenSystemd
	}
	return &Watcher{o: o, kicked: make(chan struct{}, 1)}
}

// Set takes a configuration, and the classes that are monitored with the moment they
// were enabled. One that is enabled again since another moment begins anew.
func (w *Watcher) Set(c Conf, classes map[string]time.Time) {
	w.mu.Lock()
	w.conf, w.classes = c, maps.Clone(classes)
	found := make([]Found, len(c.Watches))
	for i, watch := range c.Watches {
		since, on := classes[watch.Class]
		if found[i] = (Found{Watch: watch, Enabled: on, Since: since, Count: unknown}); i < len(w.found) && on && same(w.found[i].Watch, watch) && w.found[i].Since.Equal(since) {
			found[i] = w.found[i]
		}
	}
	w.found = found
	w.mu.Unlock()
	w.kick()
}

// same compares what two Watches say; regular expressions by their text.
func same(a, b Watch) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func (w *Watcher) kick() {
	select {
	case w.kicked <- struct{}{}:
	default: // one is enough
	}
}

// Found is what was seen last of what is monitored now.
func (w *Watcher) Found() []Found {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found)
}

// Run monitors until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	r := &round{w: w, guards: map[process.ID]*process.Vigil{}}
	defer r.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var changed <-chan struct{}
		if r.services != nil {
			changed = r.services.Changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-w.kicked:
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		begun := time.Now()
		next := r.look(ctx)
		// Processes that come and go all the time cost a part of a processor at most.
		select {
		case <-time.After(restRatio * time.Since(begun)):
		case <-ctx.Done():
			return
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// restRatio is how much longer than a look nobody looks after it.
const restRatio = 4

// round is the state of Run.
type round struct {
	w        *Watcher
	conf     Conf
	standing []standing
	services Services
	guards   map[process.ID]*process.Vigil
	waiting  sync.WaitGroup
	problem  string
}

// look counts what is monitored, decides and reports. It returns when to look again.
func (r *round) look(ctx context.Context) (next time.Time) {
	r.w.mu.Lock()
	c, classes := r.w.conf, r.w.classes
	r.w.mu.Unlock()
	if !slices.EqualFunc(c.Watches, r.conf.Watches, same) {
		r.standing = nil
	}
	r.conf = c
	r.standing = enable(c, r.standing, classes)

	now := time.Now()
	matching := make([][]process.Process, len(c.Watches))
	counts, problem := r.count(ctx, now, matching)
	if ctx.Err() != nil {
		return time.Time{}
	}
	var rep Report
	r.standing, rep.Alarms, next = decide(c, r.standing, counts, now)
	switch err := r.guard(sentinels(c, r.standing, matching, now)); {
	case errors.Is(err, unix.ESRCH): // one has ended since it was listed
		next = now.Add(relook)
	case err != nil:
		problem = fmt.Sprintf("the end of processes is noticed by polls only: %v", err)
	}
	if problem != r.problem {
		r.problem, rep.Problem = problem, problem
	}
	rep.Up = map[string]bool{}
	found := make([]Found, len(c.Watches))
	for i, watch := range c.Watches {
		s := r.standing[i]
		found[i] = Found{Watch: watch, Enabled: !s.since.IsZero(), Since: s.since, Up: s.ok(), Count: s.count, Running: matching[i]}
		if s.ok() || s.wrong != "" {
			other, same := rep.Up[watch.Name]
			rep.Up[watch.Name] = s.ok() && (other || !same)
		}
	}
	r.w.mu.Lock()
	if maps.EqualFunc(classes, r.w.classes, time.Time.Equal) && slices.EqualFunc(c.Watches, r.w.conf.Watches, same) {
		r.w.found = found
	}
	r.w.mu.Unlock()
	r.w.o.Report(rep)
	return next
}

// count finds the processes and services of every Watch that is monitored.
func (r *round) count(ctx context.Context, now time.Time, matching [][]process.Process) (counts []int, problem string) {
	counts = slices.Repeat([]int{unknown}, len(r.conf.Watches))
	var all []process.Process
	var listed error
	asked := false
	for i, w := range r.conf.Watches {
		switch {
		case !effective(r.conf, w, r.standing[i], now):
		case w.Service:
			running, err := r.running(ctx, w.Name)
			switch {
			case err != nil:
				problem = fmt.Sprintf("service %s: %v", w.Name, err)
			case running:
				counts[i] = 1
			default:
				counts[i] = 0
			}
		default:
			if !asked {
				asked = true
				all, listed = r.w.o.Processes()
			}
			if listed != nil {
				problem = fmt.Sprintf("list processes: %v", listed)
				continue
			}
			matching[i] = w.Match.Select(all)
			counts[i] = len(matching[i])
		}
	}
	return counts, problem
}

// askPatience is how long systemd may take to answer.
const askPatience = 5 * time.Second

// running asks systemd for a unit. A connection that fails is opened again next time.
func (r *round) running(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if r.services == nil {
		s, err := r.w.o.Services(ctx)
		if err != nil {
			return false, err
		}
		r.services = s
	}
	up, err := r.services.Running(ctx, name)
	if err != nil {
		r.services.Close()
		r.services = nil
	}
	return up, err
}

// relook is how soon to look again after a process has ended between two looks at it.
const relook = 10 * time.Millisecond

// guard waits for the end of exactly these processes. ESRCH: one has ended already.
func (r *round) guard(ids map[process.ID]bool) (wrong error) {
	for id, v := range r.guards {
		if !ids[id] {
			v.Close()
			delete(r.guards, id)
		}
	}
	for id := range ids {
		if r.guards[id] != nil {
			continue
		}
		v, err := id.Watch()
		if err != nil {
			if wrong == nil || errors.Is(err, unix.ESRCH) {
				wrong = err
			}
			continue
		}
		r.guards[id] = v
		r.waiting.Go(func() {
			if v.Wait() == nil {
				r.w.kick()
			}
		})
	}
	return wrong
}

func (r *round) close() {
	for _, v := range r.guards {
		v.Close()
	}
	r.waiting.Wait()
	if r.services != nil {
		r.services.Close()
	}
}
