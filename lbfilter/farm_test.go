package lbfilter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// patience is what an awaited event may take on a busy machine; no test waits that
// long when it passes.
const patience = 30 * time.Second

// farm is some members and a client, with the tables that a daemon would set.
type farm struct {
	t       *testing.T
	policy  *Policy
	client  *host
	members []*member // numbers 1 and on
	table   Table
}

// member is a host with the virtual addresses and a server that tells who it is.
type member struct {
	*host
	filter *Filter
	pins   string
	in     bool // takes part
	drains bool
	wait   sync.WaitGroup
}

func newFarm(t *testing.T, mode Mode, members int, clsact bool) *farm {
	t.Helper()
	f := &farm{t: t, policy: testPolicy(t, mode)}
	n := newNetwork(t)
	f.client = n.add(1000)
	dir := pins(t)
	for i := 1; i <= members; i++ {
		m := &member{host: n.add(i), pins: filepath.Join(filepath.Dir(dir), strconv.Itoa(i)), in: true}
		if mode == Directed { // see doc.go; in the other mode the filter sees to it
			m.setSysctl("net/ipv4/conf/eth0/arp_announce", "2")
		}
		m.do(func() error {
			if err := setAddr("eth0", virtual4, 32); err != nil {
				return err
			}
			return setAddr("lo", virtual6, 128)
		})
		m.filter = m.open(f.policy, m.pins, clsact)
		t.Cleanup(func() {
			if err := m.filter.Close(true); err != nil {
				t.Error(err)
			}
			if got := m.attached(m.pins); got != (attached{}) {
				t.Errorf("member %d after all: %+v", i, got)
			}
		})
		m.serve()
		f.members = append(f.members, m)
	}
	f.apply()
	f.renew(time.Hour)
	return f
}

// serve answers every line and datagram with the number of the member.
func (m *member) serve() {
	answer := []byte(strconv.Itoa(m.n) + "\n")
	var closers []io.Closer
	var mu sync.Mutex // guards closers
	later := func(c io.Closer) {
		mu.Lock()
		defer mu.Unlock()
		closers = append(closers, c)
	}
	m.t.Cleanup(func() {
		mu.Lock()
		for _, c := range closers {
			c.Close()
		}
		mu.Unlock()
		m.wait.Wait()
	})
	for _, port := range []string{"80", "443"} {
		var l net.Listener
		m.do(func() (err error) { l, err = net.Listen("tcp", ":"+port); return err })
		later(l)
		m.wait.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				later(c)
				m.wait.Go(func() {
					defer c.Close()
					for r := bufio.NewReader(c); ; {
						if _, err := r.ReadString('\n'); err != nil {
							return
						}
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				})
			}
		})
	}
	for _, a := range []netip.Addr{virtual4, virtual6} {
		for _, port := range []uint16{53, 1812} {
			var u *net.UDPConn
			m.do(func() (err error) {
				u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
				return err
			})
			later(u)
			m.wait.Go(func() {
				b := make([]byte, 8192)
				for {
					n, from, err := u.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					// What was asked, and who answers.
					if _, err := u.WriteToUDPAddrPort(append(b[:n:n], answer...), from); err != nil && errors.Is(err, net.ErrClosed) {
						return
					}
				}
			})
		}
	}
}

// next is the table once the members that are in are the farm.
func (f *farm) next() Table {
	var in []Member
	t := Table{Epoch: 1, Version: f.table.Version + 1}
	for _, m := range f.members {
		if m.in {
			in = append(in, Member{Number(m.n), fmt.Sprintf("node%d", m.n), m.drains})
			t.MACs[m.n] = m.mac
		}
	}
	t.Groups = f.policy.Next(f.table.Groups, in)
	return t
}

// apply gives every member the next table.
func (f *farm) apply() {
	f.t.Helper()
	f.table = f.next()
	f.put()
}

func (f *farm) put() {
	f.t.Helper()
	for _, m := range f.members {
		if err := m.filter.Apply(f.table); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *farm) renew(d time.Duration) {
	f.t.Helper()
	for _, m := range f.members {
		if err := m.filter.Renew(Boottime() + d); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *farm) who(q Query) Number {
	f.t.Helper()
	a, err := f.policy.Who(q, f.table.Groups)
	if err != nil {
		f.t.Fatal(err)
	}
	return a.Owner
}

// conn is a connection of the client, and who serves it.
type conn struct {
	net.Conn
	r      *bufio.Reader
	server Number
}

func addrPort(a net.Addr) netip.AddrPort {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// dial connects to a virtual address and checks that the owner has answered.
func (f *farm) dial(a netip.Addr, port uint16, from netip.Addr) *conn {
	f.t.Helper()
	c := &conn{}
	f.client.do(func() (err error) {
		d := net.Dialer{Timeout: patience, FallbackDelay: -1}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c.Conn, err = d.DialContext(context.Background(), "tcp", netip.AddrPortFrom(a, port).String())
		return err
	})
	f.t.Cleanup(func() { c.Close() })
	c.r = bufio.NewReader(c)
	got, err := c.ask()
	if err != nil {
		f.t.Fatal(err)
	}
	c.server = got
	if want := f.who(Query{Proto: TCP, Client: addrPort(c.LocalAddr()), Service: netip.AddrPortFrom(a, port)}); got != want {
		f.t.Fatalf("connection from %s to %s is served by %d, expected %d", c.LocalAddr(), c.RemoteAddr(), got, want)
	}
	return c
}

// ask who serves the connection.
func (c *conn) ask() (Number, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return None, err
	}
	if _, err := c.Write([]byte("who\n")); err != nil {
		return None, err
	}
	s, err := c.r.ReadString('\n')
	if err != nil {
		return None, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(s))
	return Number(n), err
}

// still checks that connections are alive and served by the same members.
func still(t *testing.T, when string, conns []*conn) {
	t.Helper()
	broken := 0
	for _, c := range conns {
		if n, err := c.ask(); err != nil || n != c.server {
			if broken++; broken <= 3 {
				t.Errorf("%s: connection from %s was served by %d, now by %d: %v", when, c.LocalAddr(), c.server, n, err)
			}
		}
	}
	if broken > 0 {
		t.Fatalf("%s: %d of %d connections are broken", when, broken, len(conns))
	}
}

// await polls until ok, for as long as patience.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// neighbour is the MAC that the client has for an address.
func (f *farm) neighbour(a netip.Addr) (mac MAC) {
	f.t.Helper()
	f.client.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.NeighList(l.Attrs().Index, 0)
		for _, n := range all {
			if n.IP.Equal(a.AsSlice()) && len(n.HardwareAddr) == 6 {
				mac = MAC(n.HardwareAddr)
			}
		}
		return err
	})
	return mac
}

// setSysctl writes a sysctl of the host's namespace.
func (h *host) setSysctl(name, value string) {
	h.t.Helper()
	h.do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}
