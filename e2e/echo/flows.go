package echo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skfs/skfs/e2e/lab"
)

// firstFlow is the port of the first flow: below those that the kernel gives to others.
const firstFlow = 20000

// flowPatience is how long a flow waits for an answer before it tries again, and so how
// exact a gap is.
const flowPatience = 80 * time.Millisecond

// A Gap is a time in which one flow was not served.
type Gap struct {
	Flow       int
	From, To   time.Time // of the answers at its ends; To is zero if it was not served again
	Last, Next string    // who gave them
}

// Watched is what flows saw.
type Watched struct {
	Answers int
	Gaps    []Gap // longer than two tries
}

// Flows are clients with a port each that connect again and again.
type Flows struct{ watching[Watched] }

// Watch has a host run n flows: each connects from its own port, so that a farm has it in
// one bucket, is told who serves it, hangs up and begins again. It returns when all were
// served once. addr is host:port.
func Watch(ctx context.Context, h *lab.Host, addr string, n int) (*Flows, error) {
	w, err := startWorker(ctx, h, flowsRole, addr, strconv.Itoa(n))
	if err != nil {
		return nil, fmt.Errorf("%d flows to %s: %w", n, addr, err)
	}
	return &Flows{watching[Watched]{w}}, nil
}

func flows(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	base := firstFlow
	if to.Addr().Is6() {
		base += 5000
	}
	ctx := untilTold()
	var mu sync.Mutex
	var w Watched
	var first, all sync.WaitGroup
	first.Add(n)
	for i := range n {
		all.Go(func() {
			began := sync.OnceFunc(first.Done)
			var last, late time.Time
			var by string
			for {
				name, err := oneAnswer(to, base+i)
				now := time.Now()
				if err == nil {
					mu.Lock()
					w.Answers++
					if !last.IsZero() && now.Sub(last) > 2*flowPatience {
						w.Gaps = append(w.Gaps, Gap{i, last, now, by, name})
					}
					mu.Unlock()
					last, by = now, name
					began()
				}
				if ctx.Err() != nil {
					if late.IsZero() {
						late = now.Add(patience)
					}
					if err == nil {
						break
					}
					if now.After(late) {
						mu.Lock()
						w.Gaps = append(w.Gaps, Gap{Flow: i, From: last, Last: by})
						mu.Unlock()
						break
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	first.Wait()
	fmt.Println("ready")
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(w)
}

// oneAnswer connects from a port, takes the name, and resets the connection, so that the
// port is free again.
func oneAnswer(to netip.AddrPort, port int) (string, error) {
	d := net.Dialer{Timeout: flowPatience, LocalAddr: &net.TCPAddr{Port: port}}
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.(*net.TCPConn).SetLinger(0)
	c.SetDeadline(time.Now().Add(flowPatience))
	name, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(name), err
}
