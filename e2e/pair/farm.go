package pair

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/lab"
)

// FarmModule is the name of the module of a farm.
const FarmModule = "farm"

// FarmOptions say what a farm is.
type FarmOptions struct {
	Lab     lab.Options
	Skfs    string // path of the skfs binary
	Members int
	Farm    string // the tag <farm>
	VIP     string // the tag <vip>
	Service string // more tags of <service>
	Start   string // shell commands of the script start_both
	Stop    string // shell commands of the script stop_both, which is called twice: $1 is force the second time
}

// Farm is hosts that run the module farm, and a client.
type Farm struct {
	Lab    *lab.Lab
	Nodes  []*Node
	Client *lab.Host
}

// NewFarm makes the hosts, starts their daemons and configures the module. It is not
// started. The caller closes the farm.
func NewFarm(ctx context.Context, o FarmOptions) (_ *Farm, err error) {
	l, err := lab.New(o.Lab)
	if err != nil {
		return nil, err
	}
	f := &Farm{Lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	env := []string{"SAFE=" + safe, "SAFEVAR=" + SafeVar}
	for i := range o.Members {
		h, err := l.AddHost(lab.HostSpec{Name: fmt.Sprintf("node%d", i+1), Disks: []lab.Disk{{Path: safe}, {Path: SafeVar}}, Env: env})
		if err != nil {
			return nil, err
		}
		f.Nodes = append(f.Nodes, &Node{Host: h, skfs: o.Skfs, dir: filepath.Join(l.Dir(), h.Name()), am: FarmModule})
	}
	for _, n := range f.Nodes {
		n.all = f.Nodes
	}
	if f.Client, err = l.AddHost(lab.HostSpec{Name: "client"}); err != nil {
		return nil, err
	}
	if err := f.Each(func(n *Node) error { return n.StartDaemon(ctx) }); err != nil {
		return f, err
	}
	if err := configureCluster(ctx, f.Nodes); err != nil {
		return f, err
	}
	config := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE safe>
<safe>
  <service mode="farm" maxloop="1000" loop_interval="24">
%s
%s
%s
    <user nicestoptimeout="60" forcestoptimeout="30" logging="userlog"/>
  </service>
</safe>
`, o.Farm, o.VIP, o.Service)
	return f, f.Each(func(n *Node) error {
		return n.configure(ctx, map[string]string{"conf/userconfig.xml": config, "bin/start_both": script(o.Start), "bin/stop_both": script(o.Stop)})
	})
}

// Each does something on all hosts at once.
func (f *Farm) Each(do func(*Node) error) error {
	var g errgroup.Group
	for _, n := range f.Nodes {
		g.Go(func() error { return do(n) })
	}
	return g.Wait()
}

// Logs returns what all hosts have in their logs, for the report of a failure.
func (f *Farm) Logs() string {
	var b strings.Builder
	for _, n := range f.Nodes {
		b.WriteString(n.logs())
	}
	return b.String()
}

// Close takes everything away.
func (f *Farm) Close() error { return f.Lab.Close() }
