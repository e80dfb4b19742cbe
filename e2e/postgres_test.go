package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// postgresScripts start and stop a PostgreSQL server with its data directory on
// the mount. The first start makes the database.
func postgresScripts(bin string) (start, stop string) {
	as := "cd / && setpriv --reuid=postgres --regid=postgres --clear-groups env -i PATH=" + bin + ":$PATH LANG=C HOME=/tmp "
	start = fmt.Sprintf(`set -e
D=/replicated/pg
if [ ! -d $D ]; then
	mkdir $D && chown postgres:postgres $D && chmod 700 $D
	%[1]s initdb -D $D -A trust
	echo "host all all all trust" >>$D/pg_hba.conf
	sync $D/pg_hba.conf
	first=1
fi
rm -f $D/postmaster.pid   # of a server on the other host, whose process numbers mean nothing here
%[1]s pg_ctl -D $D -w -t 60 -l /run/postgresql/log -o "-c listen_addresses=* -k /run/postgresql" start
if [ -n "$first" ]; then
	%[1]s psql -q -h /run/postgresql -c '%[2]s'
fi`, as, ledger.PostgresSchema)
	stop = fmt.Sprintf(`[ -f /replicated/pg/postmaster.pid ] || exit 0
mode=fast; [ "$1" = force ] && mode=immediate
%s pg_ctl -D /replicated/pg -w -t 60 -m $mode stop`, as)
	return start, stop
}

// A PostgreSQL server on the mount: its host is killed under load, the other
// takes over, and every transaction that a client saw committed is there.
func TestPostgresKill(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Skip("no PostgreSQL server in /usr/lib/postgresql: apt-get install postgresql")
	}
	start, stop := postgresScripts(found[len(found)-1])
	for _, async := range []string{"second", "none"} {
		t.Run("async="+async, func(t *testing.T) {
			p := started(t, pair.Config{Async: async, StartPrim: start, StopPrim: stop, TimeoutMs: 1000})
			c := &chaos{Pair: p, t: t, notes: filepath.Join(p.Lab.Dir(), "acknowledged"), next: 1, postgres: true}
			for round := range rounds(t, 1, 20) {
				c.begin()
				time.Sleep(time.Second) // of load before the loss
				victim := c.primary()
				kill, how := victim.Kill, "killed"
				if round%2 == 1 {
					kill, how = victim.PowerOff, "powered off"
				}
				if err := kill(); err != nil {
					t.Fatal(err)
				}
				within(t, patience, func(ctx context.Context) error { return victim.Peer().Await(ctx, "ALONE") })
				time.Sleep(time.Second) // of load after the takeover
				s := c.stop()
				if s.Gap > 30*time.Second {
					t.Errorf("nothing was acknowledged for %v", s.Gap)
				}
				v := c.checkPostgres(victim.Peer())
				t.Logf("round %d: %s %s: %v, gap %v", round, victim.Name(), how, v, s.Gap.Round(time.Millisecond))
				c.recover()
				same(t, p) // the server runs and has nothing to write
			}
			c.nothingLeft()
		})
	}
}

// checkPostgres wants every acknowledged transaction in the server on n.
func (c *chaos) checkPostgres(n *pair.Node) ledger.Verdict {
	c.t.Helper()
	var v ledger.Verdict
	within(c.t, patience, func(ctx context.Context) (err error) {
		v, err = ledger.CheckPostgresOn(ctx, c.Client, c.addr(n), c.notes)
		if err == nil && !v.OK() {
			err = fmt.Errorf("acknowledged transactions are lost: %v", v)
		}
		return err
	})
	return v
}
