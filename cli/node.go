package cli

import (
	"fmt"
	"net"
	"strconv"

	"github.com/skfs/skfs/conf"
)

// listenAddresses is where the replica of node waits for a second.
func listenAddresses(c *conf.Cluster, lan, node string, port int) ([]string, error) {
	l := c.Lan(lan)
	if l == nil {
		return nil, fmt.Errorf("lan %s of the replication is not in cluster.xml", lan)
	}
	n, ok := l.Node(node)
	if !ok {
		return nil, fmt.Errorf("node %s is not on lan %s of the replication", node, lan)
	}
	return []string{net.JoinHostPort(n.LocalHost(), strconv.Itoa(port))}, nil
}
