package ha

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/errd"
	"github.com/skfs/skfs/ha/process"
	"github.com/skfs/skfs/netvip"
)

// moduleConf is what a module's driver takes from the configuration.
type moduleConf struct {
	name          string
	id            int
	conf          Conf
	beats         []heartbeatConf
	key           conf.ClusterKey // signs what the nodes send each other
	signature     uint64          // beginning of the configuration's signature
	flow          string          // host:port where the peer's replica listens
	boot          conf.Boot
	bootByCommand bool // boot is what the command boot has set, and may change
	delay         time.Duration

	rules  conf.Failover
	syncAt conf.Schedule // nil: the data is kept up to date

	farm     *farmConf // nil unless it is a farm
	vips     []vipConf // as conf.Addresses; in a farm, which has none there, all that are shared
	lease    time.Duration
	tcpReset bool

	checkers []conf.Checker                                                    // of <check>; see also addressCheckers, interfaceCheckers
	ping     func(ctx context.Context, host string, every time.Duration) error // nil: check.Ping

	scripts             bool // there is a <user>
	logging             bool
	logSize             int64
	niceStop, forceStop time.Duration
	env                 []string
	vhost               *conf.VHost // nil: scripts see the host's name
	errd                errd.Conf
}

// readModule reads the active configuration of a module for this node.
func readModule(p conf.Paths, am, node string, c *conf.Cluster) (*moduleConf, error) {
	a, err := p.Active(am, c)
	if err != nil {
		return nil, err
	}
	m := a.Module
	key, err := p.LoadClusterKey()
	if err != nil {
		return nil, err
	}
	signature, err := strconv.ParseUint(string(a.Signature[:min(16, len(a.Signature))]), 16, 64)
	if err != nil {
		return nil, fmt.Errorf("module %s: signature %q of its configuration: %w", am, a.Signature, err)
	}
	mc := &moduleConf{name: am, id: a.ID, key: key, signature: signature, boot: m.Boot, bootByCommand: a.BootByCommand, delay: m.BootDelay,
		conf: Conf{Mode: m.Mode, Node: node, MaxLoop: m.MaxLoop, LoopInterval: m.LoopInterval, Reboot: m.Reboot}, rules: m.Rules, checkers: m.Checkers}
	mc.readUser(m.User)
	mc.readErrd(m.Errd)
	mc.vhost = m.VHost
	switch m.Mode {
	case conf.Mirror:
		if err := mc.readMirror(a, c); err != nil {
			return nil, err
		}
	case conf.Farm:
		if err := mc.readFarm(p, a, c); err != nil {
			return nil, err
		}
	case conf.Light:
	default:
		return nil, fmt.Errorf("module %s: mode %q: expected mirror, farm or light", am, m.Mode)
	}
	mc.conf.Gate, mc.conf.Witness = mc.gates(), mc.witness() != nil
	return mc, nil
}

// readMirror reads what a mirror module has besides.
func (mc *moduleConf) readMirror(a *conf.Active, c *conf.Cluster) error {
	m, am, node := a.Module, a.Name, mc.conf.Node
	nodes := nodesOf(c, m.Heart.Heartbeats)
	if len(nodes) != 2 || !slices.Contains(nodes, node) {
		return fmt.Errorf("module %s: a mirror module runs on two nodes, this one (%s) among them; the networks of its heartbeats have %v", am, node, nodes)
	}
	peer := nodes[0]
	if peer == node {
		peer = nodes[1]
	}
	ports := conf.PortsOf(a.ID)
	mc.conf.Peer, mc.conf.Second, mc.conf.HasData = peer, node > peer, m.RFS != nil
	mc.conf.Failover, mc.conf.DefaultPrim = m.Failover, m.DefaultPrim
	for _, hb := range m.Heart.Heartbeats {
		port := hb.Port
		if port == 0 {
			port = ports.Heart
		}
		local, _ := c.Lan(hb.Name).Node(node)
		remote, _ := c.Lan(hb.Name).Node(peer)
		mc.conf.Heartbeats = append(mc.conf.Heartbeats, hb.Ident)
		mc.beats = append(mc.beats, heartbeatConf{Ident: hb.Ident,
			Local:  net.JoinHostPort(local.LocalHost(), strconv.Itoa(port)),
			Remote: net.JoinHostPort(remote.Host(), strconv.Itoa(port)),
			Pulse:  hb.Pulse, Timeout: hb.Timeout, PermanentARP: hb.PermanentARP})
	}
	if m.RFS != nil {
		addr, ok := c.Addr(m.RFS.Flow, peer)
		if !ok {
			return fmt.Errorf("module %s: node %s is not on network %s, which replication uses", am, peer, m.RFS.Flow)
		}
		mc.conf.Pairing = peer
		for _, r := range m.RFS.Replicated {
			mc.conf.Pairing += "\n" + r.Dir
			for _, n := range r.NotReplicated { // what is not excluded any more, the peer lacks
				mc.conf.Pairing += "\n!" + n.String()
			}
		}
		mc.conf.SyncDelta = m.RFS.SyncDelta
		if m.RFS.SyncAt != "" {
			mc.conf.SyncAt = true
			s, err := conf.ParseSchedule(m.RFS.SyncAt)
			if err != nil {
				return fmt.Errorf("module %s: syncat: %w", am, err)
			}
			mc.syncAt = s
		}
		mc.flow = net.JoinHostPort(addr, strconv.Itoa(ports.RFS))
	}
	if v := m.VIP; v != nil {
		mc.tcpReset, mc.lease = v.TCPReset, leaseOf(mc.beats)
		for _, a := range v.Addresses {
			mc.conf.Addresses = append(mc.conf.Addresses, VirtualAddress{a.Addr, a.Check})
			mc.vips = append(mc.vips, vipConf{name: a.Addr, bits: a.Bits, netif: a.Interface, connections: a.Connections, check: a.Check, checkIntf: a.CheckIntf,
				options: netvip.Options{Lease: mc.lease, NoDAD: true, NeedCarrier: a.CheckIntf, RefreshEvery: a.ArpInterval, RefreshFor: a.ArpElapse}})
		}
	}
	return nil
}

// readUser reads how scripts are called.
func (mc *moduleConf) readUser(u *conf.User) {
	if u != nil {
		mc.scripts, mc.logging, mc.logSize = true, u.Logging, u.UserLogSize
		mc.niceStop, mc.forceStop = u.NiceStopTimeout, u.ForceStopTimeout
		for _, v := range u.Vars {
			mc.env = append(mc.env, v.Name+"="+v.Value)
		}
	}
}

// nodesOf are the nodes that are on every network of the heartbeats.
func nodesOf(c *conf.Cluster, beats []conf.Heartbeat) []string {
	var nodes []string
	for _, name := range c.Nodes() {
		if !slices.ContainsFunc(beats, func(hb conf.Heartbeat) bool {
			l := c.Lan(hb.Name)
			if l == nil {
				return true
			}
			_, ok := l.Node(name)
			return !ok
		}) {
			nodes = append(nodes, name)
		}
	}
	return nodes
}

// readErrd reads what errd monitors.
func (mc *moduleConf) readErrd(e *conf.Errd) {
	if e == nil {
		return
	}
	mc.errd.Poll = e.PollTimer
	for _, p := range e.Procs {
		w := errd.Watch{Name: p.Name, Class: p.Class, Service: p.Service, AtLeast: p.AtLeast, AtMax: p.AtMax, StartAfter: p.StartAfter, Action: p.Action}
		if w.Match = (process.Filter{Name: p.Name, ArgRegex: p.ArgRegex}); p.NameRegex != nil {
			w.Match.Name, w.Match.NameRegex = "", p.NameRegex
		}
		mc.errd.Watches = append(mc.errd.Watches, w)
	}
}
