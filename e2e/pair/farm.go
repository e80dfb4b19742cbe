package pair

import (
	"context"
	"errors"
	"fmt"

	"github.com/skfs/skfs/e2e/lab"
)

// FarmModule is the name of the module of a farm.
const FarmModule = "farm"

// FarmOptions say what a farm is.
type FarmOptions struct {
	Lab     lab.Options
	Skfs    string // path of the skfs binary
	Members int
	Module  FarmConfig
}

// FarmConfig is the module of a farm.
type FarmConfig struct {
	Farm    string // the tag <farm>
	VIP     string // the tag <vip>
	Service string // more tags of <service>
	Start   string // shell commands of the script start_both
	Stop    string // shell commands of the script stop_both, which is called twice: $1 is force the second time
}

// Files are those of the module that are not as in the template "farm".
func (c FarmConfig) Files() map[string]string {
	return map[string]string{"bin/start_both": script(c.Start), "bin/stop_both": script(c.Stop),
		"conf/userconfig.xml": fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE safe>
<safe>
  <service mode="farm" maxloop="1000" loop_interval="24">
%s
%s
%s
    <user nicestoptimeout="60" forcestoptimeout="30" logging="userlog"/>
  </service>
</safe>
`, c.Farm, c.VIP, c.Service)}
}

// Farm is a cluster that runs the module farm on all hosts.
type Farm struct {
	*Cluster
	Nodes []*Node
}

// NewFarm makes the hosts, starts their daemons and configures the module. It is not
// started. The caller closes the farm.
func NewFarm(ctx context.Context, o FarmOptions) (*Farm, error) {
	c, err := NewCluster(ctx, ClusterOptions{Lab: o.Lab, Skfs: o.Skfs, Hosts: o.Members})
	if err != nil {
		return nil, err
	}
	var hosts []int
	for i := range c.Hosts {
		hosts = append(hosts, i)
	}
	nodes, err := c.Install(ctx, FarmModule, "farm", o.Module.Files(), hosts...)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Farm{c, nodes}, nil
}

// Each does something on all hosts at once.
func (f *Farm) Each(do func(*Node) error) error { return each(f.Nodes, do) }

// Logs returns what all hosts have in their logs, for the report of a failure.
func (f *Farm) Logs() string { return Logs(f.Nodes...) }
