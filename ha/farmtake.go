package ha

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skfs/skfs/ha/group"
	"github.com/skfs/skfs/lbfilter"
)

// What a farm does with what its members agree on: the table of the view goes into the
// filters, and into the log.

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
