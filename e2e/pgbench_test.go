package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

const (
	pgScale    = "4" // branches: as many as clients, so that they seldom wait for each other
	pgClients  = 4
	pgRecovery = 60   // seconds that start_prim gives the server
	pgLoaded   = 500  // transactions of our own, or a few times as many, before a host is killed
	pgTail     = 4000 // bytes of the server's log in the report of a failure
)

// postgres is PostgreSQL as the application of a pair, with its data under the
// replicated directory, and what its clients know outside of the hosts.
//
// Two clients work on the primary from the client host until it is killed:
//
//	pgbench   TPC-B. At the end of its connections it says how many transactions
//	          were acknowledged to it; each has left a row in its history.
//	psql      inserts 1, 2, 3…, one a transaction; the test asks for the next when
//	          it has noted the one before as acknowledged.
//
// A transaction that was under way when the host died may be there or not.
type postgres struct {
	*pair.Pair
	t    *testing.T
	bin  string // directory of PostgreSQL's programs
	stop string // the commands of stop_prim

	asked   int64   // last number asked for
	acked   []int64 // numbers that were acknowledged
	benched int64   // transactions acknowledged to pgbench
	doubt   int64   // transactions of pgbench that nobody was told the end of, at most
}

// pgBin returns the directory of PostgreSQL's programs; without them, or without
// the user that they run as, the test is skipped.
func pgBin(t *testing.T) string {
	t.Helper()
	if _, err := user.Lookup("postgres"); err != nil {
		t.Skipf("PostgreSQL is not installed: %v", err)
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian has only some of them in PATH
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(dirs) // the newest first
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	needed := []string{"initdb", "pg_ctl", "postgres", "pgbench", "psql"}
	for _, dir := range dirs {
		if !slices.ContainsFunc(needed, func(program string) bool {
			_, err := exec.LookPath(filepath.Join(dir, program))
			return err != nil
		}) {
			return dir
		}
	}
	t.Skipf("PostgreSQL is not installed: no directory of %q has all of %q", dirs, needed)
	return ""
}

// newPostgres starts a pair whose application is PostgreSQL with pgbench's tables.
func newPostgres(t *testing.T, async string) *postgres {
	t.Helper()
	d := &postgres{t: t, bin: pgBin(t)}
	common := fmt.Sprintf(`set -eu
data=%s/data
bin=%s
cd / # a directory that the user postgres may enter
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/ LC_ALL=C "$@"; }
`, dataDir, d.bin)
	// A postmaster.pid of the other host is in the directory after a takeover. The
	// server sees that no process of its user has that number here.
	start := common + fmt.Sprintf(`exec </dev/null >>"$SAFEUSERVAR/postgres.log" 2>&1
if [ ! -d "$data" ]; then
	install -d -o postgres -g postgres -m 700 "$data"
	as_postgres "$bin/initdb" -D "$data" -A trust --data-checksums
	# Small enough that checkpoints, and the recycling of the log, happen under load.
	cat >>"$data/postgresql.conf" <<END
listen_addresses = '*'
max_wal_size = 128MB
min_wal_size = 32MB
checkpoint_timeout = 30s
END
	echo 'host all all samenet trust' >>"$data/pg_hba.conf"
fi
as_postgres "$bin/pg_ctl" start -D "$data" -w -t %d`, pgRecovery)
	d.stop = common + `mode=fast
if [ "${1:-}" = force ]; then mode=immediate; fi
as_postgres "$bin/pg_ctl" status -D "$data" || exit 0
as_postgres "$bin/pg_ctl" stop -D "$data" -w -m "$mode"`

	d.Pair = newPair(t, pair.Config{Async: async, StartPrim: start, StopPrim: d.stop})
	t.Cleanup(func() {
		if t.Failed() {
			d.dumpLogs()
		}
	})
	within(t, 2*patience, d.Start) // it makes the database
	within(t, patience, func(ctx context.Context) error {
		if out, err := d.run(ctx, d.Nodes[0], "pgbench", "-i", "-q", "-s", pgScale, "postgres"); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		_, err := d.query(ctx, d.Nodes[0], "CREATE TABLE noted (n bigint PRIMARY KEY)")
		return err
	})
	return d
}

// dumpLogs shows the end of the server's log of both hosts.
func (d *postgres) dumpLogs() {
	for _, n := range d.Nodes {
		vars, err := n.Backing("/var/lib/skfs")
		if err != nil {
			d.t.Error(err)
			continue
		}
		said, err := os.ReadFile(filepath.Join(vars, "modules", pair.Module, "postgres.log"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it never ran there
		}
		d.t.Logf("== %s: postgres.log (%v)\n%s", n.Name(), err, said[max(0, len(said)-pgTail):])
	}
}

// command prepares a client program, on the client host, that works on the server
// of n.
func (d *postgres) command(ctx context.Context, n *pair.Node, program string, args ...string) *exec.Cmd {
	cmd := d.Client.Command(ctx, filepath.Join(d.bin, program), args...)
	cmd.Env = append(cmd.Env, "LC_ALL=C", "PGUSER=postgres", "PGHOST="+n.Addr("default").String(), "PGCONNECT_TIMEOUT=10")
	return cmd
}

func (d *postgres) run(ctx context.Context, n *pair.Node, program string, args ...string) (string, error) {
	return d.Client.RunCommand(d.command(ctx, n, program, args...))
}

// quietly are the options with which psql prints values only.
var quietly = []string{"-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "postgres"}

// query returns the values of a query, row by row.
func (d *postgres) query(ctx context.Context, n *pair.Node, query string) ([]int64, error) {
	out, err := d.run(ctx, n, "psql", append(slices.Clone(quietly), "-c", query)...)
	if err != nil {
		return nil, err
	}
	var values []int64
	for word := range strings.FieldsSeq(out) {
		v, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s answered %q with %q: %w", n.Name(), query, out, err)
		}
		values = append(values, v)
	}
	return values, nil
}

// verify says that the database of n has everything that was acknowledged and
// nothing that nobody asked for. Nobody may be working on it.
func (d *postgres) verify(n *pair.Node) {
	d.t.Helper()
	within(d.t, patience, func(ctx context.Context) error {
		found, err := d.query(ctx, n, "SELECT n FROM noted ORDER BY n")
		if err != nil {
			return err
		}
		var missing []int64
		for _, want := range d.acked {
			if _, ok := slices.BinarySearch(found, want); !ok {
				missing = append(missing, want)
			}
		}
		if len(missing) > 0 {
			d.t.Errorf("%s lacks %d of %d acknowledged transactions: %v…", n.Name(), len(missing), len(d.acked), missing[:min(10, len(missing))])
		}
		if len(found) > 0 && found[len(found)-1] > d.asked {
			d.t.Errorf("%s has transaction %d, but only %d were asked for", n.Name(), found[len(found)-1], d.asked)
		}

		sums, err := d.query(ctx, n, `SELECT
			(SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
			(SELECT sum(bbalance) FROM pgbench_branches), coalesce(sum(delta), 0), count(*) FROM pgbench_history`)
		if err != nil {
			return err
		}
		a, t, b, h, rows := sums[0], sums[1], sums[2], sums[3], sums[4]
		if a != t || t != b || b != h {
			d.t.Errorf("on %s the balances are %d of accounts, %d of tellers, %d of branches, and %d was moved: they must be equal", n.Name(), a, t, b, h)
		}
		if rows < d.benched || rows > d.benched+d.doubt {
			d.t.Errorf("%s has %d transactions of pgbench, but %d were acknowledged and at most %d more were under way", n.Name(), rows, d.benched, d.doubt)
		}
		if d.t.Failed() {
			return errors.New("the database is not what its clients were told")
		}
		return nil
	})
}

// pgLoad is both clients at work on a server.
type pgLoad struct {
	d      *postgres
	begun  int // transactions of our own that were acknowledged before
	enough int // to be acknowledged in all, before the load counts as one
	kill   context.CancelFunc

	bench     *lab.Started
	benchSaid bytes.Buffer

	psql     *lab.Started
	psqlSaid bytes.Buffer  // what it has to complain about
	quit     chan struct{} // closed to end it after the transaction under way
	loaded   chan struct{} // closed when enough is acknowledged
	written  chan error    // the writer ended; it owns d.asked and d.acked until then
}

// load starts both clients.
func (d *postgres) load(n *pair.Node, atLeast int) *pgLoad {
	d.t.Helper()
	ctx, kill := context.WithCancel(d.t.Context())
	l := &pgLoad{d: d, begun: len(d.acked), enough: len(d.acked) + atLeast, kill: kill,
		quit: make(chan struct{}), loaded: make(chan struct{}), written: make(chan error, 1)}
	d.t.Cleanup(kill)

	var err error
	bench := d.command(ctx, n, "pgbench", "-n", "-c", fmt.Sprint(pgClients), "-j", "2", "-T", "86400", "postgres")
	bench.Stdout, bench.Stderr = &l.benchSaid, &l.benchSaid
	if l.bench, err = d.Client.Start(bench); err != nil {
		d.t.Fatal(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	defer outW.Close()
	psql := d.command(ctx, n, "psql", quietly...)
	psql.Stdin, psql.Stdout, psql.Stderr = inR, outW, &l.psqlSaid
	if l.psql, err = d.Client.Start(psql); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		l.written <- l.write(inW, outR)
		inW.Close()
		outR.Close()
	}()
	return l
}

// write asks for one transaction after the other and notes each that is
// acknowledged, until it is told to quit or the connection breaks. psql prints
// what an INSERT returns when the server has said that it is committed.
func (l *pgLoad) write(ask io.Writer, answers io.Reader) error {
	lines := bufio.NewReader(answers)
	for {
		select {
		case <-l.quit:
			return nil
		default:
		}
		l.d.asked++
		if _, err := fmt.Fprintf(ask, "INSERT INTO noted VALUES (%d) RETURNING n;\n", l.d.asked); err != nil {
			return err
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if answer != fmt.Sprintln(l.d.asked) {
			return fmt.Errorf("asked for %d, psql said %q", l.d.asked, answer)
		}
		l.d.acked = append(l.d.acked, l.d.asked)
		if len(l.d.acked) == l.enough {
			close(l.loaded)
		}
	}
}

// working returns when enough was acknowledged, and both clients are still at work.
func (l *pgLoad) working(ctx context.Context) error {
	select {
	case <-l.loaded:
	case <-l.psql.Done():
		return fmt.Errorf("psql ended: %w: %s", l.psql.Wait(), l.psqlSaid.String())
	case <-l.bench.Done():
		return fmt.Errorf("pgbench ended: %w: %s", l.bench.Wait(), l.benchSaid.String())
	case <-ctx.Done():
		return fmt.Errorf("%d transactions are not acknowledged: %w", l.enough-l.begun, ctx.Err())
	}
	select {
	case <-l.bench.Done():
		return fmt.Errorf("pgbench ended: %w: %s", l.bench.Wait(), l.benchSaid.String())
	default:
		return nil
	}
}

// finish lets both clients end as if their time were over.
func (l *pgLoad) finish() error {
	close(l.quit)
	return unix.Kill(l.bench.PID(), unix.SIGALRM) // how pgbench's own clock tells it
}

var processed = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)

// ended waits for the clients, of which the last was told to finish or whose
// server is dead, and takes over what was acknowledged to them.
func (l *pgLoad) ended(ctx context.Context) error {
	defer l.kill()
	select {
	case err := <-l.written:
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("psql does not end: %w", ctx.Err())
	}
	select {
	case <-l.bench.Done():
	case <-ctx.Done():
		return fmt.Errorf("pgbench does not end: %w", ctx.Err())
	}
	// That it lost its connections makes its exit code say nothing.
	m := processed.FindStringSubmatch(l.benchSaid.String())
	if m == nil {
		return fmt.Errorf("output of pgbench: expected a line \"number of transactions actually processed: …\": %s", l.benchSaid.String())
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err == nil && n == 0 {
		err = fmt.Errorf("pgbench did nothing: %s", l.benchSaid.String())
	}
	l.d.benched += n
	l.d.doubt += pgClients
	return err
}

// PostgreSQL survives the loss of its host in the middle of its transactions, again
// and again: the other host has every transaction that was acknowledged.
func TestPostgresPgbench(t *testing.T) {
	rounds := rounds(t, 1, 20)
	for _, async := range []string{"second", "none"} {
		t.Run("async="+async, func(t *testing.T) {
			d := newPostgres(t, async)
			victim := d.Nodes[0]
			load := d.load(victim, pgLoaded)
			for round := range rounds {
				within(t, patience, load.working)
				before, benched := load.begun, d.benched

				killed := time.Now()
				if err := victim.Kill(); err != nil {
					t.Fatal(err)
				}
				survivor := victim.Peer()
				within(t, patience, func(ctx context.Context) error { return survivor.Await(ctx, "ALONE") })
				takeover := time.Since(killed)
				within(t, patience, load.ended)
				d.verify(survivor)

				load = d.load(survivor, pgLoaded*(1+(round+1)%4))
				within(t, patience, victim.BootNode)
				back := time.Now()
				within(t, 2*patience, func(ctx context.Context) error {
					if err := victim.Do(ctx, "start"); err != nil {
						return err
					}
					if err := victim.Await(ctx, "SECOND"); err != nil {
						return err
					}
					return survivor.Await(ctx, "PRIM")
				})
				t.Logf("round %d: %s killed; acknowledged: %d of our own, %d of pgbench, none missing; the database is open on %s after %v; %s is SECOND after %v",
					round, victim.Name(), load.begun-before, d.benched-benched, survivor.Name(), takeover.Round(time.Millisecond),
					victim.Name(), time.Since(back).Round(time.Millisecond))
				victim = survivor
			}
			within(t, patience, load.working)
			if err := load.finish(); err != nil {
				t.Fatal(err)
			}
			within(t, patience, load.ended)
			d.verify(victim)
			within(t, patience, func(ctx context.Context) error { // so that nobody writes while both hosts are compared
				_, err := victim.Run(ctx, "/bin/sh", "-c", d.stop)
				return err
			})
			same(t, d.Pair)
			t.Logf("%d rounds: acknowledged and there: %d transactions of our own, %d of pgbench", rounds, len(d.acked), d.benched)
		})
	}
}
