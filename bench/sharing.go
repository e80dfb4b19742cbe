package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skfs/skfs/lbfilter"
)

// sharingRow is how -jobs names what a shared address costs.
const sharingRow = "sharing"

// selectSharing tells whether that is in a comma-separated list, and returns the
// rest of the list; it is when the list is empty.
func selectSharing(list string) (wanted bool, rest string) {
	if list == "" {
		return true, ""
	}
	var left []string
	for name := range strings.SplitSeq(list, ",") {
		if name == sharingRow {
			wanted = true
			continue
		}
		left = append(left, name)
	}
	return wanted, strings.Join(left, ",")
}

// packetRow is a kind of packet for the shared address, or the same sent without a
// filter.
type packetRow struct {
	name      string
	work      string
	mode      lbfilter.Mode
	tcp       bool
	owned     bool // by the host that gets it
	otherHost bool // without a filter it is for a MAC that is not the host's
}

var packetRows = []packetRow{
	{name: "accepted", work: "UDP, accepted", mode: lbfilter.Invisible, owned: true},
	{name: "dropped", work: "UDP, dropped", mode: lbfilter.Invisible, otherHost: true},
	{name: "segment", work: "TCP segment, dropped after the connection was looked for", mode: lbfilter.Invisible, tcp: true, otherHost: true},
	{name: "sent on", work: "UDP, sent on (beside accepted)", mode: lbfilter.Directed},
}

// The three ways of sharing that a packet is measured with.
const (
	noFilter = "no filter"
	bySkfs   = "skfs"
	byNft    = "nftables"
)

// runSharing measures what a shared address costs, and returns the section of the
// report.
func runSharing(ctx context.Context, s *settings) (_ string, err error) {
	began := time.Now()
	g, err := newGround(s.dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	d := describe(ctx, s, g.dir)
	packets := 30_000 * s.effort.Secs
	costs := map[string]map[string][]float64{} // ns a packet, by row and way
	for round := range s.rounds {
		for _, row := range packetRows {
			ways := []string{noFilter, bySkfs, byNft}
			for k := range ways {
				way := ways[(k+round)%len(ways)]
				ns, err := g.packets(ctx, row, way, packets)
				if errors.Is(err, errNoNft) {
					continue
				}
				if err != nil {
					return "", fmt.Errorf("%s, %s: %w", row.name, way, err)
				}
				if costs[row.name] == nil {
					costs[row.name] = map[string][]float64{}
				}
				costs[row.name][way] = append(costs[row.name][way], ns)
			}
			c := costs[row.name]
			fmt.Fprintf(os.Stderr, "%5.0fs  round %d/%d  %-8s %s ns, skfs %s\n", time.Since(began).Seconds(), round+1, s.rounds, row.name,
				amount(c[noFilter][round]), ratio(c[bySkfs][round]/c[noFilter][round]))
		}
	}
	rates := map[string][]float64{} // bytes a second
	for round := range s.rounds {
		best, err := g.bestOf(s.effort.Secs*turns, round)
		if err != nil {
			return "", err
		}
		for work, rate := range best {
			rates[work] = append(rates[work], rate)
		}
		direct := best[flows[0].work]
		fmt.Fprintf(os.Stderr, "%5.0fs  round %d/%d  TCP %s MB/s, invisible %s, directed %s, sent on %s\n", time.Since(began).Seconds(), round+1, s.rounds,
			amount(direct/1e6), ratio(best[flows[1].work]/direct), ratio(best[flows[2].work]/direct), ratio(best[flows[3].work]/direct))
	}
	d.Took = time.Since(began)
	return d.String() + "\n" + packetTable(costs) + "\n" + flowTable(rates), nil
}

// packetTable is the table of packets in Markdown.
func packetTable(costs map[string]map[string][]float64) string {
	var b strings.Builder
	b.WriteString("| a packet to the address | without filter | skfs | nftables | skfs to nftables |\n|---|---:|---:|---:|---:|\n")
	for _, row := range packetRows {
		c := costs[row.name]
		fmt.Fprintf(&b, "| %s | %s ns | %s | %s | %s |\n", row.work, spread(c[noFilter], amount),
			spread(quotients(c[bySkfs], c[noFilter]), ratio), spread(quotients(c[byNft], c[noFilter]), ratio), spread(quotients(c[bySkfs], c[byNft]), ratio))
	}
	return b.String()
}

// quotients are the ratios of values of the same round.
func quotients(a, b []float64) (q []float64) {
	for i := range min(len(a), len(b)) {
		q = append(q, a[i]/b[i])
	}
	return q
}

// flow is a way to a member for one TCP connection.
type flow struct {
	work   string
	shared bool // to the virtual address
	mode   lbfilter.Mode
	// detour: the client has resolved the address to a member that does not serve it.
	detour bool
}

var flows = []flow{
	{work: "direct address"},
	{work: "`vmac_invisible`", shared: true, mode: lbfilter.Invisible},
	{work: "`vmac_directed`, to the member that serves", shared: true, mode: lbfilter.Directed},
	{work: "`vmac_directed`, sent on by another", shared: true, mode: lbfilter.Directed, detour: true},
}

// turns is how many times a second of a flow is taken apart, so that the flows
// alternate faster than what else the machine does.
const turns = 5

// bestOf is the best of n short measurements of each flow, which alternate.
func (g *ground) bestOf(n, round int) (map[string]float64, error) {
	best := map[string]float64{}
	for k := range n {
		for i := range flows {
			f := flows[(i+k+round)%len(flows)]
			rate, err := g.throughput(f, time.Second/turns)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.work, err)
			}
			best[f.work] = max(best[f.work], rate)
		}
	}
	return best, nil
}

// flowTable is the table of throughput in Markdown.
func flowTable(rates map[string][]float64) string {
	var b strings.Builder
	b.WriteString("| one TCP connection to | |\n|---|---:|\n")
	direct := rates[flows[0].work]
	mega := func(v float64) string { return amount(v / 1e6) }
	fmt.Fprintf(&b, "| %s | %s MB/s |\n", flows[0].work, spread(direct, mega))
	for _, f := range flows[1:] {
		fmt.Fprintf(&b, "| %s | %s |\n", f.work, spread(quotients(rates[f.work], direct), ratio))
	}
	return b.String()
}

// sharingPolicy shares what is measured: UDP by port, and one TCP service.
func sharingPolicy(mode lbfilter.Mode) (*lbfilter.Policy, error) {
	return lbfilter.NewPolicy(mode, []netip.Addr{sharedAddr}, []lbfilter.Group{{Name: "measured", Rules: []lbfilter.Rule{
		{Port: sharedPort, Proto: lbfilter.UDP, Filter: lbfilter.OnPort},
		{Port: sharedPort, Proto: lbfilter.TCP, Filter: lbfilter.OnPort},
	}}, {Name: "resolved", Rules: []lbfilter.Rule{{Proto: lbfilter.ARP}}}})
}

// open puts a filter on a host.
func (h *sharer) open(p *lbfilter.Policy, pins string, t lbfilter.Table) (f *lbfilter.Filter, err error) {
	err = h.do(func() (err error) {
		f, err = lbfilter.Open(lbfilter.Config{Policy: p, Interface: "eth0", Self: h.number, Pins: pins})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Apply(t), f.Renew(lbfilter.Boottime()+time.Hour)); err != nil {
		return nil, errors.Join(err, f.Close(true))
	}
	return f, nil
}

// throughput is how many bytes a second one connection carries from the client to
// the second member.
func (g *ground) throughput(f flow, d time.Duration) (rate float64, err error) {
	members := []*sharer{g.first, g.second}
	if f.shared {
		p, err := sharingPolicy(f.mode)
		if err != nil {
			return 0, err
		}
		t := lbfilter.Table{Version: 1, Groups: p.Next(nil, []lbfilter.Member{{Number: g.second.number, Name: "second"}})}
		if f.detour {
			t.Groups[2] = p.Next(nil, []lbfilter.Member{{Number: g.first.number, Name: "first"}})[2]
		}
		for _, m := range members {
			t.MACs[m.number] = m.mac
		}
		for i, m := range members {
			filter, err := m.open(p, filepath.Join(g.dir, fmt.Sprint(i)), t)
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, filter.Close(true)) }()
		}
	}
	if err := g.client.forget(sharedAddr); err != nil {
		return 0, err
	}
	to := g.second.addr
	if f.shared {
		to = sharedAddr
	}
	var l net.Listener
	if err := g.second.do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to, sharedPort).String())
		return err
	}); err != nil {
		return 0, err
	}
	defer l.Close()
	var received atomic.Int64
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		b := make([]byte, 1<<18)
		for err == nil {
			var n int
			n, err = c.Read(b)
			received.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		ended <- err
	}()
	var c net.Conn
	if err := g.client.do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", netip.AddrPortFrom(to, sharedPort).String())
		return err
	}); err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(d + 30*time.Second)); err != nil {
		return 0, err
	}
	data := make([]byte, 1<<18)
	write := func(d time.Duration) (float64, error) {
		began, before := time.Now(), received.Load()
		for time.Since(began) < d {
			if _, err := c.Write(data); err != nil {
				return 0, err
			}
		}
		return float64(received.Load()-before) / time.Since(began).Seconds(), nil
	}
	// The window opens, and the kernel ends what opening the filters has begun.
	if _, err := write(d / 2); err != nil {
		return 0, err
	}
	if rate, err = write(d); err != nil {
		return 0, err
	}
	if err := c.Close(); err != nil {
		return 0, err
	}
	return rate, <-ended
}
