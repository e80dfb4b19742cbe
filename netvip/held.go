package netvip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Held is an address that is set, announced and watched.
type Held struct {
	manager *Manager
	place   Place
	options Options
	refresh refresh
	claims  claims // nil: the link has no neighbours to tell

	stop     chan struct{} // closed: the announcer ends
	restart  chan struct{} // to the announcer: the burst from its start
	defend   chan struct{} // to the announcer: once, after a while
	answered chan struct{} // to the announcer: another host has the address
	probed   chan net.HardwareAddr
	changed  chan struct{}  // to begin: gone, inUse or ready changed
	speaks   sync.WaitGroup // the announcer
	listens  sync.WaitGroup

	op sync.Mutex // held by one of Renew, Remove and Release; see doc.go

	mu       sync.Mutex // protects what follows
	set      bool       // the kernel was asked to set it, and answered
	ready    bool       // it is not tentative
	probing  bool
	over     bool          // Remove or Release: no more events
	gone     error         // why it is not there any more
	deadline time.Duration // by manager.now: when the lease runs out
	mac      net.HardwareAddr
	running  bool // the link has its carrier
	defence  defence
	events   chan Event
}

// Place tells where the address is.
func (h *Held) Place() Place { return h.place }

// Events tells what happens to the address. The channel is bounded: events that
// nobody takes are lost, the first kept. It is closed by Remove and Release.
func (h *Held) Events() <-chan Event { return h.events }

// begin is the part of Add and Adopt that others may hear of.
func (h *Held) begin(ctx context.Context, there bool) error {
	a := h.place.Prefix.Addr()
	dad := a.Is6() && !h.options.NoDAD && h.claims != nil
	if !there && !dad && h.options.Probe > 0 && h.claims != nil {
		if err := h.probe(ctx); err != nil {
			return err
		}
	}
	if a.Is4() {
		if err := h.manager.kernel.promoteSecondaries(h.place); err != nil {
			return fmt.Errorf("virtual address %s: promote_secondaries of %s: %w", a, h.place.Interface, err)
		}
	}
	asked := h.manager.now()
	if err := h.manager.kernel.set(h.place, h.options.Lease, h.options.NoDAD, there); err != nil {
		return fmt.Errorf("virtual address %s: it cannot be set on %s: %w", h.place.Prefix, h.place.Interface, err)
	}
	h.mu.Lock()
	h.set, h.deadline, h.ready = true, asked+h.options.Lease, a.Is4()
	h.mu.Unlock()
	// What happened to it before set was true was not heeded.
	addrs, err := h.manager.kernel.addresses()
	if err != nil {
		return fmt.Errorf("virtual address %s: %w", a, err)
	}
	h.sync(addrs)
	if err := h.settle(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return fmt.Errorf("virtual address %s: %w", a, ErrReleased)
	}
	h.speaks.Go(h.announcer)
	h.mu.Unlock()
	select { // who answered too late for the probe
	case mac := <-h.probed:
		h.claimed(mac)
	default:
	}
	return nil
}

// probe asks who has the address, twice, and waits for an answer.
func (h *Held) probe(ctx context.Context) error {
	h.mu.Lock()
	h.probing = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.probing = false
		h.mu.Unlock()
	}()
	a := h.place.Prefix.Addr()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for asked := 0; ; {
		select {
		case mac := <-h.probed:
			return &InUseError{Addr: a, Interface: h.place.Interface, MAC: mac}
		case <-ctx.Done():
			return fmt.Errorf("virtual address %s: probing: %w", a, context.Cause(ctx))
		case <-timer.C:
			if asked == 2 {
				return nil
			}
			if err := h.claims.ask(h.ownMAC()); err != nil && !unable(err) {
				return fmt.Errorf("virtual address %s: probing on %s: %w", a, h.place.Interface, err)
			}
			asked++
			timer.Reset(h.options.Probe / 2)
		}
	}
}

// unable tells of errors that mean that the link carries nothing now: it is down,
// or IPv6 has no address on it yet. Nobody can be asked then; the address is set
// all the same, and announced when the link is up.
func unable(err error) bool {
	return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// settle waits until the kernel lets the address be used, and renews it
// meanwhile, because detection may last longer than the lease.
func (h *Held) settle(ctx context.Context) error {
	renew := time.NewTicker(max(h.options.Lease/3, time.Millisecond))
	defer renew.Stop()
	for {
		h.mu.Lock()
		ready, gone := h.ready, h.gone
		h.mu.Unlock()
		switch {
		case gone != nil:
			return h.nameClaimant(gone)
		case ready:
			return nil
		}
		select {
		case <-h.changed:
		case <-renew.C:
			if err := h.Renew(h.options.Lease); err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, ErrInUse) {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("virtual address %s: waiting for duplicate address detection on %s, which needs a carrier: %w",
				h.place.Prefix.Addr(), h.place.Interface, context.Cause(ctx))
		}
	}
}

// nameClaimant adds the MAC to what the kernel's detection found. The frame that
// it saw is in our socket already, but perhaps not read yet.
func (h *Held) nameClaimant(gone error) error {
	var used *InUseError
	if !errors.As(gone, &used) {
		return gone
	}
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	named := *used
	select {
	case named.MAC = <-h.probed:
	case <-timer.C:
	}
	return &named
}

// listen hears claims until the socket is closed.
func (h *Held) listen() {
	if h.claims == nil {
		return
	}
	for {
		mac, err := h.claims.read()
		if err != nil {
			select {
			case <-h.stop:
			default:
				h.emit(Event{Kind: Unheard, Err: err})
			}
			return
		}
		if !h.manager.ours(mac) {
			h.claimed(mac)
		}
	}
}

func (h *Held) claimed(mac net.HardwareAddr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probing || !h.ready {
		select {
		case h.probed <- mac:
		default:
		}
		return
	}
	if !h.set || h.gone != nil {
		return // not ours to defend
	}
	signal(h.answered)
	defend, report := h.defence.claim(h.manager.now())
	if defend {
		signal(h.defend)
	}
	if report {
		h.emitLocked(Event{Kind: Conflict, MAC: mac, Defended: defend})
	}
}

// kernelSays is told of each change of the address.
func (h *Held) kernelSays(s setAddr, there bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.set || h.gone != nil {
		return
	}
	a := h.place.Prefix.Addr()
	switch duplicate := s.flags&unix.IFA_F_DADFAILED != 0 && a.Is6(); {
	case duplicate:
		h.gone = &InUseError{Addr: a, Interface: h.place.Interface, DAD: true}
	case !there && h.manager.now() >= h.deadline:
		h.gone = fmt.Errorf("virtual address %s on %s: %w", a, h.place.Interface, ErrExpired)
	case !there:
		h.gone = fmt.Errorf("virtual address %s: removed from %s by somebody else: %w", a, h.place.Interface, ErrGone)
	case s.flags&unix.IFA_F_TENTATIVE == 0:
		h.ready = true
	}
	signal(h.changed)
	if h.gone != nil {
		h.emitLocked(Event{Kind: Gone, Err: h.gone})
	}
}

func (h *Held) linkIs(running bool, mac net.HardwareAddr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := string(mac) != string(h.mac) || !h.running && running
	h.mac, h.running = mac, running
	if again {
		signal(h.restart)
	}
}

// cutOff takes the address away because its link has lost its carrier, if that is asked
// for.
func (h *Held) cutOff() {
	h.op.Lock()
	defer h.op.Unlock()
	h.mu.Lock()
	cut := h.options.NeedCarrier && h.set && !h.over && h.gone == nil
	if cut {
		h.gone = &NoCarrierError{Addr: h.place.Prefix.Addr(), Interface: h.place.Interface}
	}
	gone := h.gone
	h.mu.Unlock()
	if !cut {
		return
	}
	h.manager.kernel.unset(h.place) // if it fails, the lease ends it
	signal(h.changed)
	h.emit(Event{Kind: Gone, Err: gone})
}

func (h *Held) ownMAC() net.HardwareAddr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mac
}

func (h *Held) emit(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.emitLocked(e)
}

func (h *Held) emitLocked(e Event) {
	if h.over {
		return
	}
	select {
	case h.events <- e:
	default:
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Renew gives the address a new lease from now on. It never brings back an
// address that is gone: it answers ErrGone, ErrExpired or an InUseError.
//
// The kernel renews an address by setting it, so one that has just expired would
// return. A process that was stopped for longer than its lease must not do that:
// the clock is looked at before, and again afterwards, in case it was stopped in
// between; then the address is removed.
func (h *Held) Renew(lease time.Duration) error {
	o := h.options
	o.Lease = lease
	if _, err := o.check(); err != nil {
		return err
	}
	h.op.Lock()
	defer h.op.Unlock()
	h.mu.Lock()
	over, gone, deadline := h.over, h.gone, h.deadline
	h.mu.Unlock()
	switch {
	case over:
		return fmt.Errorf("virtual address %s: %w", h.place.Prefix.Addr(), ErrReleased)
	case gone != nil:
		return gone
	}
	asked := h.manager.now()
	if asked >= deadline {
		return h.expire()
	}
	err := h.manager.kernel.set(h.place, lease, h.options.NoDAD, true)
	if h.manager.now() >= deadline {
		return h.expire()
	}
	if absent(err) {
		h.sync(nil)
		return fmt.Errorf("virtual address %s: interface %s is gone: %w", h.place.Prefix.Addr(), h.place.Interface, ErrGone)
	}
	if err != nil {
		return fmt.Errorf("virtual address %s: renewing its lease on %s: %w", h.place.Prefix.Addr(), h.place.Interface, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = asked + lease
	return nil
}

// expire is called when the lease ran out unseen.
func (h *Held) expire() error {
	failed := h.manager.kernel.unset(h.place)
	h.sync(nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("%w; and it could not be removed: %w", h.gone, failed)
	}
	return h.gone
}

// Announce announces the address anew, as Add does: for a link that was told by
// another host that the address is there.
func (h *Held) Announce() { signal(h.restart) }

// Remaining is how much of the lease is left, not positive when it ran out.
func (h *Held) Remaining() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deadline - h.manager.now()
}

// Connections counts the established TCP connections to the address.
func (h *Held) Connections() (int, error) {
	all, err := h.manager.kernel.tcpSockets(h.place.Prefix.Addr(), tcpEstablished)
	return len(all), err
}

// Remove takes the address away and ends the Held. With reset (tcpreset) its TCP
// connections are ended first, while a reset can still reach the clients; one
// that is accepted in the moment between is ended by the next holder, which does
// not know it. The address is removed whatever becomes of the connections; the
// error then tells of them. An address that is gone already is no error, nor is a
// second Remove.
func (h *Held) Remove(reset bool) error {
	if !h.end() {
		return nil
	}
	err := h.manager.remove(h.place, reset)
	h.manager.forget(h)
	return err
}

// Release ends the Held and leaves the address where it is, until its lease runs
// out.
func (h *Held) Release() {
	if h.end() {
		h.manager.forget(h)
	}
}

// drop undoes take and begin.
func (h *Held) drop() {
	h.mu.Lock()
	set := h.set
	h.mu.Unlock()
	if h.end() && set {
		h.manager.kernel.unset(h.place) // if it fails, the lease ends it
	}
	h.manager.forget(h)
}

// end stops what speaks of the address, and has what hears of it stopped: to close the
// socket of a link takes the kernel longer than to remove an address (it waits for all
// processors), and a failover waits for the address. end is false when that was done
// before.
func (h *Held) end() bool {
	h.op.Lock()
	defer h.op.Unlock()
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return false
	}
	h.over = true
	close(h.events) // emitLocked sends no more
	h.mu.Unlock()
	close(h.stop)
	h.speaks.Wait()
	if h.claims != nil {
		h.manager.closing.Go(func() {
			h.claims.close()
			h.listens.Wait()
		})
	}
	return true
}
