package check

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The values of a checker's resource.
const (
	Init = "init" // nothing is known: the checker does not work, or has no result yet
	Up   = "up"
	Down = "down"
)

// valueOf turns the result of a probe into the value of the resource.
func valueOf(err error) string {
	if err != nil {
		return Down
	}
	return Up
}

// link is what is needed of a network interface.
type link struct {
	Index int
	Name  string
	Flags uint32 // IFF_*
	State string // the operational state of RFC 2863, for the log
}

// ifAddr is an address of one.
type ifAddr struct {
	Index int
	Addr  netip.Addr
	Flags uint32 // IFA_F_*
}

// network is what this host has at one moment.
type network struct {
	links []link
	addrs []ifAddr
}

// interfaceUp says why the interface that is called name, or that has the address
// local when name is "", has no carrier.
func (n network) interfaceUp(name string, local netip.Addr) error {
	l := slices.IndexFunc(n.links, func(l link) bool {
		if name != "" {
			return l.Name == name
		}
		return slices.ContainsFunc(n.addrs, func(a ifAddr) bool { return a.Index == l.Index && a.Addr == local })
	})
	switch {
	case l < 0 && name != "":
		return fmt.Errorf("there is no interface %s", name)
	case l < 0:
		return fmt.Errorf("no interface has the address %s", local)
	}
	switch i := n.links[l]; {
	case i.Flags&unix.IFF_UP == 0:
		return fmt.Errorf("interface %s is switched off", i.Name)
	case i.Flags&unix.IFF_RUNNING == 0:
		return fmt.Errorf("interface %s has no carrier (%s)", i.Name, i.State)
	}
	return nil
}

// hasAddress says why an address is not on this host.
func (n network) hasAddress(want netip.Addr) error {
	i := slices.IndexFunc(n.addrs, func(a ifAddr) bool { return a.Addr == want.WithZone("") })
	switch {
	case i < 0:
		return fmt.Errorf("%s is not on this host", want)
	case n.addrs[i].Flags&unix.IFA_F_DADFAILED != 0:
		return fmt.Errorf("%s is in conflict: another host has it", want)
	}
	return nil
}

// Module is what a module checker sees of another module.
type Module struct {
	Node    string    // who answers
	Role    string    // ALONE, PRIM, UP, SECOND, WAIT, STOP
	Colour  string    // green, magenta, red
	Started time.Time // when its application was started last; zero: not known
}

// serves says that the module runs its application here, or is about to again.
func (m Module) serves() bool { return slices.Contains([]string{"ALONE", "PRIM", "UP"}, m.Role) }

// errNotServing is why a module that answers is down.
var errNotServing = errors.New("is not serving")

// otherModule follows another module (§13.16). It is up from the moment it serves
// and is stable until it does not serve any more. While it is up, an application that
// was started again, here or on another node, is a restart: what depends on it has
// to be started again too.
type otherModule struct {
	up   bool
	last Module
}

// see takes what was found, and says whether the module was restarted since it was
// seen up last.
func (o *otherModule) see(m Module, err error) (restarted bool, _ error) {
	switch {
	case err != nil:
	case !m.serves(), m.Colour != "green" && !o.up:
		err = fmt.Errorf("%w: it is %s %s on %s", errNotServing, m.Role, m.Colour, m.Node)
	}
	if err != nil {
		o.up = false
		return false, err
	}
	if o.up && m.Colour != "green" {
		return false, nil // what it is becoming is seen later
	}
	if m.Started.IsZero() && m.Node == o.last.Node { // its daemon was started again, and does not know
		m.Started = o.last.Started
	}
	restarted = o.up && (m.Node != o.last.Node || !m.Started.Equal(o.last.Started))
	o.up, o.last = true, m
	return restarted, nil
}

// resolved is a name or address as the resolver gave it.
func resolved(addr string, all []netip.Addr, err error) (netip.Addr, error) {
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s cannot be resolved: %w", addr, shortDNS(err))
	}
	if len(all) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", addr)
	}
	return all[0].Unmap(), nil
}

// shortDNS is a resolver's error without the name, which the caller has given.
func shortDNS(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New(dns.Err)
	}
	return err
}

// oneLine is an error as it stands in a log.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
