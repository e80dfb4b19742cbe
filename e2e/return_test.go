package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// A row of the table is a way for a host to go away and come back, and what
// changes meanwhile on the other. After it both hosts have the same on disk, the
// survivor has every entry that was acknowledged, and the copy has cost what the
// change says.
type row struct {
	way
	change
}

func (r row) String() string {
	if r.change.name == "" {
		return r.way.name
	}
	return r.way.name + ", " + r.change.name
}

// way is how a host goes away and comes back.
type way struct {
	name  string
	role  string      // of the host that goes away, SECOND if empty
	leave func(*trip) // returns when the other goes on ALONE
	back  func(*trip) // what an administrator does; returns when both are whole again; nil: start
	check func(*trip) // more than what holds for all
	cost  cost        // what the copy may cost
	both  bool        // both hosts lose what they had not synchronised, or more: only what was fsynced in sync is promised
	leads bool        // leave says who is primary meanwhile, instead of the host that stays
	crash bool        // it left without a word, in sync
	exact bool        // what the row has prepared is on both disks, for certain, when it leaves
}

// change is what happens to the tree while a host is away.
type change struct {
	name    string
	prepare func(*trip) // before the host leaves
	do      func(*trip) // while it is away
	bytes   int64       // of the zones that are touched
	files   int64       // that are touched
}

// cost says what a copy may read and send.
type cost int

const (
	delta   cost = iota // nothing but the touched zones
	scan                // files are compared, only what differs is sent
	full                // the same, by definition
	anew                // everything is sent, by definition
	nothing             // there is no copy
)

const (
	zone = 8 << 20 // ruzone_blocksize, bytes

	// slack is for the entries that are acknowledged before and while a host is
	// away, some of them files of their own.
	slackBytes, slackFiles = 512 << 10, 32

	// noteLife is how long a change that was made in sync may stay noted: two
	// checkpoints, some time to write them, and a slow machine.
	noteLife = 30 * time.Second
)

// table runs rows on one pair of hosts, one after the other. A row that fails
// costs the pair.
type table struct {
	*pair.Pair
	t       *testing.T
	kind    returnKind
	n       int // rows begun
	failed  int
	acked   uint64 // the last entry in the stores
	counted uint64 // of acked, in recent
	loaded  uint64 // the last entry that a load has asked for
	recent  []spent
}

// spent is what changed in the tree at a time.
type spent struct {
	at           time.Time
	bytes, files int64
}

// returnKind is what the hosts are made of.
type returnKind struct{ fs, async string }

func (k returnKind) String() string { return k.fs + ", async=" + k.async }

// returnKinds are those that can be made here. The CI can make them all.
func returnKinds(t *testing.T) []returnKind {
	t.Helper()
	kinds := []returnKind{{"ext4", "second"}}
	if long() {
		kinds = append(kinds, returnKind{"xfs", "second"}, returnKind{"ext4", "none"})
	}
	return slices.DeleteFunc(kinds, func(k returnKind) bool { return !hasFS(t, k.fs) })
}

// hasFS says whether file systems of a kind can be made and mounted here.
func hasFS(t *testing.T, kind string) bool {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	_, err = exec.LookPath("mkfs." + kind)
	if err == nil && slices.Contains(strings.Fields(string(known)), kind) {
		return true
	}
	t.Logf("no %s here: no mkfs.%s (%v), or not in /proc/filesystems", kind, kind, err)
	return false
}

// diskOf is a disk with a file system of its own.
func diskOf(kind string, size int64) lab.Disk { return lab.Disk{FS: kind, Size: size} }

// minDisk is the least that mkfs.xfs makes a file system of.
const minDisk = 320 << 20

// Rows share pairs, and each leaves its own as PRIM and SECOND. E2E_ROWS, a regular
// expression, selects some by their names.
func TestReturn(t *testing.T) {
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	wanted, err := regexp.Compile(os.Getenv("E2E_ROWS"))
	if err != nil {
		t.Fatalf("E2E_ROWS: %v", err)
	}
	kinds := returnKinds(t)
	if len(kinds) == 0 {
		t.Skip("no file system for disks that lose what was not synchronised: apt-get install e2fsprogs xfsprogs")
	}
	all := slices.DeleteFunc(rows(), func(r row) bool { return !wanted.MatchString(r.String()) })
	pairs := 2 // that share the rows: a row waits more than it works
	if long() {
		pairs = 1 // rows that are large do not
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			for n := range pairs {
				t.Run(fmt.Sprintf("pair %d", n+1), func(t *testing.T) {
					t.Parallel()
					tab := &table{t: t, kind: kind}
					for i := n; i < len(all); i += pairs {
						tab.next(all[i])
					}
				})
			}
		})
	}
}

// next runs a row, on a new pair if there is none that can be used.
func (tab *table) next(r row) {
	if tab.Pair == nil {
		tab.open()
	}
	if !tab.t.Run(r.String(), func(t *testing.T) { tab.run(t, r) }) {
		tab.abandon()
		if tab.failed++; tab.failed == mayFail {
			tab.t.Fatalf("%d rows have failed: the rest is not tried", tab.failed)
		}
	}
}

// mayFail is how many failed rows a test goes on after: each costs a new pair.
const mayFail = 12

// ballast is what no row touches: a copy that reads it does too much.
const (
	ballastLarge, ballastLargeSize = 2, 3 * zone
	ballastSmall                   = 300
)

// bandwidth of reintegrations, in KB/s: little enough for a row that interrupts
// one to be in time.
const bandwidth = 24 << 10

// ownSuffix is that of names that are not replicated.
const ownSuffix = ".own"

// open makes a pair that is PRIM and SECOND.
func (tab *table) open() {
	tab.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		tab.t.Fatal(err)
	}
	start, stop := ledger.Scripts([]string{exe}, "files", dataDir+"/application")
	start = "mkdir -p " + dataDir + "/application\n" + start
	size := int64(2 << 30)
	if long() {
		size = 24 << 30
	}
	tab.Pair = newPairOf(tab.t, pair.Options{
		Config: pair.Config{Async: tab.kind.async, Own: ownSuffix, StartPrim: start, StopPrim: stop, TimeoutMs: 1000,
			RFS: fmt.Sprintf("reiallowedbw=\"%d\" locktimeout=\"10\" sendtimeout=\"2\"", bandwidth)},
		Disk: diskOf(tab.kind.fs, size),
		Var:  diskOf(tab.kind.fs, minDisk),
	})
	tab.acked, tab.counted, tab.loaded, tab.recent = 0, 0, 0, nil
	within(tab.t, 2*patience, func(ctx context.Context) error {
		a, b := tab.Nodes[0], tab.Nodes[1]
		if err := a.Do(ctx, "prim"); err != nil {
			return err
		}
		if err := a.Await(ctx, "ALONE"); err != nil {
			return err
		}
		if err := fillBallast(a.Path(dataDir)); err != nil {
			return err
		}
		if err := b.Do(ctx, "second"); err != nil {
			return err
		}
		return tab.Await(ctx, "PRIM", "SECOND")
	})
	tab.spend(tab.Nodes[0], dataDir)
}

func fillBallast(dir string) error {
	data := make([]byte, ballastLargeSize)
	for i := range ballastLarge {
		rand.Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("ballast%d", i)), data, 0o644); err != nil {
			return err
		}
	}
	for i := range ballastSmall {
		sub := filepath.Join(dir, "ballast", fmt.Sprint(i%10))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), data[i<<10:(i+1)<<10], 0o644); err != nil {
			return err
		}
	}
	for _, d := range []string{"acks", "synced", "rows"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// abandon leaves a pair that a failed row has left in whatever state.
func (tab *table) abandon() {
	for _, n := range tab.Nodes {
		if n.On() {
			if err := n.PowerOff(); err != nil {
				tab.t.Error(err)
			}
		}
	}
	tab.Pair = nil
}

// spend remembers that everything below dir on a host has changed, and what has been
// acknowledged since.
func (tab *table) spend(n *pair.Node, dir string) spent {
	s := spent{at: time.Now()}
	s.bytes, s.files = sizeOf(n.Path(dir))
	s.files += int64(tab.acked - tab.counted) // entries are noted, too
	tab.counted = tab.acked
	tab.recent = append(tab.recent, s)
	return s
}

// sizeOf adds up what the regular files below root occupy.
func sizeOf(root string) (bytes, files int64) {
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			bytes += st.Blocks * 512
			files++
		}
		return nil
	})
	return bytes, files
}

// trip is a row under way.
type trip struct {
	*table
	t           *testing.T
	row         row
	away, stays *pair.Node
	prim        *pair.Node // who can be written to
	dir         string     // of this row, on the hosts
	since       time.Time  // it left
	kept        map[string][]byte
	limit       spent        // what the copy may cost
	looked      spent        // and look at besides
	extra       spent        // and that of a load
	free        func() error // what fill took
}

func (tab *table) run(t *testing.T, r row) {
	tab.n++
	s := &trip{table: tab, t: t, row: r, dir: fmt.Sprintf("%s/rows/%03d", dataDir, tab.n), kept: map[string][]byte{}}
	defer func() {
		if t.Failed() {
			t.Log(tab.Logs())
		}
	}()
	s.roles()
	begun := time.Now()
	s.must(os.Mkdir(s.prim.Path(s.dir), 0o755))
	if r.change.prepare != nil {
		r.change.prepare(s)
	}
	if !r.both {
		s.acknowledge("files", 20)
	}
	s.acknowledge("sql", 5)
	if r.both {
		// What earlier rows left unsynchronised is not this one's business.
		for _, n := range s.Nodes {
			s.must(syncFS(n, dataDir))
		}
		s.acknowledge("sql", 5)
	}
	prepared := tab.spend(s.prim, s.dir)
	if r.exact && (prepared.bytes > slackBytes || prepared.files > slackFiles) {
		s.settle()
	}
	if r.exact || r.crash || r.both { // the latter count everything of late
		prepared = spent{}
	}
	ready := time.Now()
	s.since = ready
	if r.leave != nil {
		r.leave(s)
	}
	if !r.leads && !r.both {
		s.prim = s.stays
	}
	left := time.Now()
	if !r.both {
		if r.change.do != nil {
			r.change.do(s)
		}
		s.acknowledge("files", 16)
		s.remember()
		// What was changed in sync before the host left may still be noted. It is
		// looked at then, and nothing of it is sent.
		s.limit = spent{bytes: r.change.bytes + r.change.bytes/10 + slackBytes, files: r.change.files + slackFiles}
		s.looked = spent{bytes: prepared.bytes + prepared.bytes/10, files: prepared.files}
		tab.spend(s.prim, s.dir)
	}
	changed := time.Now()
	if r.back != nil {
		r.back(s)
	} else {
		s.start()
	}
	s.roles()
	whole := time.Now()
	same(t, tab.Pair)
	s.content()
	s.acknowledged()
	cost := s.copied()
	if r.check != nil {
		r.check(s)
	}
	s.must(os.RemoveAll(s.at("."))) // the tree does not grow from row to row
	t.Logf("%s; prepared in %.1f s, left in %.1f s, changed in %.1f s, back in %.1f s, checked in %.1f s", cost, ready.Sub(begun).Seconds(),
		left.Sub(ready).Seconds(), changed.Sub(left).Seconds(), whole.Sub(changed).Seconds(), time.Since(whole).Seconds())
}

// settle lets SECOND come and go once: at the end of its copy both hosts have
// everything on disk, and nothing is noted any more. It spares a row the time that
// two checkpoints take.
func (s *trip) settle() {
	s.t.Helper()
	second := s.prim.Peer()
	s.halt(second)
	s.await(s.prim, "ALONE")
	s.do(second, "start")
	s.await(second, "SECOND")
	s.await(s.prim, "PRIM")
}

// must fails the row.
func (s *trip) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// within does something with a deadline.
func (s *trip) within(do func(context.Context) error) {
	s.t.Helper()
	d := patience
	if long() { // 10 GB, 500,000 names
		d *= 10
	}
	within(s.t, d, do)
}

// roles waits until one host is PRIM and the other SECOND, and names them.
func (s *trip) roles() {
	s.t.Helper()
	first := s.prim == nil
	s.within(func(ctx context.Context) error {
		poll := time.NewTicker(50 * time.Millisecond)
		defer poll.Stop()
		for {
			var states [2]string
			for i, n := range s.Nodes {
				st, err := n.State(ctx)
				if err != nil {
					return err
				}
				states[i] = st.State
			}
			for i, n := range s.Nodes {
				if states[i] == "PRIM green" && states[1-i] == "SECOND green" {
					s.prim = n
					return nil
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the hosts stay %v", states)
			case <-poll.C:
			}
		}
	})
	if first {
		s.stays, s.away = s.prim, s.prim.Peer()
		if s.row.role == "PRIM" {
			s.stays, s.away = s.away, s.stays
		}
	}
}

// at is a path in the row's directory as this process reaches it, through the
// mount of the host that is primary.
func (s *trip) at(name string) string { return s.prim.Path(filepath.Join(s.dir, name)) }

// sh runs commands in the row's directory on the primary.
func (s *trip) sh(script string) {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), 10*patience)
	defer stop()
	_, err := s.prim.Run(ctx, "sh", "-ec", "cd "+s.dir+"\n"+script)
	s.must(err)
}

// write makes a file of random bytes, and makes its directory if need be.
func (s *trip) write(name string, size int) {
	s.t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	s.must(os.MkdirAll(filepath.Dir(s.at(name)), 0o755))
	s.must(os.WriteFile(s.at(name), data, 0o644))
}

// open opens a file of the row; the caller closes it.
func (s *trip) open(name string, flags int) *os.File {
	s.t.Helper()
	f, err := os.OpenFile(s.at(name), flags, 0o644)
	s.must(err)
	return f
}

// overwrite writes random bytes into a file.
func (s *trip) overwrite(name string, size int, offs ...int64) {
	s.t.Helper()
	f := s.open(name, os.O_WRONLY)
	data := make([]byte, size)
	for _, off := range offs {
		rand.Read(data)
		_, err := f.WriteAt(data, off)
		s.must(err)
	}
	s.must(f.Close())
}

// acknowledge puts entries into a store in the tree: "files" in system calls of
// all kinds, "sql" with fsync.
func (s *trip) acknowledge(kind string, n int) {
	s.t.Helper()
	s.within(func(ctx context.Context) error {
		_, err := s.prim.RunCommand(s.prim.RoleCommand(ctx, putRole, kind, dataDir+"/"+storeDirs[kind], s.notes(kind), fmt.Sprint(s.acked+1), fmt.Sprint(n)))
		return err
	})
	s.acked += uint64(n)
}

const putRole = "return-put"

// putEntries is the role behind acknowledge: it notes every entry that it was
// answered for.
func putEntries(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%d arguments, expected kind, directory, notes, first entry and number", len(args))
	}
	first, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(args[4], 10, 64)
	if err != nil {
		return err
	}
	store, err := ledger.Open(args[0], args[1])
	if err != nil {
		return err
	}
	notes, err := os.OpenFile(args[2], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	for id := first; id < first+n && err == nil; id++ {
		if err = store.Put(id); err == nil {
			_, err = fmt.Fprintln(notes, id)
		}
	}
	return errors.Join(err, notes.Close(), store.Close())
}

var storeDirs = map[string]string{"files": "acks", "sql": "synced"}

func (s *trip) notes(kind string) string { return filepath.Join(s.Lab.Dir(), "acknowledged-"+kind) }

// acknowledged wants every entry of both stores.
func (s *trip) acknowledged() {
	s.t.Helper()
	for kind, dir := range storeDirs {
		if _, err := os.Stat(s.notes(kind)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s.within(func(ctx context.Context) error {
			v, err := ledger.CheckOn(ctx, s.prim.Host, kind, dataDir+"/"+dir, s.notes(kind))
			if err == nil && !v.OK() {
				err = fmt.Errorf("acknowledged entries are lost: %v", v)
			}
			return err
		})
	}
}

// remember keeps what the row's small files are on the host that goes on.
func (s *trip) remember() {
	s.t.Helper()
	clear(s.kept)
	s.must(filepath.WalkDir(s.prim.Path(s.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.prim.Path(s.dir), path)
		if err != nil {
			return err
		}
		s.kept[rel] = []byte(info.Mode().String())
		if d.Type().IsRegular() && info.Size() <= 1<<20 {
			if s.kept[rel], err = os.ReadFile(path); err != nil && info.Mode().Perm() != 0 {
				return err
			}
		}
		return nil
	}))
}

// content says that what was remembered is there, and nothing else: a copy in the
// wrong direction would make the hosts equal, too.
func (s *trip) content() {
	s.t.Helper()
	if s.row.both {
		return
	}
	before := s.kept
	s.kept = map[string][]byte{}
	s.remember()
	for name, data := range before {
		if got, ok := s.kept[name]; !ok || string(got) != string(data) {
			s.t.Errorf("%s/%s is not what the primary had (there: %v, %d bytes, expected %d)", s.dir, name, ok, len(got), len(data))
		}
	}
	for name := range s.kept {
		if _, ok := before[name]; !ok {
			s.t.Errorf("%s/%s has come back", s.dir, name)
		}
	}
}

// stats is what a second says of copies that it got.
type stats struct {
	passes                      int
	copied, sent, files, equals int64
}

func (c stats) String() string {
	if c.passes == 0 {
		return "nothing copied"
	}
	return fmt.Sprintf("%d bytes of %d files copied, %d files checked, %d bytes equal", c.copied, c.sent, c.files, c.equals)
}

var copiedLine = regexp.MustCompile(`^Copied (\d+) bytes of (\d+) files \((\d+) files checked, (\d+) bytes equal\)`)

// copies reads what the log of a host says since the row's host left.
func (s *trip) copies(n *pair.Node) (c stats) {
	s.t.Helper()
	s.within(func(ctx context.Context) error {
		c = stats{}
		lines, err := n.LoggedSince(ctx, s.since)
		for _, line := range lines {
			if !strings.HasPrefix(line, "Copied ") {
				continue
			}
			m := copiedLine.FindStringSubmatch(line)
			if m == nil {
				return fmt.Errorf("the log of %s has %q, expected something like %s", n.Name(), line, copiedLine)
			}
			c.passes++
			for i, sum := range []*int64{&c.copied, &c.sent, &c.files, &c.equals} {
				v, err := strconv.ParseInt(m[i+1], 10, 64)
				if err != nil {
					return err
				}
				*sum += v
			}
		}
		return err
	})
	return c
}

// copied says that the copy has cost no more than the change.
func (s *trip) copied() stats {
	s.t.Helper()
	second := s.prim.Peer()
	got := s.copies(second)
	limit := s.limit
	limit.bytes += s.extra.bytes
	limit.files += s.extra.files
	// What was changed in sync may not be on the disk of a host that crashed.
	for _, r := range s.recent {
		age := s.since.Sub(r.at)
		if age >= 0 && (s.row.both || s.row.crash && age < noteLife) {
			limit.bytes += r.bytes + r.bytes/10
			limit.files += r.files
		}
	}
	kind := s.row.cost
	switch {
	case kind == nothing:
		if got.passes > 0 {
			s.t.Errorf("%s, expected no copy at all", got)
		}
		return got
	case kind != anew && got.copied > limit.bytes:
		s.t.Errorf("%s: at most %d bytes were changed", got, limit.bytes)
	}
	if kind != delta {
		return got
	}
	if most := limit.bytes + s.looked.bytes; got.copied+got.equals > most {
		s.t.Errorf("%s: at most %d bytes had to be looked at", got, most)
	}
	if most := limit.files + s.looked.files; got.files > most {
		s.t.Errorf("%s: at most %d files had to be looked at", got, most)
	}
	return got
}

// syncFS makes everything on a host's disk durable.
func syncFS(n *pair.Node, path string) error {
	backing, err := n.Backing(path)
	if err != nil {
		return err
	}
	fd, err := unix.Open(backing, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(fd), unix.Close(fd))
}
