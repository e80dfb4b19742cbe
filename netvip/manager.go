package netvip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Manager sets and holds virtual addresses in one network namespace: that of the
// thread that calls New, which Add and Adopt must be called in as well.
type Manager struct {
	kernel *kernel
	watch  *nl.NetlinkSocket
	// now is CLOCK_BOOTTIME, which goes on while the host is suspended: an address
	// whose host slept through its lease is another's.
	now func() time.Duration

	watcher sync.WaitGroup
	closing sync.WaitGroup // of the sockets of what is held no more

	mu     sync.Mutex // protects what follows
	closed bool
	held   map[netip.Addr]*Held
	macs   map[int]net.HardwareAddr // of this host's interfaces, by index
}

// New needs CAP_NET_ADMIN and CAP_NET_RAW. The caller closes the Manager.
func New() (*Manager, error) { return open(bootTime) }

func open(now func() time.Duration) (*Manager, error) {
	k, err := openKernel()
	if err != nil {
		return nil, fmt.Errorf("virtual addresses: %w", err)
	}
	m := &Manager{kernel: k, now: now, held: make(map[netip.Addr]*Held), macs: make(map[int]net.HardwareAddr)}
	// Subscribed first, listed then: nothing changes unseen in between.
	if m.watch, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR); err != nil {
		k.close()
		return nil, fmt.Errorf("virtual addresses: watching the interfaces: %w", err)
	}
	links, err := k.links()
	if err != nil {
		m.watch.Close()
		k.close()
		return nil, fmt.Errorf("virtual addresses: %w", err)
	}
	for _, l := range links {
		m.macs[l.index] = l.mac
	}
	m.watcher.Go(m.watchLoop)
	return m, nil
}

func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // a kernel since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// Close releases what is held: the addresses stay, each until its lease runs
// out, for the next Manager to adopt. Remove takes an address away. No other
// method may be under way.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	var all []*Held
	for _, h := range m.held {
		all = append(all, h)
	}
	m.mu.Unlock()
	for _, h := range all {
		h.Release()
	}
	m.closing.Wait()
	m.watch.Close()
	m.watcher.Wait()
	m.kernel.close()
	return nil
}

// Find answers where Add would set the address; it changes nothing. It fails with
// ErrNoInterface, and says what it looked at.
func (m *Manager) Find(a Address) (Place, error) {
	a, err := a.check()
	if err != nil {
		return Place{}, err
	}
	p, _, err := m.find(a)
	return p, err
}

// find also answers what addresses there are.
func (m *Manager) find(a Address) (Place, []setAddr, error) {
	links, err := m.kernel.links()
	if err != nil {
		return Place{}, nil, fmt.Errorf("virtual address %s: %w", a, err)
	}
	addrs, err := m.kernel.addresses()
	if err != nil {
		return Place{}, nil, fmt.Errorf("virtual address %s: %w", a, err)
	}
	p, err := choose(a, links, addrs, m.kernel.route)
	return p, addrs, err
}

// Add sets the address, announces it and holds it. It returns when the address
// can be used: after the probe, and for IPv6 without NoDAD after the kernel's
// duplicate address detection, which only a carrier ends. An address that skfs
// left on this host is taken as it is; ErrForeign is one that somebody else set,
// which would vanish with a lease.
//
// When Add fails, or ctx ends first, the address is not set.
func (m *Manager) Add(ctx context.Context, a Address, o Options) (*Held, error) {
	a, err := a.check()
	if err != nil {
		return nil, err
	}
	if o, err = o.check(); err != nil {
		return nil, err
	}
	p, addrs, err := m.find(a)
	if err != nil {
		return nil, err
	}
	if o.NeedCarrier && !p.running {
		return nil, &NoCarrierError{Addr: a.Addr, Interface: p.Interface}
	}
	left, there, err := leftover(a, addrs)
	if err != nil {
		return nil, err
	}
	h, err := m.take(p, o)
	if err != nil {
		return nil, err
	}
	if there && (left.index != p.Index || left.prefix != p.Prefix) {
		// The configuration has changed since.
		if err := m.kernel.unset(Place{Index: left.index, Prefix: left.prefix}); err != nil {
			h.drop()
			return nil, fmt.Errorf("virtual address %s: removing what was left of it: %w", a, err)
		}
		there = false
	}
	if err := h.begin(ctx, there); err != nil {
		h.drop()
		return nil, err
	}
	return h, nil
}

// Adopt holds an address that a former Manager set, without a probe and without
// a moment in which it is not there; it announces it once more. It fails with
// ErrAbsent if the kernel has taken it away meanwhile, and with ErrForeign if
// skfs did not set it.
func (m *Manager) Adopt(a Address, o Options) (*Held, error) {
	a, err := a.check()
	if err != nil {
		return nil, err
	}
	if o, err = o.check(); err != nil {
		return nil, err
	}
	addrs, err := m.kernel.addresses()
	if err != nil {
		return nil, fmt.Errorf("virtual address %s: %w", a, err)
	}
	left, there, err := leftover(a, addrs)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, fmt.Errorf("virtual address %s: cannot be adopted: %w", a, ErrAbsent)
	}
	links, err := m.kernel.links()
	if err != nil {
		return nil, fmt.Errorf("virtual address %s: %w", a, err)
	}
	for _, l := range links {
		if l.index != left.index {
			continue
		}
		// It is held where it is, whatever a says of the interface.
		h, err := m.take(place(Address{Addr: a.Addr, Bits: left.prefix.Bits()}, l, addrs), o)
		if err != nil {
			return nil, err
		}
		if err := h.begin(context.Background(), true); err != nil {
			h.Release() // whoever uses the address is not to suffer
			return nil, err
		}
		if !l.running() {
			h.cutOff()
		}
		return h, nil
	}
	return nil, fmt.Errorf("virtual address %s: its interface is gone: %w", a, ErrAbsent)
}

// leftover finds the address among those that are set.
func leftover(a Address, addrs []setAddr) (setAddr, bool, error) {
	for _, s := range addrs {
		if s.prefix.Addr() != a.Addr {
			continue
		}
		// Kernels before 5.18 keep no mark of IPv6 addresses. Those that skfs sets
		// have a lifetime and are deprecated at once.
		unmarked := a.Addr.Is6() && s.proto == 0 && s.valid != 1<<32-1 && s.flags&unix.IFA_F_DEPRECATED != 0
		if !s.ours() && !unmarked {
			return s, false, fmt.Errorf("virtual address %s: remove it from the system's own configuration: %w", a, ErrForeign)
		}
		return s, true, nil
	}
	return setAddr{}, false, nil
}

// Left is an address that skfs set on this host and that nobody in this process
// holds. Another daemon in the same network namespace may hold it.
type Left struct {
	Prefix    netip.Prefix
	Interface string        // its name now
	Remaining time.Duration // until the kernel takes it away
}

// Left lists the addresses that a killed daemon left: for Adopt or Drop. Kernels
// before 5.18 do not keep the mark of IPv6 addresses; Adopt and Drop find those
// all the same.
func (m *Manager) Left() ([]Left, error) {
	addrs, err := m.kernel.addresses()
	if err != nil {
		return nil, fmt.Errorf("virtual addresses: %w", err)
	}
	links, err := m.kernel.links()
	if err != nil {
		return nil, fmt.Errorf("virtual addresses: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []Left
	for _, s := range addrs {
		if s.ours() && m.held[s.prefix.Addr()] == nil {
			left = append(left, Left{Prefix: s.prefix, Interface: nameOf(s.index, links), Remaining: time.Duration(s.valid) * time.Second})
		}
	}
	return left, nil
}

// Drop removes an address that was left, with its connections if reset is set
// (see Held.Remove). One that is not there is no error, one that skfs did not
// set is ErrForeign.
func (m *Manager) Drop(a Address, reset bool) error {
	a, err := a.check()
	if err != nil {
		return err
	}
	m.mu.Lock()
	held := m.held[a.Addr] != nil
	m.mu.Unlock()
	if held {
		return fmt.Errorf("virtual address %s: not dropped: %w", a, ErrHeld)
	}
	addrs, err := m.kernel.addresses()
	if err != nil {
		return fmt.Errorf("virtual address %s: %w", a, err)
	}
	left, there, err := leftover(a, addrs)
	if err != nil || !there {
		return err
	}
	return m.remove(Place{Index: left.index, Prefix: left.prefix}, reset)
}

// remove takes the address away whatever becomes of its connections.
func (m *Manager) remove(p Place, reset bool) error {
	var failed error
	if reset {
		_, failed = m.kernel.reset(p.Prefix.Addr())
	}
	if err := m.kernel.unset(p); err != nil {
		failed = errors.Join(fmt.Errorf("virtual address %s: it is not removed from %s: %w", p.Prefix.Addr(), p.Interface, err), failed)
	}
	return failed
}

// Tell tells the link once that this host answers for an address that it shares.
func (m *Manager) Tell(a Address) error {
	a, err := a.check()
	if err != nil {
		return err
	}
	p, _, err := m.find(a)
	if err != nil {
		return err
	}
	p.Prefix = netip.PrefixFrom(a.Addr, a.Addr.BitLen())
	c, err := openClaims(p)
	if err != nil || c == nil {
		return err
	}
	return errors.Join(c.announce(p.mac), c.close())
}

// take makes the Held of an address and enters it, before anything is set, so
// that the watcher misses nothing.
func (m *Manager) take(p Place, o Options) (*Held, error) {
	var claims claims
	var err error
	if !o.Shared {
		if claims, err = openClaims(p); err != nil {
			return nil, fmt.Errorf("virtual address %s: %w", p.Prefix, err)
		}
	}
	h := &Held{
		manager: m, place: p, options: o, claims: claims,
		refresh:  refresh{o.RefreshEvery, o.RefreshFor},
		stop:     make(chan struct{}),
		restart:  make(chan struct{}, 1),
		defend:   make(chan struct{}, 1),
		answered: make(chan struct{}, 1),
		probed:   make(chan net.HardwareAddr, 1),
		changed:  make(chan struct{}, 1),
		events:   make(chan Event, 16),
		mac:      p.mac,
		running:  p.running,
		defence:  defence{defended: never, reported: never},
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch a := p.Prefix.Addr(); {
	case m.closed:
		err = fmt.Errorf("virtual address %s: the Manager is closed: %w", a, ErrReleased)
	case m.held[a] != nil:
		err = fmt.Errorf("virtual address %s: %w", a, ErrHeld)
	default:
		m.held[a] = h
		h.listens.Go(h.listen)
		return h, nil
	}
	if claims != nil {
		claims.close()
	}
	return nil, err
}

func (m *Manager) forget(h *Held) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, h.place.Prefix.Addr())
}

// ours tells whether a MAC belongs to this host: with two interfaces on one
// network the other one is heard as well.
func (m *Manager) ours(mac net.HardwareAddr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, own := range m.macs {
		if len(mac) != 0 && string(own) == string(mac) {
			return true
		}
	}
	return false
}

// absent tells whether the error of a request means that the interface is gone.
func absent(err error) bool { return errors.Is(err, syscall.ENODEV) }
