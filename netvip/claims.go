package netvip

import (
	"fmt"
	"net"
)

// claims is how an address is spoken of on its link: ARP for IPv4, NDP for IPv6.
type claims interface {
	// ask asks who has the address, without saying that it is here.
	ask(own net.HardwareAddr) error
	// announce tells all neighbours that own has the address now.
	announce(own net.HardwareAddr) error
	// read waits for the next frame that says that a MAC has the address, and
	// returns that MAC, which may be this host's own or, if it was not said, nil.
	// It fails only when the socket does, so after close.
	read() (net.HardwareAddr, error)
	// close makes read return.
	close() error
}

// openClaims returns nil for a link whose hosts are not found by asking.
func openClaims(p Place) (claims, error) {
	if !p.neighbour {
		return nil, nil
	}
	ifi, err := net.InterfaceByIndex(p.Index)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", p.Interface, err)
	}
	if p.Prefix.Addr().Is4() {
		return openARP(ifi, p.Prefix.Addr())
	}
	return openNDP(ifi, p.Prefix.Addr())
}
