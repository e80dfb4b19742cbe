package ha

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// carriers looks at the cables of some interfaces, with a socket of its own: whoever asks
// waits for nobody else's calls.
type carriers struct {
	nl    *netlink.Handle
	index []int
}

func openCarriers(netifs []string) (*carriers, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	c := &carriers{nl: nl}
	for _, name := range netifs {
		l, err := nl.LinkByName(name)
		if err != nil {
			nl.Close()
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		c.index = append(c.index, l.Attrs().Index)
	}
	return c, nil
}

// any says whether one of the interfaces is up and has a carrier. One that cannot be
// asked has: no service is given up for want of an answer.
func (c *carriers) any() bool {
	for _, i := range c.index {
		l, err := c.nl.LinkByIndex(i)
		if err != nil {
			if _, gone := err.(netlink.LinkNotFoundError); gone {
				continue
			}
			return true
		}
		if l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return true
		}
	}
	return false
}

func (c *carriers) close() { c.nl.Close() }
