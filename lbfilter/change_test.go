package lbfilter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestJoin: connections go on where they are while a member joins and while one is
// drained, new ones go to the owners, and what is drained is seen to be.
func TestJoin(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 3, false)
		last := f.members[2]
		last.in = false
		f.table.Groups = nil // from the beginning
		f.apply()
		var conns []*conn
		more := func(n int) {
			for _, a := range virtuals {
				for range n {
					conns = append(conns, f.dial(a, 80, netip.Addr{}))
				}
			}
		}
		more(30)

		last.in = true
		f.apply()
		still(t, "after the join", conns)
		more(15)
		if !slices.ContainsFunc(conns, func(c *conn) bool { return c.server == Number(last.n) }) {
			t.Error("the new member has no connection")
		}
		still(t, "after the join, with new ones", conns)

		// The new member has no memory of its new connections but their cookies, while
		// others may have connections of the same buckets. (The cookies of one kernel are
		// good on all its hosts, so the others must give out none.)
		last.setSysctl("net/ipv4/tcp_syncookies", "2")
		more(15)
		last.setSysctl("net/ipv4/tcp_syncookies", "1")

		first := f.members[0]
		first.drains = true
		f.apply()
		before := len(conns)
		still(t, "while draining", conns)
		more(15)
		for _, c := range conns[before:] {
			if c.server == Number(first.n) {
				t.Errorf("a new connection is served by the member that is drained")
			}
		}
		// The owners of buckets forget those who had them when these say that they
		// have no connections left.
		var kept []*conn
		for _, c := range conns {
			if c.server == Number(first.n) {
				c.Close()
			} else {
				kept = append(kept, c)
			}
		}
		if len(kept) == len(conns) {
			t.Fatal("the member that is drained had no connections")
		}
		await(t, "drain", func() bool {
			held, err := first.filter.Held()
			if err != nil {
				t.Fatal(err)
			}
			left := 0
			for g, h := range held {
				f.table.Groups[g].Settle(Number(first.n), h)
				left += h.Len()
			}
			return left == 0
		})
		for _, g := range f.table.Groups {
			if prev := g.Prev.Bitmap(Number(first.n)); prev.Len() > 0 {
				t.Errorf("after the drain %d buckets are still shared with it", prev.Len())
			}
		}
		f.table.Version++
		f.put()
		first.in = false
		f.apply()
		still(t, "after it has left", kept)
		more(5)
	})
}

// flood sends numbered datagrams through a window, and checks that each comes back
// once; meanwhile disturb is called again and again, some times at least.
func (f *farm) flood(a netip.Addr, disturb func(client netip.AddrPort, i int)) {
	f.t.Helper()
	const (
		window    = 32
		datagrams = 5_000
		changes   = 12
	)
	u := f.udp(a, 1812)
	client := addrPort(u.LocalAddr())
	stop := make(chan struct{})
	var wait sync.WaitGroup
	var rounds atomic.Int64
	wait.Go(func() {
		for ; ; rounds.Add(1) {
			select {
			case <-stop:
				return
			default:
				disturb(client, int(rounds.Load()))
			}
		}
	})
	sent := 0
	defer func() {
		close(stop)
		wait.Wait()
		f.t.Logf("%s: %d datagrams, %d changes", a, sent, rounds.Load())
	}()
	var back []int
	receive := func() {
		b := make([]byte, 64)
		if err := u.SetReadDeadline(time.Now().Add(patience)); err != nil {
			f.t.Fatal(err)
		}
		if _, err := u.Read(b); err != nil {
			f.t.Fatalf("a datagram was lost: %v", err)
		}
		i := binary.LittleEndian.Uint32(b)
		if back[i]++; back[i] > 1 {
			f.t.Fatalf("datagram %d was answered %d times", i, back[i])
		}
	}
	for ; sent < datagrams || rounds.Load() < changes; sent++ {
		if _, err := u.Write(binary.LittleEndian.AppendUint32(nil, uint32(sent))); err != nil {
			f.t.Fatal(err)
		}
		back = append(back, 0)
		if sent >= window {
			receive()
		}
	}
	for range window {
		receive()
	}
}

// TestSwap: a flood goes on without a loss and without a double while all members
// get new tables, in which all buckets have other owners but that of the flow and
// that by which the client resolves the address.
func TestSwap(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 3, false)
		for _, a := range virtuals {
			f.put() // undoes what was done to the buckets for the last flood
			table := f.table
			f.flood(a, func(client netip.AddrPort, i int) {
				flow, asker := portBucket(client), addressBucket(client.Addr())
				table.Version++
				table.Groups = slices.Clone(f.table.Groups)
				for g := range table.Groups {
					for b, n := range table.Groups[g].Owner {
						if b != int(flow) && b != int(asker) {
							table.Groups[g].Owner[b] = 1 + (n+Number(i%3))%3
						}
					}
				}
				var wait sync.WaitGroup
				for _, m := range f.members {
					wait.Go(func() {
						if err := m.filter.Apply(table); err != nil {
							t.Error(err)
						}
					})
				}
				wait.Wait()
			})
			f.table.Version = table.Version + 1
		}
	})
}

// TestAdoptUnderFlood: a daemon that ends and comes back loses no packet, whatever
// way the filter is attached.
func TestAdoptUnderFlood(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("clsact=%v", clsact), func(t *testing.T) {
			f := newFarm(t, Invisible, 2, clsact)
			f.flood(virtual4, func(_ netip.AddrPort, i int) {
				m := f.members[i%2]
				if err := m.filter.Close(false); err != nil {
					t.Error(err)
					return
				}
				err := m.try(func() error {
					adopted, err := Adopt(Config{Policy: f.policy, Interface: "eth0", Self: Number(m.n), Pins: m.pins, Clsact: clsact})
					if err == nil {
						m.filter = adopted
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestExpiry: a member that is not renewed drops everything, and goes on when it is.
func TestExpiry(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 2, false)
		c := f.dial(virtual4, 80, netip.Addr{})
		f.renew(50 * time.Millisecond)
		u := f.udp(virtual4, 1812)
		expired := func() (n uint64) {
			for _, m := range f.members {
				counts, err := m.filter.Stats()
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range counts {
					n += k.Expired
				}
			}
			return n
		}
		await(t, "a datagram dropped after the lease", func() bool {
			if _, err := u.Write([]byte("????")); err != nil {
				t.Fatal(err)
			}
			return expired() > 0
		})
		// Nothing comes through any more: what was answered until now is read away.
		for _, m := range f.members {
			if err := m.filter.Renew(0); err != nil {
				t.Fatal(err)
			}
		}
		before := expired()
		if _, err := c.Write([]byte("who\n")); err != nil {
			t.Fatal(err)
		}
		await(t, "a segment dropped after the lease", func() bool { return expired() > before })
		f.renew(time.Hour)
		// The client sends the segment again.
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if s, err := c.r.ReadString('\n'); err != nil || s != fmt.Sprintf("%d\n", c.server) {
			t.Errorf("after the lease was renewed: %q, %v", s, err)
		}
	})
}

// TestErrors: an ICMP error about a segment of a connection goes to the member that
// has the connection, also when another one owns the bucket.
func TestErrors(t *testing.T) {
	both(t, func(t *testing.T, mode Mode) {
		f := newFarm(t, mode, 3, false)
		last := f.members[2]
		last.in = false
		f.table.Groups = nil
		f.apply()
		var conns []*conn
		for range 30 {
			conns = append(conns, f.dial(virtual4, 80, netip.Addr{}))
		}
		last.in = true
		f.apply()
		moved := slices.IndexFunc(conns, func(c *conn) bool {
			q := Query{Proto: TCP, Client: addrPort(c.LocalAddr()), Service: addrPort(c.RemoteAddr())}
			return f.who(q) == Number(last.n)
		})
		if moved < 0 {
			t.Fatal("no connection is in a bucket that has moved")
		}
		c := conns[moved]
		held := func() (n uint64) {
			counts, err := f.members[c.server-1].filter.Stats()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range counts {
				n += k.Held
			}
			return n
		}
		before := held()
		service, client := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
		segment := frame{protocol: 6}.transport(service.Port(), client.Port())[:8]
		m := append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, header4(6, service.Addr(), client.Addr(), 7, 0x4000, 64, 0, segment)...)
		binary.BigEndian.PutUint16(m[2:], checksum(m))
		f.client.do(func() error {
			s, err := net.ListenPacket("ip4:icmp", "")
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.WriteTo(m, &net.IPAddr{IP: virtual4.AsSlice()})
			return err
		})
		await(t, "the error at the member that serves", func() bool { return held() > before })
		still(t, "after the error", conns)
	})
}
