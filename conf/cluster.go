package conf

import (
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Cluster is a checked cluster.xml (guide §12): the nodes and the networks
// between them.
type Cluster struct {
	Port       int           // UDP, membership protocol
	Pulse      time.Duration // between its messages; 0: not set
	MLostCount int           // periods of silence before a new leader; 0: not set
	SLostCount int           // periods of silence before a node is offline; 0: not set
	Lans       []Lan         // in the order of the file
}

// Lan is a network. A node stands at most once in it.
type Lan struct {
	Name      string
	Framework bool // skfs talks over it; modules may name it
	Console   bool // the web console may connect over it
	Command   bool // distributed commands use it; true for exactly one lan
	Nodes     []Node
}

// Node is a node on one network.
type Node struct {
	Name  string
	Addr  string // as the other nodes reach it: IPv4, [IPv6] or a host name
	Laddr string // as it is on the local interface, where that differs (NAT); else ""
}

// Host is Addr without the brackets of an IPv6 address, as net.JoinHostPort
// takes it.
func (n Node) Host() string { return strings.Trim(n.Addr, "[]") }

// LocalHost is the address that the node itself binds to.
func (n Node) LocalHost() string {
	if n.Laddr != "" {
		return strings.Trim(n.Laddr, "[]")
	}
	return n.Host()
}

// Node returns the node with this name on the lan.
func (l *Lan) Node(name string) (Node, bool) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Lan returns the network with this name, nil if there is none.
func (c *Cluster) Lan(name string) *Lan {
	for i := range c.Lans {
		if c.Lans[i].Name == name {
			return &c.Lans[i]
		}
	}
	return nil
}

// Nodes returns the names of all nodes, in the order in which the file names
// them first.
func (c *Cluster) Nodes() []string {
	var names []string
	for _, l := range c.Lans {
		for _, n := range l.Nodes {
			if !slices.Contains(names, n.Name) {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

// Addr returns how node is reached on lan, without the brackets of IPv6; false
// if it is not there.
func (c *Cluster) Addr(lan, node string) (string, bool) {
	l := c.Lan(lan)
	if l == nil {
		return "", false
	}
	n, ok := l.Node(node)
	return n.Host(), ok
}

// LanNames returns the names of the networks; of those that modules may use, if
// framework is set.
func (c *Cluster) LanNames(framework bool) []string {
	var names []string
	for _, l := range c.Lans {
		if l.Framework || !framework {
			names = append(names, l.Name)
		}
	}
	return names
}

// ParseCluster reads a cluster.xml. The error is of type Problems unless
// reading failed; file is the name it shows.
func ParseCluster(file string, r io.Reader) (*Cluster, error) {
	s, err := newScanner(file, r)
	if err != nil {
		return nil, err
	}
	doc := s.document(clusterTags())
	if doc == nil {
		return nil, s.err()
	}
	lans := doc.one("lans")
	if lans == nil {
		return nil, s.err()
	}
	c := &Cluster{
		Port:       int(lans.num("port")),
		Pulse:      lans.dur("pulse", time.Millisecond),
		MLostCount: int(lans.num("mlost_count")),
		SLostCount: int(lans.num("slost_count")),
	}
	nodes := lans.all("lan")
	for _, n := range nodes {
		if c.Lan(n.str("name")) != nil && n.has("name") {
			s.addf(n.at("name"), "lan %s is defined twice", n.str("name"))
		}
		c.Lans = append(c.Lans, s.lan(n))
	}
	s.cluster(c, lans, nodes)
	if err := s.err(); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(c.Lans, func(l Lan) bool { return l.Command }) {
		i := slices.IndexFunc(c.Lans, func(l Lan) bool { return l.Framework })
		c.Lans[i].Command = true // §12.1.3: the first with framework="on"
	}
	return c, nil
}

// ReadCluster parses the file at path.
func ReadCluster(path string) (*Cluster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseCluster(path, f)
}

// lan checks one network by itself.
func (s *scanner) lan(n *node) Lan {
	l := Lan{Name: n.str("name"), Framework: n.on("framework"), Console: n.on("console"), Command: n.on("command")}
	addrs := map[string]string{}
	for _, nn := range n.all("node") {
		node := Node{nn.str("name"), nn.str("addr"), nn.str("laddr")}
		if _, dup := l.Node(node.Name); dup && node.Name != "" {
			s.addf(nn.at("name"), "node %s stands twice in lan %s", node.Name, l.Name)
		}
		if what := checkAddr(node.Addr, true); what != "" && nn.has("addr") {
			s.addf(nn.at("addr"), "addr=%q: %s", node.Addr, what)
		}
		if what := checkAddr(node.Laddr, false); what != "" && nn.has("laddr") {
			s.addf(nn.at("laddr"), "laddr=%q: %s", node.Laddr, what)
		}
		if other := addrs[node.Addr]; other != "" {
			s.addf(nn.at("addr"), "addr=%q is already that of node %s: every node needs its own on lan %s", node.Addr, other, l.Name)
		}
		addrs[node.Addr] = node.Name
		l.Nodes = append(l.Nodes, node)
	}
	return l
}

// cluster checks the networks against each other.
func (s *scanner) cluster(c *Cluster, lans *node, at []*node) {
	if len(c.Lans) == 0 || len(s.Problems) > 0 {
		return // the list of nodes is not known; what follows would only mislead
	}
	all := c.Nodes()
	lacks := func(l *Lan) string {
		for _, name := range all {
			if _, ok := l.Node(name); !ok {
				return name
			}
		}
		return ""
	}
	framework, command := false, false
	for i := range c.Lans {
		l := &c.Lans[i]
		missing := lacks(l)
		framework = framework || l.Framework && missing == ""
		if l.Console && missing != "" {
			s.addf(at[i].pos, "lan %s lacks node %s: a console network has all nodes (set console=\"off\" if it is for some nodes only)", l.Name, missing)
		}
		if !l.Command {
			continue
		}
		switch pos := at[i].at("command"); {
		case command:
			s.addf(pos, "a second lan has command=\"on\": only one may")
		case missing != "":
			s.addf(pos, "lan %s lacks node %s: the network of distributed commands has all nodes", l.Name, missing)
		case !l.Framework:
			s.addf(pos, "lan %s has framework=\"off\": the network of distributed commands needs framework=\"on\"", l.Name)
		}
		command = true
	}
	if !framework {
		s.addf(lans.pos, "no lan with framework=\"on\" has all nodes (%s): at least one must", strings.Join(all, ", "))
	}
}

// checkAddr says what is wrong with an address, or returns "".
func checkAddr(a string, hostname bool) string {
	expected := "expected an IPv4 address or an IPv6 address in brackets"
	if hostname {
		expected = "expected an IPv4 address, an IPv6 address in brackets or a host name"
	}
	if in, ok := strings.CutPrefix(a, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		if ip, err := netip.ParseAddr(in); !ok || err != nil || !ip.Is6() {
			return expected
		}
		return ""
	}
	ip, err := netip.ParseAddr(a)
	switch {
	case err == nil && ip.Is6():
		return "an IPv6 address stands in brackets: [" + a + "]"
	case err == nil:
		return ""
	case !hostname || !isHostname(a):
		return expected
	}
	return ""
}

// isHostname follows RFC 1123, and takes the underscore that is common in
// practice. A name of digits and dots only is a mistyped address.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}
