package ha

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/skfs/skfs/netvip"
)

// vipConf is how one of Conf.Addresses is set.
type vipConf struct {
	name        string // an address, or what resolves to one
	bits        int
	netif       string
	options     netvip.Options // Probe as the automaton wants it
	connections bool
	check       bool // there is an ip checker for it
	checkIntf   bool // …and an intf checker for its interface
	shared      bool // all members of a farm have it
}

// leaseOf is how long the kernel keeps an address that nobody renews, from the
// timeouts of the heartbeats. It is to be over before the peer takes over
// (netvip.Bound(lease) ≤ timeout), so that a host that is paused has lost its
// address by then. But a daemon that is killed and started again must find it: the
// service manager waits for half a second, and the lease may be a third older than
// the last renewal; hence at least 3 s, with which an address can be on both hosts
// for that long. More than 10 s is of no use to anybody.
func leaseOf(beats []heartbeatConf) time.Duration {
	const least, most = 3 * time.Second, 10 * time.Second
	var timeout time.Duration // the peer is taken for dead when all are silent
	for _, b := range beats {
		timeout = max(timeout, b.Timeout)
	}
	return min(max((timeout-(netvip.Bound(least)-least)).Truncate(time.Second), least), most)
}

// addressHost is what ha needs of netvip: the contracts are those of
// netvip.Manager and netvip.Held.
type addressHost interface {
	Add(context.Context, netvip.Address, netvip.Options) (heldAddress, error)
	Adopt(netvip.Address, netvip.Options) (heldAddress, error)
	Find(netvip.Address) (netvip.Place, error)
	Tell(netvip.Address) error
	Drop(a netvip.Address, reset bool) error
	Close() error
}

type heldAddress interface {
	Renew(lease time.Duration) error
	Remove(reset bool) error
	Release()
	Announce()
	Events() <-chan netvip.Event
	Connections() (int, error)
}

// netvipHost is the addressHost of a real host.
type netvipHost struct{ *netvip.Manager }

func openNetvip() (addressHost, error) {
	m, err := netvip.New()
	if err != nil {
		return nil, err
	}
	return netvipHost{m}, nil
}

func (h netvipHost) Add(ctx context.Context, a netvip.Address, o netvip.Options) (heldAddress, error) {
	held, err := h.Manager.Add(ctx, a, o)
	if err != nil {
		return nil, err
	}
	return held, nil
}

func (h netvipHost) Adopt(a netvip.Address, o netvip.Options) (heldAddress, error) {
	held, err := h.Manager.Adopt(a, o)
	if err != nil {
		return nil, err
	}
	return held, nil
}

// vips holds the virtual addresses of one module.
type vips struct {
	open  func() (addressHost, error) // the host's, opened by whoever needs it first
	confs []vipConf
	lease time.Duration
	reset bool
	log   func(text string) // to the module's log, level E

	mu    sync.Mutex // guards what follows; not held in calls to the host
	held  []heldAddress
	watch []heldAddress // those of held that watchVips has seen
	addrs []netip.Addr  // what names resolved to
	told  []string      // the last error of each, so that it is logged once
	cut   []bool        // its interface had no carrier when it was looked at last
}

func newVips(mc *moduleConf, open func() (addressHost, error), log func(string)) *vips {
	n := len(mc.vips)
	return &vips{open: open, confs: mc.vips, lease: mc.lease, reset: mc.tcpReset, log: log,
		held: make([]heldAddress, n), watch: make([]heldAddress, n), addrs: make([]netip.Addr, n), told: make([]string, n), cut: make([]bool, n)}
}

// each does something with every address at once, and says with which it failed.
// Errors are logged, each once until it succeeds.
func (v *vips) each(do func(i int, a netvip.Address) error) Addresses {
	var failed Addresses
	var all sync.WaitGroup
	for i := range v.confs {
		all.Go(func() {
			a, err := v.resolve(i)
			if err == nil {
				err = do(i, a)
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if err == nil {
				v.told[i] = ""
				return
			}
			failed |= 1 << i
			if v.told[i] != err.Error() {
				v.told[i] = err.Error()
				v.log(err.Error())
			}
		})
	}
	all.Wait()
	return failed
}

// resolveLimit is how long a name server may hold up a failover.
const resolveLimit = 2 * time.Second

func (v *vips) resolve(i int) (netvip.Address, error) {
	c := v.confs[i]
	v.mu.Lock()
	ip := v.addrs[i]
	v.mu.Unlock()
	if !ip.IsValid() {
		var err error
		if ip, err = netip.ParseAddr(c.name); err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), resolveLimit)
			defer cancel()
			all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", c.name)
			if err != nil {
				return netvip.Address{}, fmt.Errorf("virtual address %s: %w", c.name, err)
			}
			ip = all[0]
		}
		v.mu.Lock()
		v.addrs[i] = ip.Unmap()
		v.mu.Unlock()
	}
	a := netvip.Address{Addr: ip.Unmap(), Bits: c.bits, Interface: c.netif}
	if c.shared { // as lbfilter assumes
		if a.Bits = a.Addr.BitLen(); a.Addr.Is6() {
			a.Interface = "lo"
		}
	}
	return a, nil
}

// set sets the addresses that are not held, and returns those that still are not.
//
// What the automaton knew when it wanted this is good for one lease. When this
// process was stopped in between, another host may have the address meanwhile: what
// was set is taken away again.
func (v *vips) set(ctx context.Context, ask bool) Done {
	host, err := v.open()
	if err != nil {
		return Done{Missing: v.each(func(int, netvip.Address) error { return err })}
	}
	asked := boottime()
	late := false
	missing := v.each(func(i int, a netvip.Address) error {
		v.mu.Lock()
		there := v.held[i] != nil
		v.mu.Unlock()
		if there {
			return nil
		}
		o := v.confs[i].options
		if !ask {
			o.Probe = -1
		}
		back, err := v.linkBack(host, i, a)
		if err != nil {
			return err
		}
		if back && !ask { // who asks hears the peer, and the link answers
			v.mu.Lock()
			late = true
			v.mu.Unlock()
			return fmt.Errorf("virtual address %s: its interface has its carrier again: not set before the other node is heard, or silent for its timeout", a.Addr)
		}
		h, err := host.Add(ctx, a, o)
		if err != nil {
			return err
		}
		if boottime()-asked >= v.lease {
			v.mu.Lock()
			late = true
			v.mu.Unlock()
			return errors.Join(fmt.Errorf("virtual address %s: this host did not run for %v: not set", a.Addr, boottime()-asked), h.Remove(false))
		}
		v.mu.Lock()
		v.held[i] = h
		v.mu.Unlock()
		return nil
	})
	return Done{Missing: missing, Late: late}
}

// linkBack says that the interface of an address had no carrier, and has it again. This
// host was cut off: that it did not hear the peer meanwhile tells nothing.
func (v *vips) linkBack(host addressHost, i int, a netvip.Address) (bool, error) {
	if !v.confs[i].options.NeedCarrier {
		return false, nil
	}
	p, err := host.Find(a)
	if err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.cut[i]
	v.cut[i] = !p.Carrier()
	return was && p.Carrier(), nil
}

// missing are the addresses that are not held.
func (v *vips) missing() (missing Addresses) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, h := range v.held {
		if h == nil {
			missing |= 1 << i
		}
	}
	return missing
}

// adopt takes over what an earlier daemon left, and returns what it does not find.
func (v *vips) adopt() (missing Addresses) {
	host, err := v.open()
	if err != nil {
		return v.each(func(int, netvip.Address) error { return err })
	}
	return v.each(func(i int, a netvip.Address) error {
		h, err := host.Adopt(a, v.confs[i].options)
		if err != nil {
			return err
		}
		v.mu.Lock()
		v.held[i] = h
		v.mu.Unlock()
		return nil
	})
}

// remove takes the addresses away, held or left by an earlier daemon. It returns
// when they are gone: by the kernel's own hand if it cannot be done otherwise.
func (v *vips) remove(ctx context.Context) {
	host, err := v.open()
	if err != nil {
		v.log(err.Error())
		return
	}
	v.each(func(i int, a netvip.Address) error {
		h := v.take(i)
		if h == nil {
			err = host.Drop(a, v.reset)
		} else {
			err = h.Remove(v.reset)
		}
		if err == nil || errors.Is(err, netvip.ErrForeign) {
			return err
		}
		for end := boottime() + netvip.Bound(v.lease); host.Drop(a, false) != nil && boottime() < end; {
			select {
			case <-time.After(v.lease / 10):
			case <-ctx.Done():
				return err
			}
		}
		return err
	})
}

// announce tells the link where the addresses that are held are.
func (v *vips) announce() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range v.held {
		if h != nil {
			h.Announce()
		}
	}
}

// take gives up an address that is held.
func (v *vips) take(i int) heldAddress {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.held[i]
	v.held[i] = nil
	return h
}

// renew gives every address a new lease, and returns those that were lost.
func (v *vips) renew() (lost []AddressLost) {
	for i := range v.confs {
		v.mu.Lock()
		h := v.held[i]
		v.mu.Unlock()
		if h == nil {
			continue
		}
		switch err := h.Renew(v.lease); {
		case err == nil, errors.Is(err, netvip.ErrReleased):
		case errors.Is(err, netvip.ErrGone), errors.Is(err, netvip.ErrInUse):
			lost = append(lost, v.lost(i, h, err)...)
		default:
			v.log(err.Error()) // the next attempt, or the end of the lease
		}
	}
	return lost
}

// lost is told, by whomever first, that an address that is held is gone.
func (v *vips) lost(i int, h heldAddress, err error) []AddressLost {
	v.mu.Lock()
	mine := v.held[i] == h
	if mine {
		v.held[i] = nil
	}
	v.mu.Unlock()
	if !mine {
		return nil
	}
	h.Release()
	v.log(err.Error())
	var cut *netvip.NoCarrierError
	e := AddressLost{Index: i, Expired: errors.Is(err, netvip.ErrExpired), CutOff: errors.As(err, &cut)}
	if e.CutOff {
		v.mu.Lock()
		v.cut[i] = true
		v.mu.Unlock()
	}
	return []AddressLost{e}
}

// unwatched returns the addresses, by index, that are held since the last call.
func (v *vips) unwatched() map[int]heldAddress {
	v.mu.Lock()
	defer v.mu.Unlock()
	fresh := map[int]heldAddress{}
	for i, h := range v.held {
		if h != nil && v.watch[i] != h {
			v.watch[i], fresh[i] = h, h
		}
	}
	return fresh
}

// release leaves the addresses to the next daemon.
func (v *vips) release() {
	for i := range v.confs {
		if h := v.take(i); h != nil {
			h.Release()
		}
	}
}

// conflictText is what the log says of a Conflict. It gives up no address: who of two
// primaries stays is decided by what they say to each other.
func conflictText(name string, e netvip.Event) string {
	switch e.Kind {
	case netvip.Conflict:
		who := "another host"
		if e.MAC != nil {
			who = e.MAC.String()
		}
		return fmt.Sprintf("Virtual IP %s is in conflict: %s has it too", name, who)
	case netvip.Unannounced:
		return fmt.Sprintf("Virtual IP %s cannot be announced: %v", name, e.Err)
	case netvip.Unheard:
		return fmt.Sprintf("Virtual IP %s: conflicts are not heard any more: %v", name, e.Err)
	}
	return fmt.Sprintf("Virtual IP %s: %v", name, e)
}
