package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skfs/skfs/conf"
)

// Options says what a Supervisor stands on.
type Options struct {
	Safe, SafeVar string // SAFE and SAFEVAR
	Node          string // name of this node in cluster.xml; "": the node with an address on a local interface
	Launcher      Launcher
	// Errors takes what cannot go to a module's log, one line a call; nil drops it.
	Errors func(text string)
	// Reboot begins to reboot the host (automatic_reboot); nil: as the host's own
	// commands do it.
	Reboot func() error
}

// Supervisor runs the modules of one node. One per daemon.
type Supervisor struct {
	o     Options
	paths conf.Paths
	node  string // as last found in the cluster; under mu

	mu      sync.Mutex // guards modules, broken, node and running; taken before module.mu
	modules map[string]*supervised
	broken  map[string]string // modules that cannot run, and why (told once)
	ctx     context.Context   // of Run; nil before and after
	wg      sync.WaitGroup    // loops of modules
	begun   chan struct{}     // closed once Run takes commands

	hostMu sync.Mutex  // guards host; a leaf
	host   addressHost // opened with the first module that has virtual addresses

	change sync.Mutex // one Reload or Configure at a time; taken before mu
}

// supervised is a module with its loop.
type supervised struct {
	*module
	ctx   context.Context // of the loop; nil while it does not run
	end   context.CancelFunc
	ended chan struct{}
}

// Command is something an administrator, a script or a detector asks of a module.
type Command struct {
	// start stop forcestop prim primforce second secondforce swap restart stopstart
	// stopwait rfssync set failover checker errd incloop resetloop; shutdown: a stop
	// because the host stops
	Name string
	// second: fullsync; secondforce: a date as RFC 3339 has it; rfssync: as parseSync
	// says; set: see mayAssign; failover, checker: on or off; errd: suspend, resume, or
	// enable or disable with a class
	Args []string
	By   string // the administrator, as the log shows it: "SYSTEM/root", "web@10.0.0.1/SYSTEM/root"; "": SYSTEM/root
	// Identity is the script, checker or detector that gives the command ("errd",
	// "customscript"; option -i); "": an administrator does. Only an administrator's
	// commands reset the loop counter, and only others are counted (§13.18.4).
	Identity string
}

// AtBoot as Command.By says that a module starts because its host did.
const AtBoot = "at boot time"

// ModuleState is what is known of a module at one moment.
type ModuleState struct {
	Module    string
	Mode      conf.Mode
	ID        int
	Node      string
	Role      Role
	Colour    Colour
	Since     time.Time // of Role and Colour
	Peer      string    // name of the other node
	Remote    Role      // RoleUnknown and Grey when it is silent
	RemoteCol Colour
	Epoch     uint64 // of the primary that this node is or follows
	Degraded  bool
	Busy      string // what is going on ("start_prim", "promote", …), "" when nothing is
	Why       string // why it waits (WAIT red) or stopped
	Resources []Resource
	// RemoteResources are the peer's, as it said last; nil while it is silent.
	RemoteResources []Resource
	Progress        ReplicaProgress // of the reintegration
	Loop            LoopCount
	Started         time.Time `json:",omitzero"` // when start_prim or start_both was called last, as far as the daemon knows
}

// Resource is a named fact of a module: "heartbeat.default" "up".
type Resource struct {
	Name  string
	Value string
	Since time.Time // when it got this value
	By    string    `json:",omitempty"` // who assigned it; "": the module itself
}

// Refusals of Do. Errors of Do wrap one of them and say the reason.
var (
	ErrNoModule = errors.New("no such module")
	ErrRefused  = errors.New("refused") // the module's state does not allow the command
)

// Open reads SAFEVAR/cluster/cluster.xml and the active configuration of every
// module, and takes up again the modules that an earlier daemon left running
// (R1). Nothing acts before Run. A module whose configuration cannot be used is
// left out, which Options.Errors is told; without a cluster.xml there are none.
func Open(o Options) (*Supervisor, error) {
	if o.Errors == nil {
		o.Errors = func(string) {}
	}
	s := &Supervisor{o: o, paths: conf.Paths{Safe: o.Safe, SafeVar: o.SafeVar},
		modules: map[string]*supervised{}, broken: map[string]string{}, begun: make(chan struct{})}
	if err := s.Reload(context.Background()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Running is closed once Run has begun: commands are refused before.
func (s *Supervisor) Running() <-chan struct{} { return s.begun }

// Run supervises until ctx ends, once. Scripts and replicas stay running then.
func (s *Supervisor) Run(ctx context.Context) error {
	s.mu.Lock()
	select {
	case <-s.begun:
		s.mu.Unlock()
		return errors.New("the supervisor runs already, or has run")
	default:
	}
	s.ctx = ctx
	for _, m := range s.modules {
		s.launch(m)
	}
	close(s.begun)
	s.mu.Unlock()
	s.mend(ctx) // until ctx ends
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// launch starts the loop of a module. Caller holds mu.
func (s *Supervisor) launch(m *supervised) {
	m.ended = make(chan struct{})
	m.ctx, m.end = context.WithCancel(s.ctx)
	ctx := m.ctx
	s.wg.Go(func() {
		defer close(m.ended)
		m.run(ctx)
	})
}

// Close frees what Open and Run took, after Run has returned.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, m := range s.modules {
		errs = append(errs, m.close())
	}
	clear(s.modules)
	s.hostMu.Lock()
	defer s.hostMu.Unlock()
	if s.host != nil {
		errs = append(errs, s.host.Close())
		s.host = nil
	}
	return errors.Join(errs...)
}

// addressHost opens what sets addresses on this host, once.
func (s *Supervisor) addressHost() (addressHost, error) {
	s.hostMu.Lock()
	defer s.hostMu.Unlock()
	if s.host == nil {
		h, err := openNetvip()
		if err != nil {
			return nil, err
		}
		s.host = h
	}
	return s.host, nil
}

func (s *Supervisor) module(name string) (*supervised, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.modules[name]; m != nil {
		return m, nil
	}
	if why := s.broken[name]; why != "" {
		return nil, fmt.Errorf("module %s: %w is in force: %s", name, ErrNoModule, why)
	}
	names := slices.Collect(maps.Keys(s.modules))
	if near := conf.Nearest(name, names); near != "" {
		return nil, fmt.Errorf("module %s: %w; did you mean %s?", name, ErrNoModule, near)
	}
	return nil, fmt.Errorf("module %s: %w", name, ErrNoModule)
}

// Do gives a command to a module and returns when it is accepted: its effect is
// seen with Watch. A command that the module's state does not allow is refused
// with the reason.
func (s *Supervisor) Do(ctx context.Context, module string, c Command) error {
	m, err := s.module(module)
	if err != nil {
		return err
	}
	s.mu.Lock()
	running := m.ctx
	s.mu.Unlock()
	if running == nil {
		return fmt.Errorf("module %s: %w: the supervisor does not run", module, ErrRefused)
	}
	return m.do(ctx, running, c)
}

// State is the state of a module now.
func (s *Supervisor) State(module string) (ModuleState, error) {
	m, err := s.module(module)
	if err != nil {
		return ModuleState{}, err
	}
	st, _ := m.look()
	return st, nil
}

// Modules are the names of the configured modules, sorted.
func (s *Supervisor) Modules() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.modules))
}

// Watch sends the state of a module now and after every change until ctx ends,
// then closes the channel. A slow reader misses states in between, never the last.
// An unknown module: a channel that is closed at once.
func (s *Supervisor) Watch(ctx context.Context, module string) <-chan ModuleState {
	states := make(chan ModuleState)
	m, err := s.module(module)
	if err != nil {
		close(states)
		return states
	}
	go func() { // ends with ctx
		defer close(states)
		for {
			st, changed := m.look()
			select {
			case states <- st:
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return states
}

// Reload reads the cluster's configuration and the list of modules again. A
// module whose configuration cannot be used any more keeps the one it has; one that
// may not change now takes it up when it may (see Configure).
func (s *Supervisor) Reload(ctx context.Context) error {
	installed, err := s.paths.Installed()
	if err != nil {
		return err
	}
	names := s.Modules()
	for _, i := range installed {
		if !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	for _, name := range names {
		s.try(ctx, name)
	}
	return nil
}

// try takes up the configuration of a module, and tells once why it cannot.
func (s *Supervisor) try(ctx context.Context, name string) {
	err := s.Configure(ctx, name)
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	told := s.broken[name] == err.Error()
	s.broken[name] = err.Error()
	s.mu.Unlock()
	if !told {
		s.o.Errors(err.Error())
	}
}

// brokenAgain is how often a module that cannot run is tried again: what was wrong may
// have been the disk, or a name that could not be resolved when the host started.
const brokenAgain = 10 * time.Second

// mend tries modules that cannot run again until ctx ends.
func (s *Supervisor) mend(ctx context.Context) {
	again := time.NewTicker(brokenAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		for _, name := range s.left() {
			s.try(ctx, name)
		}
	}
}

// left are the modules that are not supervised because they cannot run.
func (s *Supervisor) left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.broken {
		if s.modules[name] == nil {
			names = append(names, name)
		}
	}
	return names
}

// Configure takes up the active configuration of a module (after `skfs config`),
// or forgets a module that was uninstalled. It is refused unless the module is in
// STOP, ALONE or WAIT, and then taken up as soon as it is; what is not dynamic takes
// effect at the next start.
func (s *Supervisor) Configure(ctx context.Context, module string) error {
	s.change.Lock()
	defer s.change.Unlock()
	mc, err := s.read(module)
	s.mu.Lock()
	m, node := s.modules[module], s.node
	s.mu.Unlock()
	switch {
	case errors.Is(err, conf.ErrNotInstalled), errors.Is(err, conf.ErrNotConfigured):
		return s.forget(ctx, module)
	case errors.Is(err, fs.ErrNotExist) && m == nil: // no cluster yet
		s.mu.Lock()
		s.broken[module] = conf.ErrNoCluster.Error()
		s.mu.Unlock()
		return nil
	case err != nil:
		return fmt.Errorf("module %s on node %s: %w", module, node, err)
	case m == nil:
		return s.add(mc)
	}
	return s.take(ctx, m, mc)
}

// take gives a supervised module another configuration. Caller holds change.
func (s *Supervisor) take(ctx context.Context, m *supervised, mc *moduleConf) error {
	if err := s.trust(ctx, m, mc.key); err != nil {
		return err
	}
	st, _ := m.look()
	if st.Role != RoleStop && st.Role != RoleAlone && st.Role != RoleWait {
		if err := s.later(ctx, m, mc); err != nil {
			return err
		}
		return fmt.Errorf("configure module %s %w: it is %s; in STOP, ALONE or WAIT it takes the new configuration up", m.name, ErrRefused, st.Role)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.broken, m.name)
	if m.ctx == nil { // Run has not begun
		m.mc, m.state.Conf, m.state.Links = mc, mc.conf, make([]Link, len(mc.conf.Heartbeats))
		return nil
	}
	run, loop := s.ctx, m.ctx
	if run == nil {
		return nil
	}
	return m.post(ctx, func() { m.reconfigure(loop, loop, mc) })
}

// later leaves a configuration to a module that may not change now.
func (s *Supervisor) later(ctx context.Context, m *supervised, mc *moduleConf) error {
	s.mu.Lock()
	running := m.ctx != nil
	s.mu.Unlock()
	if !running {
		return nil
	}
	return m.post(ctx, func() { m.waiting = mc })
}

// trust gives a module the cluster's key, whatever its state: a key that is changed on
// one node only would be a loss of heartbeats.
func (s *Supervisor) trust(ctx context.Context, m *supervised, key conf.ClusterKey) error {
	s.mu.Lock()
	running := m.ctx != nil
	s.mu.Unlock()
	if !running {
		return nil
	}
	return m.post(ctx, func() {
		m.mc.key = key
		if m.heart != nil {
			m.heart.trust(newSeals(key))
		}
	})
}

// read reads the configuration of a module as it is now.
func (s *Supervisor) read(module string) (*moduleConf, error) {
	c, err := conf.ReadCluster(s.paths.ClusterFile())
	if err != nil {
		return nil, err
	}
	node, err := c.LocalNode(s.o.Node)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.node = node
	s.mu.Unlock()
	return readModule(s.paths, module, node, c)
}

// add begins to supervise a module. Caller holds change.
func (s *Supervisor) add(mc *moduleConf) error {
	m, err := openModule(s.paths, mc, s.o.Launcher, s.addressHost, s.State, s.o.Errors)
	if err != nil {
		return fmt.Errorf("module %s: %w", mc.name, err)
	}
	if m.reboot = s.o.Reboot; m.reboot == nil {
		m.reboot = rebootHost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.broken, mc.name)
	v := &supervised{module: m}
	s.modules[mc.name] = v
	if s.ctx != nil {
		s.launch(v)
	}
	return nil
}

// forget ends the supervision of a stopped module. Caller holds change.
func (s *Supervisor) forget(ctx context.Context, module string) error {
	s.mu.Lock()
	m := s.modules[module]
	delete(s.broken, module)
	s.mu.Unlock()
	if m == nil {
		return nil
	}
	if st, _ := m.look(); st.Role != RoleStop {
		return fmt.Errorf("forget module %s %w: it is %s; stop it first", module, ErrRefused, st.Role)
	}
	s.mu.Lock()
	delete(s.modules, module)
	s.mu.Unlock()
	if m.end != nil {
		m.end()
		<-m.ended
	}
	return m.close()
}

// Log is the log of a module.
func (s *Supervisor) Log(module string) (*Log, error) {
	m, err := s.module(module)
	if err != nil {
		return nil, err
	}
	return m.log, nil
}

// Ping returns when every module's loop has answered: what feeds a watchdog.
func (s *Supervisor) Ping(ctx context.Context) error {
	s.mu.Lock()
	type loop struct {
		*supervised
		ctx context.Context
	}
	var loops []loop
	for _, m := range s.modules {
		if m.ctx != nil {
			loops = append(loops, loop{m, m.ctx})
		}
	}
	s.mu.Unlock()
	for _, m := range loops {
		answer := make(chan struct{})
		if err := m.post(ctx, func() { close(answer) }); err != nil {
			return fmt.Errorf("module %s does not answer: %w", m.name, err)
		}
		select {
		case <-answer:
		case <-m.ctx.Done():
		case <-ctx.Done():
			return fmt.Errorf("module %s does not answer: %w", m.name, ctx.Err())
		}
	}
	return nil
}
