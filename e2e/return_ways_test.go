package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// The steps of which the ways are made. Each returns when it has happened.

// do gives a command for the module.
func (s *trip) do(n *pair.Node, command ...string) {
	s.t.Helper()
	s.within(func(ctx context.Context) error { return n.Do(ctx, command...) })
}

func (s *trip) await(n *pair.Node, role string) {
	s.t.Helper()
	s.within(func(ctx context.Context) error { return n.Await(ctx, role) })
}

// alone waits until the host that stays serves alone.
func (s *trip) alone() {
	s.t.Helper()
	s.await(s.stays, "ALONE")
}

// stop stops the module on the host that goes away.
func (s *trip) stop() {
	s.t.Helper()
	s.halt(s.away)
	s.alone()
}

func (s *trip) halt(n *pair.Node) {
	s.t.Helper()
	s.do(n, "stop")
	s.await(n, "STOP")
}

// boot switches a host on, if it is off, and starts its daemon, if it has none.
func (s *trip) boot(n *pair.Node) {
	s.t.Helper()
	s.within(func(ctx context.Context) error {
		if !n.On() {
			return n.BootNode(ctx)
		}
		if !n.HasDaemon() {
			return n.StartDaemon(ctx)
		}
		return nil
	})
}

// start is how a host usually comes back: it is switched on and told to start.
func (s *trip) start(command ...string) {
	s.t.Helper()
	if len(command) == 0 {
		command = []string{"start"}
	}
	s.boot(s.away)
	s.do(s.away, command...)
	s.await(s.away, "SECOND")
	s.await(s.stays, "PRIM")
}

// fail does something to the host that goes away, which the other one notices.
func fail(do func(*pair.Node) error) func(*trip) {
	return func(s *trip) {
		s.t.Helper()
		s.must(do(s.away))
		s.alone()
	}
}

func powerCut(n *pair.Node) error { return n.PowerCut() }

// links pulls or plugs in the cables of the host that goes away.
func (s *trip) links(up bool, networks ...string) {
	s.t.Helper()
	set := s.away.LinkDown
	if up {
		set = s.away.LinkUp
	}
	for _, n := range networks {
		s.must(set(n))
	}
}

// replica is the only replica process of a host.
func (s *trip) replica(n *pair.Node) lab.Process {
	s.t.Helper()
	all, err := n.Replicas()
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%s has the replicas %v, expected one", n.Name(), all)
	}
	s.must(err)
	return all[0]
}

// logged waits for messages in the log of a host, after what it has now unless
// do, which causes them, is quick.
func (s *trip) logged(n *pair.Node, do func(), want ...string) {
	s.t.Helper()
	s.within(func(ctx context.Context) error {
		mark, err := n.Mark(ctx)
		if err != nil {
			return err
		}
		do()
		return n.AwaitLog(ctx, mark, want...)
	})
}

// magenta starts the host that is away and returns while it is brought up to
// date.
func (s *trip) magenta() {
	s.t.Helper()
	s.boot(s.away)
	s.logged(s.away, func() { s.do(s.away, "start") }, "Updating directory tree from")
}

// interrupted says that a copy has begun and did not come to its end.
func (s *trip) interrupted() {
	s.t.Helper()
	if c := s.copies(s.away); c.passes > 0 {
		s.t.Fatalf("%s: the copy was over before it could be interrupted", c)
	}
}

// backing is where this process finds the tree of a host, below the mount.
func (s *trip) backing(n *pair.Node) string {
	s.t.Helper()
	dir, err := n.Backing(dataDir)
	s.must(err)
	return dir
}

// backup copies the tree of a host, with all attributes, to a place outside of it.
func (s *trip) backup(n *pair.Node) {
	s.t.Helper()
	s.machine("rm -rf %[1]s; cp -a %[2]s %[1]s", s.saved(), s.backing(n))
}

// restore replaces the tree of a host by the backup, behind skfs's back.
func (s *trip) restore(n *pair.Node) {
	s.t.Helper()
	s.machine("find %[2]s -mindepth 1 -delete; cp -a %[1]s/. %[2]s/", s.saved(), s.backing(n))
}

func (s *trip) saved() string { return filepath.Join(s.Lab.Dir(), "backup") }

// machine runs commands outside of all hosts on paths, which have no blanks.
func (s *trip) machine(script string, paths ...any) {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), patience)
	defer stop()
	if out, err := exec.CommandContext(ctx, "sh", "-ec", fmt.Sprintf(script, paths...)).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// offWhile switches a host that went away off for as long as something is done
// to its disks.
func (s *trip) offWhile(do ...func() error) {
	s.t.Helper()
	if s.away.On() {
		s.must(s.away.PowerOff())
	}
	for _, d := range do {
		s.must(d())
	}
}

// cycle lets the host that goes away come and go once more: nobody has notes
// any more of what was changed before.
func (s *trip) cycle() {
	s.t.Helper()
	s.start()
	s.overwriteInSync()
	s.stop()
	s.since = time.Now()
}

// overwriteInSync changes the row's file while both hosts are there.
func (s *trip) overwriteInSync() {
	s.t.Helper()
	s.overwrite("file", 1000, zone)
}

// image is where a disk of the host that is away is kept.
func (s *trip) image(path string) string {
	return filepath.Join(s.Lab.Dir(), "image"+strings.ReplaceAll(path, "/", "-"))
}

func (s *trip) save(path string) func() error {
	return func() error { return s.away.SaveDisk(path, s.image(path)) }
}

func (s *trip) give(path string) func() error {
	return func() error { return errors.Join(s.away.RestoreDisk(path, s.image(path)), os.Remove(s.image(path))) }
}

// bothBack starts what both hosts need after a loss of both: they compare what
// they have, and one of them becomes primary.
func (s *trip) bothBack() {
	s.t.Helper()
	var g errgroup.Group
	for _, n := range s.Nodes {
		g.Go(func() error {
			ctx, stop := context.WithTimeout(s.t.Context(), patience)
			defer stop()
			if !n.On() {
				if err := n.BootNode(ctx); err != nil {
					return err
				}
			}
			return n.Do(ctx, "start")
		})
	}
	s.must(g.Wait())
}

// ways are all ways to go away that do not depend on what changes meanwhile.
func ways() []row {
	return []row{
		{way{name: "SECOND stopped", exact: true, leave: (*trip).stop}, usual},
		{way{name: "PRIM stopped", exact: true, role: "PRIM", leave: (*trip).stop}, usual},
		{way{name: "SECOND stopped, then PRIM", leave: (*trip).stop, back: func(s *trip) {
			s.halt(s.stays)
			s.do(s.stays, "start")
			s.alone()
			s.start()
		}}, usual},
		{way{name: "SECOND stopped, then PRIM, started the other way round", leave: (*trip).stop, back: func(s *trip) {
			s.halt(s.stays)
			s.logged(s.away, func() { s.do(s.away, "start") }, "Data may be not uptodate for replicated directories", "Action wait from failover rule notuptodate_server")
			s.do(s.stays, "start")
			s.await(s.away, "SECOND")
			s.await(s.stays, "PRIM")
		}}, usual},
		{way{name: "swap", leads: true, cost: nothing, leave: func(s *trip) {
			s.do(s.prim, "swap")
			s.await(s.prim, "SECOND")
			s.await(s.prim.Peer(), "PRIM")
			s.prim = s.prim.Peer()
		}, back: (*trip).stay}, usual},
		{way{name: "SECOND restarted at once", leave: func(s *trip) { s.do(s.away, "stopstart") }, back: func(s *trip) {
			s.await(s.away, "SECOND")
			s.await(s.stays, "PRIM")
		}}, change{}},
		{way{name: "the daemon of SECOND killed", cost: nothing, leave: func(s *trip) { s.must(s.away.KillDaemon()); s.boot(s.away) }, back: (*trip).stay}, usual},
		{way{name: "the daemon of PRIM killed", role: "PRIM", leads: true, cost: nothing, leave: func(s *trip) { s.must(s.away.KillDaemon()); s.boot(s.away) }, back: (*trip).stay}, usual},
		{way{name: "the replica of SECOND killed", crash: true, leave: func(s *trip) {
			s.logged(s.away, func() { s.must(s.replica(s.away).Kill()) }, "Action stopstart called by")
		}, back: func(s *trip) {
			s.await(s.away, "SECOND")
			s.await(s.stays, "PRIM")
		}}, unsynced},
		{way{name: "the replica of PRIM killed", role: "PRIM", leads: true, cost: scan, crash: true, leave: func(s *trip) {
			s.logged(s.away, func() { s.must(s.replica(s.away).Kill()) }, "Script stop_prim", "Resource rfs.degraded set to up by nfsadmin", "Script start_prim", "Local state ALONE green")
		}, back: func(s *trip) { s.do(s.away, "stopstart") }}, usual},
		{way{name: "all processes of SECOND killed", crash: true, leave: fail(func(n *pair.Node) error { return n.Kill() })}, unsynced},
		{way{name: "all processes of PRIM killed", role: "PRIM", crash: true, leave: fail(func(n *pair.Node) error { return n.Kill() })}, unsynced},
		{way{name: "SECOND powered off", crash: true, leave: fail(func(n *pair.Node) error { return n.PowerOff() })}, unsynced},
		{way{name: "PRIM powered off", role: "PRIM", crash: true, leave: fail(func(n *pair.Node) error { return n.PowerOff() })}, unsynced},
		{way{name: "power cut of SECOND", crash: true, leave: fail(powerCut)}, unsynced},
		{way{name: "power cut of PRIM", role: "PRIM", crash: true, leave: fail(powerCut)}, unsynced},
		{way{name: "power cut of SECOND that was stopped", leave: func(s *trip) { s.stop(); s.must(s.away.PowerCut()) }}, usual},
		{way{name: "power cut of the survivor", crash: true, leave: fail(powerCut), back: func(s *trip) {
			// What it changed alone is noted on its disk, or not there at all.
			s.prim = s.stays
			s.must(syncFS(s.stays, dataDir))
			s.must(s.stays.PowerCut())
			s.boot(s.stays)
			s.do(s.stays, "start")
			s.alone()
			s.start()
		}}, usual},
		{way{name: "power cut of both", both: true, cost: scan, leave: func(s *trip) {
			for _, n := range s.Nodes {
				s.must(n.PowerCut())
			}
		}, back: (*trip).bothBack}, unsynced},
		{way{name: "power cut of both, SECOND first", role: "SECOND", crash: true, cost: scan, leave: fail(powerCut), back: func(s *trip) {
			s.must(syncFS(s.stays, dataDir))
			s.must(s.stays.PowerCut())
			s.bothBack()
		}}, usual},
		{way{name: "power cut of SECOND for less than the timeout", crash: true, leave: func(s *trip) {
			s.must(s.away.PowerCut())
			s.boot(s.away)
			s.alone()
		}}, unsynced},
		{way{name: "the replication cable of SECOND pulled", leave: func(s *trip) { s.links(false, "repli"); s.nudge(); s.alone() }, back: func(s *trip) {
			s.links(true, "repli")
			s.await(s.away, "SECOND")
		}}, usual},
		{way{name: "all cables of SECOND pulled", leave: func(s *trip) {
			s.links(false, "default", "repli")
			s.alone()
			s.await(s.away, "ALONE")
		}, back: func(s *trip) {
			s.logged(s.away, func() { s.links(true, "default", "repli") }, "Local state SECOND green")
		}}, usual},
		{way{name: "all cables of SECOND pulled, changes on both", crash: true, leave: func(s *trip) {
			s.links(false, "default", "repli")
			s.alone()
			s.await(s.away, "ALONE")
			s.conflict()
		}, back: func(s *trip) {
			s.logged(s.away, func() { s.links(true, "default", "repli") }, "Split brain recovery: exiting alone", "Local state SECOND green")
		}, check: (*trip).bothVersions}, usual},
		{way{name: "SECOND hangs", leave: func(s *trip) { s.must(s.away.Pause()); s.alone() }, back: func(s *trip) {
			s.must(s.away.Resume())
			s.await(s.away, "SECOND")
		}}, usual},
		{way{name: "PRIM hangs", role: "PRIM", leave: func(s *trip) { s.must(s.away.Pause()); s.alone() }, back: func(s *trip) {
			s.must(s.away.Resume())
			s.await(s.away, "SECOND")
		}}, usual},
		{way{name: "the disk of SECOND full", crash: true, leave: func(s *trip) {
			s.fill()
			s.extra = spent{bytes: 4 << 20, files: 1}
			s.logged(s.stays, func() { s.write("full", 4<<20) }, "Local state ALONE")
		}, back: func(s *trip) {
			s.must(s.free())
			s.await(s.away, "SECOND")
		}}, usual},

		{way{name: "a copy interrupted: SECOND stopped", leave: (*trip).stop, back: func(s *trip) {
			s.magenta()
			s.halt(s.away)
			s.interrupted()
			s.start()
		}}, streamed},
		{way{name: "a copy interrupted: all of SECOND killed", leave: (*trip).stop, back: func(s *trip) {
			s.magenta()
			s.must(s.away.Kill())
			s.boot(s.away)
			s.interrupted()
			s.start()
		}}, streamed},
		{way{name: "a copy interrupted: power cut of SECOND", leave: (*trip).stop, back: func(s *trip) {
			s.magenta()
			s.must(s.away.PowerCut())
			s.boot(s.away)
			s.interrupted()
			s.start()
		}}, streamed},
		{way{name: "a copy interrupted: power cut of the primary", leave: (*trip).stop, back: func(s *trip) {
			s.must(syncFS(s.stays, dataDir))
			s.magenta()
			s.must(s.stays.PowerCut())
			s.boot(s.stays)
			s.interrupted()
			s.do(s.stays, "start")
			s.await(s.away, "SECOND")
		}}, streamed},
		{way{name: "a copy interrupted: the primary stopped, prim refused", leave: (*trip).stop, back: func(s *trip) {
			s.magenta()
			s.do(s.stays, "stop")
			s.await(s.stays, "STOP")
			s.interrupted()
			s.halt(s.away)
			// What is half copied becomes primary by no ordinary command (§5.9).
			s.logged(s.away, func() { s.do(s.away, "prim") }, "Data may be inconsistent for replicated directories (stopped during reintegration)")
			s.await(s.away, "STOP")
			s.do(s.stays, "start")
			s.alone()
			s.start()
		}}, streamed},
		{way{name: "a copy interrupted: all cables pulled", leave: (*trip).stop, back: func(s *trip) {
			s.magenta()
			s.links(false, "default", "repli")
			s.await(s.away, "WAIT")
			s.interrupted()
			s.links(true, "default", "repli")
			s.await(s.away, "SECOND")
		}}, streamed},

		{way{name: "swap under load", leads: true, leave: loaded(func(s *trip) {
			s.do(s.prim, "swap")
			s.await(s.prim, "SECOND")
			s.await(s.prim.Peer(), "PRIM")
			s.prim = s.prim.Peer()
		}), back: (*trip).stay}, usual},
		{way{name: "SECOND stopped and started under load", leave: loaded(func(s *trip) { s.stop(); s.start(); s.stop() })}, usual},
		{way{name: "power cut of PRIM under load", role: "PRIM", crash: true, leave: loaded(fail(powerCut))}, usual},
		{way{name: "power cut of SECOND under load", crash: true, leave: loaded(fail(powerCut))}, usual},

		{way{name: "SECOND stopped, with files that are not replicated", exact: true, leave: (*trip).stop, check: (*trip).ownStays}, own},
		{way{name: "power cut of PRIM, with files that are not replicated", role: "PRIM", crash: true, leave: fail(powerCut), check: (*trip).ownStays}, own},
		{way{name: "second fullsync, with files that are not replicated", cost: full, leave: (*trip).stop, back: func(s *trip) { s.start("second", "fullsync") }, check: (*trip).ownStays}, own},

		{way{name: "second fullsync", cost: full, leave: (*trip).stop, back: func(s *trip) { s.start("second", "fullsync") }}, usual},
		{way{name: "files changed behind the back of a stopped SECOND", cost: full, leave: func(s *trip) {
			s.stop()
			own := filepath.Join(s.backing(s.away), strings.TrimPrefix(s.dir, dataDir))
			s.machine("echo vandal >%[1]s/gone; echo vandal >%[1]s/vandal; truncate -s 5M %[1]s/file; rm -r %[1]s/../../ballast/3", own)
		}}, damaged},
		{way{name: "the files of SECOND restored from a backup", cost: full, leave: func(s *trip) {
			s.backup(s.away)
			s.overwriteInSync()
			s.stop()
			s.restore(s.away)
		}}, damaged},
		{way{name: "the files of PRIM restored from a backup", cost: anew, leave: func(s *trip) {
			s.backup(s.stays)
			s.overwriteInSync()
			s.stop()
			s.halt(s.stays)
			s.restore(s.stays)
			s.do(s.stays, "prim")
			s.alone()
		}}, damaged},
		{way{name: "the data disk of SECOND restored from an image", cost: full, leave: func(s *trip) {
			s.stop()
			s.offWhile(s.save(dataDir))
			s.cycle()
			s.offWhile(s.give(dataDir))
		}}, damaged},
		{way{name: "all disks of SECOND restored from images", cost: full, leave: func(s *trip) {
			s.stop()
			s.offWhile(s.save(dataDir), s.save(pair.SafeVar))
			s.cycle()
			s.offWhile(s.give(dataDir), s.give(pair.SafeVar))
		}}, damaged},
		{way{name: "all disks of a running SECOND restored from images", cost: full, crash: true, leave: func(s *trip) {
			s.must(s.away.PowerCut())
			s.alone()
			s.offWhile(s.save(dataDir), s.save(pair.SafeVar))
			s.cycle()
			s.offWhile(s.give(dataDir), s.give(pair.SafeVar))
		}}, damaged},
		{way{name: "an empty disk mounted on SECOND", cost: anew, leave: func(s *trip) {
			s.stop()
			s.offWhile(func() error { return s.away.ReplaceDisk(dataDir) })
		}}, usual},
		{way{name: "an empty disk mounted on the newest, both stopped", role: "PRIM", both: true, cost: anew, leave: (*trip).stop, back: func(s *trip) {
			s.halt(s.stays)
			s.must(s.stays.PowerOff())
			s.must(s.stays.ReplaceDisk(dataDir))
			s.boot(s.stays)
			s.do(s.stays, "start")
			// Its record says that its data is the newest, and it has none.
			s.await(s.stays, "WAIT")
			s.halt(s.stays)
			s.do(s.away, "prim")
			s.await(s.away, "ALONE")
			s.do(s.stays, "start")
			s.await(s.stays, "SECOND")
		}}, change{}},
		{way{name: "the record of SECOND lost", cost: full, leave: func(s *trip) {
			s.stop()
			vars, err := s.away.Backing(pair.SafeVar)
			s.must(err)
			s.must(os.Remove(filepath.Join(vars, "modules", pair.Module, "rfs.state")))
		}}, usual},
	}
}

// damaged is the usual change; what was changed to the tree of one host besides
// may be twice as much.
var damaged = func() change {
	c := usual
	c.bytes, c.files = 4*zone, ballastSmall
	return c
}()

// stay is how hosts come back that were never away.
func (s *trip) stay() {}

// fill uses up the disk of the host that goes away.
func (s *trip) fill() {
	s.t.Helper()
	var err error
	s.free, err = lab.Fill(s.backing(s.away))
	s.must(err)
}

// nudge makes the primary notice that nobody receives.
func (s *trip) nudge() {
	s.t.Helper()
	s.must(os.WriteFile(s.at("nudge"), []byte("is anybody there?"), 0o644))
}

// loaded does something while clients ask for entries, and wants every one that
// was acknowledged.
func loaded(do func(*trip)) func(*trip) {
	return func(s *trip) {
		s.t.Helper()
		c := &chaos{Pair: s.Pair, t: s.t, kind: "files", notes: filepath.Join(s.Lab.Dir(), "acknowledged-load"), next: s.loaded + 1}
		c.begin()
		do(s)
		s.within(func(ctx context.Context) error { return grows(ctx, c.notes) })
		s.loaded = c.stop().Asked
		prim := s.stays
		if s.row.leads {
			prim = s.prim
		}
		s.extra = s.spend(prim, dataDir+"/application")
		s.within(func(ctx context.Context) error {
			v, err := ledger.CheckOn(ctx, prim.Host, "files", dataDir+"/application", c.notes)
			if err == nil && !v.OK() {
				err = fmt.Errorf("acknowledged entries are lost: %v", v)
			}
			return err
		})
	}
}

// grows waits until clients note that they are answered.
func grows(ctx context.Context, notes string) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for first := int64(-1); ; {
		st, err := os.Stat(notes)
		if err != nil {
			return err
		}
		if first < 0 {
			first = st.Size()
		}
		if st.Size() > first+1000 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing is acknowledged any more: %w", ctx.Err())
		case <-poll.C:
		}
	}
}

// conflict changes on the host that is cut off what the row changes on the other.
func (s *trip) conflict() {
	s.t.Helper()
	there := s.away.Path(s.dir)
	s.must(os.WriteFile(filepath.Join(there, "conflict"), []byte("of the loser"), 0o644))
	s.must(os.WriteFile(filepath.Join(there, "only"), []byte("had by the loser"), 0o644))
	s.must(os.WriteFile(s.stays.Path(filepath.Join(s.dir, "conflict")), []byte("of the winner"), 0o644))
}

// bothVersions says that a split brain has lost nothing (R10): what only the
// loser had is kept aside.
func (s *trip) bothVersions() {
	s.t.Helper()
	if got, err := os.ReadFile(s.at("conflict")); string(got) != "of the winner" {
		s.t.Errorf("the survivor has %q, %v", got, err)
	}
	aside := filepath.Join(s.backing(s.away), ".skfs", "quarantine")
	found := map[string]bool{}
	s.must(filepath.WalkDir(aside, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			found[string(data)] = true
		}
		return err
	}))
	for _, text := range []string{"of the loser", "had by the loser"} {
		if !found[text] {
			s.t.Errorf("what only the loser had is lost: no file with %q below %s", text, aside)
		}
	}
}

// rows is the table: every way with a change that suits it, and every change to
// a host that was stopped. In the long mode every change meets the ways that
// matter most for what is noted.
func rows() []row {
	all := ways()
	for _, c := range changes() {
		all = append(all, row{way{name: "SECOND stopped", exact: true, leave: (*trip).stop}, c})
		if !long() {
			continue
		}
		all = append(all,
			row{way{name: "power cut of SECOND", crash: true, leave: fail(powerCut)}, c},
			row{way{name: "power cut of PRIM", role: "PRIM", crash: true, leave: fail(powerCut)}, c},
			row{way{name: "the replication cable of SECOND pulled", exact: true, leave: func(s *trip) { s.links(false, "repli"); s.nudge(); s.alone() }, back: func(s *trip) {
				s.links(true, "repli")
				s.await(s.away, "SECOND")
			}}, c})
	}
	return all
}
