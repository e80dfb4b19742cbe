package check

import (
	"context"
	"fmt"
	"net"
	"time"

	probing "github.com/prometheus-community/pro-bing"

	"github.com/skfs/skfs/conf"
)

// pingChecker sends ICMP echo requests (§13.12).
func pingChecker(c conf.Checker) Checker {
	return poller{c.Interval, c.Timeout, func(ctx context.Context) (bool, error) {
		return false, Ping(ctx, c.Addr, c.Timeout/5)
	}}
}

// Ping returns nil with the first answer of host. Until ctx ends it sends a request
// every so often, so that one lost packet is no verdict.
func Ping(ctx context.Context, host string, every time.Duration) error {
	ip, err := resolve(ctx, host)
	if err != nil {
		return err
	}
	p := probing.New(ip.String())
	p.SetIPAddr(&net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()})
	p.SetPrivileged(true) // a raw socket: others may be forbidden by net.ipv4.ping_group_range
	p.SetLogger(probing.NoopLogger{})
	p.Interval = every
	if end, ok := ctx.Deadline(); ok {
		p.Timeout = time.Until(end)
	}
	p.RecordRtts, p.RecordTTLs = false, false
	p.OnRecv = func(*probing.Packet) { p.Stop() }
	if err := p.RunWithContext(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("no ping to %s: %w", ip, cause(err))
	}
	if p.Statistics().PacketsRecv == 0 {
		return fmt.Errorf("%s does not answer a ping", ip)
	}
	return nil
}
