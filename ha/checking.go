package ha

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/check"
	"github.com/skfs/skfs/netvip"
)

// How the loop of a module (module.run) drives its checkers (package check). They
// run as State.checking says, which Step changes; their verdicts are resources
// (assign.go), on which the failover rules act.

// checking belongs to the loop.
type checking struct {
	set       *check.Set
	confs     []conf.Checker
	finding   bool               // the interfaces of the virtual addresses are looked for
	finder    context.CancelFunc // ends who does
	found     []conf.Checker     // their checkers
	vips      *vips              // whose addresses they are
	adopted   bool               // what starts from now on has no value of an earlier daemon
	switching bool               // in Step's wake: what is assigned waits until its actions are under way
	waiting   []assignment       // …
}

// findAgain is how soon an interface that was not found is looked for again.
const findAgain = 10 * time.Second

// openChecks is called by the loop before it adopts.
func (m *module) openChecks(ctx context.Context) {
	run := m.paths.UserVar(m.name) + "/checkers"
	if err := check.Sweep(run); err != nil {
		m.errors(fmt.Sprintf("what an earlier daemon left of its checkers: %v", err))
	}
	m.checks = checking{set: check.NewSet(ctx, checkSink{m, ctx}, m.tasks.Go)}
	m.configureChecks(ctx)
	m.forgetStale()
}

// forgetStale takes away what an earlier daemon's checkers have found out and no
// checker looks at any more. Those of interfaces are not known before they are found.
func (m *module) forgetStale() {
	var stale []string
	for name, r := range m.res.values {
		if strings.HasSuffix(r.By, "check") && !(m.checks.finding && r.By == check.By(conf.CheckIntf)) &&
			!slices.ContainsFunc(m.checks.confs, func(c conf.Checker) bool { return c.Resource() == name }) {
			stale = append(stale, name)
		}
	}
	m.forgetResources(stale...)
}

func (m *module) checkEnv() check.Env {
	e := check.Env{Name: m.name, Dir: m.paths.UserBin(m.name), Var: m.paths.UserVar(m.name), Run: m.paths.UserVar(m.name) + "/checkers",
		Vars: append(m.paths.ScriptEnv(m.name), m.mc.env...), LocalModule: m.otherModule}
	if m.mc.logging {
		e.Log = m.paths.UserLog(m.name)
	}
	return e
}

// configureChecks takes up the checkers of m.mc, and looks for the interfaces of
// those that <interface check="on"> asks for.
func (m *module) configureChecks(ctx context.Context) {
	c, v := &m.checks, m.vips
	if c.finder != nil {
		c.finder()
		c.finder = nil
	}
	if c.vips != v {
		c.vips, c.found = v, nil
	}
	m.setChecks(!c.adopted)
	if c.finding = v.checksInterfaces() && len(c.found) == 0; !v.checksInterfaces() {
		return
	}
	ctx, c.finder = context.WithCancel(ctx)
	m.tasks.Go(func() {
		for again := time.Duration(0); ; again = findAgain {
			select {
			case <-time.After(again):
			case <-ctx.Done():
				return
			}
			found, all := v.interfaceCheckers()
			if m.post(ctx, func() { m.foundInterfaces(ctx, v, found) }) != nil || all {
				return
			}
		}
	})
}

// foundInterfaces adds the checkers of the interfaces that v's addresses are on.
func (m *module) foundInterfaces(ctx context.Context, v *vips, found []conf.Checker) {
	if m.vips != v { // of another configuration
		return
	}
	c := &m.checks
	first := c.finding
	c.finding = false // those that were not found hold up no start
	for _, f := range found {
		if !slices.ContainsFunc(c.found, func(o conf.Checker) bool { return o.Ident == f.Ident }) {
			c.found = append(slices.Clip(c.found), f)
		}
	}
	m.setChecks(first)
	m.switchTo(!first)
	m.assignWaiting(ctx)
	if first {
		m.forgetStale()
	}
}

// setChecks: a checker of <check> goes before one that would set the same resource.
// keep: what a daemon that was killed has found out stays until there is news of it.
func (m *module) setChecks(keep bool) {
	confs := slices.Clone(m.mc.checkers)
	for _, c := range slices.Concat(m.mc.addressCheckers(), m.checks.found) {
		if !slices.ContainsFunc(confs, func(o conf.Checker) bool { return o.Resource() == c.Resource() }) {
			confs = append(confs, c)
		}
	}
	m.checks.confs = confs
	m.forgetResources(m.checks.set.Configure(confs, m.checkEnv())...)
	m.checks.set.Reset(func(c conf.Checker) bool { return keep && m.state.checking(string(c.When)) })
}

// switchChecks starts and ends checkers as the state says now. It is called before
// the actions of a Step are carried out, so that a stop script finds none.
func (m *module) switchChecks() { m.switchTo(m.checks.adopted) }

// switchTo: fresh as for check.Set.Switch.
func (m *module) switchTo(fresh bool) {
	if m.checks.set == nil { // no loop drives the module
		return
	}
	m.checks.switching = true
	m.checks.set.Switch(func(w conf.When) bool { return m.state.checking(string(w)) }, fresh)
	m.checks.switching = false
}

// assignWaiting assigns what came up in switchChecks.
func (m *module) assignWaiting(ctx context.Context) {
	for len(m.checks.waiting) > 0 {
		a := m.checks.waiting[0]
		m.checks.waiting = m.checks.waiting[1:]
		m.assigned(ctx, a)
	}
}

// gate lets the module leave WAIT when all checkers of class pre have given a
// verdict.
func (m *module) gate(ctx context.Context) {
	if !m.state.Conf.Gate || m.state.Checked || m.state.Live&PartPre == 0 || m.checks.finding {
		return
	}
	for _, c := range m.checks.confs {
		value := m.res.values[c.Resource()].Value
		if c.When == conf.WhenPre && c.Kind != conf.CheckSplitbrain && m.state.checking(string(c.When)) && (value == check.Init || value == "") {
			return
		}
	}
	m.step(ctx, Checked{})
}

// checkSink is where checkers tell what they find out.
type checkSink struct {
	m   *module
	ctx context.Context // of the loop's tasks
}

func (s checkSink) Post(ctx context.Context, f func()) error { return s.m.post(ctx, f) }

func (s checkSink) Assign(resource, value, by string) {
	a := assignment{Name: resource, Value: value, By: by}
	if s.m.checks.switching {
		s.m.checks.waiting = append(s.m.checks.waiting, a)
		return
	}
	s.m.assigned(s.ctx, a)
}

func (s checkSink) Note(by, text string) { s.m.log.Write(LevelInfo, by, text) }

func (s checkSink) Restarted(resource, by string) {
	if s.m.state.serves() {
		s.m.step(s.ctx, Asked{Command{Name: "stopstart", Identity: by}})
	}
}

// noteStart notes when the application is started, for the checkers of modules that
// depend on this one.
func (m *module) noteStart(actions []Action) {
	for _, a := range actions {
		if r, ok := a.(Run); ok && r.Task.starts() && r.Task.Part&(PartPrim|PartBoth) != 0 {
			m.began = time.Now()
		}
	}
}

// otherModule answers a module checker for a module of this node.
func (m *module) otherModule(name string) (check.Module, error) {
	st, err := m.other(name)
	if err != nil {
		if errors.Is(err, ErrNoModule) {
			err = ErrNoModule // the checker says which
		}
		return check.Module{}, err
	}
	return check.Module{Node: st.Node, Role: st.Role.String(), Colour: st.Colour.String(), Started: st.Started}, nil
}

// addressCheckers are the ip checkers that <virtual_addr check="on"> asks for (§15.11).
func (mc *moduleConf) addressCheckers() []conf.Checker {
	var all []conf.Checker
	when := conf.WhenPrim
	if mc.conf.Mode == conf.Farm {
		when = conf.WhenBoth
	}
	for _, v := range mc.vips {
		if v.check {
			all = append(all, conf.Checker{Kind: conf.CheckIP, Ident: v.name, When: when, Addr: v.name, Interval: ipInterval})
		}
	}
	return all
}

const ipInterval = 10 * time.Second

// witness is the splitbrain checker, nil if there is none.
func (mc *moduleConf) witness() *conf.Checker {
	i := slices.IndexFunc(mc.checkers, func(c conf.Checker) bool { return c.Kind == conf.CheckSplitbrain })
	if i < 0 {
		return nil
	}
	return &mc.checkers[i]
}

// A witness that has not answered within witnessLimit cannot be reached. It is asked
// again every witnessEvery of it, so that one lost packet is no verdict.
const (
	witnessLimit = 2 * time.Second
	witnessEvery = 200 * time.Millisecond
)

// reachWitness is TaskWitness.
func (mc *moduleConf) reachWitness(ctx context.Context) error {
	w := mc.witness()
	if w == nil {
		return nil // it is not configured any more
	}
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	ping := check.Ping
	if mc.ping != nil {
		ping = mc.ping
	}
	return ping(ctx, w.Addr, witnessEvery)
}

// showWitness gives the resource of the witness the value that decides, which its
// checker may find out seconds later.
func (m *module) showWitness(ctx context.Context, err error) {
	if w := m.mc.witness(); w != nil && m.state.checking(string(w.When)) {
		value := check.Up
		if err != nil {
			value = check.Down
		}
		m.assign(ctx, w.Resource(), value, check.By(w.Kind))
	}
}

// gates says that there are checkers whose first verdict a start waits for.
func (mc *moduleConf) gates() bool {
	return slices.ContainsFunc(mc.checkers, func(c conf.Checker) bool { return c.When == conf.WhenPre && c.Kind != conf.CheckSplitbrain }) ||
		slices.ContainsFunc(mc.vips, func(v vipConf) bool { return v.checkIntf })
}

func (v *vips) checksInterfaces() bool {
	return slices.ContainsFunc(v.confs, func(c vipConf) bool { return c.checkIntf })
}

// interfaceCheckers are the intf checkers that <interface check="on"> asks for
// (§15.10), each named for the network of its interface. all: every interface was
// found.
func (v *vips) interfaceCheckers() (found []conf.Checker, all bool) {
	host, err := v.open()
	if err != nil {
		v.log(err.Error())
		return nil, false
	}
	places := make([]conf.Checker, len(v.confs))
	failed := v.each(func(i int, a netvip.Address) error {
		if !v.confs[i].checkIntf {
			return nil
		}
		if v.confs[i].shared { // where its clients are
			a = netvip.Address{Addr: a.Addr, Interface: v.confs[i].netif}
		}
		p, err := host.Find(a)
		if err != nil {
			return err
		}
		c := conf.Checker{Kind: conf.CheckIntf, Ident: p.Prefix.Masked().Addr().String(), When: conf.WhenPre, Intf: p.Interface}
		if p.Own.IsValid() {
			c.Addr = p.Own.String()
		}
		places[i] = c
		return nil
	})
	for _, c := range places {
		if c.Kind != "" && !slices.ContainsFunc(found, func(o conf.Checker) bool { return o.Ident == c.Ident }) {
			found = append(found, c)
		}
	}
	return found, failed == 0
}
