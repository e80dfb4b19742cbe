package ha

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/group"
)

// Nodes is the membership of the cluster itself (guide §12): which nodes of
// cluster.xml are up, and what is configured on each. It knows nothing of what
// modules do, and no module depends on it.
type Nodes struct {
	paths  conf.Paths
	node   string // as Options.Node
	errors func(string)

	mu    sync.Mutex // guards what follows
	names []string   // of the nodes, sorted
	self  string
	view  memberView
}

// NodeState is what is known of a node of the cluster.
type NodeState struct {
	Name    string
	Up      bool         // it is heard, or this node
	Modules []NodeModule // that are installed there, as it said last
	Cluster NodeCluster  // the cluster's configuration there, as it said last
}

// NodeCluster is the configuration of the cluster on a node (guide §9.3, confinfo).
type NodeCluster struct {
	Signature conf.Signature // "": not known
	Date      time.Time
	Locked    bool
}

// nodeInfo is what a node says of itself, as JSON.
type nodeInfo struct {
	Modules []NodeModule
	Cluster NodeCluster
}

// NodeModule is a module that is installed on a node.
type NodeModule struct {
	Name      string
	Mode      conf.Mode // "": it is not configured
	ID        int
	Date      time.Time // of the configuration in force
	Signature conf.Signature
}

// Defaults of cluster.xml, where the guide gives none.
const (
	nodesPulse = time.Second
	nodesLost  = 5
)

// NewNodes is of a node; errs takes what is wrong, one line a call.
func NewNodes(paths conf.Paths, node string, errs func(string)) *Nodes {
	return &Nodes{paths: paths, node: node, errors: errs}
}

// List is what is known now, sorted by name; nil without a cluster.
func (n *Nodes) List() []NodeState {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []NodeState
	for i, name := range n.names {
		s := NodeState{Name: name, Up: name == n.self || n.view.Heard.Has(i)}
		if i < len(n.view.Infos) {
			var said nodeInfo
			json.Unmarshal([]byte(n.view.Infos[i]), &said) // of another release, or nothing yet: no modules
			s.Modules, s.Cluster = said.Modules, said.Cluster
		}
		all = append(all, s)
	}
	return all
}

// nodesAgain is how often the files are looked at.
const nodesAgain = 2 * time.Second

// Run exchanges messages with the other nodes until ctx ends, and takes up another
// cluster.xml or key when there is one.
func (n *Nodes) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		err := n.once(ctx)
		if err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			n.errors("cluster: " + said)
		}
		select {
		case <-ctx.Done():
		case <-time.After(nodesAgain):
		}
	}
}

// once is a membership of the cluster as it is configured now, until that changes.
func (n *Nodes) once(ctx context.Context) error {
	stamp := n.stamp()
	c, err := conf.ReadCluster(n.paths.ClusterFile())
	if os.IsNotExist(err) {
		n.mu.Lock()
		n.names, n.view = nil, memberView{}
		n.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	self, err := c.LocalNode(n.node)
	if err != nil {
		return err
	}
	key, err := n.paths.LoadClusterKey()
	if err != nil {
		return err
	}
	mc := nodesConf(c, self)
	if len(mc.Members) > group.MaxMembers {
		return fmt.Errorf("%d nodes: who is up is known for %d at most", len(mc.Members), group.MaxMembers)
	}
	m, err := openMembership(mc, newSeals(key), uint64(time.Now().UnixNano()), group.View{})
	if err != nil {
		return err
	}
	m.tell(n.info(c))
	mctx, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { m.run(mctx) })
	defer func() {
		end()
		running.Wait()
		m.leave()
		m.close()
	}()
	again := time.NewTicker(nodesAgain)
	defer again.Stop()
	for {
		v, wrong := m.take()
		for _, text := range wrong {
			n.errors("cluster: " + text)
		}
		n.mu.Lock()
		n.names, n.self, n.view = mc.Members, self, v
		n.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-again.C:
			if n.stamp() != stamp {
				return nil
			}
			m.tell(n.info(c))
		}
	}
}

// nodesConf is the membership of a cluster on its framework networks.
func nodesConf(c *conf.Cluster, self string) membershipConf {
	mc := membershipConf{Group: "cluster", Self: self, Members: slices.Sorted(slices.Values(c.Nodes())),
		Pulse: nodesPulse, MLost: nodesLost, SLost: nodesLost}
	if c.Pulse > 0 {
		mc.Pulse = c.Pulse
	}
	if c.MLostCount > 0 {
		mc.MLost = max(2, c.MLostCount)
	}
	if c.SLostCount > 0 {
		mc.SLost = max(2, c.SLostCount)
	}
	for _, lan := range c.Lans {
		own, here := lan.Node(self)
		if !lan.Framework || !here {
			continue
		}
		net := memberNetConf{Name: lan.Name, Local: hostPort(own.LocalHost(), c.Port), Remote: map[int]string{}}
		for i, name := range mc.Members {
			if o, ok := lan.Node(name); ok && name != self {
				net.Remote[i] = hostPort(o.Host(), c.Port)
			}
		}
		mc.Nets = append(mc.Nets, net)
	}
	return mc
}

// stamp changes with the files that say what the cluster is.
func (n *Nodes) stamp() string {
	s := ""
	for _, path := range []string{n.paths.ClusterFile(), n.paths.ClusterKeyFile()} {
		if st, err := os.Stat(path); err == nil {
			s += fmt.Sprint(st.ModTime(), st.Size(), " ")
		}
	}
	return s
}

// info is what this node says of itself.
func (n *Nodes) info(c *conf.Cluster) string {
	var own nodeInfo
	if i, err := n.paths.ClusterInfo(); err == nil {
		own.Cluster = NodeCluster{i.Signature, i.Date, i.Locked}
	}
	installed, _ := n.paths.Installed() // without them it is up all the same
	for _, i := range installed {
		m := NodeModule{Name: i.Name, ID: i.ID}
		if a, err := n.paths.Active(i.Name, c); err == nil {
			m.Mode, m.Date, m.Signature = a.Module.Mode, a.Date, a.Signature
		}
		own.Modules = append(own.Modules, m)
	}
	b, err := json.Marshal(own)
	if err == nil && len(b) > group.MaxInfo { // the cluster is what all need to know
		b, err = json.Marshal(nodeInfo{Cluster: own.Cluster})
	}
	if err != nil {
		return ""
	}
	return string(b)
}
