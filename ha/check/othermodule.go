package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/skfs/skfs/conf"
)

// moduleChecker follows another module (§13.16) of this node, which the daemon knows.
// Those of other nodes are not seen: there is no web service yet that could be asked.
func moduleChecker(c conf.Checker, e Env) Checker {
	var o otherModule
	return poller{c.Interval, c.Timeout, func(ctx context.Context) (bool, error) {
		m, err := seeModule(ctx, c, e)
		restarted, err := o.see(m, err)
		if err != nil {
			err = fmt.Errorf("module %s: %w", c.Module, err)
		}
		return restarted, err
	}}
}

func seeModule(ctx context.Context, c conf.Checker, e Env) (Module, error) {
	ip, err := resolve(ctx, c.Addr)
	if err != nil {
		return Module{}, err
	}
	here, err := isHere(ip)
	switch {
	case err != nil:
		return Module{}, err
	case here:
		return e.LocalModule(c.Module)
	}
	return Module{}, fmt.Errorf("%s is no address of this node, and other nodes cannot be asked by this version", c.Addr)
}

// isHere says whether an address is this host's.
func isHere(ip netip.Addr) (bool, error) {
	if ip.IsLoopback() {
		return true, nil
	}
	n, err := readNetwork()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(n.addrs, func(a ifAddr) bool { return a.Addr == ip.WithZone("") }), nil
}
