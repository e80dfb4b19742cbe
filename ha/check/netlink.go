package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
)

// watcher looks at the host's network whenever the kernel says that it changed, and
// every interval.
type watcher struct {
	interval time.Duration
	groups   []uint
	look     func(context.Context, network) error
}

// floor is how often a watcher looks without being told to.
const floor = 10 * time.Second

// interfaceChecker follows the carrier of a network interface (§13.13).
func interfaceChecker(c conf.Checker) Checker {
	return watcher{floor, []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR},
		func(ctx context.Context, n network) error {
			if c.Intf != "" {
				return n.interfaceUp(c.Intf, netip.Addr{})
			}
			local, err := resolveWithin(ctx, c.Addr)
			if err != nil {
				return err
			}
			return n.interfaceUp("", local)
		}}
}

// addressChecker follows whether an address is on this host (§13.14).
func addressChecker(c conf.Checker) Checker {
	return watcher{c.Interval, []uint{unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR},
		func(ctx context.Context, n network) error {
			ip, err := resolveWithin(ctx, c.Addr)
			if err != nil {
				return err
			}
			return n.hasAddress(ip)
		}}
}

// resolveLimit is how long a name may take.
const resolveLimit = 5 * time.Second

func resolveWithin(ctx context.Context, host string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	return resolve(ctx, host)
}

func (w watcher) Run(ctx context.Context, tell func(Result)) {
	for {
		if err := w.watch(ctx, tell); ctx.Err() != nil {
			return
		} else {
			tell(Result{Err: err}) // the floor goes on without events
		}
		w.tell(ctx, tell)
		if !pause(ctx, min(w.interval, floor)) {
			return
		}
	}
}

// watch looks until ctx ends or the kernel cannot be listened to.
func (w watcher) watch(ctx context.Context, tell func(Result)) error {
	// Subscribed first, looked then: nothing changes unseen in between.
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, w.groups...)
	if err != nil {
		return fmt.Errorf("listen to the kernel: %w", err)
	}
	changed := make(chan struct{}, 1)
	failed := make(chan error, 1)
	go func() { // ends with the socket, which watch closes and then waits
		for {
			_, from, err := socket.Receive()
			switch {
			case err == nil && from.Pid != 0: // not the kernel
				continue
			case err == nil, errors.Is(err, unix.ENOBUFS): // it told more than the socket could hold
				select {
				case changed <- struct{}{}:
				default: // it will look anyway
				}
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			default:
				failed <- fmt.Errorf("listen to the kernel: %w", err)
				return
			}
		}
	}()
	defer func() {
		socket.Close()
		<-failed
	}()
	every := time.NewTicker(w.interval)
	defer every.Stop()
	for {
		w.tell(ctx, tell)
		select {
		case <-changed:
		case <-every.C:
		case err := <-failed:
			failed <- err
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (w watcher) tell(ctx context.Context, tell func(Result)) {
	n, err := readNetwork()
	if err != nil {
		tell(Result{Err: err}) // of the next look
		return
	}
	err = w.look(ctx, n)
	if ctx.Err() == nil {
		tell(Result{Value: valueOf(err), Err: err})
	}
}

// readNetwork lists what this host has.
func readNetwork() (network, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return network{}, fmt.Errorf("list of the interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return network{}, fmt.Errorf("list of the addresses: %w", err)
	}
	var n network
	for _, l := range links {
		a := l.Attrs()
		n.links = append(n.links, link{Index: a.Index, Name: a.Name, Flags: a.RawFlags, State: a.OperState.String()})
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			n.addrs = append(n.addrs, ifAddr{Index: a.LinkIndex, Addr: ip.Unmap(), Flags: uint32(a.Flags)})
		}
	}
	return n, nil
}

// dump repeats a listing that the kernel says was changed under way.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for try := 0; ; try++ {
		all, err := list()
		if err == nil || !errors.Is(err, netlink.ErrDumpInterrupted) || try == 10 {
			return all, err
		}
	}
}
