package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/journal"
)

// TestDoubt: what failed on the second alone was answered by a primary that died before
// it could tell. The second does not take over, and is mended by notes when the primary
// comes back: also if a checkpoint was made in between, which clears them.
func TestDoubt(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name        string
		async       conf.Async
		checkpoints uint64 // between the failure and the death
	}{
		{"at once", conf.AsyncSecond, 0},
		{"at once, received on disk", conf.AsyncNone, 0},
		{"after checkpoints", conf.AsyncSecond, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := smallPair(t, c.async)
			a.write("before", "x")
			settled(t, a, b)
			b.room(256 << 10)
			data := make([]byte, 1<<20)
			rand.Read(data)
			a.must(os.WriteFile(a.path("large"), data, 0o644)) // there is room here
			a.checkpoints(c.checkpoints)
			a.stop(false)
			b.until(EventPeerLost)
			if err := b.c.Promote(ctx, 2, NoForce); !errors.Is(err, ErrInconsistent) {
				t.Fatalf("promote of a second that lacks an answered change: %v, expected %v", err, ErrInconsistent)
			}
			b.stop(true)
			b.room(16 << 20)
			for _, h := range []*host{a, b} {
				h.start()
			}
			if err := b.c.Promote(ctx, 2, ForcePrim); !errors.Is(err, ErrInconsistent) { // it is on disk
				t.Errorf("promote after a restart: %v, expected %v", err, ErrInconsistent)
			}
			a.must(a.c.Promote(ctx, 2, ForcePrim))
			a.must(a.c.Alone(ctx, 2, AnyStream))
			b.must(b.c.Follow(ctx, 2, a.cfg.Listen[0], FollowOptions{}))
			a.wait(EventSynced)
			b.wait(EventSynced)
			settled(t, a, b)
		})
	}
}

// checkpoints waits until n more have been recorded.
func (h *host) checkpoints(n uint64) {
	h.t.Helper()
	var first uint64
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s, err := loadState(filepath.Join(h.cfg.StateDir, "rfs.state"))
		h.must(err)
		if first == 0 {
			first = s.Checkpoint
		}
		if s.Checkpoint >= first+n {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("host %s: no %d checkpoints after %d", h.cfg.Node, n, first)
		}
	}
}

// TestFullOnBoth: what fails alike on both hosts is no difference, and the second
// takes over when the primary leaves in order.
func TestFullOnBoth(t *testing.T) {
	ctx := context.Background()
	a := newHost(t, "a", "127.0.0.1:25601", conf.AsyncSecond, small(t))
	b := newHost(t, "b", "127.0.0.1:25602", conf.AsyncSecond, small(t))
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	a.write("file", "x")
	settled(t, a, b)
	a.room(0)
	b.room(0)
	f, err := os.OpenFile(a.path("file"), os.O_WRONLY, 0)
	a.must(err)
	for range 20 {
		if _, err := f.WriteAt(make([]byte, 64<<10), 1<<20); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write without room on either host: %v, expected %v", err, syscall.ENOSPC)
		}
	}
	a.must(f.Close())
	a.must(a.c.Demote(ctx))
	b.must(b.c.Promote(ctx, 2, NoForce))
}

// TestDoubts: which failures of the second leave it in doubt, and what ends that.
func TestDoubts(t *testing.T) {
	write := func(seq journal.Seq) *journal.Op { return &journal.Op{Seq: seq, Kind: journal.KindWrite} }
	alike := func(d *doubts, seqs ...uint64) {
		var data []byte
		for _, s := range seqs {
			data = binary.LittleEndian.AppendUint64(data, s)
		}
		d.alike(data)
	}
	for _, c := range []struct {
		name string
		do   func(*doubts)
		want int
	}{
		{"nothing failed", func(d *doubts) { d.ended(write(1), 0) }, 0},
		{"full", func(d *doubts) { d.ended(write(1), syscall.ENOSPC); d.ended(write(2), syscall.EIO) }, 2},
		{"a name that is there", func(d *doubts) { d.ended(&journal.Op{Seq: 1, Kind: journal.KindCreate}, syscall.EEXIST) }, 0},
		{"flushes change nothing", func(d *doubts) { d.ended(&journal.Op{Seq: 1, Kind: journal.KindFsync}, syscall.ENOSPC) }, 0},
		{"the pass hears of its own", func(d *doubts) { d.ended(&journal.Op{Seq: 1, Kind: journal.KindSyncAttrs}, syscall.EIO) }, 0},
		{"alike", func(d *doubts) {
			d.ended(write(1), syscall.ENOSPC)
			d.ended(write(3), syscall.ENOSPC)
			alike(d, 1, 2, 7)
		}, 1},
		{"passed again", func(d *doubts) {
			d.ended(write(1), syscall.ENOSPC)
			d.ended(&journal.Op{Seq: 2, Kind: journal.KindSyncEnd}, 0)
			d.ended(write(3), syscall.ENOSPC)
		}, 1},
		{"the end of a pass failed", func(d *doubts) {
			d.ended(write(1), syscall.ENOSPC)
			d.ended(&journal.Op{Seq: 2, Kind: journal.KindSyncEnd}, syscall.EIO)
		}, 1},
	} {
		d := &doubts{}
		c.do(d)
		if _, n := d.first(); n != c.want {
			t.Errorf("%s: %d operations in doubt, expected %d", c.name, n, c.want)
		}
	}
}
