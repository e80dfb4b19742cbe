package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
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
	other  func(module string) (ModuleState, error) // of this node

	mc      *moduleConf
	waiting *moduleConf // to be taken up when the state allows it; nil: none
	state   State
	stored  []byte // ha.state, or ha.state.run, as it was written last
	serial  uint64 // …and its number
	lasts   string // what of it is durable; "": nothing that this daemon knows of
	inc     uint64
	given   uint64 // the last task that an earlier daemon gave out
	boot    string
	startAt time.Duration // as saved.StartAt
	reboot  func() error
	log     *Log
	res     *resources

	events        chan func() // run in order by the loop
	replica       Replica
	kills         map[uint64]chan struct{}
	tasks         sync.WaitGroup
	prog          ReplicaProgress
	asking        bool // a Status for prog is under way
	traffic       traffic
	vips          *vips
	farm          *farm        // nil unless it is a farm
	farmBusy      bool         // a task has it
	settingShared bool         // a task sets addresses of the farm that were lost
	renewal       *time.Ticker // a third of the lease
	counted       time.Time    // when connections were, last
	conns         map[string]int
	checks        checking
	began         time.Time // when the application was started last, as far as this daemon knows
	ticked        time.Time
	bootRead      time.Time
	judging       judging
	unshared      int       // resources that had no room in what the peer is told
	dueAt         time.Time // of the next scheduled synchronisation, for schedule
	sched         conf.Schedule

	seen observer // for the record of transitions

	errd      detection
	userlogAt time.Time // when the size of userlog.ulog was looked at

	heart     *heart
	heartWG   sync.WaitGroup
	heartEnd  context.CancelFunc
	heartDown string // why there is no heart

	neigh    *neighbours // of this heart
	fixing   bool        // a look at them is under way
	fixedAt  time.Time   // of the last look
	fixFault string      // what it complained of

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
func openModule(paths conf.Paths, mc *moduleConf, l Launcher, host func() (addressHost, error), other func(string) (ModuleState, error), errs func(string)) (*module, error) {
	m := &module{name: mc.name, paths: paths, launch: l, host: host, other: other, mc: mc,
		errors: func(text string) { errs("module " + mc.name + ": " + text) },
		events: make(chan func(), 64), neigh: &neighbours{}, kills: map[uint64]chan struct{}{}, changed: make(chan struct{})}
	if err := os.MkdirAll(paths.UserVar(m.name), 0o755); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	was, err := readNewest(paths.HAState(m.name), boot)
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
	m.state, m.inc, m.boot, m.serial = was.State, was.Incarnation, boot, was.Serial
	m.state.Conf = mc.conf
	m.state.Links = make([]Link, len(mc.conf.Heartbeats))
	if was.Boot != boot {
		m.inc = newIncarnation()
		if mc.startsAtBoot(was) {
			m.startAt = boottime() + mc.delay
		}
	} else {
		m.startAt = was.StartAt
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
	m.given = m.state.TaskID
	m.openVips()
	defer func() {
		cancel()
		m.closeHeart()
		m.drain()
		m.closeVips()
	}()
	m.openJudge()
	defer func() { m.judging.timer.Stop() }()
	m.openChecks(taskCtx)
	m.openErrd(taskCtx)
	m.adopt(ctx, taskCtx)
	m.checks.adopted = true
	m.adoptHandlers(taskCtx)
	m.openHeart(ctx)
	if m.startAt != 0 {
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
		case <-m.farmWake():
			m.takeFarm()
		case <-m.renewal.C:
			m.renew(taskCtx)
		case <-m.judging.timer.C:
			m.judging.unjudged = true
		case <-progress.C:
			m.askProgress(taskCtx)
			m.fixNeighbours(taskCtx, time.Now())
			m.clockwork(taskCtx, time.Now())
			if m.heart == nil {
				m.openHeart(ctx)
			}
		}
		m.takeWaiting(ctx, taskCtx)
		m.judge(taskCtx)
		m.gate(taskCtx)
	}
}

// takeWaiting takes up a configuration that came when it could not be.
func (m *module) takeWaiting(ctx, taskCtx context.Context) {
	steady := m.state.Role == RoleStop || (m.state.Role == RoleAlone || m.state.Role == RoleWait) && m.state.Colour != Magenta
	if mc := m.waiting; mc != nil && steady {
		m.reconfigure(ctx, taskCtx, mc)
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
	now, before := time.Now(), m.state
	next, actions := m.decide(e, now)
	looped := next.Loops > m.state.Loops
	begins := m.state.Role == RoleStop && next.Role != RoleStop
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
	if begins {
		m.begins()
	}
	m.switchChecks()
	m.farmTold()
	m.publish()
	m.seen.saw(m.log, before, m.state, e, actions, now)
	m.tellErrd()
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
	m.assignWaiting(ctx)
}

// decide asks the automaton. Scripts that the module does not have end in the same
// breath: each would cost a write of the state, and a swap has a dozen of them.
func (m *module) decide(e Event, now time.Time) (State, []Action) {
	next, actions := Step(m.state, e, now)
	for {
		m.noteStart(actions)
		i := slices.IndexFunc(actions, func(a Action) bool {
			r, ok := a.(Run)
			return ok && r.Task.Kind == TaskScript && !m.hasScript(m.mc, r.Task.Script)
		})
		if i < 0 {
			return next, actions
		}
		done := Done{ID: actions[i].(Run).ID}
		var more []Action
		next, more = Step(next, done, now)
		actions = append(slices.Delete(actions, i, i+1), more...)
	}
}

func (m *module) saved() saved { return saved{m.serial, m.inc, m.boot, m.startAt, m.state} }

// store makes the state durable; false: ctx ended before it was.
func (m *module) store(ctx context.Context) bool {
	if string(encodeSaved(m.saved())) == string(m.stored) {
		return true
	}
	m.serial++
	data := encodeSaved(m.saved())
	path, lasts := m.paths.HAState(m.name), m.state.lasting()
	durable := lasts != m.lasts
	if !durable {
		path = runSaved(path)
	}
	for told := false; ; told = true {
		err := replaceFile(path, data, durable)
		if err == nil {
			m.stored, m.lasts = data, lasts
			return true
		}
		if !told {
			m.errors(fmt.Sprintf("its state cannot be stored, it stands still until it can: %v", err))
		}
		select {
		case <-time.After(storeRetry):
		case <-m.renewal.C: // who serves goes on to
			m.vips.renew() // what is lost is told again by its event
			m.renewFarm()
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
	if e.Reboot {
		// What scripts of an earlier boot have left is not of the tasks that get their
		// numbers again.
		if err := os.RemoveAll(m.runDir()); err != nil {
			m.errors(err.Error())
		}
	}
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
	m.adoptFarm(taskCtx, e.Reboot)
	m.step(taskCtx, e)
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
	if now.Sub(m.bootRead).Abs() >= tickEvery {
		m.bootRead = now
		m.readBoot()
	}
	m.countConnections(ctx, now)
	m.limitUserlogNow(now)
	m.retryAlarms(ctx)
	m.farmClock(ctx, now)
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
	m.waiting = nil
	same := fmt.Sprint(mc.beats, mc.conf.Peer, mc.conf.Node) == fmt.Sprint(m.mc.beats, m.mc.conf.Peer, m.mc.conf.Node)
	if m.state.Role == RoleStop { // <vip> is not dynamic
		m.closeVips()
		m.mc = mc
		m.openVips()
	}
	m.mc = mc
	m.trustFarm()
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
	m.configureReplica(taskCtx)
	m.configureChecks(taskCtx)
	m.forgetProcs()
	m.step(taskCtx, Reconfigured{mc.conf})
	if m.heart == nil {
		m.openHeart(ctx)
	}
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
			if slices.Contains(overBoot, c.Name) {
				m.startAt = 0
			}
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
