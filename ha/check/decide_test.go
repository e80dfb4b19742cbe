package check

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestInterfaceUp(t *testing.T) {
	const up, running = unix.IFF_UP, unix.IFF_RUNNING
	a4, a6 := netip.MustParseAddr("192.168.1.20"), netip.MustParseAddr("fd00::20")
	n := network{
		links: []link{{1, "lo", up | running, "unknown"}, {2, "eth0", up | running, "up"}, {3, "eth1", up, "down"}, {4, "eth2", running, "up"}},
		addrs: []ifAddr{{1, netip.MustParseAddr("127.0.0.1"), 0}, {2, a4, 0}, {3, a6, 0}},
	}
	for _, c := range []struct {
		name  string
		local netip.Addr
		want  string
	}{
		{"", a4, ""},
		{"eth0", netip.Addr{}, ""},
		{"", a6, "interface eth1 has no carrier (down)"},
		{"eth1", a4, "interface eth1 has no carrier (down)"}, // the name counts
		{"eth2", netip.Addr{}, "interface eth2 is switched off"},
		{"eth9", netip.Addr{}, "there is no interface eth9"},
		{"", netip.MustParseAddr("10.0.0.1"), "no interface has the address 10.0.0.1"},
	} {
		if got := text(n.interfaceUp(c.name, c.local)); got != c.want {
			t.Errorf("interfaceUp(%q, %v): %q, expected %q", c.name, c.local, got, c.want)
		}
	}
}

func TestHasAddress(t *testing.T) {
	n := network{addrs: []ifAddr{{2, netip.MustParseAddr("10.0.0.100"), 0}, {2, netip.MustParseAddr("fe80::1"), 0},
		{2, netip.MustParseAddr("fd00::1"), unix.IFA_F_DADFAILED}}}
	for addr, want := range map[string]string{
		"10.0.0.100":   "",
		"fe80::1%eth0": "",
		"fd00::1":      "fd00::1 is in conflict: another host has it",
		"10.0.0.10":    "10.0.0.10 is not on this host",
	} {
		if got := text(n.hasAddress(netip.MustParseAddr(addr))); got != want {
			t.Errorf("hasAddress(%s): %q, expected %q", addr, got, want)
		}
	}
}

// §13.16: what a sequence of looks at another module means.
func TestOtherModule(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	away := errors.New("the web service cannot be reached")
	type look struct {
		m       Module
		err     error
		up      bool
		restart bool
	}
	for name, looks := range map[string][]look{
		"starts and stops": {
			{Module{"n1", "STOP", "red", time.Time{}}, nil, false, false},
			{Module{"n1", "WAIT", "magenta", time.Time{}}, nil, false, false},
			{Module{"n1", "ALONE", "magenta", at(5)}, nil, false, false}, // its application is not up yet
			{Module{"n1", "ALONE", "green", at(5)}, nil, true, false},
			{Module{"n1", "PRIM", "magenta", at(5)}, nil, true, false},
			{Module{"n1", "PRIM", "green", at(5)}, nil, true, false}, // the same application
			{Module{"n1", "WAIT", "magenta", at(5)}, nil, false, false},
			{Module{"n1", "STOP", "red", at(5)}, nil, false, false},
			{Module{"n1", "UP", "green", at(9)}, nil, true, false}, // waited for, not restarted under us
		},
		"restarted between two looks": {
			{Module{"n1", "ALONE", "green", at(5)}, nil, true, false},
			{Module{"n1", "ALONE", "green", at(7)}, nil, true, true},
			{Module{"n1", "ALONE", "green", at(7)}, nil, true, false},
		},
		"seen while it restarts": {
			{Module{"n1", "ALONE", "green", at(5)}, nil, true, false},
			{Module{"n1", "ALONE", "magenta", at(5)}, nil, true, false},
			{Module{"n1", "ALONE", "magenta", at(7)}, nil, true, false},
			{Module{"n1", "ALONE", "green", at(7)}, nil, true, true},
		},
		"failover behind a virtual address": {
			{Module{"n1", "PRIM", "green", at(5)}, nil, true, false},
			{Module{"n2", "ALONE", "green", at(8)}, nil, true, true},
		},
		"failover seen as silence": {
			{Module{"n1", "PRIM", "green", at(5)}, nil, true, false},
			{Module{}, away, false, false},
			{Module{"n2", "ALONE", "green", at(8)}, nil, true, false}, // who depends on it waited
		},
		"its daemon was started again": {
			{Module{"n1", "ALONE", "green", at(5)}, nil, true, false},
			{Module{"n1", "ALONE", "green", time.Time{}}, nil, true, false},
			{Module{"n1", "ALONE", "green", time.Time{}}, nil, true, false},
			{Module{"n1", "ALONE", "green", at(9)}, nil, true, true},
		},
		"a second is not up": {
			{Module{"n1", "SECOND", "green", time.Time{}}, nil, false, false},
		},
	} {
		var o otherModule
		for i, l := range looks {
			restart, err := o.see(l.m, l.err)
			if (err == nil) != l.up || restart != l.restart {
				t.Errorf("%s, look %d at %+v: restarted %v, error %v; expected %v, up %v", name, i, l.m, restart, err, l.restart, l.up)
			}
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
