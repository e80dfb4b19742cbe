package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerPatience is how long a driver waits for one answer before it tries
	// the other host.
	answerPatience = 500 * time.Millisecond
	dialPatience   = 250 * time.Millisecond
	redialPause    = 20 * time.Millisecond // a host without the application refuses at once
)

// Summary is what a driver found.
type Summary struct {
	Acked   int           // entries that were acknowledged
	Asked   uint64        // entries asked for: their numbers are 1 to Asked
	Gap     time.Duration // longest time without an acknowledgement
	LastErr string        // of the store, if it ever answered with an error
}

// DriveSpec says what Drive does.
type DriveSpec struct {
	Addrs   []string      // where the application may be, host:port
	Notes   string        // file for the acknowledged numbers, one a line
	Workers int           // connections at once
	First   uint64        // the first number; those of one ledger must not repeat
	Pause   time.Duration // of a worker after each entry

	Postgres bool // the application is a PostgreSQL server instead of Serve
}

// Args makes the arguments of Drive.
func (s DriveSpec) Args() []string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return []string{string(b)}
}

// Drive is the client: it asks for entries until it gets SIGTERM, prints "ready"
// after the first acknowledgement and a Summary as JSON at the end.
func Drive(args []string) error {
	var spec DriveSpec
	if len(args) != 1 {
		return fmt.Errorf("ledger: %d arguments, expected 1", len(args))
	}
	if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	notes, err := os.OpenFile(spec.Notes, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("ledger: notes: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	d := &driver{spec: spec, notes: notes, start: time.Now()}
	d.next.Store(spec.First)
	var all sync.WaitGroup
	for i := range max(1, spec.Workers) {
		all.Go(func() { d.work(ctx, i) })
	}
	all.Wait()
	d.acked(0) // the time since the last answer counts, too
	if err := errors.Join(d.err, notes.Close()); err != nil {
		return err
	}
	d.summary.Asked = d.next.Load() - 1
	return json.NewEncoder(os.Stdout).Encode(d.summary)
}

type driver struct {
	spec  DriveSpec
	start time.Time
	next  atomic.Uint64 // the number to ask for next

	mu      sync.Mutex // guards what follows
	notes   *os.File
	summary Summary
	last    time.Time // of an acknowledgement
	err     error     // of the notes: nothing noted is worth anything after it
}

// acked notes an acknowledged entry; 0 only brings the gap up to date.
func (d *driver) acked(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !d.last.IsZero() {
		d.summary.Gap = max(d.summary.Gap, now.Sub(d.last))
	}
	if id == 0 {
		return
	}
	if d.last.IsZero() {
		fmt.Println("ready")
	}
	d.last = now
	d.summary.Acked++
	if _, err := fmt.Fprintln(d.notes, id); err != nil && d.err == nil {
		d.err = fmt.Errorf("ledger: notes: %w", err)
	}
}

// session is a connection to the application. put returns when the entry is
// acknowledged; after an error the session is of no more use.
type session interface {
	put(id uint64) error
	close() error
}

// refusal is an error that the application answered with, as opposed to silence.
type refusal string

func (r refusal) Error() string { return string(r) }

// connect opens a session with the application at an address.
func (d *driver) connect(ctx context.Context, addr string) (session, error) {
	dialer := net.Dialer{Timeout: dialPatience}
	c, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if d.spec.Postgres {
		return startPostgres(c)
	}
	return &lineSession{conn: c, answers: bufio.NewReader(c)}, nil
}

// work asks over one connection after the other.
func (d *driver) work(ctx context.Context, worker int) {
	for at := worker; ctx.Err() == nil; at++ {
		s, err := d.connect(ctx, d.spec.Addrs[at%len(d.spec.Addrs)])
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(redialPause):
			}
			continue
		}
		d.ask(ctx, s)
		s.close()
	}
}

// ask asks over a session until it fails.
func (d *driver) ask(ctx context.Context, s session) {
	for ctx.Err() == nil {
		id := d.next.Add(1) - 1
		if err := s.put(id); err != nil {
			var said refusal
			if errors.As(err, &said) {
				d.mu.Lock()
				d.summary.LastErr = string(said)
				d.mu.Unlock()
			}
			return
		}
		d.acked(id)
		if d.spec.Pause > 0 {
			time.Sleep(d.spec.Pause)
		}
	}
}

// lineSession speaks the protocol of Serve.
type lineSession struct {
	conn    net.Conn
	answers *bufio.Reader
}

func (s *lineSession) put(id uint64) error {
	s.conn.SetDeadline(time.Now().Add(answerPatience))
	if _, err := fmt.Fprintln(s.conn, id); err != nil {
		return err
	}
	answer, err := s.answers.ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != fmt.Sprint(id) {
		return refusal(answer)
	}
	return nil
}

func (s *lineSession) close() error { return s.conn.Close() }
