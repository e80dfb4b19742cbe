package replica

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// asideFirst is the reason of a refusal: the second has changes of its own that are
// to be kept aside before it joins again.
const asideFirst = "split brain: what only this node has must be kept aside first"

// splitBrainLine is the log line of both nodes (guide §4.2.10).
const splitBrainLine = "Split brain recovery: "

// awaken is called once at the start of the process, before anything else changes:
// it finds out whether the record still speaks of the data, and what a crash may
// have taken from the notes.
func (r *Replica) awaken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	r.relearn = s.Role != RoleClean && s.Role != RoleNone
	boot, err := bootID()
	if err != nil {
		return err
	}
	r.boot, r.booted = boot, s.Boot != boot && s.Boot != [16]byte{}
	// One that was outdated may not have applied all it had received.
	s.Standing = s.Restarted(r.booted, s.Role == RoleSecond || s.Role == RoleOutdated)
	if s.Current != 0 && s.Checkpoint != 0 {
		for _, f := range r.trees {
			stamp, err := f.Tree().Stamp()
			if err != nil {
				return err
			}
			if stamp.Instance != s.Instance || stamp.Checkpoint < s.Checkpoint {
				r.log("E", "nfsadmin", "%s is not the directory that was replicated here: another disk, or a backup was restored", f.Tree().Dir())
				s.Strange = true
			}
		}
	}
	if s.Strange { // so may be what the index says
		for _, f := range r.trees {
			if err := f.Tree().DropIndex(); err != nil {
				return err
			}
		}
	}
	if s.Instance == 0 {
		s.Instance = rand.Uint64()
	}
	return r.record(s)
}

// secure makes the notes durable and returns the state that says so. mu is held.
func (r *Replica) secure() (State, error) {
	err := r.notes.Sync()
	s := r.state
	s.Standing = s.Secured()
	return s, err
}

// view is what this host says of its data to its peer. mu is held.
func (r *Replica) view() journal.View {
	v := journal.View{Standing: r.state.Standing, Epoch: r.state.Epoch, Seq: r.state.Seq, Clean: r.state.Role == RoleClean && !r.altered}
	if r.prim {
		v.Clean, v.Epoch, v.Seq = r.base.Role == RoleClean, r.base.Epoch, r.base.Seq
	}
	return v
}

// decide says how the second that has sent g is brought up to date. mu is held.
func (r *Replica) decide(g *greeting) journal.Verdict {
	var f journal.Force
	if g.Full {
		f |= journal.ForceFull
	}
	if !g.Since.IsZero() { // secondforce -d: whatever it has, the administrator vouches for it
		f |= journal.ForceFull
	}
	if r.forced {
		f |= journal.ForcePrimary
	}
	v := journal.Decide(r.view(), g.View, f)
	v.Since.Sec -= int64(clockGrace / time.Second)
	switch {
	case v.Copy == journal.Refuse:
	case !g.Since.IsZero():
		v.Copy, v.Since, v.Reason = journal.CopyScan, journal.Time{Sec: g.Since.Unix()}, "what was changed since a date was asked for"
	case r.failures >= maxFailures && v.Copy != journal.CopyFull:
		v.Copy, v.Renew, v.Reason = journal.CopyFull, true, v.Reason+"; what was tried before has failed"
	}
	return v
}

// maxFailures is how many copies in a row may fail on the second before everything
// is compared: the trees may differ in a way that nobody has noted.
const maxFailures = 2

// clockGrace is how far the clocks of the hosts may be apart for a scan.
const clockGrace = time.Hour

// abnormalDates is the line of §5.4 for a second whose data cannot be brought up to
// date without being told to, and was in sync last at quite another time.
const abnormalDates = "Automatic synchronization cannot be applied due to an abnormal delta between the dates of the last synchronization"

// maxDates is how far the two dates may be apart (§5.4).
const maxDates = 90

// datesDiffer compares when two nodes were in sync last; zero: never.
func datesDiffer(a, b journal.Time) bool {
	if a == (journal.Time{}) || b == (journal.Time{}) {
		return false
	}
	return a.Sec-b.Sec > maxDates || b.Sec-a.Sec > maxDates
}

// passOptions turns a verdict into what a pass needs. restored: the second has a
// backup that was restored.
func (r *Replica) passOptions(v journal.Verdict, restored bool) reintegrate.Options {
	rfs := r.rfs()
	o := reintegrate.Options{
		Workers: rfs.NbRei, ZoneSize: zoneSize(rfs), Packet: rfs.ReiPacketSize, Commit: int64(rfs.ReiCommit) * rfs.ReiPacketSize,
		Bandwidth: rfs.ReiAllowedBW << 10, Detail: rfs.ReiDetail,
		Logf: func(format string, args ...any) { r.log("I", "reintegre", format, args...) },
		Keep: v.SplitBrain,
	}
	switch v.Copy {
	case journal.CopyDelta:
		o.Mode, o.Notes = reintegrate.Delta, r.notes
	case journal.CopyScan:
		o.Mode, o.Since, o.Restored = reintegrate.Scan, v.Since, restored
	}
	return o
}

// firstChange is fs.Gate.FirstChange: from now on the data here is another than
// the peer's.
func (r *Replica) firstChange() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Standing = s.Mint(journal.NewGeneration())
	r.minted = true
	return r.record(s)
}

// learn puts the names of noted directories into the index of a tree, of which a
// crash may have taken those that were made since the last checkpoint. A directory
// that was made since is found in another one of them.
func learn(t *fs.Tree, dirs []journal.FileID) error {
	for len(dirs) > 0 {
		var left []journal.FileID
		for _, d := range dirs {
			if _, err := t.List(d); err != nil {
				left = append(left, d)
			}
		}
		if len(left) == len(dirs) {
			return nil // they are no more, or not here
		}
		dirs = left
	}
	return nil
}

// notedDirs are the directories of which names are noted, by tree.
func (n *notes) notedDirs() (map[uint8][]journal.FileID, error) {
	dirs := map[uint8][]journal.FileID{}
	err := n.Each(func(tree uint8, id journal.FileID, l journal.Lack) error {
		if l.Names || l.Whole {
			dirs[tree] = append(dirs[tree], id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("notes of what the peer lacks: %w", err)
	}
	return dirs, nil
}
