package echo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skfs/skfs/e2e/lab"
)

// Port is where the server listens, on all addresses, unless it is told another one.
const Port = "7000"

const (
	serveRole   = "echo-serve"
	askRole     = "echo-ask"
	askUDPRole  = "echo-ask-udp"
	holdRole    = "echo-hold"
	flowsRole   = "echo-flows"
	overhearing = "echo-overhear"
)

// Roles are the processes of this package, for lab.Main.
func Roles() map[string]lab.Role {
	return map[string]lab.Role{serveRole: serve, askRole: ask, askUDPRole: askUDP, holdRole: hold, flowsRole: flows, overhearing: overhear}
}

// PIDFile is where a host has the number of the server's process, as the host counts.
func PIDFile(port string) string { return "/run/echo." + port + ".pid" }

// Scripts returns the commands of start_both and stop_both of a module whose
// application is the server on a port, run by the program self. start_both returns when
// the server listens.
func Scripts(self []string, port string) (start, stop string) {
	ready, pid := "/run/echo."+port+".ready", PIDFile(port)
	start = "rm -f " + ready + "\n" + lab.RoleShell(self, serveRole, ready, port) +
		" </dev/null >>\"$SAFEUSERVAR/echo.log\" 2>&1 &\necho $! >" + pid + "\nwhile [ ! -e " + ready + " ]; do sleep 0.05; done"
	return start, "[ -f " + pid + " ] || exit 0\npid=$(cat " + pid + `)
kill -9 "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
rm -f ` + pid
}

// serve says the name of the host to each connection, then gives back its lines.
func serve(args []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+args[1])
	if err != nil {
		return err
	}
	if err := serveUDP(name, args[1]); err != nil {
		return err
	}
	if err := os.WriteFile(args[0], nil, 0o644); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, name)
			io.Copy(c, c)
		}()
	}
}

// Asked is how often each server answered.
type Asked map[string]int

// Ask has a host connect n times, one after the other, and returns who answered. It ends
// with the first that nobody does. addr is host:port.
func Ask(ctx context.Context, h *lab.Host, addr string, n int) (Asked, error) {
	return asking(ctx, h, addr, n, askRole)
}

func asking(ctx context.Context, h *lab.Host, addr string, n int, role string) (Asked, error) {
	cmd := h.RoleCommand(ctx, role, addr, strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	var out strings.Builder
	cmd.Stdout = &out
	p, err := h.Start(cmd)
	if err != nil {
		return nil, err
	}
	failed := p.Wait()
	var a Asked
	if failed != nil {
		json.Unmarshal([]byte(out.String()), &a) // it may have been killed before it said anything
		return a, fmt.Errorf("asking %s %d times: %w", addr, n, failed)
	}
	if err := json.Unmarshal([]byte(out.String()), &a); err != nil {
		return nil, fmt.Errorf("asking %s: %w: %q", addr, err, out.String())
	}
	return a, nil
}

func ask(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	a := Asked{}
	for range n {
		c, name, err := connect(args[0])
		if err != nil {
			return errors.Join(err, json.NewEncoder(os.Stdout).Encode(a))
		}
		c.Close()
		a[name]++
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

// patience is for what a lost SYN costs: 1, 3, 7 and 15 s.
const patience = 20 * time.Second

func connect(to string) (net.Conn, string, error) {
	c, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return nil, "", err
	}
	c.SetDeadline(time.Now().Add(patience))
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return nil, "", fmt.Errorf("connection of %s is not answered: %w", c.LocalAddr(), err)
	}
	return c, strings.TrimSpace(name), nil
}

// Held is what became of connections that were held.
type Held struct {
	Connections int
	By          Asked         // who served them
	Broken      []Break       // those that did not end as they should
	Longest     time.Duration // that a line took to come back
}

// Break is a connection that broke.
type Break struct {
	Client, Server string // Server "": it did not come about
	At             time.Time
	Error          string
}

// Holding is connections that a host holds.
type Holding struct{ watching[Held] }

// Hold has a host hold n connections, each of which says a line every 100 ms and waits
// for it to come back. Each ends after a time between life/2 and life, and another one
// takes its place. It returns when all are there. addr is host:port.
func Hold(ctx context.Context, h *lab.Host, addr string, n int, life time.Duration) (*Holding, error) {
	w, err := startWorker(ctx, h, holdRole, addr, strconv.Itoa(n), life.String())
	if err != nil {
		return nil, fmt.Errorf("%d connections to %s: %w", n, addr, err)
	}
	return &Holding{watching[Held]{w}}, nil
}

func hold(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	life, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	ctx := untilTold()
	var mu sync.Mutex
	h := Held{By: Asked{}}
	var first, all sync.WaitGroup
	first.Add(n)
	for range n {
		all.Go(func() {
			began := sync.OnceFunc(first.Done)
			for ctx.Err() == nil {
				c, name, err := connect(args[0])
				mu.Lock()
				h.Connections++
				if err == nil {
					h.By[name]++
				} else {
					h.Broken = append(h.Broken, Break{At: time.Now(), Error: err.Error()})
				}
				mu.Unlock()
				began()
				if err != nil {
					continue
				}
				longest, err := talk(ctx, c, life/2+time.Duration(rand.Int63n(int64(life/2)+1)))
				c.Close()
				mu.Lock()
				h.Longest = max(h.Longest, longest)
				if err != nil {
					h.Broken = append(h.Broken, Break{c.LocalAddr().String(), name, time.Now(), err.Error()})
				}
				mu.Unlock()
			}
		})
	}
	first.Wait()
	fmt.Println("ready")
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(h)
}

// talk says lines for a while.
func talk(ctx context.Context, c net.Conn, life time.Duration) (longest time.Duration, err error) {
	r := bufio.NewReader(c)
	for i, end := 0, time.Now().Add(life); time.Now().Before(end) && ctx.Err() == nil; i++ {
		from := time.Now()
		c.SetDeadline(from.Add(patience))
		line := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(c, line); err != nil {
			return longest, err
		}
		back, err := r.ReadString('\n')
		if err != nil {
			return longest, err
		}
		if back != line {
			return longest, fmt.Errorf("%q came back as %q", line, back)
		}
		longest = max(longest, time.Since(from))
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return longest, nil
}
