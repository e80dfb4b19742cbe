package ha

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/lbfilter"
	"github.com/skfs/skfs/netvip"
)

// How the loop of a module (module.run) drives its part in a farm. m.farm belongs to
// the loop, but for the time in which a task shares or unshares (farmBusy).

// readFarm reads what a farm module has besides.
func (mc *moduleConf) readFarm(p conf.Paths, a *conf.Active, c *conf.Cluster) error {
	m, am, node := a.Module, a.Name, mc.conf.Node
	fm := m.Farm
	if !slices.Contains(fm.Members, node) {
		return fmt.Errorf("module %s: this node (%s) is not on the networks of the farm, which have %v", am, node, fm.Members)
	}
	port := fm.Port
	if port == 0 {
		port = conf.PortsOf(a.ID).Farm
	}
	f := &farmConf{module: am, config: mc.signature, lease: fm.Silence(), drain: fm.DrainTimeout,
		bpffs: filepath.Join(p.SafeVar, "bpf"), pins: filepath.Join(p.SafeVar, "bpf", am), state: filepath.Join(filepath.Dir(p.HAState(am)), "farm.state"),
		membership: membershipConf{Group: "farm " + am, Self: node, Members: fm.Members, Pulse: fm.Pulse, MLost: fm.MLostCount, SLost: fm.SLostCount}}
	for _, name := range fm.Lans {
		lan := c.Lan(name)
		net := memberNetConf{Name: name, Remote: map[int]string{}}
		for i, member := range fm.Members {
			n, ok := lan.Node(member)
			switch {
			case !ok:
				return fmt.Errorf("module %s: node %s is not on network %s", am, member, name)
			case member == node:
				net.Local = hostPort(n.LocalHost(), port)
			default:
				net.Remote[i] = hostPort(n.Host(), port)
			}
		}
		f.membership.Nets = append(f.membership.Nets, net)
	}
	mc.farm = f
	if m.VIP != nil {
		mc.readShared(m.VIP, fm)
	}
	return nil
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// readShared reads the virtual addresses of a farm, and who shares what.
func (mc *moduleConf) readShared(v *conf.VIP, fm *conf.FarmTopology) {
	f := mc.farm
	mc.tcpReset, mc.lease = v.TCPReset, max(3*time.Second, fm.Silence())
	byName := map[string]int{}
	for i, a := range v.Addresses {
		byName[a.Addr] = i
		mc.vips = append(mc.vips, vipConf{name: a.Addr, bits: a.Bits, netif: a.Interface, connections: a.Connections, check: a.Check, checkIntf: a.CheckIntf, shared: true,
			options: netvip.Options{Lease: mc.lease, NoDAD: true, Probe: -1, Shared: true}})
	}
	for _, s := range v.Shared {
		sc := sharedConf{netif: s.Interface, mode: lbfilter.Directed, every: s.ArpInterval, elapse: s.ArpElapse}
		if s.Type == conf.Invisible {
			sc.mode = lbfilter.Invisible
		}
		copy(sc.mac[:], s.MAC)
		for _, name := range s.Addresses {
			sc.vips = append(sc.vips, byName[name])
		}
		f.shared = append(f.shared, sc)
	}
	for _, g := range v.Groups {
		lg := lbfilter.Group{Name: g.Name, Powers: g.Powers}
		var names []string
		for _, r := range g.Rules {
			lg.Rules = append(lg.Rules, lbfilter.Rule{Port: uint16(r.Port),
				Proto:  map[string]lbfilter.Proto{"tcp": lbfilter.TCP, "udp": lbfilter.UDP, "arp": lbfilter.ARP}[r.Proto],
				Filter: map[string]lbfilter.Criterion{"on_addr": lbfilter.OnAddr, "on_port": lbfilter.OnPort, "on_ipid": lbfilter.OnIPID}[r.Filter]})
			names = append(names, r.Addr)
		}
		f.groups = append(f.groups, lg)
		f.ruleAddrs = append(f.ruleAddrs, names)
	}
}

// openFarm is called with openVips.
func (m *module) openFarm() {
	m.farm = nil
	if m.mc.farm != nil {
		m.farm = newFarm(*m.mc.farm, newSeals(m.mc.key), m.vips, func(l Level, text string) { m.log.Write(l, "vip", text) })
	}
}

// trustFarm takes up another key of the cluster.
func (m *module) trustFarm() {
	if m.farm == nil || m.farmBusy {
		return
	}
	if m.farm.seals = newSeals(m.mc.key); m.farm.member != nil {
		m.farm.member.trust(m.farm.seals)
	}
}

func (m *module) closeFarm() {
	if m.farm != nil {
		m.farm.release()
	}
}

// adoptFarm goes on with the part that an earlier daemon of this boot had, or drops
// what is left of it.
func (m *module) adoptFarm(ctx context.Context, reboot bool) {
	switch {
	case m.farm == nil:
	case m.state.Up&PartFarm == 0 || reboot:
		m.farm.sweep(ctx)
	case m.state.Cur.Kind == TaskShare || m.state.Cur.Kind == TaskUnshare: // the automaton says it again
	default:
		if err := m.farm.share(ctx, m.boot, m.serves()); err != nil {
			m.log.Write(LevelEvent, "vip", fmt.Sprintf("The farm cannot be joined again: %v", err))
		}
		m.farmTold()
	}
}

// shareFarm is TaskShare: it returns when the table of the farm is in force here.
func (m *module) shareFarm(ctx context.Context, f *farm) error {
	if f.member == nil {
		f.release()
		if err := f.share(ctx, m.boot, false); err != nil {
			return err
		}
	}
	// Alone, it takes as long as the others are waited for.
	late := time.After(10*f.c.lease + 10*time.Second)
	for f.member.aliveAt() == 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			return fmt.Errorf("the members of the farm do not agree on this node: check that all hear each other on port UDP of the farm")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// takeFarm takes up what the members say.
func (m *module) takeFarm() {
	if m.farm == nil || m.farmBusy {
		return
	}
	if m.farm.take(m.boot) {
		m.publish()
	}
}

// farmWake is readable when there is something for takeFarm.
func (m *module) farmWake() <-chan struct{} {
	if m.farm == nil || m.farmBusy || m.farm.member == nil {
		return nil
	}
	return m.farm.member.wake
}

// farmTold tells the members whether this one serves: from the end of its start script
// until its stop is planned.
func (m *module) farmTold() {
	if m.farm == nil || m.farmBusy {
		return
	}
	m.farm.serve(m.serves())
}

func (m *module) serves() bool {
	s := &m.state
	return s.Role == RoleUp && s.Up&PartBoth != 0 && s.Up&PartFarm != 0 && s.Cur.Kind == 0
}

// farmClock is called now and then.
func (m *module) farmClock(ctx context.Context, now time.Time) {
	f := m.farm
	if f == nil || m.farmBusy || f.member == nil {
		return
	}
	f.check(now)
	if f.waiting {
		f.take(m.boot)
	}
	f.tell(boottime())
	if missing := m.vips.missing(); missing != 0 && !m.settingShared && f.view.Ready {
		m.settingShared = true
		m.tasks.Go(func() {
			m.vips.set(ctx, false)
			m.post(ctx, func() { m.settingShared = false })
		})
	}
	if f.asking || !f.table.left(f.self()) && !f.draining(m.state.Conf.Node) && f.info.Serving {
		return
	}
	f.asking = true
	filters, moved := f.filters, f.table.moved
	m.tasks.Go(func() {
		held, err := f.counts(filters)
		m.post(ctx, func() {
			f.asking = false
			if err == nil {
				f.counted(moved, held)
			}
		})
	})
}

// handOver gives the buckets of this member to others before its application is
// stopped, and waits until its connections have ended, drain is over, or kill says
// that somebody is in a hurry. Where nobody else serves there is nobody to wait for.
func (m *module) handOver(ctx context.Context, f *farm, kill <-chan struct{}) {
	end := time.After(f.c.drain)
	for {
		over := make(chan bool, 1)
		if m.post(ctx, func() { over <- m.farmBusy || f.member == nil || f.handedOver() }) != nil {
			return
		}
		select {
		case done := <-over:
			if done {
				return
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-end:
			f.log(LevelInfo, "Connections that are left are given up: draintimeout is over")
			return
		case <-kill:
			return
		case <-ctx.Done():
			return
		}
	}
}

// handedOver says that this member, which does not serve any more, has nothing that
// another one could take: in each group that somebody else can serve it has neither a
// bucket nor a connection.
func (f *farm) handedOver() bool {
	self := f.self()
	if !f.table.has(self) {
		return true
	}
	for g, group := range f.policy.Groups() {
		switch {
		case g >= len(f.table.groups) || !f.othersServe(group):
		case f.table.groups[g].Owner.Bitmap(self).Len() > 0, f.info.HeldAt < f.table.moved:
			return false
		case g < len(f.info.Held) && f.info.Held[g].Len() > 0:
			return false
		}
	}
	return true
}

// othersServe says that another member that serves has a power in a group.
func (f *farm) othersServe(g lbfilter.Group) bool {
	for i, name := range f.c.membership.Members {
		if i != int(f.self()) && f.view.View.Members.Has(i) && g.Power(name) > 0 && readFarmInfo(f.view.Infos[i]).Serving {
			return true
		}
	}
	return false
}

// farmResources are the load shares (§4.3.5).
func (m *module) farmResources(values map[string]string) {
	f := m.farm
	if f == nil || m.farmBusy || f.policy == nil {
		return
	}
	for g, pg := range f.policy.Groups() {
		if pg.Name == "" {
			continue
		}
		n := 0
		if g < len(f.table.groups) {
			n = f.table.groups[g].Owner.Bitmap(f.self()).Len()
		}
		values[pg.Name] = fmt.Sprintf("%d%%", (n*100+lbfilter.Buckets/2)/lbfilter.Buckets)
	}
}
