package netvip

import (
	"fmt"
	"net"
)

// EventKind tells what happened to a held address.
type EventKind int

const (
	// Conflict: another host claims the address.
	Conflict EventKind = iota + 1
	// Gone: the address is not on the interface any more. It is not set again.
	Gone
	// Unannounced: an announcement could not be sent. Said once, until one could.
	Unannounced
	// Unheard: the socket failed on which claims of others are heard. Conflicts are
	// not told any more.
	Unheard
)

func (k EventKind) String() string {
	switch k {
	case Conflict:
		return "conflict"
	case Gone:
		return "gone"
	case Unannounced:
		return "unannounced"
	case Unheard:
		return "unheard"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is something that happened to a held address.
type Event struct {
	Kind EventKind
	// MAC is who claims the address, of a Conflict. An IPv6 claim need not say it.
	MAC net.HardwareAddr
	// Defended says that the conflict was answered with an announcement.
	Defended bool
	// Err says why: of Gone ErrExpired or ErrGone, or an InUseError when the kernel
	// found the address in use; of the others what the system said.
	Err error
}

func (e Event) String() string {
	switch {
	case e.Kind == Conflict && e.Defended:
		return fmt.Sprintf("conflict with %v, defended", e.MAC)
	case e.Kind == Conflict:
		return fmt.Sprintf("conflict with %v", e.MAC)
	}
	return fmt.Sprintf("%v: %v", e.Kind, e.Err)
}
