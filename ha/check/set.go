package check

import (
	"context"
	"reflect"
	"time"

	"github.com/skfs/skfs/conf"
)

// Sink takes what checkers find out. Its methods may be called from any goroutine;
// Post runs f in that of the owner of the Set, or not at all when ctx ended.
type Sink interface {
	Post(ctx context.Context, f func()) error
	// Assign gives a resource a value; by is who says so: tcpcheck. Owner's goroutine.
	Assign(resource, value, by string)
	// Note explains a value in the log. Owner's goroutine.
	Note(by, text string)
	// Restarted says that the module which resource depends on was started again.
	// Owner's goroutine.
	Restarted(resource, by string)
}

// Checker watches one thing.
type Checker interface {
	// Run watches until ctx ends and tells every result.
	Run(ctx context.Context, tell func(Result))
}

// Result is what a Checker found out.
type Result struct {
	Value     string // Up or Down; "": none, only Err is told
	Err       error  // why it is down
	Restarted bool   // of a module checker
}

// Env is what checkers need besides their configuration.
type Env struct {
	Name string // of the module
	Dir  string // SAFEUSERBIN: what a relative path of a program is relative to
	Var  string // SAFEUSERVAR: where programs run
	Run  string // a directory for what has to be found after a crash
	Vars []string
	Log  string // file for what programs print; "": none
	// LocalModule answers for a module of this node.
	LocalModule func(name string) (Module, error)
}

// New makes the Checker of a configuration.
func New(c conf.Checker, e Env) Checker {
	switch c.Kind {
	case conf.CheckTCP:
		return tcpChecker(c)
	case conf.CheckPing, conf.CheckSplitbrain:
		return pingChecker(c)
	case conf.CheckIntf:
		return interfaceChecker(c)
	case conf.CheckIP:
		return addressChecker(c)
	case conf.CheckCustom:
		return &program{conf: c, env: e}
	case conf.CheckModule:
		return moduleChecker(c, e)
	}
	panic("check: no checker of kind " + c.Kind) // conf knows the kinds
}

// By is who sets the resource of a checker, as the log says it.
func By(k conf.CheckerKind) string { return string(k) + "check" }

// Set is the checkers of one module.
type Set struct {
	ctx   context.Context
	env   Env
	sink  Sink
	spawn func(func())
	confs []conf.Checker
	runs  map[string]*run // by resource
	all   map[string]<-chan struct{}
}

// run is a Checker at work.
type run struct {
	conf  conf.Checker
	live  bool // owner's: what it tells counts
	end   context.CancelFunc
	told  string // the last Err
	ended chan struct{}
}

// NewSet makes a Set whose checkers all end with ctx at the latest. spawn runs a
// goroutine that the owner waits for.
func NewSet(ctx context.Context, sink Sink, spawn func(func())) *Set {
	return &Set{ctx: ctx, sink: sink, spawn: spawn, runs: map[string]*run{}, all: map[string]<-chan struct{}{}}
}

// Configure says which checkers there are. One that changed ends; Switch starts it
// anew. It returns the resources that nobody sets any more.
func (s *Set) Configure(confs []conf.Checker, e Env) (gone []string) {
	old := s.confs
	s.confs, s.env = confs, e
	for name, r := range s.runs {
		if c := s.find(name); c == nil || !reflect.DeepEqual(*c, r.conf) {
			s.stop(name, r)
		}
	}
	for _, c := range old {
		if s.find(c.Resource()) == nil {
			gone = append(gone, c.Resource())
		}
	}
	return gone
}

func (s *Set) find(resource string) *conf.Checker {
	for i := range s.confs {
		if s.confs[i].Resource() == resource {
			return &s.confs[i]
		}
	}
	return nil
}

// Switch starts the checkers whose part of the module runs, and ends the others. It
// does not wait. fresh: a checker that starts has no result yet; else what the
// resource had from an earlier daemon stays until there is one.
func (s *Set) Switch(on func(conf.When) bool, fresh bool) {
	for i := range s.confs {
		c := s.confs[i]
		switch r := s.runs[c.Resource()]; {
		case r == nil && on(c.When):
			s.start(c, fresh)
		case r != nil && !on(c.When):
			s.stop(c.Resource(), r)
		}
	}
}

// Reset gives every resource whose checker does not work its value init, but those
// that keep names.
func (s *Set) Reset(keep func(conf.Checker) bool) {
	for i := range s.confs {
		if c := &s.confs[i]; s.runs[c.Resource()] == nil && !keep(*c) {
			s.sink.Assign(c.Resource(), Init, By(c.Kind))
		}
	}
}

func (s *Set) start(c conf.Checker, fresh bool) {
	ctx, end := context.WithCancel(s.ctx)
	name := c.Resource()
	r := &run{conf: c, live: true, end: end, ended: make(chan struct{})}
	before := s.all[name] // the one that is to end may still be at it
	s.runs[name], s.all[name] = r, r.ended
	if fresh {
		s.sink.Assign(name, Init, By(c.Kind))
	}
	checker := New(c, s.env)
	s.spawn(func() {
		defer close(r.ended)
		if before != nil {
			<-before
		}
		if ctx.Err() == nil {
			checker.Run(ctx, func(res Result) {
				s.sink.Post(ctx, func() { s.take(r, res) })
			})
		}
		// What a program said in its last moment is not to stay.
		s.sink.Post(s.ctx, func() { s.ended(r) })
	})
}

// take tells a result to the sink.
func (s *Set) take(r *run, res Result) {
	if !r.live {
		return
	}
	text := ""
	if res.Err != nil {
		text = oneLine(res.Err)
	}
	if text != "" && text != r.told {
		s.sink.Note(By(r.conf.Kind), r.conf.Resource()+": "+text)
	}
	r.told = text
	if res.Value != "" {
		s.sink.Assign(r.conf.Resource(), res.Value, By(r.conf.Kind))
	}
	if res.Restarted {
		s.sink.Restarted(r.conf.Resource(), By(r.conf.Kind))
	}
}

func (s *Set) stop(name string, r *run) {
	r.live = false
	r.end()
	delete(s.runs, name)
	s.sink.Assign(name, Init, By(r.conf.Kind))
}

func (s *Set) ended(r *run) {
	name := r.conf.Resource()
	if s.runs[name] == nil && s.find(name) != nil {
		s.sink.Assign(name, Init, By(r.conf.Kind))
	}
}

// poller looks again and again.
type poller struct {
	interval, timeout time.Duration // timeout 0: the look takes no time
	look              func(context.Context) (restarted bool, err error)
}

func (p poller) Run(ctx context.Context, tell func(Result)) {
	for {
		restarted, err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		tell(Result{Value: valueOf(err), Err: err, Restarted: restarted})
		if !pause(ctx, p.interval) {
			return
		}
	}
}

func (p poller) once(ctx context.Context) (bool, error) {
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	return p.look(ctx)
}

// pause returns false when ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
