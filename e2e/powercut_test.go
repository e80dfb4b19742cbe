package e2e

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// database is what runs while the power is cut, on what.
type database struct{ fs, async, kind string }

func (d database) String() string { return fmt.Sprintf("%s on %s, async=%s", d.kind, d.fs, d.async) }

const postgreSQL = "PostgreSQL" // a kind of database; the others are stores of the ledger

// Hosts lose their power, and with it what was not synchronised, while clients
// use a database: PRIM, SECOND or both, once or again while they come back. What
// a client saw committed is there afterwards, both hosts have the same, they
// come back without being told who is primary, and clients are answered again.
func TestPowerCut(t *testing.T) {
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	databases := []database{{"ext4", "second", "sql"}, {"xfs", "none", "sql"}, {"ext4", "none", postgreSQL}, {"xfs", "second", postgreSQL}}
	if !long() {
		databases = databases[1:3]
	}
	n := rounds(t, 3, 50)
	for _, d := range databases {
		t.Run(d.String(), func(t *testing.T) {
			if !hasFS(t, d.fs) {
				t.Skip("apt-get install e2fsprogs xfsprogs")
			}
			c := newCuts(t, d)
			victims, order := []string{"PRIM", "SECOND", "both"}, []int(nil)
			for round := range n {
				if round%len(victims) == 0 {
					order = c.rnd.Perm(len(victims)) // each comes before one comes again
				}
				c.round(round, victims[order[round%len(victims)]])
			}
			c.nothingLeft()
		})
	}
}

// newCuts makes the hosts, with all that is theirs on file systems that lose what
// was not synchronised.
func newCuts(t *testing.T, d database) *chaos {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := pair.Config{Async: d.async, TimeoutMs: 1000}
	config.StartPrim, config.StopPrim = ledger.Scripts([]string{exe}, d.kind, dataDir)
	if d.kind == postgreSQL {
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
		if err != nil || len(found) == 0 {
			t.Skip("no PostgreSQL server in /usr/lib/postgresql: apt-get install postgresql")
		}
		config.StartPrim, config.StopPrim = postgresScripts(found[len(found)-1])
	}
	seed := randomSeed(t)
	p := newPairOf(t, pair.Options{Config: config, Disk: diskOf(d.fs, 2<<30), Var: diskOf(d.fs, minDisk)})
	within(t, patience, p.Start)
	return &chaos{Pair: p, t: t, kind: d.kind, postgres: d.kind == postgreSQL, notes: filepath.Join(p.Lab.Dir(), "acknowledged"), next: 1, rnd: rand.New(rand.NewPCG(seed, uint64(crc32.ChecksumIEEE([]byte(d.String())))))}
}

// pause lets up to most pass: a host may be anywhere in what it does.
func (c *chaos) pause(most time.Duration) time.Duration {
	d := time.Duration(c.rnd.Int64N(int64(most)))
	time.Sleep(d)
	return d
}

// round cuts the power of the victims under load, lets them come back, and looks.
func (c *chaos) round(round int, victims string) {
	c.t.Helper()
	c.begin()
	c.pause(time.Second)
	prim := c.primary()
	hit := []*pair.Node{prim}
	switch victims {
	case "SECOND":
		hit[0] = prim.Peer()
	case "both":
		hit = append(hit, prim.Peer())
		c.rnd.Shuffle(2, func(i, j int) { hit[i], hit[j] = hit[j], hit[i] })
	}
	begun, story := time.Now(), []string{}
	for i, n := range hit {
		if i > 0 { // at once, or after the one that was left has noticed
			story = append(story, fmt.Sprintf("after %v", c.pause(time.Duration(1+c.rnd.IntN(2)*2500)*time.Millisecond).Round(time.Millisecond)))
		}
		c.cut(n)
		story = append(story, n.Name())
	}
	if len(hit) == 1 {
		within(c.t, patience, func(ctx context.Context) error { return hit[0].Peer().Await(ctx, "ALONE") })
	}
	c.pause(500 * time.Millisecond)
	c.backAgain()
	if c.rnd.IntN(3) == 0 { // while they compare, or copy
		took := c.pause(700 * time.Millisecond)
		n := c.Nodes[c.rnd.IntN(2)]
		c.cut(n)
		story = append(story, fmt.Sprintf("%s again %v after its boot", n.Name(), took.Round(time.Millisecond)))
	}
	c.recover()
	whole := time.Since(begun)
	within(c.t, patience, func(ctx context.Context) error { return grows(ctx, c.notes) })
	var found string
	if c.postgres {
		s := c.stop()
		found = fmt.Sprintf("%v, gap %v", c.checkPostgres(c.primary()), s.Gap.Round(time.Millisecond))
		same(c.t, c.Pair) // the server runs and has nothing to write
	} else {
		s := c.end()
		found = fmt.Sprintf("%d acknowledged, gap %v", s.Acked, s.Gap.Round(time.Millisecond))
	}
	c.t.Logf("round %d: power cut of %s (%s): %s, whole again after %v", round, victims, strings.Join(story, ", "), found, whole.Round(time.Millisecond))
}

func (c *chaos) cut(n *pair.Node) {
	c.t.Helper()
	if err := n.PowerCut(); err != nil {
		c.t.Fatal(err)
	}
}

// backAgain switches on what is off, in any order, and starts the module there.
func (c *chaos) backAgain() {
	c.t.Helper()
	nodes := slices.Clone(c.Nodes[:])
	c.rnd.Shuffle(2, func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, n := range nodes {
		if n.On() {
			continue
		}
		within(c.t, patience, n.BootNode)
		within(c.t, patience, func(ctx context.Context) error { return n.Do(ctx, "start") })
		c.pause(300 * time.Millisecond)
	}
}
