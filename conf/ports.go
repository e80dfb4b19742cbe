package conf

import (
	"fmt"
	"io"
)

// MaxID is the greatest module id: its ports are still below 65536, and those
// of heartbeats and replication of different modules never meet.
const MaxID = 800

// Ports are those of a module, as its id gives them (guide §10.3.3.2.2).
type Ports struct {
	Heart int // UDP
	RFS   int // TCP
	Farm  int // UDP
}

// PortsOf returns the ports of the module with this id, from 1.
func PortsOf(id int) Ports {
	return Ports{Heart: 8888 + (id - 1), RFS: 5600 + (id-1)*4, Farm: 4803 + (id-1)*3}
}

// WebPort is that of the web service.
const WebPort = 9010

// WritePorts prints the ports that a module uses as the command "module
// getports" shows them; with m nil those that any module with this id could.
func WritePorts(w io.Writer, c *Cluster, m *Module, id int) error {
	p := PortsOf(id)
	membership := 4800
	if c != nil {
		membership = c.Port
	}
	out := fmt.Sprintf("List of the ports used by skfs\nProcess         Ports\nsafeadmin\n\tport    UDP %d\nwebconsole\n\tport    TCP %d\n", membership, WebPort)
	if m == nil || m.Heart != nil {
		for _, port := range heartPorts(m, p.Heart) {
			out += fmt.Sprintf("heart\n\tport    UDP %d\n", port)
		}
	}
	if m == nil || m.RFS != nil {
		out += fmt.Sprintf("rfs\n\tsafenfs_port    TCP %d\n", p.RFS)
	}
	if m == nil || m.Mode == Farm {
		port := p.Farm
		if m != nil && m.Farm != nil && m.Farm.Port != 0 {
			port = m.Farm.Port
		}
		out += fmt.Sprintf("farm\n\tport    UDP %d\n", port)
	}
	_, err := io.WriteString(w, out)
	return err
}

// heartPorts lists the different ports of the heartbeats of m.
func heartPorts(m *Module, def int) []int {
	if m == nil {
		return []int{def}
	}
	var ports []int
	seen := map[int]bool{}
	for _, hb := range m.Heart.Heartbeats {
		port := hb.Port
		if port == 0 {
			port = def
		}
		if !seen[port] {
			seen[port] = true
			ports = append(ports, port)
		}
	}
	return ports
}
