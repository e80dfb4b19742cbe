package netvip

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

func TestChoose(t *testing.T) {
	links := []link{
		{index: 1, name: "lo", flags: unix.IFF_LOOPBACK},
		{index: 2, name: "eth0", mac: make(net.HardwareAddr, 6)},
		{index: 3, name: "eth1", mac: make(net.HardwareAddr, 6)},
		{index: 4, name: "tun0", flags: unix.IFF_NOARP},
	}
	set := func(index int, prefix string) setAddr {
		return setAddr{index: index, prefix: netip.MustParsePrefix(prefix)}
	}
	marked := set(3, "10.7.0.8/16")
	marked.proto = ifaProto
	addrs := []setAddr{
		set(1, "127.0.0.1/8"), set(2, "10.1.0.1/16"), set(2, "10.1.2.1/24"), set(3, "10.1.9.1/16"), set(3, "fd01::1/64"),
		set(2, "10.5.0.1/16"), set(3, "10.5.0.2/16"), set(3, "10.3.0.1/24"), marked,
	}
	route := func(a netip.Addr) (int, string) {
		if a == netip.MustParseAddr("10.200.0.1") {
			return 4, ""
		}
		return 0, "the route to it goes through a gateway, 10.1.0.254"
	}
	for _, test := range []struct {
		name    string
		a       Address
		want    string // interface and prefix
		covered bool
		own     string
		failure string
	}{
		{"longest prefix", Address{Addr: netip.MustParseAddr("10.1.2.9")}, "eth0 10.1.2.9/24", true, "10.1.0.1", ""},
		{"own netmask", Address{Addr: netip.MustParseAddr("10.1.2.9"), Bits: 32}, "eth0 10.1.2.9/32", true, "10.1.0.1", ""},
		{"wider netmask", Address{Addr: netip.MustParseAddr("10.3.0.9"), Bits: 16}, "eth1 10.3.0.9/16", false, "10.3.0.1", ""},
		{"IPv6", Address{Addr: netip.MustParseAddr("fd01::9")}, "eth1 fd01::9/64", true, "fd01::1", ""},
		{"by route", Address{Addr: netip.MustParseAddr("10.200.0.1")}, "tun0 10.200.0.1/32", false, "", ""},
		{"named, other subnet", Address{Addr: netip.MustParseAddr("172.16.0.1"), Interface: "eth0"}, "eth0 172.16.0.1/16", false, "", ""},
		{"named, nothing there", Address{Addr: netip.MustParseAddr("172.16.0.1"), Interface: "tun0"}, "tun0 172.16.0.1/32", false, "", ""},
		{"named, IPv6 other subnet", Address{Addr: netip.MustParseAddr("fd02::1"), Interface: "eth1"}, "eth1 fd02::1/128", false, "", ""},
		{"named decides", Address{Addr: netip.MustParseAddr("10.5.0.9"), Interface: "eth1"}, "eth1 10.5.0.9/16", true, "10.5.0.2", ""},
		{"two subnets alike", Address{Addr: netip.MustParseAddr("10.5.0.9")}, "", false, "", "eth0, eth1 have addresses in its subnet"},
		{"no such interface", Address{Addr: netip.MustParseAddr("10.5.0.9"), Interface: "eht0"}, "", false, "", `no interface "eht0"; there are lo, eth0, eth1, tun0`},
		{"behind a gateway", Address{Addr: netip.MustParseAddr("8.8.8.8")}, "", false, "", "eth1 10.3.0.1/24), and the route to it goes through a gateway, 10.1.0.254"},
		{"our own make no subnet", Address{Addr: netip.MustParseAddr("10.7.0.9")}, "", false, "", "there are eth0"},
		{"loopback makes no subnet", Address{Addr: netip.MustParseAddr("127.0.0.2")}, "", false, "", "there are eth0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := choose(test.a, links, addrs, route)
			if test.failure != "" {
				if !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), test.failure) {
					t.Fatalf("%v; expected ErrNoInterface and %q", err, test.failure)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Interface + " " + p.Prefix.String(); got != test.want || p.Covered != test.covered {
				t.Errorf("%s, covered %v; expected %s, %v", got, p.Covered, test.want, test.covered)
			}
			if p.Own.IsValid() != (test.own != "") || p.Own.IsValid() && p.Own.String() != test.own {
				t.Errorf("own address %v; expected %q", p.Own, test.own)
			}
			if p.neighbour != (p.Interface != "tun0") {
				t.Errorf("neighbours on %s: %v", p.Interface, p.neighbour)
			}
		})
	}
}

func TestAddressCheck(t *testing.T) {
	for _, bad := range []Address{
		{},
		{Addr: netip.MustParseAddr("0.0.0.0")},
		{Addr: netip.MustParseAddr("255.255.255.255")},
		{Addr: netip.MustParseAddr("127.0.0.1")},
		{Addr: netip.MustParseAddr("224.0.0.1")},
		{Addr: netip.MustParseAddr("ff02::1")},
		{Addr: netip.MustParseAddr("fe80::1%eth0")},
		{Addr: netip.MustParseAddr("fe80::1")},
		{Addr: netip.MustParseAddr("10.0.0.1"), Bits: 33},
		{Addr: netip.MustParseAddr("10.0.0.1"), Bits: -1},
	} {
		if _, err := bad.check(); err == nil {
			t.Errorf("%v: expected an error", bad)
		}
	}
	a, err := Address{Addr: netip.MustParseAddr("::ffff:10.0.0.1"), Bits: 24}.check()
	if err != nil || a.Addr != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%v, %v; expected the IPv4 address", a, err)
	}
	if _, err := (Options{}).check(); err == nil {
		t.Error("an address without a lease: expected an error")
	}
}

func TestLeaseSeconds(t *testing.T) {
	for lease, want := range map[time.Duration]uint32{
		1: 1, time.Second: 1, time.Second + 1: 2, 1500 * time.Millisecond: 2, 10 * time.Second: 10,
		1 << 62: 1<<32 - 2, // the next is "for ever"
	} {
		if got := leaseSeconds(lease); got != want {
			t.Errorf("%v: %d s; expected %d", lease, got, want)
		}
	}
}

func TestDefence(t *testing.T) {
	d := defence{defended: never, reported: never}
	var defended, reported []time.Duration
	for now := time.Duration(0); now < 25*time.Second; now += 100 * time.Millisecond { // a flood
		defend, report := d.claim(now)
		if defend {
			defended = append(defended, now)
		}
		if report {
			reported = append(reported, now)
		}
	}
	if want := []time.Duration{0, 10 * time.Second, 20 * time.Second}; !slices.Equal(defended, want) {
		t.Errorf("defended at %v; expected %v", defended, want)
	}
	if len(reported) != 25 {
		t.Errorf("%d reports; expected one a second: %v", len(reported), reported)
	}
}

// spoken is a link that notes when it was announced on.
type spoken struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
	fail  bool
}

func (s *spoken) announce(net.HardwareAddr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return unix.ENETDOWN
	}
	s.at = append(s.at, time.Since(s.start))
	return nil
}

func (s *spoken) take() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.at
	s.at = nil
	return at
}

func (s *spoken) failing(fail bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (*spoken) ask(net.HardwareAddr) error      { return nil }
func (*spoken) read() (net.HardwareAddr, error) { return nil, io.EOF }
func (*spoken) close() error                    { return nil }

func TestAnnouncer(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name string
		refresh
		after []time.Duration // the burst
	}{
		{"burst alone", refresh{}, nil},
		{"no elapse", refresh{every: time.Minute}, nil},
		{"defaults", refresh{DefaultRefreshEvery, 4 * time.Minute}, []time.Duration{60000 * ms, 120000 * ms, 180000 * ms, 240000 * ms}},
		{"shorter than the burst", refresh{800 * ms, 5 * time.Second}, []time.Duration{2400 * ms, 3200 * ms, 4000 * ms, 4800 * ms}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				link := &spoken{start: time.Now()}
				h := &Held{claims: link, refresh: test.refresh, stop: make(chan struct{}), restart: make(chan struct{}, 1), defend: make(chan struct{}, 1), answered: make(chan struct{}, 1), events: make(chan Event, 16)}
				h.speaks.Go(h.announcer)
				want := slices.Concat(burst, test.after)
				time.Sleep(time.Hour)
				if diff := cmp.Diff(want, link.take()); diff != "" {
					t.Errorf("announced (-want +got):\n%s", diff)
				}
				signal(h.defend)
				time.Sleep(time.Minute)
				if got := link.take(); !slices.Equal(got, []time.Duration{time.Hour + defendDelay}) {
					t.Errorf("defended at %v; expected once, soon", got)
				}
				link.failing(true)
				signal(h.restart)
				time.Sleep(500 * ms)
				link.failing(false)
				time.Sleep(time.Hour)
				want = want[3:] // 0, 50 and 200 ms were lost
				for i, d := range want {
					want[i] = d + time.Hour + time.Minute
				}
				if diff := cmp.Diff(want, link.take()); diff != "" {
					t.Errorf("announced anew (-want +got):\n%s", diff)
				}
				close(h.stop)
				h.speaks.Wait()
				if len(h.events) != 1 {
					t.Fatalf("%d events; expected one for all that was not sent", len(h.events))
				}
				if e := <-h.events; e.Kind != Unannounced || !errors.Is(e.Err, unix.ENETDOWN) {
					t.Errorf("event %v", e)
				}
			})
		})
	}
}

// Whatever the kernel, or what passes for it, sends: no panic, and what is taken
// is an address with a length that fits it.
func FuzzParseAddr(f *testing.F) {
	good := []byte{unix.AF_INET, 24, 0x80, 0, 2, 0, 0, 0}
	attr := func(kind uint16, v ...byte) {
		good = binary.NativeEndian.AppendUint16(good, uint16(4+len(v)))
		good = append(binary.NativeEndian.AppendUint16(good, kind), v...)
		for len(good)%4 != 0 {
			good = append(good, 0)
		}
	}
	attr(unix.IFA_LOCAL, 10, 0, 0, 1)
	attr(unix.IFA_LABEL, []byte("eth0:skfs\x00")...)
	attr(attrIfa, ifaProto)
	if s, ok := parseAddr(good); !ok || !s.ours() || s.prefix != netip.MustParsePrefix("10.0.0.1/24") || s.index != 2 {
		f.Fatalf("%+v, %v", s, ok)
	}
	f.Add(good)
	f.Add(good[:11])
	f.Add([]byte{unix.AF_INET, 200, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseAddr(b); ok && !s.prefix.IsValid() {
			t.Errorf("%+v", s)
		}
	})
}

// Anybody on the link can send these.
func FuzzClaims(f *testing.F) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	p, err := arp.NewPacket(arp.OperationReply, mac, vip4.Addr, broadcastMAC, vip4.Addr)
	if err != nil {
		f.Fatal(err)
	}
	request, err := p.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	if got, ok := arpClaim(request, vip4.Addr); !ok || got.String() != mac.String() {
		f.Fatalf("%v, %v", got, ok)
	}
	advertisement, err := ndp.MarshalMessage(&ndp.NeighborAdvertisement{TargetAddress: vip6.Addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add(advertisement)
	f.Add(advertisement[:25])
	f.Fuzz(func(t *testing.T, b []byte) {
		if mac, ok := arpClaim(b, vip4.Addr); ok && len(mac) != 6 {
			t.Errorf("ARP: %v", mac)
		}
		if m, err := ndp.ParseMessage(b); err == nil {
			if mac, ok := ndpClaim(m, vip6.Addr); ok && mac != nil && len(mac) != 6 {
				t.Errorf("NDP: %v", mac)
			}
		}
	})
}
