package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/reintegrate"
)

// below is a path in the backing directory: what is done there skfs does not see.
func (h *host) below(elem ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/self/fd/%d", h.backing.Fd())}, elem...)...)
}

// verify returns what differs, as "what path".
func (h *host) verify(repair bool) (found []VerifyDifference, sum VerifySummary) {
	h.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	sum, err := h.c.Verify(ctx, repair, func(l VerifyLine) {
		if l.Difference != nil {
			found = append(found, *l.Difference)
		}
	})
	h.must(err)
	if int64(len(found)) != sum.Differences {
		h.t.Errorf("the summary counts %d differences, %d were told", sum.Differences, len(found))
	}
	return found, sum
}

func (h *host) differences(repair bool) map[string]bool {
	h.t.Helper()
	found, _ := h.verify(repair)
	set := map[string]bool{}
	for _, d := range found {
		rel, err := filepath.Rel(h.dir, d.Path)
		h.must(err)
		set[string(d.What)+" "+rel] = true
		h.t.Logf("%+v", d)
	}
	return set
}

// verifyPair returns two hosts in sync with zones of 1 MiB.
func verifyPair(t *testing.T, port int) (a, b *host) {
	t.Helper()
	ctx := context.Background()
	a = newHost(t, "a", fmt.Sprintf("127.0.0.1:%d", port), conf.AsyncSecond)
	b = newHost(t, "b", fmt.Sprintf("127.0.0.1:%d", port+1), conf.AsyncSecond)
	for _, h := range []*host{a, b} {
		h.cfg.RFS.ZoneSize = 1 << 20
		h.stop(false)
		h.start()
	}
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	return a, b
}

// hasty changes a tree in every way, until ctx ends.
func (h *host) hasty(ctx context.Context, seed uint64, did *atomic.Int64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	dir := func() string { return h.path(fmt.Sprint("dir", r.IntN(4))) }
	file := func() string { return filepath.Join(dir(), fmt.Sprint("f", r.IntN(30))) }
	for ; ctx.Err() == nil; did.Add(1) {
		var err error
		switch r.IntN(13) {
		case 0, 1, 2:
			err = os.WriteFile(file(), make([]byte, r.IntN(100_000)), 0o644)
		case 3:
			err = os.Remove(file())
		case 4:
			err = os.Rename(file(), file())
		case 5:
			err = os.Link(file(), file())
		case 6:
			err = os.Chmod(file(), os.FileMode(0o600+r.IntN(64)))
		case 7:
			err = unix.Setxattr(file(), "user.x", fmt.Append(nil, r.Uint64()), 0)
		case 8:
			err = os.Truncate(file(), int64(r.IntN(200_000)))
		case 9:
			sub := filepath.Join(dir(), fmt.Sprint("sub", r.IntN(3)))
			if err = os.Mkdir(sub, 0o755); err == nil {
				err = os.WriteFile(filepath.Join(sub, "below"), []byte("x"), 0o644)
			} else {
				err = os.RemoveAll(sub)
			}
		case 10:
			err = os.Symlink(fmt.Sprint("target", r.IntN(9)), file())
		case 11: // a large file, everywhere and beyond its end
			var f *os.File
			if f, err = os.OpenFile(h.path("large"), os.O_RDWR, 0); err == nil {
				for range 20 {
					if _, err = f.WriteAt(fmt.Append(nil, r.Uint64()), int64(r.IntN(5<<20))); err != nil {
						break
					}
				}
				if r.IntN(3) == 0 {
					err = f.Truncate(int64(r.IntN(5 << 20)))
				}
				err = errors.Join(err, f.Close())
			}
		case 12: // a short file gets longer by a write that is far from its end
			var f *os.File
			if f, err = os.OpenFile(h.path(fmt.Sprint("end", seed)), os.O_RDWR|os.O_CREATE, 0o644); err == nil {
				for range 50 {
					err = errors.Join(err, f.Truncate(100))
					_, werr := f.WriteAt([]byte("far"), 200_000)
					err = errors.Join(err, werr)
				}
				err = errors.Join(err, f.Close())
			}
		}
		switch {
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EPERM):
		default:
			return err
		}
	}
	return nil
}

// While the application changes everything nothing differs.
func TestVerifyUnderLoad(t *testing.T) {
	a, b := verifyPair(t, 26500)
	for d := range 4 {
		a.must(os.Mkdir(a.path(fmt.Sprint("dir", d)), 0o755))
	}
	a.must(os.WriteFile(a.path("large"), make([]byte, 4<<20), 0o644))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var did atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			if err := a.hasty(ctx, uint64(w), &did); err != nil {
				t.Errorf("a writer: %v", err)
			}
		})
	}
	rounds := 20
	if os.Getenv("E2E_LONG") != "" {
		rounds = 100
	}
	var again, files int64
	for range rounds {
		found, sum := b.verify(false)
		for _, d := range found {
			t.Errorf("no difference: %+v", d)
		}
		again, files = again+sum.Again, files+sum.Files
		if t.Failed() {
			break
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d changes, %d files compared, %d looks under a lock", did.Load(), files, again)
	if again == 0 || files == 0 {
		t.Error("nothing was changed while it was compared")
	}
	settled(t, a, b)
	if found, _ := b.verify(false); len(found) > 0 {
		t.Errorf("differences at rest: %+v", found)
	}
}

// Every kind of difference is found and named, and a repair mends it.
func TestVerifyFindsAndRepairs(t *testing.T) {
	a, b := verifyPair(t, 26510)
	const mib = 1 << 20
	noise := make([]byte, 5*mib)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, d := range []string{"d", "d/gone", "d/moved", "e"} {
		a.must(os.Mkdir(a.path(d), 0o755))
	}
	for _, name := range []string{"same", "flipped", "longer", "shorter", "mode", "owner", "mtime", "xattr", "noxattr", "replaced", "d/lost",
		"d/gone/below", "d/moved/below", "d/away", "became", "d/linked"} {
		a.write(name, "content of "+name)
	}
	a.must(os.WriteFile(a.path("large"), noise, 0o644))
	a.must(os.Truncate(a.path("large"), 8*mib))
	a.must(os.WriteFile(a.path("zeros"), make([]byte, 3*mib), 0o644))
	a.must(os.Truncate(a.path("same"), 100_000))
	a.write("hole", "")
	a.must(os.Truncate(a.path("hole"), 100))
	a.must(os.Symlink("here", a.path("symlink")))
	a.must(unix.Setxattr(a.path("noxattr"), "user.a", []byte("1"), 0))
	a.must(os.Link(a.path("d", "linked"), a.path("e", "other")))
	settled(t, a, b)
	if found := b.differences(false); len(found) > 0 {
		t.Fatalf("before anything was done: %v", found)
	}

	want := map[string]bool{}
	behind := func(what, name string, err error) {
		t.Helper()
		b.must(err)
		if what != "" {
			want[what+" "+name] = true
		}
	}
	// keeping does something to the data and sets the time back.
	keeping := func(name string, f func(*os.File) error) error {
		h, err := os.OpenFile(b.below(name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer h.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(h.Fd()), &st); err != nil {
			return err
		}
		if err := f(h); err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, b.below(name), []unix.Timespec{st.Atim, st.Mtim}, 0)
	}
	put := func(text string, off int64) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt([]byte(text), off); return err }
	}
	behind("data", "flipped", keeping("flipped", put("X", 3)))
	behind("data", "longer", keeping("longer", func(f *os.File) error { return f.Truncate(3 * mib) }))
	behind("data", "shorter", keeping("shorter", func(f *os.File) error { return f.Truncate(2) }))
	behind("data", "hole", keeping("hole", func(f *os.File) error { return f.Truncate(200) }))
	behind("data", "large", keeping("large", put("bits", 2*mib+100)))
	behind("data", "large", keeping("large", put("in the hole", 7*mib)))
	behind("", "", keeping("zeros", func(f *os.File) error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, mib, mib)
	}))
	behind("", "", keeping("same", put("\x00\x00\x00", 70_000))) // stored zeros where there is a hole
	behind("attributes", "mode", os.Chmod(b.below("mode"), 0o600))
	behind("attributes", "owner", os.Chown(b.below("owner"), 7, 8))
	behind("attributes", "mtime", os.Chtimes(b.below("mtime"), time.Time{}, time.Unix(1000, 0)))
	behind("xattrs", "xattr", unix.Setxattr(b.below("xattr"), "user.b", []byte("2"), 0))
	behind("xattrs", "noxattr", unix.Removexattr(b.below("noxattr"), "user.a"))
	behind("xattrs", "e", unix.Setxattr(b.below("e"), "user.c", []byte("3"), 0))
	behind("missing", "d/lost", os.Remove(b.below("d", "lost")))
	behind("missing", "d/gone", os.RemoveAll(b.below("d", "gone")))
	behind("missing", "d/moved", os.Rename(b.below("d", "moved"), b.below("e", "moved")))
	behind("extra", "e/moved", nil)
	behind("missing", "d/away", os.Rename(b.below("d", "away"), b.below("e", "away")))
	behind("extra", "e/away", nil)
	behind("extra", "extra", os.WriteFile(b.below("extra"), []byte("e"), 0o644))
	behind("extra", "e/tree", os.MkdirAll(b.below("e", "tree", "deep"), 0o755))
	behind("extra", "e/link", os.Link(b.below("same"), b.below("e", "link")))
	behind("names", "replaced", errors.Join(os.Remove(b.below("replaced")), os.WriteFile(b.below("replaced"), []byte("content of replaced"), 0o644)))
	behind("names", "became", errors.Join(os.Remove(b.below("became")), os.Mkdir(b.below("became"), 0o755)))
	behind("names", "symlink", errors.Join(os.Remove(b.below("symlink")), os.Symlink("there", b.below("symlink"))))
	behind("missing", "e/other", os.Remove(b.below("e", "other")))
	for _, d := range []string{"", "d", "e"} { // their names were changed
		behind("attributes", filepath.Join(".", d), nil)
	}
	got := b.differences(false)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("differences (-want +found):\n%s", d)
	}
	found, _ := b.verify(false)
	for _, d := range found {
		if filepath.Base(d.Path) == "large" {
			if want := []VerifyRange{{2 * mib, 2*mib + 64<<10}, {7 * mib, 7*mib + 64<<10}}; !cmp.Equal(d.Ranges, want) {
				t.Errorf("ranges of large: %v, expected %v", d.Ranges, want)
			}
		}
		if d.What == reintegrate.WhatData && d.Bytes == 0 {
			t.Errorf("no bytes in %+v", d)
		}
	}

	a.supervise()
	copied := make(chan string, 10)
	b.listen(func(e Event) {
		if strings.HasPrefix(e.Text, "Copied ") {
			copied <- e.Text
		}
	})
	_, sum := b.verify(true)
	if !sum.Mended || sum.Noted == 0 {
		t.Errorf("summary of the repair: %+v", sum)
	}
	settled(t, a, b)
	same(t, a, b)
	if found := b.differences(false); len(found) > 0 {
		t.Errorf("after the repair: %v", found)
	}
	var bytes, files int
	if line := <-copied; true {
		if _, err := fmt.Sscanf(line, "Copied %d bytes of %d files", &bytes, &files); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if bytes > 256<<10 {
			t.Errorf("%s: expected the blocks that differed", line)
		}
	}
	if _, sum = b.verify(true); sum.Mended || sum.Noted > 0 {
		t.Errorf("a repair of what does not differ: %+v", sum)
	}
}

// supervise says Alone whenever the second is lost, as a supervisor would.
func (a *host) supervise() {
	a.listen(func(e Event) {
		if e.Kind == EventPeerLost {
			if err := a.c.Alone(context.Background(), 1, AnyStream); err != nil {
				a.t.Error(err)
			}
		}
	})
}

// listen calls f for all events until the test ends.
func (h *host) listen(f func(Event)) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-h.c.Events():
				h.t.Logf("%s: %+v", h.cfg.Node, e)
				f(e)
			case <-stop:
				return
			}
		}
	}()
	h.t.Cleanup(func() { close(stop); <-done })
}

// A verification that is interrupted leaves nothing behind.
func TestVerifyInterrupted(t *testing.T) {
	a, b := verifyPair(t, 26520)
	a.must(os.WriteFile(a.path("large"), make([]byte, 8<<20), 0o644))
	settled(t, a, b)
	a.cfg.RFS.ReiAllowedBW = 1 << 10 // KB/s
	ctx, stop := context.WithCancel(context.Background())
	_, err := b.c.Verify(ctx, false, func(l VerifyLine) {
		if l.Progress == nil {
			t.Errorf("%+v", l)
		} else if l.Progress.BytesDone >= 8<<20 {
			t.Error("not limited by reiallowedbw")
		}
		stop()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	a.cfg.RFS.ReiAllowedBW = 0
	for { // the second may not have noticed yet
		_, err := b.c.Verify(context.Background(), false, func(VerifyLine) {})
		if err == nil {
			break
		}
		if err.Error() != errVerifyUnderWay.Error() {
			t.Fatal(err)
		}
	}
	// The end of the stream ends it as well.
	a.cfg.RFS.ReiAllowedBW = 1 << 10
	var once sync.Once
	_, err = b.c.Verify(context.Background(), false, func(VerifyLine) { once.Do(func() { a.must(a.c.Cut(context.Background())) }) })
	if err == nil || !strings.Contains(err.Error(), "ended") && !strings.Contains(err.Error(), "closed") {
		t.Errorf("the stream was cut: %v", err)
	}
}

func TestVerifyRefused(t *testing.T) {
	ctx := context.Background()
	a, b := verifyPair(t, 26530)
	refused := func(h *host, when, want string) {
		t.Helper()
		_, err := h.c.Verify(ctx, false, func(VerifyLine) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, expected %q", when, err, want)
		}
	}
	refused(a, "on the primary", "not SECOND")
	b.must(b.c.Outdate(ctx, 1))
	refused(b, "on a second that is out of date", "not SECOND")
	b.stop(false)
	b.start()
	refused(b, "on a host without role", "not SECOND")
}
