package check

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/skfs/skfs/conf"
)

// cable is two namespaces that are connected: this process's, with eth0, and another
// one, with the other end.
//
//	10.9.0.1, fd09::1  eth0 ── far  10.9.0.2, fd09::2
type cable struct {
	near *netlink.Handle
	far  *netlink.Handle
}

func plug(t *testing.T) *cable {
	t.Helper()
	needNamespace(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here := must(netns.Get())(t)
	other := must(netns.New())(t)
	if err := netns.Set(here); err != nil {
		t.Fatal(err)
	}
	c := &cable{near: must(netlink.NewHandleAt(here))(t), far: must(netlink.NewHandleAt(other))(t)}
	t.Cleanup(func() {
		if l, err := c.near.LinkByName("eth0"); err == nil {
			c.near.LinkDel(l)
		}
		c.near.Close()
		c.far.Close()
		other.Close()
		here.Close()
	})
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = "eth0", "far", netlink.NsFd(int(other))
	check(t, c.near.LinkAdd(veth))
	for _, end := range []struct {
		h    *netlink.Handle
		name string
		n    int
	}{{c.near, "eth0", 1}, {c.far, "far", 2}} {
		l := must(end.h.LinkByName(end.name))(t)
		check(t, end.h.LinkSetUp(l))
		for _, a := range []string{fmt.Sprintf("10.9.0.%d/24", end.n), fmt.Sprintf("fd09::%d/64", end.n)} {
			addr := must(netlink.ParseAddr(a))(t)
			addr.Flags = 2 // IFA_F_NODAD: usable at once
			check(t, end.h.AddrAdd(l, addr))
		}
	}
	lo := must(c.near.LinkByName("lo"))(t)
	check(t, c.near.LinkSetUp(lo))
	return c
}

// pull takes the far end's carrier away, or gives it back.
func (c *cable) pull(t *testing.T, away bool) {
	t.Helper()
	l := must(c.far.LinkByName("far"))(t)
	if away {
		check(t, c.far.LinkSetDown(l))
	} else {
		check(t, c.far.LinkSetUp(l))
		addr := must(netlink.ParseAddr("fd09::2/64"))(t) // it went with the link
		addr.Flags = 2
		check(t, c.far.AddrReplace(l, addr))
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const often = 50 * time.Millisecond

func TestPing(t *testing.T) {
	c := plug(t)
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		await := watch(t, conf.Checker{Kind: conf.CheckPing, Ident: addr, Addr: addr, Interval: often, Timeout: time.Second}, Env{})
		await(Up)
		c.pull(t, true)
		if r := await(Down); r.Err == nil {
			t.Errorf("%s is down without a reason", addr)
		}
		c.pull(t, false)
		await(Up)
	}
}

func TestTCP(t *testing.T) {
	c := plug(t)
	for _, addr := range []string{"10.9.0.1", "fd09::1"} {
		l := must(net.Listen("tcp", net.JoinHostPort(addr, "0")))(t)
		port := l.Addr().(*net.TCPAddr).Port
		await := watch(t, conf.Checker{Kind: conf.CheckTCP, Ident: "x", Addr: addr, Port: port, Interval: often, Timeout: 5 * time.Second}, Env{})
		await(Up)
		check(t, l.Close())
		await(Down)
		l = must(net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(port))))(t)
		await(Up)
		check(t, l.Close())
	}
	// Who does not answer at all is down after the timeout, and does not hold up the end.
	c.pull(t, true)
	await := watch(t, conf.Checker{Kind: conf.CheckTCP, Ident: "x", Addr: "10.9.0.2", Port: 80, Interval: often, Timeout: 200 * time.Millisecond}, Env{})
	await(Down)
}

// A carrier that goes is told by the kernel: nothing looks by itself for ten seconds.
func TestInterface(t *testing.T) {
	c := plug(t)
	for _, k := range []conf.Checker{
		{Kind: conf.CheckIntf, Ident: "10.9.0.0", Intf: "eth0", Addr: "10.9.0.1"},
		{Kind: conf.CheckIntf, Ident: "v6", Addr: "fd09::1"},
	} {
		await := watch(t, k, Env{})
		await(Up)
		c.pull(t, true)
		await(Down)
		c.pull(t, false)
		await(Up)
	}
	await := watch(t, conf.Checker{Kind: conf.CheckIntf, Ident: "x", Intf: "eth0"}, Env{})
	await(Up)
	l := must(c.near.LinkByName("eth0"))(t)
	check(t, c.near.LinkSetDown(l))
	await(Down)
	check(t, c.near.LinkSetUp(l))
	await(Up)
	check(t, c.near.LinkDel(l))
	await(Down)
}

func TestAddress(t *testing.T) {
	c := plug(t)
	l := must(c.near.LinkByName("eth0"))(t)
	for _, addr := range []string{"10.9.0.100", "fd09::100"} {
		// The floor is far away: only events can tell in time.
		await := watch(t, conf.Checker{Kind: conf.CheckIP, Ident: addr, Addr: addr, Interval: time.Hour}, Env{})
		await(Down)
		bits := "/24"
		if addr[0] == 'f' {
			bits = "/64"
		}
		a := must(netlink.ParseAddr(addr + bits))(t)
		a.Flags = 2
		check(t, c.near.AddrAdd(l, a))
		await(Up)
		check(t, c.near.AddrDel(l, a))
		await(Down)
	}
}

// A module of another node cannot be asked; one of this node answers at any of its
// addresses.
func TestModuleChecker(t *testing.T) {
	plug(t)
	env := Env{LocalModule: func(name string) (Module, error) { return Module{"n1", "UP", "green", time.Unix(5, 0)}, nil }}
	for addr, want := range map[string]string{"127.0.0.1": Up, "10.9.0.1": Up, "fd09::1": Up, "10.9.0.2": Down} {
		await := watch(t, conf.Checker{Kind: conf.CheckModule, Ident: addr, Module: "m", Addr: addr, Interval: often, Timeout: patience}, env)
		await(want)
	}
}

// A ping that waits for its answer ends with its context at once: the timeout is far away.
func TestPingIsInterrupted(t *testing.T) {
	c := plug(t)
	c.pull(t, true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	done := make(chan error, 1)
	go func() { done <- Ping(ctx, "10.9.0.2", time.Hour) }()
	time.AfterFunc(100*time.Millisecond, cancel)
	select {
	case err := <-done:
		if err == nil {
			t.Error("a host that is not there answers")
		}
	case <-time.After(patience):
		t.Fatal("the ping does not end with its context")
	}
}
