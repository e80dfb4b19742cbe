package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/skfs/skfs/conf"
)

// moduleChecker follows another module (§13.16): one of this node through the
// daemon, that of another node through its web service.
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
	return askModule(ctx, c)
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

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// askModule asks the web service of another node.
func askModule(ctx context.Context, c conf.Checker) (Module, error) {
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(c.Addr, strconv.Itoa(c.Port)), Path: "/v1/modules/" + c.Module}
	if c.Secure {
		u.Scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Module{}, err
	}
	t := &http.Transport{DisableKeepAlives: true}
	answer, err := t.RoundTrip(r)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Module{}, fmt.Errorf("the web service at %s does not answer within %v", u.Host, c.Timeout)
		}
		return Module{}, fmt.Errorf("the web service at %s cannot be reached: %w", u.Host, cause(err))
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return Module{}, fmt.Errorf("the web service at %s: %w", u.Host, err)
	}
	if answer.StatusCode != http.StatusOK {
		return Module{}, fmt.Errorf("the web service at %s answers %s", u.Host, answer.Status)
	}
	var m struct{ State Module }
	if err := json.Unmarshal(body, &m); err != nil {
		return Module{}, fmt.Errorf("the web service at %s answers what is no state of a module: %w", u.Host, err)
	}
	return m.State, nil
}
