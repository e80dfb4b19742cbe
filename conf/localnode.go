package conf

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// LocalNode is the name of this node: the one that was given, else the node of
// the cluster that has an address of this host.
func (c *Cluster) LocalNode(given string) (string, error) {
	nodes := c.Nodes()
	if given != "" {
		if !slices.Contains(nodes, given) {
			return "", fmt.Errorf("node %s is not in cluster.xml; its nodes are %s", given, strings.Join(nodes, ", "))
		}
		return given, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	mine := map[string]bool{}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			mine[n.IP.String()] = true
		}
	}
	var found []string
	for _, l := range c.Lans {
		for _, n := range l.Nodes {
			ips, err := net.LookupIP(n.LocalHost())
			if err != nil || slices.Contains(found, n.Name) {
				continue // a name that cannot be resolved here is not ours
			}
			if slices.ContainsFunc(ips, func(ip net.IP) bool { return mine[ip.String()] }) {
				found = append(found, n.Name)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("no node of cluster.xml has an address of this host: name this node with --node or SKFS_NODE")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("this host has the addresses of the nodes %s: name this node with --node or SKFS_NODE", strings.Join(found, ", "))
}
