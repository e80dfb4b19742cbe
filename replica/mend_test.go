package replica

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
)

// small mounts a file system of its own on the directory of a host.
func small(t *testing.T) func(dir string) {
	return func(dir string) {
		if err := unix.Mount("skfs-test", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Skipf("needs a tmpfs: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
}

// room leaves so many bytes on the file system of small.
func (h *host) room(free uint64) {
	h.t.Helper()
	root := fmt.Sprintf("/proc/self/fd/%d/", h.backing.Fd())
	var st unix.Statfs_t
	h.must(unix.Fstatfs(int(h.backing.Fd()), &st))
	size := (st.Blocks-st.Bfree)*uint64(st.Bsize) + free
	h.must(unix.Mount("skfs-test", root, "tmpfs", unix.MS_REMOUNT, "size="+strconv.FormatUint(size, 10)))
}

// until waits for an event of one of the kinds.
func (h *host) until(kinds ...EventKind) EventKind {
	h.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e, ok := <-h.c.Events():
			if !ok {
				h.t.Fatalf("host %s ended instead of %v", h.cfg.Node, kinds)
			}
			h.t.Logf("%s: %+v", h.cfg.Node, e)
			for _, k := range kinds {
				if e.Kind == k {
					return k
				}
			}
		case <-timeout:
			h.t.Fatalf("host %s: none of %v", h.cfg.Node, kinds)
		}
	}
}

// pauses sets mendPauses until the hosts that are made afterwards have ended.
func pauses(t *testing.T, p ...time.Duration) {
	before := mendPauses
	t.Cleanup(func() { mendPauses = before })
	mendPauses = p
}

func smallPair(t *testing.T, async conf.Async) (a, b *host) {
	ctx := context.Background()
	a = newHost(t, "a", "127.0.0.1:25601", async)
	b = newHost(t, "b", "127.0.0.1:25602", async, small(t))
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	return a, b
}

// TestMend: what did not fit on the second is sent again when there is room, over the
// same stream. Until then the second knows that it cannot be promoted.
func TestMend(t *testing.T) {
	ctx := context.Background()
	for _, async := range []conf.Async{conf.AsyncSecond, conf.AsyncNone} {
		t.Run(string(async), func(t *testing.T) {
			pauses(t, slices.Repeat([]time.Duration{200 * time.Millisecond}, 200)...)
			a, b := smallPair(t, async)
			a.must(os.WriteFile(filepath.Join(a.dir, "before"), []byte("x"), 0o644))
			settled(t, a, b)
			b.room(256 << 10)
			data := make([]byte, 1<<20)
			rand.Read(data)
			a.must(os.WriteFile(filepath.Join(a.dir, "large"), data, 0o644)) // there is room here
			a.must(os.Mkdir(filepath.Join(a.dir, "d"), 0o755))
			a.must(os.WriteFile(filepath.Join(a.dir, "d", "after"), []byte("y"), 0o644))
			if k := b.until(EventPeerJoined, EventPeerLost); k != EventPeerJoined {
				t.Fatalf("the second was dropped")
			}
			s, err := b.c.Status(ctx)
			b.must(err)
			if s.Synced || s.Uptodate || s.Consistent {
				t.Errorf("while it lacks a change the second says %+v", s)
			}
			if k := a.until(EventPeerJoined, EventPeerLost); k != EventPeerJoined {
				t.Fatal("the primary has lost the second")
			}
			b.room(16 << 20)
			for _, h := range []*host{a, b} {
				if k := h.until(EventSynced, EventPeerLost); k != EventSynced {
					t.Fatalf("host %s has lost the other", h.cfg.Node)
				}
			}
			settled(t, a, b)
			// It is a second as before: it takes over.
			a.must(os.WriteFile(filepath.Join(a.dir, "then"), []byte("z"), 0o644))
			a.stop(false)
			b.wait(EventPeerLost)
			b.must(b.c.Promote(ctx, 2, NoForce))
			b.must(b.c.Alone(ctx, 2, AnyStream))
			if got, err := os.ReadFile(filepath.Join(b.dir, "large")); err != nil || !bytes.Equal(got, data) {
				t.Errorf("after the takeover: %d bytes, %v", len(got), err)
			}
			if got, err := os.ReadFile(filepath.Join(b.dir, "then")); err != nil || string(got) != "z" {
				t.Errorf("after the takeover: %q, %v", got, err)
			}
		})
	}
}

// TestMendGivesUp: a second on which there is no room for long is dropped, and comes
// back by itself when there is.
func TestMendGivesUp(t *testing.T) {
	ctx := context.Background()
	pauses(t, 50*time.Millisecond, 50*time.Millisecond)
	a, b := smallPair(t, conf.AsyncSecond)
	b.room(256 << 10)
	data := make([]byte, 1<<20)
	rand.Read(data)
	a.must(os.WriteFile(filepath.Join(a.dir, "large"), data, 0o644))
	a.until(EventPeerLost)
	if err := b.c.Promote(ctx, 2, NoForce); !errors.Is(err, ErrInconsistent) && !errors.Is(err, ErrNotUptodate) {
		t.Errorf("promote of a second that lacks a change: %v", err)
	}
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(os.WriteFile(filepath.Join(a.dir, "alone"), []byte("goes on"), 0o644))
	b.room(16 << 20)
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.until(EventSynced)
	b.until(EventSynced)
	settled(t, a, b)
}
