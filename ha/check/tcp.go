package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/skfs/skfs/conf"
)

// tcpChecker connects, and ends the connection at once (§13.11).
func tcpChecker(c conf.Checker) Checker {
	to := net.JoinHostPort(c.Addr, strconv.Itoa(c.Port))
	return poller{c.Interval, c.Timeout, func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return false, fmt.Errorf("no connection to %s within %v", to, c.Timeout)
		case err != nil:
			return false, fmt.Errorf("no connection to %s: %w", to, cause(err))
		}
		conn.Close() // that it was there is all
		return false, nil
	}}
}

// cause is the innermost of what net wraps, so that a line of the log is short.
func cause(err error) error {
	var op *net.OpError
	for errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return shortDNS(err)
}

// resolve finds the address of a host.
func resolve(ctx context.Context, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return resolved(host, all, err)
}
