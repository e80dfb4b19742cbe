package lbfilter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// both runs a test for both modes.
func both(t *testing.T, test func(*testing.T, Mode)) {
	for _, mode := range []Mode{Invisible, Directed} {
		t.Run(mode.String(), func(t *testing.T) { test(t, mode) })
	}
}

var virtuals = []netip.Addr{virtual4, virtual6}

// TestSpread: connections to either address go to the members that Who names, all
// members have some, and the client sees the MAC that it should.
func TestSpread(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("clsact=%v", clsact), func(t *testing.T) {
			both(t, func(t *testing.T, mode Mode) {
				f := newFarm(t, mode, 3, clsact)
				for _, a := range virtuals {
					served := map[Number]int{}
					for range 40 {
						served[f.dial(a, 80, netip.Addr{}).server]++
					}
					f.dial(a, 443, netip.Addr{})
					if len(served) != 3 {
						t.Errorf("connections to %s by member: %v", a, served)
					}
					mac := f.neighbour(a)
					from := addr4(f.client.n)
					if a.Is6() {
						from = addr6(f.client.n)
					}
					want := f.policy.DefaultMAC()
					if mode == Directed {
						n := f.who(Query{Proto: ARP, Client: netip.AddrPortFrom(from, 0), Service: netip.AddrPortFrom(a, 0)})
						want = f.table.MACs[n]
					}
					if mac != want {
						t.Errorf("%s is at %s for the client, expected %s", a, mac, want)
					}
				}
			})
		})
	}
}

// udp is a socket of the client.
func (f *farm) udp(a netip.Addr, port uint16) *net.UDPConn {
	f.t.Helper()
	var u *net.UDPConn
	f.client.do(func() (err error) {
		u, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		return err
	})
	f.t.Cleanup(func() { u.Close() })
	return u
}

// TestDatagrams: each datagram is answered by one member, also one that is cut into
// fragments; those of one client go to all members where the rule says on_ipid.
func TestDatagrams(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 3, false)
		for _, a := range virtuals {
			for _, size := range []int{100, 4000} {
				for _, port := range []uint16{53, 1812} {
					u := f.udp(a, port)
					served := map[string]int{}
					// One socket's connected datagrams have an identification of their own
					// each, as long as they may be cut.
					for i := range 40 {
						question := make([]byte, size)
						binary.LittleEndian.PutUint32(question, uint32(i))
						if _, err := u.Write(question); err != nil {
							t.Fatal(err)
						}
						b := make([]byte, 8192)
						if err := u.SetReadDeadline(time.Now().Add(patience)); err != nil {
							t.Fatal(err)
						}
						n, err := u.Read(b)
						if err != nil {
							t.Fatalf("%s port %d, %d bytes: %v", a, port, size, err)
						}
						if got := binary.LittleEndian.Uint32(b); int(got) != i {
							t.Fatalf("%s port %d: answer %d to question %d: a datagram was answered twice", a, port, got, i)
						}
						served[string(b[size:n])]++
					}
					q := Query{Proto: UDP, Client: addrPort(u.LocalAddr()), Service: netip.AddrPortFrom(a, port), Fragment: size > 1500}
					owner := fmt.Sprintf("%d\n", f.who(q))
					if byID := port == 53 && a.Is4() && size < 1500; byID && len(served) != 3 || !byID && served[owner] != 40 {
						t.Errorf("%s port %d, %d bytes, served by %v; owner by address and port %q", a, port, size, served, owner)
					}
				}
			}
		}
	})
}

// TestPing: in vmac_invisible mode every member answers an echo request (§4.3.7), in
// vmac_directed mode one does.
func TestPing(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 3, false)
		want := 3
		if mode == Directed {
			want = 1
		}
		for _, a := range virtuals {
			const pings = 5
			replies := f.ping(a, pings, want)
			for seq, n := range replies {
				if n != want {
					t.Errorf("%s: %d replies to ping %d, expected %d", a, n, seq, want)
				}
			}
		}
	})
}

// ping sends echo requests, each when the expected replies to the one before are
// there, and counts all replies.
func (f *farm) ping(a netip.Addr, pings, want int) []int {
	f.t.Helper()
	network, echo, answer := "ip4:icmp", byte(8), byte(0)
	if a.Is6() {
		network, echo, answer = "ip6:ipv6-icmp", 128, 129
	}
	var c net.PacketConn
	f.client.do(func() (err error) { c, err = net.ListenPacket(network, ""); return err })
	defer c.Close()
	replies := make([]int, pings)
	for seq := range replies {
		m := []byte{echo, 0, 0, 0, 0x5a, 0xfe, 0, byte(seq)}
		binary.BigEndian.PutUint16(m[2:], checksum(m)) // the kernel does it again for IPv6
		if _, err := c.WriteTo(m, &net.IPAddr{IP: a.AsSlice()}); err != nil {
			f.t.Fatal(err)
		}
		for replies[seq] < want {
			if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
				f.t.Fatal(err)
			}
			b := make([]byte, 1500)
			n, _, err := c.ReadFrom(b)
			if err != nil {
				f.t.Fatalf("ping %s: %v, replies so far %v", a, err, replies)
			}
			if n >= 8 && b[0] == answer && b[4] == 0x5a && b[5] == 0xfe {
				replies[b[7]]++
			}
		}
	}
	return replies
}

// TestVLAN: what is tagged for a VLAN is for an interface above this one, which may
// have a filter of its own. VLAN 0 is none.
func TestVLAN(t *testing.T) {
	f := newFarm(t, Directed, 1, false)
	f.renew(0) // what the filter takes for its own is counted as dropped
	m := f.members[0]
	q := Query{Proto: UDP, Client: netip.AddrPortFrom(addr4(f.client.n), 5000), Service: netip.AddrPortFrom(virtual4, 1812)}
	plain := frame{query: q, to: m.mac, from: f.client.mac, protocol: 17, hops: 64}.bytes()
	f.client.do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		for _, tag := range [][]byte{{0x81, 0, 0, 7}, {0x81, 0, 0, 0}, nil} {
			b := slices.Concat(plain[:12], tag, plain[12:])
			if err := unix.Sendto(s, b, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index}); err != nil {
				return err
			}
		}
		return nil
	})
	expired := func() uint64 {
		counts, err := m.filter.Stats()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range counts {
			if c.Rule == "udp port 1812 on_port" {
				return c.Expired
			}
		}
		t.Fatal("no such rule")
		return 0
	}
	await(t, "the frames", func() bool { return expired() >= 2 })
	if n := expired(); n != 2 {
		t.Errorf("%d frames were for the filter, expected 2", n)
	}
}
