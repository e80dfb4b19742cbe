package ha

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/skfs/skfs/ha/group"
	"github.com/skfs/skfs/lbfilter"
)

// What the members of a farm agree on, and what each says of itself. Both travel in
// the messages of the group (group.View.State, group.Row.Info).

// farmInfo is what a member says of itself. It is JSON on the wire: fields may be
// added, and a member of another release reads what it knows.
type farmInfo struct {
	Serving bool                 // its application runs: it may own buckets
	Policy  string               // lbfilter.Policy.Signature of each interface
	Config  uint64               // beginning of the signature of its configuration
	MACs    []lbfilter.MAC       // of its interfaces, in the order of the configuration
	Held    []lbfilter.Bitmap    // of each group, in which buckets it has connections…
	HeldAt  uint64               // …looked at under a table with this moved or later
	Applied uint64               // its filters have the table with this moved
	Drains  map[string]drainMark // by node: newest orders that it knows of
}

// drainMark is an order to give a member no new connections, or to give it some again.
// Of several the one with the greatest stamp counts, wherever it was given.
type drainMark struct {
	Stamp int64 // ns since 1970
	On    bool
}

func (i farmInfo) encode() string {
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // it holds nothing that JSON lacks
	}
	return string(b)
}

// readFarmInfo is what a member said; the zero farmInfo when it said nothing yet, or
// nothing that can be read.
func readFarmInfo(s string) farmInfo {
	var i farmInfo
	if json.Unmarshal([]byte(s), &i) != nil {
		return farmInfo{}
	}
	return i
}

// mergeDrains is the newest order for each node.
func mergeDrains(into map[string]drainMark, from map[string]drainMark) map[string]drainMark {
	for name, d := range from {
		if old, ok := into[name]; !ok || d.Stamp > old.Stamp {
			if into == nil {
				into = map[string]drainMark{}
			}
			into[name] = d
		}
	}
	return into
}

// farmState is the table of a farm, binary, big endian:
//
//	offset  size   field
//	0       1      version, 1
//	1       8      moved: grows with each change of an owner
//	9       1      number of groups, that of the default rule among them
//	10      512×n  of each group: owners of the 256 buckets, members that had them
type farmState struct {
	moved  uint64
	groups []lbfilter.Ownership
}

const farmStateVersion = 1

func (s farmState) encode() string {
	b := binary.BigEndian.AppendUint64([]byte{farmStateVersion}, s.moved)
	b = append(b, byte(len(s.groups)))
	for _, g := range s.groups {
		for _, o := range []lbfilter.Owners{g.Owner, g.Prev} {
			for _, n := range o {
				b = append(b, byte(n))
			}
		}
	}
	return string(b)
}

// readFarmState reads a table of that many groups; one that is another is none.
func readFarmState(s string, groups int) (farmState, bool) {
	const head, each = 10, 2 * lbfilter.Buckets
	if len(s) != head+each*groups || s[0] != farmStateVersion || int(s[9]) != groups {
		return farmState{}, false
	}
	t := farmState{moved: binary.BigEndian.Uint64([]byte(s[1:9]))}
	r := bytes.NewReader([]byte(s[head:]))
	for range groups {
		var g lbfilter.Ownership
		for _, o := range []*lbfilter.Owners{&g.Owner, &g.Prev} {
			for b := range o {
				n, _ := r.ReadByte()
				o[b] = lbfilter.Number(n)
			}
		}
		t.groups = append(t.groups, g)
	}
	return t, true
}

// decideFarm makes the table of a view from the one before: group.Config.Decide of a
// farm. Who does not serve has nothing; who had something, and is still there, keeps
// its connections until it says that it has none of them any more.
func decideFarm(p *lbfilter.Policy) func(was string, members []group.Member) string {
	return func(was string, members []group.Member) string {
		groups := len(p.Groups())
		old, ok := readFarmState(was, groups)
		infos := make([]farmInfo, len(members))
		var drains map[string]drainMark
		for k, m := range members {
			infos[k] = readFarmInfo(m.Info)
			drains = mergeDrains(drains, infos[k].Drains)
		}
		var there []lbfilter.Member
		for k, m := range members {
			n := lbfilter.Number(m.Index)
			serves := infos[k].Serving
			if serves || ok && old.has(n) {
				there = append(there, lbfilter.Member{Number: n, Name: m.Name, Draining: !serves || drains[m.Name].On})
			}
		}
		next := farmState{moved: old.moved, groups: p.Next(old.groups, there)}
		if !ok || slices.ContainsFunc(indices(groups), func(g int) bool { return next.groups[g].Owner != old.groups[g].Owner }) {
			next.moved++
			return next.encode()
		}
		for k, m := range members {
			if i := infos[k]; i.HeldAt >= next.moved && len(i.Held) == groups {
				for g := range next.groups {
					next.groups[g].Settle(lbfilter.Number(m.Index), i.Held[g])
				}
			}
		}
		return next.encode()
	}
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// has says that a member owns a bucket, or had one and may have connections of it.
func (s farmState) has(n lbfilter.Number) bool {
	for _, g := range s.groups {
		if slices.Contains(g.Owner[:], n) || slices.Contains(g.Prev[:], n) {
			return true
		}
	}
	return false
}

// owns says that a member has a bucket of its own.
func (s farmState) owns(n lbfilter.Number) bool {
	return slices.ContainsFunc(s.groups, func(g lbfilter.Ownership) bool { return slices.Contains(g.Owner[:], n) })
}

// left says that a member had buckets that are another's now, and may have
// connections of them.
func (s farmState) left(n lbfilter.Number) bool {
	return slices.ContainsFunc(s.groups, func(g lbfilter.Ownership) bool { return slices.Contains(g.Prev[:], n) })
}

// waits are the buckets of a group that n is not to take yet: a member that had them, and
// is there, has not said that it gave them up. A SYN that two members answer breaks the
// connection, one that nobody answers is sent again. applied is farmInfo.Applied.
func (s farmState) waits(g int, n lbfilter.Number, applied func(lbfilter.Number) uint64) (m lbfilter.Bitmap) {
	o := s.groups[g]
	for b := range o.Owner {
		if had := o.Prev[b]; o.Owner[b] == n && had != lbfilter.None && had != n && applied(had) < s.moved {
			m.Set(uint8(b))
		}
	}
	return m
}

// macs are where the members are on interface k, as each says. One that was not heard
// yet, since this daemon has just begun, is where it was: the view goes on without a new
// epoch, and so have the filters to.
func (v memberView) macs(k int, was [lbfilter.MaxMembers]lbfilter.MAC) (macs [lbfilter.MaxMembers]lbfilter.MAC) {
	for i, text := range v.Infos {
		if !v.View.Members.Has(i) {
			continue
		}
		macs[i] = was[i]
		if info := readFarmInfo(text); k < len(info.MACs) {
			macs[i] = info.MACs[k]
		}
	}
	return macs
}

// owners are the members that have buckets of a group.
func owners(o lbfilter.Ownership) group.Set {
	var s group.Set
	for _, n := range o.Owner {
		if n != lbfilter.None {
			s = s.With(int(n))
		}
	}
	return s
}
