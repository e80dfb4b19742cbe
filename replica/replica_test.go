package replica

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/skfs/skfs/conf"
)

// host is one replica of a pair, run inside the test.
type host struct {
	t       *testing.T
	dir     string   // mounted over itself
	backing *os.File // what is below the mount
	cfg     Config
	c       *Client
	end     chan error
}

func newHost(t *testing.T, name, addr string, async conf.Async, prepare ...func(dir string)) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: FUSE mounts and file handles")
	}
	base := t.TempDir()
	h := &host{t: t, dir: filepath.Join(base, "data")}
	state := filepath.Join(base, "var")
	for _, d := range []string{h.dir, state} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range prepare {
		f(h.dir)
	}
	var err error
	if h.backing, err = os.Open(h.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.backing.Close() })
	h.cfg = Config{
		Module: "test", Node: name, Listen: []string{addr}, Socket: filepath.Join(state, "replica.sock"), StateDir: state,
		CheckpointEvery: 100 * time.Millisecond,
		RFS: &conf.RFS{Async: async, LockTimeout: 20 * time.Second, SendTimeout: 20 * time.Second, NbRemConn: 1, NbRei: 3,
			ZoneSize: 8 << 20, Replicated: []conf.Replicated{{Dir: h.dir, ReadOnly: true}}},
	}
	h.start()
	t.Cleanup(func() {
		if h.end != nil {
			h.c.Stop(context.Background(), false)
			if err := <-h.end; err != nil {
				t.Errorf("host %s: %v", name, err)
			}
		}
	})
	return h
}

func (h *host) start() {
	h.t.Helper()
	h.end = make(chan error, 1)
	go func() { h.end <- Run(context.Background(), h.cfg) }()
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := Dial(context.Background(), h.cfg.Socket)
		if err == nil {
			if _, err = c.Status(context.Background()); err == nil {
				h.c = c
				return
			}
		}
		select {
		case err := <-h.end:
			h.t.Fatalf("host %s: %v", h.cfg.Node, err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			h.t.Fatalf("host %s does not answer", h.cfg.Node)
		}
	}
}

func (h *host) stop(clean bool) {
	h.t.Helper()
	if err := h.c.Stop(context.Background(), clean); err != nil {
		h.t.Fatal(err)
	}
	if err := <-h.end; err != nil {
		h.t.Fatal(err)
	}
	h.end = nil
}

func (h *host) wait(kind EventKind) {
	h.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-h.c.Events():
			if !ok {
				h.t.Fatalf("host %s ended instead of %s", h.cfg.Node, kind)
			}
			h.t.Logf("%s: %+v", h.cfg.Node, e)
			if e.Kind == kind {
				return
			}
		case <-timeout:
			h.t.Fatalf("host %s: no event %s", h.cfg.Node, kind)
		}
	}
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("host %s: %v", h.cfg.Node, err)
	}
}

// digest describes every object of a tree but for what may differ.
func digest(t *testing.T, backing *os.File) []string {
	t.Helper()
	root := fmt.Sprintf("/proc/self/fd/%d/", backing.Fd())
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d.%09d", strings.TrimPrefix(path+"/", root), st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, f); err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %d %x", st.Nlink, st.Size, sum.Sum(nil)[:8])
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return lines
}

// settled waits until the second has everything and then compares both trees.
func settled(t *testing.T, a, b *host) {
	t.Helper()
	var x, y []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		// modification times are sent once a second
		if x, y = digest(t, a.backing), digest(t, b.backing); slices.Equal(x, y) {
			return
		}
	}
	t.Errorf("the trees differ: %s", cmp.Diff(x, y))
}

// pair returns a primary and its second, in sync.
func pair(t *testing.T, async conf.Async) (a, b *host) {
	ctx := context.Background()
	a = newHost(t, "a", "127.0.0.1:25601", async)
	b = newHost(t, "b", "127.0.0.1:25602", async)
	if err := a.c.Promote(ctx, 1, NoForce); !errors.Is(err, ErrNotUptodate) {
		t.Fatalf("promote of a new host: %v, expected %v", err, ErrNotUptodate)
	}
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(os.WriteFile(filepath.Join(a.dir, "before"), []byte("made alone"), 0o640))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	return a, b
}

func TestPosixOnPair(t *testing.T) {
	for _, async := range []conf.Async{conf.AsyncSecond, conf.AsyncNone} {
		t.Run(fmt.Sprint(async), func(t *testing.T) {
			a, b := pair(t, async)
			for name, fn := range posixtest.All {
				if name == "FcntlFlockLocksFile" {
					continue // expects POSIX locks of one process to exclude each other; fails on ext4 too
				}
				t.Run(name, func(t *testing.T) {
					dir := filepath.Join(a.dir, name)
					a.must(os.Mkdir(dir, 0o755))
					fn(t, dir)
				})
			}
			settled(t, a, b) // e2e compares after each case
		})
	}
}

// TestSwap hands the data over and back without a copy.
func TestSwap(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t, conf.AsyncSecond)
	for epoch := uint64(2); epoch < 6; epoch++ {
		file := filepath.Join(a.dir, fmt.Sprint("epoch", epoch))
		a.must(os.WriteFile(file, []byte("x"), 0o644))
		a.must(a.c.Demote(ctx))
		if err := os.WriteFile(file, nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write on a second: %v", err)
		}
		b.must(b.c.Promote(ctx, epoch, NoForce))
		b.must(b.c.Alone(ctx, epoch, AnyStream))
		a.must(a.c.Follow(ctx, epoch, b.cfg.Listen[0], FollowOptions{}))
		a.wait(EventSynced)
		b.wait(EventSynced)
		b.must(os.WriteFile(filepath.Join(b.dir, fmt.Sprint("after", epoch)), []byte("y"), 0o644))
		settled(t, a, b)
		for _, h := range []*host{a, b} { // both names are seen through both mounts
			names, err := os.ReadDir(h.dir)
			h.must(err)
			if want := 1 + 2*int(epoch-1); len(names) != want {
				t.Errorf("host %s shows %d names, expected %d", h.cfg.Node, len(names), want)
			}
		}
		a, b = b, a
	}
}

// TestTakeover loses the primary without a word.
func TestTakeover(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t, conf.AsyncSecond)
	a.must(os.WriteFile(filepath.Join(a.dir, "f"), []byte("precious"), 0o644))
	a.stop(false)
	b.wait(EventPeerLost)
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	if got, err := os.ReadFile(filepath.Join(b.dir, "f")); err != nil || string(got) != "precious" {
		t.Fatalf("after the takeover: %q, %v", got, err)
	}
	b.must(os.WriteFile(filepath.Join(b.dir, "g"), []byte("new"), 0o644))
	a.start()
	if err := a.c.Promote(ctx, 3, NoForce); !errors.Is(err, ErrNotUptodate) {
		t.Fatalf("promote of the crashed primary: %v, expected %v", err, ErrNotUptodate)
	}
	a.must(a.c.Follow(ctx, 2, b.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	settled(t, a, b)
}

// TestFrozen loses the second: nothing is answered before the supervisor says so.
func TestFrozen(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t, conf.AsyncSecond)
	b.stop(false)
	a.wait(EventPeerLost)
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(a.dir, "f"), []byte("x"), 0o644) }()
	for {
		s, err := a.c.Status(ctx)
		a.must(err)
		if s.Frozen {
			break
		}
	}
	select {
	case err := <-done:
		t.Fatalf("a write was answered (%v) while the second may be promoted", err)
	default:
	}
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(<-done)
	b.start()
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	b.wait(EventSynced)
	settled(t, a, b)
}
