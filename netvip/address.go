package netvip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Address says which virtual address goes where.
type Address struct {
	// Addr is the address, IPv4 or IPv6, without a zone.
	Addr netip.Addr
	// Bits is the length of the prefix. 0 takes that of the interface's own
	// address in the same subnet.
	Bits int
	// Interface names the interface. When it is empty, the interface is the one
	// that has an address in a subnet with Addr, else the one to which Addr is
	// routed without a gateway.
	Interface string
}

func (a Address) String() string {
	s := a.Addr.String()
	if a.Bits != 0 {
		s = fmt.Sprintf("%s/%d", s, a.Bits)
	}
	if a.Interface != "" {
		s += " on " + a.Interface
	}
	return s
}

// check returns a with its address in the plain form, or what is wrong with it.
func (a Address) check() (Address, error) {
	a.Addr = a.Addr.Unmap()
	switch {
	case !a.Addr.IsValid():
		return a, errors.New("virtual address: it is missing; expected an IPv4 or IPv6 address")
	case a.Addr.Zone() != "":
		return a, fmt.Errorf("virtual address %s: it has a zone; name the interface instead", a.Addr)
	case a.Addr.IsUnspecified(), a.Addr.IsMulticast(), a.Addr.IsLoopback(), a.Addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("virtual address %s: expected the address of one host, which others can reach", a.Addr)
	case a.Bits < 0 || a.Bits > a.Addr.BitLen():
		return a, fmt.Errorf("virtual address %s: prefix length %d; expected 1 to %d, or 0 for that of the interface", a.Addr, a.Bits, a.Addr.BitLen())
	case a.Addr.IsLinkLocalUnicast() && a.Addr.Is6() && a.Interface == "":
		return a, fmt.Errorf("virtual address %s: a link-local address is on every interface's subnet; name the interface", a.Addr)
	}
	return a, nil
}

// Place is where an address goes: what Find answers.
type Place struct {
	Index     int    // of the interface
	Interface string // its name when it was looked up
	Prefix    netip.Prefix
	// Covered says that another address of the interface is in the same prefix,
	// so that the route to the subnet is there without the virtual address.
	Covered bool
	// Own is the interface's first own address in the prefix, invalid if there is
	// none. With Prefix it names the checker of the interface.
	Own netip.Addr

	mac       net.HardwareAddr
	running   bool // it has its carrier
	neighbour bool // the link resolves neighbours (ARP, NDP) with Ethernet addresses
}

// What Options leave out.
const (
	// DefaultProbe is short because a neighbour on the same link answers within a
	// millisecond, and the time counts in every failover.
	DefaultProbe = 40 * time.Millisecond
	// DefaultRefreshEvery and DefaultRefreshFor are arpinterval and arpelapse.
	DefaultRefreshEvery = 60 * time.Second
	DefaultRefreshFor   = 1200 * time.Second
)

// Options say how an address is held.
type Options struct {
	// Lease is how long the kernel keeps the address when nobody renews it. The
	// kernel counts in seconds: it is rounded up. Bound tells the whole of it.
	Lease time.Duration
	// Probe is how long Add asks the link whether somebody has the address before
	// it sets it; 0 means DefaultProbe. A negative one asks nobody: for taking over
	// from a host that is known to be dead, but whose kernel may still answer. Who
	// answers afterwards is a Conflict. With the kernel's duplicate address
	// detection (IPv6 without NoDAD) Add does not probe.
	Probe time.Duration
	// NoDAD sets an IPv6 address without the kernel's duplicate address detection,
	// which takes one to two seconds. Probe stands in for it.
	NoDAD bool
	// Shared: several hosts have the address at once, and who of them answers for it
	// is settled elsewhere. It is not asked for, announced or defended.
	Shared bool
	// NeedCarrier: the address is on its interface only while that has its carrier. It
	// is taken away when the carrier is lost (NoCarrierError, which is an ErrGone), and
	// Add does not set it before the carrier is back.
	NeedCarrier bool
	// After the burst that every Add makes, the address is announced every
	// RefreshEvery during RefreshFor. 0 in either: only the burst.
	RefreshEvery, RefreshFor time.Duration
}

func (o Options) check() (Options, error) {
	if o.Lease <= 0 {
		return o, fmt.Errorf("lease of a virtual address: %v; expected a positive time", o.Lease)
	}
	if o.Probe == 0 {
		o.Probe = DefaultProbe
	}
	return o, nil
}

// Carrier says that the interface had its carrier when it was looked at.
func (p Place) Carrier() bool { return p.running }

// leaseSeconds is the lifetime that the kernel is given for a lease.
func leaseSeconds(lease time.Duration) uint32 {
	const forever = 1<<32 - 1
	s := (lease + time.Second - 1) / time.Second
	return uint32(min(max(s, 1), forever-1))
}

// Bound is the longest that an address stays after its last renewal began, if
// the kernel's workers get to run: the lease in whole seconds, and a second and a
// quarter by which the kernel rounds its timers (net/ipv4/devinet.c,
// check_lifetime: ADDRCONF_TIMER_FUZZ and ADDRCONF_TIMER_FUZZ_MAX).
func Bound(lease time.Duration) time.Duration {
	return time.Duration(leaseSeconds(lease))*time.Second + 1250*time.Millisecond
}

// Decisions. InUseError and others wrap them.
var (
	// ErrInUse: another host on the link has the address.
	ErrInUse = errors.New("the address is in use by another host")
	// ErrForeign: the address is on this host already, set by somebody else.
	ErrForeign = errors.New("the address is set on this host, and not by skfs")
	// ErrHeld: this Manager holds the address already.
	ErrHeld = errors.New("the address is held already")
	// ErrAbsent: there is nothing to adopt.
	ErrAbsent = errors.New("the address is not set on this host")
	// ErrGone: the address was held and is not on its interface any more.
	ErrGone = errors.New("the address is gone from its interface")
	// ErrExpired: the lease ran out before it was renewed. It is an ErrGone too.
	ErrExpired = fmt.Errorf("the lease ran out: %w", ErrGone)
	// ErrReleased: Remove or Release was called before.
	ErrReleased = errors.New("the address is held no more")
	// ErrNoInterface: no interface was found for the address.
	ErrNoInterface = errors.New("no interface for the address")
)

// NoCarrierError is an ErrGone, or the refusal to set an address: see
// Options.NeedCarrier.
type NoCarrierError struct {
	Addr      netip.Addr
	Interface string
}

func (e *NoCarrierError) Error() string {
	return fmt.Sprintf("virtual address %s: %s has no carrier: plug its cable in", e.Addr, e.Interface)
}

func (e *NoCarrierError) Is(target error) bool { return target == ErrGone }

// InUseError is an ErrInUse that says who has the address.
type InUseError struct {
	Addr      netip.Addr
	Interface string
	MAC       net.HardwareAddr // nil: not heard
	DAD       bool             // found by the kernel's duplicate address detection (dadfailed)
}

func (e *InUseError) Error() string {
	who, how := "a host whose MAC was not heard", ""
	if e.MAC != nil {
		who = e.MAC.String()
	}
	if e.DAD {
		how = " (dadfailed: duplicate address detection)"
	}
	return fmt.Sprintf("virtual address %s: %s has it on the network of %s%s; remove it there, or take it without probing", e.Addr, who, e.Interface, how)
}

func (e *InUseError) Is(target error) bool { return target == ErrInUse }
