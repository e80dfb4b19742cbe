package pair

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/lab"
)

// ClusterOptions say what a cluster is.
type ClusterOptions struct {
	Lab   lab.Options
	Skfs  string // path of the skfs binary
	Hosts int
	Dirs  []string // a disk each on every host, for what modules replicate
	Two   []TwoLan
}

// TwoLan is a lan of cluster.xml that two of the hosts have: a mirror module runs on the
// nodes of its networks.
type TwoLan struct {
	Name    string
	Network string // of the lab
	Hosts   [2]int
}

// Cluster is hosts with skfs that run any modules, and a client.
type Cluster struct {
	Lab    *lab.Lab
	Hosts  []*Node // without a module
	Client *lab.Host
}

// NewCluster makes the hosts, starts their daemons and says who belongs together. The
// caller closes the cluster.
func NewCluster(ctx context.Context, o ClusterOptions) (_ *Cluster, err error) {
	l, err := lab.New(o.Lab)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	env := []string{"SAFE=" + safe, "SAFEVAR=" + SafeVar}
	disks := []lab.Disk{{Path: safe}, {Path: SafeVar}}
	for _, d := range o.Dirs {
		disks = append(disks, lab.Disk{Path: d})
	}
	for i := range o.Hosts {
		h, err := l.AddHost(lab.HostSpec{Name: fmt.Sprintf("node%d", i+1), Disks: disks, Env: env})
		if err != nil {
			return nil, err
		}
		c.Hosts = append(c.Hosts, &Node{Host: h, skfs: o.Skfs, dir: filepath.Join(l.Dir(), h.Name()), life: &life{}})
	}
	if c.Client, err = l.AddHost(lab.HostSpec{Name: "client"}); err != nil {
		return nil, err
	}
	if err := each(c.Hosts, func(n *Node) error { return n.StartDaemon(ctx) }); err != nil {
		return c, err
	}
	return c, configureCluster(ctx, c.Hosts, o.Two)
}

// Install configures a module on some of the hosts, from a template of which it changes
// these files, and returns the module on each.
func (c *Cluster) Install(ctx context.Context, am, template string, files map[string]string, hosts ...int) ([]*Node, error) {
	var nodes []*Node
	for _, i := range hosts {
		h := c.Hosts[i]
		nodes = append(nodes, &Node{Host: h.Host, skfs: h.skfs, dir: h.dir, am: am, life: h.life})
	}
	for _, n := range nodes {
		n.all = nodes
	}
	return nodes, each(nodes, func(n *Node) error { return n.configure(ctx, template, files) })
}

// each does something on all nodes at once.
func each(nodes []*Node, do func(*Node) error) error {
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error { return do(n) })
	}
	return g.Wait()
}

// Logs returns what nodes have in their logs, for the report of a failure.
func Logs(nodes ...*Node) string {
	text := ""
	for _, n := range nodes {
		text += n.logs()
	}
	return text
}

// Close takes everything away.
func (c *Cluster) Close() error { return c.Lab.Close() }
