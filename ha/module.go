package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/skfs/skfs/conf"
)

// module drives the automaton of one module: it turns what happens into events,
// makes the State that follows durable, tells it to the peer, and only then
// carries out the actions. One goroutine (run) owns everything but what mu
// guards.
type module struct {
	name   string
	paths  conf.Paths
	launch Launcher
	errors func(string)
	host   func() (addressHost, error)

	mc     *moduleConf
	state  State
	stored []byte // ha.state as it is on disk
	inc    uint64
	boot   string
	start  bool // to be started because the host was
	log    *Log
	res    *resources

	events  chan func() // run in order by the loop
	replica Replica
	kills   map[uint64]chan struct{}
	tasks   sync.WaitGroup
	prog    ReplicaProgress
	asking  bool // a Status for prog is under way
	netout  throughput
	vips    *vips
	renewal *time.Ticker // a third of the lease
	counted time.Time    // when connections were, last
	conns   map[string]int
	ticked  time.Time
	dueAt   time.Time // of the next scheduled synchronisation, for schedule
	sched   conf.Schedule

	heart     *heart
	heartWG   sync.WaitGroup
	heartEnd  context.CancelFunc
	heartDown string // why there is no heart

	mu      sync.Mutex // guards the copies for readers
	public  ModuleState
	facts   State         // for Refusal
	changed chan struct{} // closed and replaced when public changes
}

const (
	progressEvery = 500 * time.Millisecond
	storeRetry    = time.Second
	tickEvery     = 10 * time.Second // SyncedAt may be this old after a crash
	joinWait      = 3 * time.Second  // see TaskJoin
)

// openModule reads what an earlier daemon left of the module.
func openModule(paths conf.Paths, mc *moduleConf, l Launcher, host func() (addressHost, error), errs func(string)) (*module, error) {
	m := &module{name: mc.name, paths: paths, launch: l, host: host, mc: mc,
		errors: func(text string) { errs("module " + mc.name + ": " + text) },
		events: make(chan func(), 64), kills: map[uint64]chan struct{}{}, changed: make(chan struct{})}
	if err := os.MkdirAll(paths.UserVar(m.name), 0o755); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	was, err := readSaved(paths.HAState(m.name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		was = saved{Incarnation: newIncarnation(), Boot: boot, State: State{Role: RoleStop, Since: time.Now()}}
	case err != nil:
		return nil, err
	}
	if m.log, err = openLog(paths.LogDB(m.name), m.errors); err != nil {
		return nil, err
	}
	if m.res, err = openResources(paths.ResourceDB(m.name), m.errors); err != nil {
		return nil, errors.Join(err, m.log.close())
	}
	m.state, m.inc, m.boot = was.State, was.Incarnation, boot
	m.state.Conf = mc.conf
	m.state.Links = make([]Link, len(mc.conf.Heartbeats))
	if was.Boot != boot {
		m.inc = newIncarnation()
		m.start = mc.boot == conf.BootOn || mc.boot == conf.BootAuto && was.State.Role != RoleStop
	} else {
		m.state.Colour = m.state.clone().machine().colour()
	}
	m.publish()
	if was.Boot != boot {
		m.boot = was.Boot // until Adopted with Reboot is durable
	}
	return m, nil
}

func (s State) machine() *machine { return &machine{State: s} }

func (m *module) close() error { return errors.Join(m.log.close(), m.res.store.close()) }

// run drives the module until ctx ends. Scripts and the replica go on then, and
// a later run finds them.
func (m *module) run(ctx context.Context) {
	taskCtx, cancel := context.WithCancel(ctx)
	m.openVips()
	defer func() {
		cancel()
		m.closeHeart()
		m.drain()
		m.closeVips()
	}()
	m.adopt(ctx, taskCtx)
	m.openHeart(ctx)
	if m.start {
		m.bootStart(ctx, taskCtx)
	}
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	for {
		var wake <-chan struct{}
		if m.heart != nil {
			wake = m.heart.wake
		}
		select {
		case <-ctx.Done():
			return
		case f := <-m.events:
			f()
		case <-wake:
			m.takeHeart(taskCtx)
		case <-m.renewal.C:
			m.renew(taskCtx)
		case <-progress.C:
			m.askProgress(taskCtx)
			m.clockwork(taskCtx, time.Now())
			if m.heart == nil {
				m.openHeart(ctx)
			}
		}
	}
}

// drain waits for the goroutines of tasks, which end because ctx did.
func (m *module) drain() {
	done := make(chan struct{})
	go func() { m.tasks.Wait(); close(done) }()
	for {
		select {
		case <-m.events: // too late: the task is repeated by the next daemon
		case <-done:
			return
		}
	}
}

// post has the loop run f.
func (m *module) post(ctx context.Context, f func()) error {
	select {
	case m.events <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// step takes an event. Nothing is done or said before the state it leads to is
// durable: when it cannot be written, the module stands still until it can, and
// its heartbeats go on saying what was true.
func (m *module) step(ctx context.Context, e Event) {
	next, actions := Step(m.state, e, time.Now())
	looped := next.Loops > m.state.Loops
	m.state = next
	if !m.store(ctx) {
		return
	}
	if m.heart != nil {
		m.heart.tell(m.state.beat())
	}
	if looped {
		m.res.put(Resource{Name: loopResource, Value: next.loopSince(), Since: time.Now()}, historyAlways)
	}
	m.publish()
	for _, a := range actions {
		switch a := a.(type) {
		case Say:
			m.log.Write(a.Level, a.Source, a.Text)
		case Kill:
			if c := m.kills[a.ID]; c != nil {
				close(c)
				delete(m.kills, a.ID)
			}
		case Run:
			m.carryOut(ctx, a)
		}
	}
}

// store makes the state durable; false: ctx ended before it was.
func (m *module) store(ctx context.Context) bool {
	data := encodeSaved(saved{m.inc, m.boot, m.state})
	if string(data) == string(m.stored) {
		return true
	}
	for told := false; ; told = true {
		err := replaceFile(m.paths.HAState(m.name), data)
		if err == nil {
			m.stored = data
			return true
		}
		if !told {
			m.errors(fmt.Sprintf("its state cannot be stored, it stands still until it can: %v", err))
		}
		select {
		case <-time.After(storeRetry):
		case <-m.renewal.C: // who serves goes on to
			m.vips.renew() // what is lost is told again by its event
		case <-ctx.Done():
			return false
		}
	}
}

// adopt finds what still runs of the module.
func (m *module) adopt(ctx, taskCtx context.Context) {
	boot, err := bootID()
	if err != nil {
		m.errors(err.Error())
		boot = m.boot
	}
	e := Adopted{Reboot: boot != m.boot}
	m.boot = boot
	if m.state.Conf.HasData && m.state.Role != RoleStop && !e.Reboot {
		r, err := m.launch.Attach(ctx, m.name)
		if err == nil {
			e.Status, err = r.Status(ctx)
		}
		switch {
		case err == nil:
			e.Found = true
			m.attach(taskCtx, r)
		case !errors.Is(err, ErrNoReplica):
			m.errors(fmt.Sprintf("attach to the replication process: %v", err))
		}
	}
	e.Missing = m.adoptVips(taskCtx, e.Reboot)
	m.step(taskCtx, e)
}

// bootStart starts the module because its host was started.
func (m *module) bootStart(ctx, taskCtx context.Context) {
	m.tasks.Go(func() {
		select {
		case <-time.After(m.mc.delay):
		case <-ctx.Done():
			return
		}
		m.post(ctx, func() { m.step(taskCtx, Asked{Command{Name: "start", By: AtBoot}}) })
	})
}

// openHeart opens the heartbeats; what keeps it from doing so (an address that
// is not there yet) is tried again.
func (m *module) openHeart(ctx context.Context) {
	h, err := openHeart(m.name, m.state.Conf.Node, m.state.Conf.Peer, m.inc, newSeals(m.mc.key), m.mc.signature, m.mc.beats)
	if err != nil {
		if err.Error() != m.heartDown {
			m.heartDown = err.Error()
			m.log.Write(LevelEvent, "heart", m.heartDown)
		}
		return
	}
	m.heartDown = ""
	if m.mc.key == (conf.ClusterKey{}) {
		m.log.Write(LevelInfo, "heart", "Heartbeats are not signed: the cluster has no key (skfs cluster genkey makes one)")
	}
	h.tell(m.state.beat())
	hctx, cancel := context.WithCancel(ctx)
	m.heart, m.heartEnd = h, cancel
	m.heartWG.Go(func() { h.run(hctx) })
}

func (m *module) closeHeart() {
	if m.heart != nil {
		m.heartEnd()
		m.heartWG.Wait()
		m.heart.close()
		m.heart = nil
	}
}

func (m *module) takeHeart(ctx context.Context) {
	links, beat, ok, wrong := m.heart.take()
	for _, text := range wrong {
		m.log.Write(LevelEvent, "heart", text)
	}
	for i := range m.mc.beats {
		if l, changed := links[i]; changed {
			m.step(ctx, Linked{i, l})
		}
	}
	if ok {
		m.step(ctx, Heard{beat})
	}
}

// attach forwards the events of a replica.
func (m *module) attach(ctx context.Context, r Replica) {
	m.replica = r
	m.tasks.Go(func() {
		for {
			select {
			case e, ok := <-r.Events():
				if ctx.Err() != nil {
					return
				}
				if !ok {
					m.post(ctx, func() {
						if m.replica == r {
							m.replica = nil
							m.step(ctx, Gone{})
						}
					})
					return
				}
				m.post(ctx, func() {
					if m.replica == r {
						m.step(ctx, Told{e})
					}
				})
			case <-ctx.Done():
				return
			}
		}
	})
}

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
		work = func() Done { return m.runScript(ctx, mc, a, kill) }
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
	case TaskAnnounce:
		work = func() Done {
			v.announce()
			return Done{ID: a.ID}
		}
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

// runScript runs a script with the arguments and the environment of §14.3.
func (m *module) runScript(ctx context.Context, mc *moduleConf, a Run, kill <-chan struct{}) Done {
	t := a.Task
	r := &runner{dir: m.paths.UserVar(m.name) + "/run", bin: m.paths.UserBin(m.name), cwd: m.paths.UserVar(m.name)}
	if !mc.scripts || !r.exists(t.Script) {
		return Done{ID: a.ID}
	}
	if mc.logging {
		r.userlog = m.paths.UserLog(m.name)
	}
	if t.Script == "prestart" {
		if err := r.truncateLog(mc.logSize); err != nil {
			m.log.Write(LevelInfo, "userplug", fmt.Sprintf("userlog.ulog: %v", err))
		}
	}
	r.env = append(append(os.Environ(), m.paths.ScriptEnv(m.name)...), mc.env...)
	s := script{id: a.ID, name: t.Script, args: []string{t.From.String(), t.To.String(), t.Action}, kill: kill}
	line := "Script " + t.Script
	if t.Force {
		s.args = append([]string{"force"}, s.args...)
		s.timeout = mc.forceStop
		line += " force"
	} else if !t.starts() && t.Part != 0 {
		s.timeout = mc.niceStop
	}
	exit, err := r.run(ctx, s, func() {
		level := LevelEvent
		if t.Force || t.Part == 0 {
			level = LevelInfo
		}
		m.log.Write(level, "userplug", line)
	})
	return Done{ID: a.ID, Err: err, Exit: exit}
}

// callReplica makes one call to the data side.
func (m *module) callReplica(ctx context.Context, mc *moduleConf, r Replica, a Run) Done {
	t := a.Task
	d := Done{ID: a.ID}
	switch t.Kind {
	case TaskJoin:
		select {
		case <-time.After(joinWait):
		case <-ctx.Done():
		}
		return d
	case TaskStart:
		r, d.Err = m.startReplica(ctx, r, t)
		if d.Err != nil {
			return d
		}
		if d.Status, d.Err = r.Status(ctx); d.Err != nil {
			return d
		}
		// Attached by the loop, before anything is asked of it.
		if m.post(ctx, func() { m.attach(ctx, r) }) != nil {
			d.Err = ctx.Err()
		}
		return d
	case TaskStop:
		if r != nil {
			d.Err = r.Stop(ctx, t.Clean)
		}
		return d
	}
	if r == nil {
		d.Err = ErrNoReplica
		return d
	}
	switch t.Kind {
	case TaskPromote:
		d.Err = r.Promote(ctx, t.Epoch, t.Forced)
	case TaskAlone:
		d.Err = r.Alone(ctx, t.Epoch)
	case TaskCut:
		d.Err = r.Cut(ctx)
	case TaskAbandon:
		d.Err = r.Abandon(ctx)
	case TaskFollow:
		d.Err = r.Follow(ctx, t.Epoch, mc.flow, FollowOptions{Full: t.Full, Since: t.Since})
	case TaskOutdate:
		d.Err = r.Outdate(ctx, t.Epoch)
	case TaskDemote:
		d.Err = r.Demote(ctx)
	}
	if d.Err == nil {
		d.Status, d.Err = r.Status(ctx)
	}
	return d
}

// startReplica starts a new replica. One that is there already is left over from
// a start or stop that was interrupted: nothing was asked of it yet, it ends.
func (m *module) startReplica(ctx context.Context, r Replica, t Task) (Replica, error) {
	if r == nil {
		var err error
		if r, err = m.launch.Attach(ctx, m.name); err != nil && !errors.Is(err, ErrNoReplica) {
			return nil, err
		}
	}
	if r != nil {
		if err := r.Stop(ctx, false); err != nil && ctx.Err() == nil {
			m.log.Write(LevelInfo, "nfsadmin", fmt.Sprintf("Stop of an old replication process: %v", err))
		}
	}
	return m.launch.Start(ctx, m.name, StartOptions{Degraded: t.Degraded})
}

// askProgress asks the replica how far a synchronisation is.
func (m *module) askProgress(ctx context.Context) {
	joined := m.state.Data.Joined && m.replica != nil
	if !joined || m.state.Data.Synced {
		if m.prog != (ReplicaProgress{}) {
			m.prog = ReplicaProgress{}
			m.publish()
		}
	}
	if !joined && m.netout.stop() {
		m.publish()
	}
	if !joined || m.asking || m.state.Data.Synced && (!m.state.Reign || !m.netout.due(time.Now())) {
		return
	}
	m.asking = true
	r := m.replica
	m.tasks.Go(func() {
		st, err := r.Status(ctx)
		m.post(ctx, func() {
			m.asking = false
			if err == nil && m.replica == r {
				if m.prog = st.Progress; m.state.Data.Synced {
					m.prog = ReplicaProgress{}
				}
				m.netout.took(time.Now(), st.Sent)
				m.publish()
			}
		})
	})
}

// clockwork gives the events that come with the time. A moment that passed while
// this process or the host slept is made up for once.
func (m *module) clockwork(ctx context.Context, now time.Time) {
	if m.sched != m.mc.syncAt {
		m.sched, m.dueAt = m.mc.syncAt, time.Time{}
	}
	if m.sched != nil {
		// When the clock was set back the time may come again; never later than planned.
		if next := m.sched.Next(now); m.dueAt.IsZero() || next.Before(m.dueAt) {
			m.dueAt = next
		}
		if !now.Before(m.dueAt) {
			m.dueAt = m.sched.Next(now)
			m.step(ctx, Due{By: "syncat"})
		}
	}
	if m.state.Missing != 0 && m.state.Tried && now.Sub(m.ticked).Abs() >= addressRetry {
		m.ticked = now
		m.step(ctx, Tick{})
	}
	m.countConnections(ctx, now)
	if m.state.Conf.SyncDelta > 0 {
		if now.Sub(m.ticked).Abs() >= tickEvery {
			m.ticked = now
			m.step(ctx, Tick{})
		}
		m.publish() // rfs.synced goes down by itself
	}
}

// reconfigure takes up a new active configuration.
func (m *module) reconfigure(ctx, taskCtx context.Context, mc *moduleConf) {
	same := fmt.Sprint(mc.beats, mc.conf.Peer, mc.conf.Node) == fmt.Sprint(m.mc.beats, m.mc.conf.Peer, m.mc.conf.Node)
	if m.state.Role == RoleStop { // <vip> is not dynamic
		m.closeVips()
		m.mc = mc
		m.openVips()
	}
	m.mc = mc
	if m.heart != nil {
		m.heart.configured(mc.signature)
		m.heart.trust(newSeals(mc.key))
	}
	if m.heart != nil && !same {
		m.closeHeart()
	}
	if !same {
		m.state.Links = nil // verdicts about other networks
	}
	m.step(taskCtx, Reconfigured{mc.conf})
	if m.heart == nil {
		m.openHeart(ctx)
	}
}

var whyTexts = map[Block]string{BlockNotUptodate: "notuptodate_server", BlockDegraded: "degraded_server", BlockSyncat: "rfs_syncat_wait"}

// publish copies the state for readers.
func (m *module) publish() {
	s := &m.state
	now := time.Now()
	values := s.resources(now)
	if s.Conf.HasData {
		values["rfs.netout_bandwidth"] = strconv.FormatUint(m.netout.rate, 10)
	}
	m.addressResources(values)
	m.res.set(now, values)
	changedRes := m.res.fresh
	m.res.fresh = false
	p := ModuleState{Module: m.name, ID: m.mc.id, Node: s.Conf.Node, Role: s.Role, Colour: s.Colour, Since: s.Since,
		Peer: s.Conf.Peer, Remote: s.Remote.Role, RemoteCol: s.Remote.Colour, Epoch: s.Epoch,
		Degraded: s.Data.Degraded, Busy: s.Cur.name(), Why: whyTexts[s.Why], Progress: m.prog, Loop: s.loopCount()}
	if s.Why == BlockRule {
		p.Why = s.Held
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = s.clone()
	old := m.public
	if changedRes || old.Resources == nil {
		p.Resources = m.res.list()
	} else {
		p.Resources = old.Resources
	}
	m.public = p
	old.Resources, p.Resources = nil, nil
	if changedRes || !sameState(old, p) {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func sameState(a, b ModuleState) bool {
	a.Resources, b.Resources = nil, nil
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

// look is the published state, and what is closed when it changes.
func (m *module) look() (ModuleState, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.public, m.changed
}

// do gives a command to the module.
func (m *module) do(ctx, taskCtx context.Context, c Command) error {
	answer := make(chan error, 1)
	err := m.post(ctx, func() {
		err := m.state.Refusal(c)
		switch {
		case err == nil && c.assigns():
			m.assignAsked(taskCtx, c)
		case err == nil:
			m.step(taskCtx, Asked{c})
		default:
			m.log.Write(LevelInfo, "heart", err.Error())
		}
		answer <- err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-taskCtx.Done():
		return taskCtx.Err()
	}
}
