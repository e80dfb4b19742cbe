// Package netnstest gives tests network namespaces of their own.
//
//	ns := netnstest.New(t)            // skips where there can be none
//	err := ns.Do(func() error { … })  // on a thread that is in it
//
// A namespace has no name: it is gone when the test has ended and nothing in it is
// open any more. What is more than a network (mounts, processes, names) is a host of
// e2e/lab.
//
// # Guarantees
//
// Do returns on a goroutine that is where it was before. A thread that cannot go back
// is never used again: that is a panic, since other tests would run in the wrong
// network.
package netnstest

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace, with nothing but its loopback interface at first.
type Namespace struct{ handle netns.NsHandle }

// New makes a namespace that lasts as long as the test. It skips the test if the
// process may not.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	handle, err := netns.New()
	if err != nil {
		t.Skipf("network namespaces: %v", err)
	}
	t.Cleanup(func() { handle.Close() })
	enter(was)
	return &Namespace{handle}
}

// Do runs f in the namespace, and returns its error, or why it could not run. What f
// starts in goroutines of their own is not in the namespace; sockets that it opens are.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, err := netns.Get()
	if err != nil {
		return err
	}
	defer was.Close()
	if err := netns.Set(n.handle); err != nil {
		return err
	}
	defer enter(was)
	return f()
}

// Peer is what a veth is given so that its other end is in the namespace.
func (n *Namespace) Peer() netlink.NsFd { return netlink.NsFd(n.handle) }

func enter(ns netns.NsHandle) {
	if err := netns.Set(ns); err != nil {
		panic("back to the network of before: " + err.Error())
	}
}
