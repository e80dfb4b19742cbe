package pair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/tree"
)

const safe = "/opt/skfs"

// SafeVar is the path of SAFEVAR on both hosts.
const SafeVar = "/var/lib/skfs"

// Module is the name of the module.
const Module = "mirror"

// Options of a pair.
type Options struct {
	Lab    lab.Options
	Skfs   string   // path of the skfs binary
	Config Config   // of the module
	Disk   lab.Disk // how the disks under the replicated directories are made; its Path is not used
	Var    lab.Disk // how the disk under SAFEVAR is made; its Path is not used
	Logf   func(format string, args ...any)
	// Install are shell commands that install skfs, as README has them, on hosts whose
	// PID 1 is systemd; "": the hosts have no init system, and the daemon is a process.
	Install string
}

// Pair is two hosts that mirror a module, and a client.
type Pair struct {
	Lab    *lab.Lab
	Nodes  [2]*Node
	Client *lab.Host
	config Config
}

// New makes the hosts, starts a daemon on the two and configures the module. It
// is not started. The caller closes the pair.
func New(ctx context.Context, o Options) (_ *Pair, err error) {
	o.Config = o.Config.withDefaults()
	l, err := lab.New(o.Lab)
	if err != nil {
		return nil, err
	}
	p := &Pair{Lab: l, config: o.Config}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	env := []string{"SAFE=" + safe, "SAFEVAR=" + SafeVar}
	o.Var.Path = SafeVar
	disks := []lab.Disk{{Path: safe}, o.Var}
	for _, d := range o.Config.Dirs {
		disk := o.Disk
		disk.Path = d
		disks = append(disks, disk)
	}
	if o.Install != "" {
		disks = append(disks, lab.Disk{Path: unitDir}, lab.Disk{Path: filepath.Dir(installed)})
		o.Skfs = installed
	}
	for i := range p.Nodes {
		h, err := l.AddHost(lab.HostSpec{Name: fmt.Sprintf("node%d", i+1), Disks: disks, Env: env, Systemd: o.Install != ""})
		if err != nil {
			return nil, err
		}
		p.Nodes[i] = &Node{Host: h, skfs: o.Skfs, install: o.Install, dir: filepath.Join(l.Dir(), h.Name()), am: Module, life: &life{}}
	}
	p.Nodes[0].all, p.Nodes[1].all = p.Nodes[:], p.Nodes[:]
	p.Nodes[0].peer, p.Nodes[1].peer = p.Nodes[1], p.Nodes[0]
	if p.Client, err = l.AddHost(lab.HostSpec{Name: "client"}); err != nil {
		return nil, err
	}
	if err := p.each(func(n *Node) error { return n.StartDaemon(ctx) }); err != nil {
		return p, err
	}
	if err := p.configureCluster(ctx); err != nil {
		return p, err
	}
	return p, p.each(func(n *Node) error { return p.configure(ctx, n) })
}

// each does something on both hosts at once.
func (p *Pair) each(do func(*Node) error) error {
	var g errgroup.Group
	for _, n := range p.Nodes {
		g.Go(func() error { return do(n) })
	}
	return g.Wait()
}

// configureCluster says on one host who belongs together, and carries what that makes
// to the other, the key among it.
func (p *Pair) configureCluster(ctx context.Context) error {
	return configureCluster(ctx, p.Nodes[:], nil)
}

// configureCluster is that of pairs and clusters. two are networks of two hosts.
func configureCluster(ctx context.Context, nodes []*Node, two []TwoLan) error {
	one := nodes[0]
	var hosts []*lab.Host
	for _, n := range nodes {
		hosts = append(hosts, n.Host)
	}
	cluster := filepath.Join(one.dir, "cluster.xml")
	if err := os.WriteFile(cluster, []byte(clusterXML(hosts, two)), 0o644); err != nil {
		return err
	}
	if _, err := one.Skfs(ctx, "cluster", "config", cluster); err != nil {
		return err
	}
	zip, err := os.ReadFile(one.Path(SafeVar + "/cluster/cluster.zip"))
	if err != nil {
		return err
	}
	for _, other := range nodes[1:] {
		carried := filepath.Join(other.dir, "cluster.zip")
		if err := os.WriteFile(carried, zip, 0o600); err != nil {
			return err
		}
		if _, err = other.Skfs(ctx, "cluster", "config", carried); err != nil {
			return err
		}
	}
	return nil
}

// configure gives the host the module, as an administrator would.
func (p *Pair) configure(ctx context.Context, n *Node) error {
	return n.configure(ctx, Module, p.config.Files())
}

// configure installs a template as the module and changes these files of it.
func (n *Node) configure(ctx context.Context, template string, files map[string]string) error {
	if _, err := n.Skfs(ctx, "module", "install", "-m", n.am, template+".safe"); err != nil {
		return err
	}
	for file, content := range files {
		path := n.Path(filepath.Join(safe, "modules", n.am, file))
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			return err
		}
	}
	_, err := n.Skfs(ctx, "config", "-m", n.am)
	return err
}

// Start starts the module on both hosts: on the first, which may be told to be
// primary although nothing is known of the data yet, then on the second. It
// returns when they are PRIM and SECOND, both green.
func (p *Pair) Start(ctx context.Context) error {
	if _, err := p.Nodes[0].Skfs(ctx, "prim", "-m", Module); err != nil {
		return err
	}
	if _, err := p.Nodes[1].Skfs(ctx, "second", "-m", Module); err != nil {
		return err
	}
	return p.Await(ctx, "PRIM", "SECOND")
}

// Await waits until the hosts are stable in these states.
func (p *Pair) Await(ctx context.Context, first, second string) error {
	if err := p.Nodes[0].Await(ctx, first); err != nil {
		return err
	}
	return p.Nodes[1].Await(ctx, second)
}

// keptAside is where a replicated directory has what only this host had: the
// quarantine after a split brain. It is this host's own.
const keptAside = ".skfs"

// isOwn says whether a path below a replicated directory is a host's own.
func (p *Pair) isOwn(path string) bool {
	return path == keptAside || p.config.Own != "" && strings.HasSuffix(path, p.config.Own)
}

// Compare compares what the two hosts have on disk under every replicated
// directory, but for what is their own.
func (p *Pair) Compare(ctx context.Context) (*tree.Result, error) {
	var total tree.Result
	for _, d := range p.config.Dirs {
		a, err := p.Nodes[0].Backing(d)
		if err != nil {
			return nil, err
		}
		b, err := p.Nodes[1].Backing(d)
		if err != nil {
			return nil, err
		}
		r, err := tree.Compare(ctx, a, b, tree.Options{Ignore: p.isOwn})
		if err != nil {
			return nil, err
		}
		total.Files += r.Files
		total.Directories += r.Directories
		total.Others += r.Others
		total.Bytes += r.Bytes
		total.Differing += r.Differing
		total.Differences = append(total.Differences, r.Differences...)
	}
	return &total, nil
}

const (
	settlePatience = 5 * time.Second
	settlePoll     = 100 * time.Millisecond
)

// Settled compares the hosts until they are equal, and returns the last
// comparison when they do not become so. Nobody may be writing: what is answered
// is applied a moment later on the second host, and modification times follow
// within a second.
func (p *Pair) Settled(ctx context.Context) (*tree.Result, error) {
	poll := time.NewTicker(settlePoll)
	defer poll.Stop()
	for deadline := time.Now().Add(settlePatience); ; {
		late := time.Now().After(deadline) // of its beginning: a comparison can take long itself
		r, err := p.Compare(ctx)
		// An error may be a file that came or went while the second applied.
		if err == nil && r.Equal() || late {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, errors.Join(err, ctx.Err())
		case <-poll.C:
		}
	}
}

// Logs returns what both hosts have in their logs, for the report of a failure.
func (p *Pair) Logs() string {
	var b strings.Builder
	for _, n := range p.Nodes {
		b.WriteString(n.logs())
	}
	return b.String()
}

// Close takes everything away.
func (p *Pair) Close() error { return p.Lab.Close() }
