package ha

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skfs/skfs/ha/group"
	"github.com/skfs/skfs/lbfilter"
	"github.com/skfs/skfs/netvip"
)

// farm is this node's part in a farm: its membership, the filters on its interfaces,
// and the virtual addresses, while the module is in PartFarm.
//
//	share:   filters (all is dropped) ─▶ membership ─▶ addresses
//	take:    view ─▶ table ─▶ every filter           (what the others do as well)
//	renew:   lease of every filter, as long as the view is in force
//	serve:   "my application runs", or not: who makes the view moves the buckets
//	unshare: membership left ─▶ addresses ─▶ filters
type farm struct {
	c     farmConf
	seals seals
	vips  *vips
	log   func(Level, string) // to the module's log

	policy   *lbfilter.Policy   // of the first interface: all have the same groups
	policies []*lbfilter.Policy // of each interface
	filters  []*lbfilter.Filter
	member   *membership
	end      context.CancelFunc
	run      sync.WaitGroup

	view    memberView
	table   farmState // of view
	applied group.Epoch
	retell  int           // how often the link is still to be told
	waiting bool          // buckets are not taken yet, see farmState.waits
	patient time.Duration // boottime until when
	info    farmInfo
	said    map[string]string // by group: what was logged of it last
	odd     map[string]string // by member: what was logged of its configuration
	told    map[string]bool   // errors of filters that were logged
	looked  time.Time         // when the filters were, last
	asking  bool              // a look at the connections is under way
}

// farmConf is what the configuration says of a farm.
type farmConf struct {
	module     string
	config     uint64 // beginning of the configuration's signature
	membership membershipConf
	lease      time.Duration // of the filters: no longer than the others wait
	drain      time.Duration
	groups     []lbfilter.Group
	ruleAddrs  [][]string // by group and rule: the virtual address as configured, "": all
	shared     []sharedConf
	pins       string // a directory of a bpffs, made when it is needed
	bpffs      string
	state      string // file with the view of this boot
}

// sharedConf is an interface with virtual addresses.
type sharedConf struct {
	netif string // "": found by the addresses
	mode  lbfilter.Mode
	mac   lbfilter.MAC
	vips  []int // in moduleConf.vips
	tell  bool  // arpreroute
}

// savedFarm is the file farm.state: the view that this node went by, for a daemon
// that is started again (R1).
type savedFarm struct {
	Boot    string
	Members []string
	View    group.View // State in base64
	State   []byte
	Drains  map[string]drainMark
}

func newFarm(c farmConf, s seals, v *vips, log func(Level, string)) *farm {
	return &farm{c: c, seals: s, vips: v, log: log, said: map[string]string{}, odd: map[string]string{}, told: map[string]bool{}}
}

// makePolicies makes what the filters are for, one for each interface.
func (f *farm) makePolicies() ([]*lbfilter.Policy, error) {
	var all []*lbfilter.Policy
	for _, s := range f.c.shared {
		var addrs []netip.Addr
		byName := map[string]netip.Addr{}
		for _, i := range s.vips {
			a, err := f.vips.resolve(i)
			if err != nil {
				return nil, err
			}
			addrs = append(addrs, a.Addr)
			byName[f.vips.confs[i].name] = a.Addr
		}
		var groups []lbfilter.Group
		for gi, g := range f.c.groups {
			own := lbfilter.Group{Name: g.Name, Powers: g.Powers}
			for ri, r := range g.Rules {
				if name := f.c.ruleAddrs[gi][ri]; name != "" {
					a, here := byName[name]
					if !here {
						continue // of another interface
					}
					r.Addr = a
				}
				own.Rules = append(own.Rules, r)
			}
			groups = append(groups, own)
		}
		p, err := lbfilter.NewPolicy(s.mode, addrs, groups)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 { // a farm without addresses: its members still know each other
		p, err := lbfilter.NewPolicy(lbfilter.Directed, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil)
		if err != nil {
			return nil, err
		}
		f.policy = p
		return nil, nil
	}
	f.policy = all[0]
	return all, nil
}

// netif is the interface of s.
func (f *farm) netif(host addressHost, s sharedConf) (string, error) {
	if s.netif != "" {
		return s.netif, nil
	}
	var last error
	for _, i := range s.vips {
		a, err := f.vips.resolve(i)
		if err != nil {
			return "", err
		}
		p, err := host.Find(netvip.Address{Addr: a.Addr})
		if err == nil {
			return p.Interface, nil
		}
		last = err
	}
	return "", last
}

// share makes this node a member that answers for the virtual addresses once it
// serves; serving says that it does already. What an earlier daemon left of that is taken over. When it fails nothing of
// it is left that is not undone by unshare.
func (f *farm) share(ctx context.Context, boot string, serving bool) error {
	host, err := f.vips.open()
	if err != nil {
		return err
	}
	policies, err := f.makePolicies()
	if err != nil {
		return err
	}
	f.policies = policies
	was := f.restore(boot)
	f.info = farmInfo{Config: f.c.config, Drains: f.info.Drains, Serving: serving}
	if len(policies) > 0 {
		if err := lbfilter.MountBPFFS(f.c.bpffs); err != nil {
			return err
		}
	}
	for k, s := range f.c.shared {
		name, err := f.netif(host, s)
		if err != nil {
			return err
		}
		if err := quietARP(name); err != nil {
			return err
		}
		fc := lbfilter.Config{Policy: policies[k], Interface: name, VirtualMAC: s.mac,
			Self: f.self(), Pins: filepath.Join(f.c.pins, fmt.Sprint(k))}
		filter, err := openFilter(fc, was.Epoch.N == 0)
		if err != nil {
			return err
		}
		f.filters = append(f.filters, filter)
		mac, err := filter.MAC()
		if err != nil {
			return err
		}
		f.info.MACs = append(f.info.MACs, mac)
		f.info.Policy += policies[k].Signature() + " "
	}
	c := f.c.membership
	c.Decide = decideFarm(f.policy)
	m, err := openMembership(c, f.seals, uint64(time.Now().UnixNano()), was)
	if err != nil {
		return err
	}
	m.tell(f.info.encode())
	mctx, end := context.WithCancel(context.Background())
	f.member, f.end = m, end
	f.run.Go(func() { m.run(mctx) })
	d := f.vips.set(ctx, false)
	for i, c := range f.vips.confs {
		if d.Missing.has(i) {
			return fmt.Errorf("virtual address %s cannot be set", c.name)
		}
		f.log(LevelEvent, fmt.Sprintf("Virtual IP %s set", c.name))
	}
	return nil
}

// openFilter takes over the filter that is pinned, or opens one. One whose table
// nothing is known of any more is opened anew: its epochs are not those to come.
func openFilter(c lbfilter.Config, afresh bool) (*lbfilter.Filter, error) {
	if !afresh {
		switch filter, err := lbfilter.Adopt(c); {
		case err == nil:
			return filter, nil
		case !errors.Is(err, lbfilter.ErrNone) && !errors.Is(err, lbfilter.ErrOther):
			return nil, err
		}
	}
	return lbfilter.Open(c)
}

// quietARP keeps the kernel from asking for neighbours in the name of a virtual
// address, as lbfilter assumes.
func quietARP(netif string) error {
	path := filepath.Join("/proc/sys/net/ipv4/conf", netif, "arp_announce")
	if err := os.WriteFile(path, []byte("2"), 0o644); err != nil {
		return fmt.Errorf("arp_announce of interface %s: %w", netif, err)
	}
	return nil
}

// unshare ends the part of this node. It can be called at any time.
func (f *farm) unshare(ctx context.Context) error {
	f.stopMember(true)
	var errs []error
	f.vips.remove(ctx)
	for _, filter := range f.filters {
		errs = append(errs, filter.Close(true))
	}
	f.filters = nil
	f.forget()
	return errors.Join(errs...)
}

// release leaves all to the next daemon: the filters go on for their lease.
func (f *farm) release() {
	f.stopMember(false)
	for _, filter := range f.filters {
		filter.Close(false)
	}
	f.filters = nil
}

// sweep takes away what an earlier daemon left of a part that is over.
func (f *farm) sweep(ctx context.Context) {
	f.vips.remove(ctx)
	for k := range f.c.shared {
		if err := lbfilter.Drop(filepath.Join(f.c.pins, fmt.Sprint(k))); err != nil && !errors.Is(err, lbfilter.ErrNone) {
			f.log(LevelInfo, err.Error())
		}
	}
	f.forget()
}

func (f *farm) forget() {
	ignoreMissing(os.Remove(f.c.state))
	f.view, f.table, f.applied, f.info, f.waiting = memberView{}, farmState{}, group.Epoch{}, farmInfo{}, false
	clear(f.said)
	clear(f.odd)
	clear(f.told)
}

func (f *farm) stopMember(leave bool) {
	if f.member == nil {
		return
	}
	f.end()
	f.run.Wait()
	if leave {
		f.member.leave()
	}
	f.member.close()
	f.member = nil
}

func (f *farm) self() lbfilter.Number {
	return lbfilter.Number(slices.Index(f.c.membership.Members, f.c.membership.Self))
}

// restore reads the view that an earlier daemon of this boot went by.
func (f *farm) restore(boot string) group.View {
	var s savedFarm
	data, err := os.ReadFile(f.c.state)
	if err != nil || json.Unmarshal(data, &s) != nil || s.Boot != boot || !slices.Equal(s.Members, f.c.membership.Members) {
		return group.View{}
	}
	s.View.State = string(s.State)
	f.info.Drains = mergeDrains(f.info.Drains, s.Drains)
	return s.View
}

func (f *farm) save(boot string) error {
	s := savedFarm{Boot: boot, Members: f.c.membership.Members, View: f.view.View, State: []byte(f.view.View.State), Drains: f.info.Drains}
	s.View.State = ""
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replaceFile(f.c.state, data, false) // it is of this boot
}

// take takes up what the members agree on now. It says whether anything changed.
func (f *farm) take(boot string) bool {
	if f.member == nil {
		return false
	}
	v, wrong := f.member.take()
	for _, text := range wrong {
		f.log(LevelEvent, text)
	}
	old := f.view
	f.view = v
	drains := len(f.info.Drains)
	for i, text := range v.Infos {
		info := readFarmInfo(text)
		f.compare(i, info)
		f.info.Drains = mergeDrains(f.info.Drains, info.Drains)
	}
	if len(f.info.Drains) != drains {
		f.member.tell(f.info.encode())
	}
	if v.View.Epoch.N != 0 && (v.View.Epoch != f.applied || f.waiting || f.elsewhere()) {
		f.apply(boot)
	}
	f.renew()
	return old.View != v.View || old.Ready != v.Ready
}

// compare says what a member has otherwise than this node.
func (f *farm) compare(i int, info farmInfo) {
	name := f.c.membership.Members[i]
	text := ""
	switch {
	case info.Policy == "" && info.Config == 0: // nothing was heard of it
		return
	case info.Policy != f.info.Policy:
		text = fmt.Sprintf("%s shares the virtual addresses by other rules, or by a filter of another release: apply the same configuration and release on all nodes", name)
	case info.Config != f.info.Config:
		text = fmt.Sprintf("%s has another configuration of this module: apply the same on all nodes", name)
	}
	if f.odd[name] != text {
		if f.odd[name] = text; text != "" {
			f.log(LevelEvent, text)
		}
	}
}

// apply puts the table of the view into all filters.
func (f *farm) apply(boot string) {
	view, old := f.view.View, f.table
	t, ok := readFarmState(view.State, len(f.policy.Groups()))
	if !ok {
		f.complain("the table of the farm cannot be read: another release made it")
		return
	}
	f.table = t
	if view.Epoch != f.applied {
		f.patient = boottime() + f.c.lease
	}
	f.waiting = false
	for k, filter := range f.filters {
		table := lbfilter.Table{Epoch: view.Epoch.N, Groups: t.groups,
			// As group.Epoch.Less orders them.
			Version: uint64(group.MaxMembers-1-int(view.Epoch.By))<<58 | view.Epoch.Life>>6}
		table.MACs = f.view.macs(k, macsOf(filter))
		table.Groups = f.taken(table.Groups)
		if err := filter.Apply(table); err != nil {
			f.complain(err.Error())
			return
		}
	}
	if f.applied == view.Epoch {
		return
	}
	f.applied = view.Epoch
	f.info.Applied = f.table.moved
	f.member.tell(f.info.encode())
	f.report()
	if err := f.save(boot); err != nil {
		f.complain(fmt.Sprintf("the view of the farm cannot be stored: %v", err))
	}
	f.reroute(old)
}

// elsewhere says that a member is at another hardware address than the filters know: it was
// not heard yet when they were given the table.
func (f *farm) elsewhere() bool {
	for k, filter := range f.filters {
		is := macsOf(filter)
		now := f.view.macs(k, is)
		now[f.self()] = is[f.self()] // the filter's own concern
		if now != is {
			return true
		}
	}
	return false
}

// macsOf are the hardware addresses by which a filter goes now.
func macsOf(filter *lbfilter.Filter) (macs [lbfilter.MaxMembers]lbfilter.MAC) {
	if t := filter.Table(); t != nil {
		macs = t.MACs
	}
	return macs
}

// taken is the table without the buckets that are to be waited for.
func (f *farm) taken(groups []lbfilter.Ownership) []lbfilter.Ownership {
	if boottime() >= f.patient {
		return groups // who had them does not answer: it is dead, or its lease is over
	}
	applied := func(n lbfilter.Number) uint64 { return readFarmInfo(f.view.Infos[n]).Applied }
	groups = slices.Clone(groups)
	for g := range groups {
		waits := f.table.waits(g, f.self(), applied)
		if waits.Len() == 0 {
			continue
		}
		f.waiting = true
		for b := range groups[g].Owner {
			if waits.Has(uint8(b)) {
				groups[g].Owner[b] = groups[g].Prev[b]
			}
		}
	}
	return groups
}

// reroute tells the link who answers now, when a member has no buckets any more that
// clients may have found (§13.5.7.3): the first one that has some does, and says it
// again a few times. IPv4 is told with arpreroute="on" only.
func (f *farm) reroute(old farmState) {
	now := owners(f.table.groups[0])
	if len(old.groups) == 0 || owners(old.groups[0])&^now == 0 || now.First() != int(f.self()) {
		return
	}
	f.retell = retells
	f.tell()
}

const retells = 3

func (f *farm) tell() {
	f.retell--
	host, err := f.vips.open()
	if err != nil {
		f.complain(err.Error())
		return
	}
	for _, s := range f.c.shared {
		if s.mode != lbfilter.Directed {
			continue
		}
		for _, i := range s.vips {
			if a, err := f.vips.resolve(i); err == nil && (s.tell || a.Addr.Is6()) {
				if err := host.Tell(netvip.Address{Addr: a.Addr, Interface: s.netif}); err != nil {
					f.complain(err.Error())
				}
			}
		}
	}
}

// complain logs an error once.
func (f *farm) complain(text string) {
	if !f.told[text] {
		f.told[text] = true
		f.log(LevelEvent, text)
	}
}

// report logs who shares what (§4.3.5), from when this node has a part in it.
func (f *farm) report() {
	if len(f.said) == 0 && !f.table.owns(f.self()) {
		return
	}
	for g, pg := range f.policy.Groups() {
		if pg.Name == "" {
			continue
		}
		o := f.table.groups[g]
		text := fmt.Sprintf("farm membership: %s (group %s)", f.names(owners(o)), pg.Name)
		load := fmt.Sprintf("farm load: %d/%d (group %s)", o.Owner.Bitmap(f.self()).Len(), lbfilter.Buckets, pg.Name)
		if f.said[pg.Name] == text+load {
			continue
		}
		f.said[pg.Name] = text + load
		f.log(LevelEvent, text)
		f.log(LevelEvent, load)
	}
}

func (f *farm) names(s group.Set) string {
	var names []string
	for _, i := range s.Indices() {
		names = append(names, f.c.membership.Members[i])
	}
	return strings.Join(names, " ")
}

// renew lets the filters go on for a lease from when the view was known to be in
// force.
func (f *farm) renew() {
	if f.member == nil || f.applied.N == 0 {
		return
	}
	alive := f.member.aliveAt() // not that of f.view: a pulse that passes is nothing to take
	if alive == 0 {
		return
	}
	for _, filter := range f.filters {
		if err := filter.Renew(alive + f.c.lease); err != nil {
			f.complain(err.Error())
		}
	}
}

// check puts back what others may have taken away from the filters.
func (f *farm) check(now time.Time) {
	if now.Sub(f.looked).Abs() < countEvery {
		return
	}
	f.looked = now
	for _, filter := range f.filters {
		if err := filter.Check(); err != nil {
			f.complain(err.Error())
		}
	}
}

// serve says whether the application of this node runs.
func (f *farm) serve(on bool) {
	if f.member != nil && f.info.Serving != on {
		f.info.Serving = on
		f.member.tell(f.info.encode())
	}
}

// drain orders that a member gets no new connections, or gets some again.
func (f *farm) drain(node string, on bool, now time.Time) error {
	switch {
	case !slices.Contains(f.c.membership.Members, node):
		return fmt.Errorf("%w: node %s is no member of the farm; there are %s", ErrRefused, node, strings.Join(f.c.membership.Members, ", "))
	case f.member == nil:
		return fmt.Errorf("%w: this node takes no part in the farm now: start the module first", ErrRefused)
	}
	mark := drainMark{Stamp: max(now.UnixNano(), f.info.Drains[node].Stamp+1), On: on}
	f.info.Drains = mergeDrains(f.info.Drains, map[string]drainMark{node: mark})
	f.member.tell(f.info.encode())
	return nil
}

// draining says that a member gets no new connections by order.
func (f *farm) draining(node string) bool { return f.info.Drains[node].On }

// counts is the part of counting the connections of buckets that others have now that
// may take its time: it is called beside the loop.
func (f *farm) counts(filters []*lbfilter.Filter) ([]lbfilter.Bitmap, error) {
	var all []lbfilter.Bitmap
	for _, filter := range filters {
		held, err := filter.Held()
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = held
			continue
		}
		for g := range all {
			for w := range all[g] {
				all[g][w] |= held[g][w]
			}
		}
	}
	return all, nil
}

// counted takes how counts ended, for the table that was in force when it began.
func (f *farm) counted(moved uint64, held []lbfilter.Bitmap) {
	if f.member == nil || f.info.HeldAt == moved && slices.Equal(f.info.Held, held) {
		return
	}
	f.info.Held, f.info.HeldAt = held, moved
	f.member.tell(f.info.encode())
}

// empty says that no bucket has a connection.
func empty(held []lbfilter.Bitmap) bool {
	return !slices.ContainsFunc(held, func(m lbfilter.Bitmap) bool { return m.Len() > 0 })
}
