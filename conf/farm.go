package conf

import (
	"slices"
	"strings"
	"time"
)

// FarmTopology is how the members of a farm find each other (guide §13.4).
type FarmTopology struct {
	Port       int           // UDP; 0: as the module's id gives it, see Ports
	Pulse      time.Duration // between the messages of a member
	MLostCount int           // pulses of silence after which the first member is gone
	SLostCount int           // …and any other
	// DrainTimeout is how long a member that stops waits for the connections that it
	// has; new ones go to the others meanwhile. It is skfs's own.
	DrainTimeout time.Duration
	Lans         []string // at least one; all have the same nodes
	Members      []string // the nodes of the lans, sorted
}

// Silence is after how long a member that says nothing is gone.
func (f *FarmTopology) Silence() time.Duration {
	return f.Pulse * time.Duration(max(f.MLostCount, f.SLostCount))
}

func (s *scanner) farm(n *node, c *Cluster) *FarmTopology {
	f := &FarmTopology{Port: int(n.num("port")), Pulse: n.dur("pulse", time.Millisecond),
		MLostCount: int(n.num("mlost_count")), SLostCount: int(n.num("slost_count")),
		DrainTimeout: n.dur("draintimeout", time.Second)}
	for _, l := range n.all("lan") {
		name := s.farmLan(l, c)
		lan := c.Lan(name)
		if lan == nil {
			continue // reported
		}
		if slices.Contains(f.Lans, name) {
			s.addf(l.pos, "lan %s stands twice in <farm>", name)
			continue
		}
		var nodes []string
		for _, node := range lan.Nodes {
			nodes = append(nodes, node.Name)
		}
		slices.Sort(nodes)
		switch {
		case len(f.Lans) == 0:
			f.Members = nodes
			if len(nodes) > maxFarmMembers {
				s.addf(l.pos, "lan %s has %d nodes: a farm has %d at most", name, len(nodes), maxFarmMembers)
			}
			s.needsTwo(l, lan, Farm)
		case !slices.Equal(nodes, f.Members):
			s.addf(l.pos, "lan %s has the nodes %s, lan %s has %s: the networks of a farm have the same nodes",
				name, strings.Join(nodes, ", "), f.Lans[0], strings.Join(f.Members, ", "))
		}
		f.Lans = append(f.Lans, name)
	}
	return f
}

// farmLan finds the network that <lan> names: by name, or in the syntax before 7.2
// by the addresses of its nodes.
func (s *scanner) farmLan(n *node, c *Cluster) string {
	nodes := n.all("node")
	if n.has("name") {
		if len(nodes) > 0 && c.Lan(n.str("name")) == nil {
			return s.lanByNodes(n, nodes, c) // the name was free then
		}
		return s.lanByName(n, c)
	}
	if len(nodes) == 0 {
		s.addf(n.pos, "<lan> lacks attribute name: the name of a lan of cluster.xml")
		return ""
	}
	return s.lanByNodes(n, nodes, c)
}

func (s *scanner) lanByNodes(n *node, nodes []*node, c *Cluster) string {
	for i := range c.Lans {
		l := &c.Lans[i]
		lacks := func(of *node) bool {
			return !slices.ContainsFunc(l.Nodes, func(n Node) bool { return n.Addr == of.str("addr") })
		}
		if l.Framework && len(l.Nodes) == len(nodes) && !slices.ContainsFunc(nodes, lacks) {
			return l.Name
		}
	}
	s.addf(n.pos, "no lan of cluster.xml has these <node> addresses and no others: use <lan name=\"…\"/> with the name of a lan (%s)",
		strings.Join(c.LanNames(true), ", "))
	return ""
}
