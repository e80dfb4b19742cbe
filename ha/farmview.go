package ha

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skfs/skfs/lbfilter"
)

// FarmView is what this node knows of a farm at one moment.
type FarmView struct {
	Node    string // this one
	Epoch   uint64 // of the table
	InForce bool   // the table is in force, and this node a member
	Members []FarmMember
	Groups  []FarmGroup
	Filters []FarmFilter `json:",omitempty"`
}

// FarmMember is a configured node of a farm.
type FarmMember struct {
	Name     string
	Number   int // of its bitmap: from 1, in the order of names
	Member   bool
	Serving  bool
	Draining bool // it gets no new connections
}

// FarmGroup is a group and who has what of it.
type FarmGroup struct {
	Name   string
	Shares []FarmShare
}

// FarmShare is the part of a member.
type FarmShare struct {
	Node    string
	Number  int    // from 1
	Bitmap  string // of its buckets (§4.3.5)
	Buckets int
	Leaving int // buckets that are another's now, in which it may have connections
}

// FarmFilter is what the filter of an interface did.
type FarmFilter struct {
	Mode      string
	Addresses []netip.Addr
	Counts    []lbfilter.Count
}

// FarmQuery asks who serves a client.
type FarmQuery struct {
	Client  netip.AddrPort // port 0: only its address counts
	Service netip.AddrPort // the zero address is the first virtual one of the client's family; port 0 that of the first rule
	Proto   string         // tcp (also ""), udp or arp
}

// FarmAnswer says it.
type FarmAnswer struct {
	Service netip.AddrPort
	Node    string // "": nobody
	Why     string
}

// Farm says what this node knows of the farm of a module.
func (s *Supervisor) Farm(ctx context.Context, module string) (v FarmView, err error) {
	err = s.onFarm(ctx, module, func(f *farm) error {
		v = f.look()
		return nil
	})
	return v, err
}

// FarmWho says which member serves a client, and why.
func (s *Supervisor) FarmWho(ctx context.Context, module string, q FarmQuery) (a FarmAnswer, err error) {
	err = s.onFarm(ctx, module, func(f *farm) (err error) {
		a, err = f.who(q)
		return err
	})
	return a, err
}

// FarmDrain orders that a member gets no new connections, or gets some again. Those
// that it has stay.
func (s *Supervisor) FarmDrain(ctx context.Context, module, node string, on bool) error {
	return s.onFarm(ctx, module, func(f *farm) error {
		if err := f.drain(node, on, time.Now()); err != nil {
			return err
		}
		text := fmt.Sprintf("%s gets no new connections (drain)", node)
		if !on {
			text = fmt.Sprintf("%s gets new connections again (undrain)", node)
		}
		f.log(LevelEvent, text)
		return nil
	})
}

// onFarm has the loop of a module do something with its farm.
func (s *Supervisor) onFarm(ctx context.Context, module string, do func(*farm) error) error {
	m, err := s.module(module)
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	err = m.post(ctx, func() {
		switch {
		case m.farm == nil:
			answer <- fmt.Errorf("module %s: %w: it is no farm", module, ErrRefused)
		case m.farmBusy || m.farm.member == nil:
			answer <- fmt.Errorf("module %s: %w: this node takes no part in the farm now: start the module first", module, ErrRefused)
		default:
			answer <- do(m.farm)
		}
	})
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *farm) look() FarmView {
	members := f.c.membership.Members
	v := FarmView{Node: f.c.membership.Self, Epoch: f.view.View.Epoch.N, InForce: f.view.Ready}
	for i, name := range members {
		v.Members = append(v.Members, FarmMember{Name: name, Number: i + 1, Member: f.view.View.Members.Has(i),
			Serving: f.view.View.Members.Has(i) && readFarmInfo(f.view.Infos[i]).Serving, Draining: f.draining(name)})
	}
	for g, pg := range f.policy.Groups() {
		if g >= len(f.table.groups) {
			break
		}
		o := f.table.groups[g]
		fg := FarmGroup{Name: pg.Name}
		for i, name := range members {
			n := lbfilter.Number(i)
			own, had := o.Owner.Bitmap(n), o.Prev.Bitmap(n)
			if f.view.View.Members.Has(i) || own.Len() > 0 {
				fg.Shares = append(fg.Shares, FarmShare{Node: name, Number: i + 1, Bitmap: own.String(), Buckets: own.Len(), Leaving: had.Len()})
			}
		}
		v.Groups = append(v.Groups, fg)
	}
	for k, filter := range f.filters {
		counts, err := filter.Stats()
		if err != nil {
			f.complain(err.Error())
		}
		policy := f.policies[k]
		v.Filters = append(v.Filters, FarmFilter{Mode: policy.Mode().String(), Addresses: policy.Addresses(), Counts: counts})
	}
	return v
}

func (f *farm) who(q FarmQuery) (FarmAnswer, error) {
	if len(f.policies) == 0 {
		return FarmAnswer{}, fmt.Errorf("%w: the farm has no virtual addresses", ErrRefused)
	}
	proto, ok := map[string]lbfilter.Proto{"": lbfilter.TCP, "tcp": lbfilter.TCP, "udp": lbfilter.UDP, "arp": lbfilter.ARP}[q.Proto]
	if !ok {
		return FarmAnswer{}, fmt.Errorf("%w: protocol %q: expected tcp, udp or arp", ErrRefused, q.Proto)
	}
	policy, service := f.policies[0], q.Service
	for _, p := range f.policies {
		if !service.Addr().IsValid() {
			i := slices.IndexFunc(p.Addresses(), func(a netip.Addr) bool { return a.Is4() == q.Client.Addr().Unmap().Is4() })
			if i >= 0 {
				policy, service = p, netip.AddrPortFrom(p.Addresses()[i], q.Service.Port())
			}
		} else if slices.Contains(p.Addresses(), service.Addr().Unmap()) {
			policy = p
		}
	}
	if service.Port() == 0 && proto != lbfilter.ARP {
		for _, g := range f.c.groups {
			for _, r := range g.Rules {
				if service.Port() == 0 && r.Proto == proto {
					service = netip.AddrPortFrom(service.Addr(), r.Port)
				}
			}
		}
	}
	a, err := policy.Who(lbfilter.Query{Proto: proto, Client: q.Client, Service: service}, f.table.groups)
	if err != nil {
		return FarmAnswer{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	name := func(n lbfilter.Number) string {
		if int(n) < len(f.c.membership.Members) {
			return f.c.membership.Members[n]
		}
		return "nobody"
	}
	answer := FarmAnswer{Service: service, Why: a.Why(name)}
	if a.Owner != lbfilter.None {
		answer.Node = name(a.Owner)
	}
	return answer, nil
}
