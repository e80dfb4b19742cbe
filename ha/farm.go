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
	cables   *carriers // of the filters' interfaces
	end      context.CancelFunc
	run      sync.WaitGroup

	view    memberView
	table   farmState // of view
	applied group.Epoch
	telling telling       // whose the addresses are
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
	netif         string // "": found by the addresses
	mode          lbfilter.Mode
	mac           lbfilter.MAC
	vips          []int         // in moduleConf.vips
	every, elapse time.Duration // arpinterval and arpelapse of arpreroute; 0: ARP tells nothing
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
	var netifs []string
	for k, s := range f.c.shared {
		name, err := f.netif(host, s)
		if err != nil {
			return err
		}
		netifs = append(netifs, name)
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
	if len(f.filters) > 0 {
		if f.cables, err = openCarriers(netifs); err != nil {
			return err
		}
		c.Carrier = f.cables.any
	}
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
	f.closeCables()
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
	f.closeCables()
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
	f.telling = telling{}
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

func (f *farm) closeCables() {
	if f.cables != nil {
		f.cables.close()
		f.cables = nil
	}
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
