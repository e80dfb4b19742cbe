package replica

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/fs"
)

// copied waits for the second to be in sync, and returns its line "Copied …"; empty
// if nothing had to be copied.
func (h *host) copied() (line string) {
	h.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e, ok := <-h.c.Events():
			if !ok {
				h.t.Fatalf("host %s ended instead of being synchronized", h.cfg.Node)
			}
			h.t.Logf("%s: %+v", h.cfg.Node, e)
			if strings.HasPrefix(e.Text, "Copied ") {
				line = e.Text
			}
			if e.Kind == EventSynced {
				return line
			}
		case <-timeout:
			h.t.Fatalf("host %s is not synchronized", h.cfg.Node)
		}
	}
}

// verdict waits for the primary to say how it copies.
func (h *host) verdict() string {
	h.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-h.c.Events():
			h.t.Logf("%s: %+v", h.cfg.Node, e)
			if _, how, ok := strings.Cut(e.Text, "is synchronized: "); ok {
				how, _, _ = strings.Cut(how, " copy")
				return how
			}
		case <-timeout:
			h.t.Fatalf("host %s: no second was admitted", h.cfg.Node)
		}
	}
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *host) write(name, content string) {
	h.t.Helper()
	h.must(os.WriteFile(h.path(name), []byte(content), 0o644))
}

// same fails the test if the trees differ on disk.
func same(t *testing.T, a, b *host) {
	t.Helper()
	if d := cmp.Diff(digest(t, a.backing), digest(t, b.backing)); d != "" {
		t.Errorf("the trees differ (-%s +%s):\n%s", a.cfg.Node, b.cfg.Node, d)
	}
}

// populate makes some directories of small files and a large one.
func (h *host) populate() {
	h.t.Helper()
	for d := range 20 {
		h.must(os.Mkdir(h.path(fmt.Sprint("dir", d)), 0o755))
		for f := range 20 {
			h.write(fmt.Sprintf("dir%d/file%d", d, f), fmt.Sprint("content ", d, f))
		}
	}
	large, err := os.Create(h.path("large"))
	h.must(err)
	h.must(large.Truncate(100 << 20))
	_, err = large.WriteAt([]byte("start"), 0)
	h.must(err)
	h.must(large.Close())
}

// A second that was away gets what was changed meanwhile, and nothing else is read.
func TestReturnAfterLoss(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26400)
	a.populate()
	noNotes(a, b) // what was changed since the last checkpoint would be looked at as well
	b.stop(false)
	a.wait(EventPeerLost)
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.write("dir3/file4", "changed")
	a.write("dir5/new", "made")
	a.must(os.Mkdir(a.path("dir6", "sub"), 0o755))
	a.write("dir6/sub/below", "a new directory is walked")
	a.must(os.Rename(a.path("dir7"), a.path("dir8", "moved")))
	a.must(os.Chmod(a.path("dir9", "file1"), 0o600))
	large, err := os.OpenFile(a.path("large"), os.O_RDWR, 0)
	a.must(err)
	_, err = large.WriteAt([]byte("middle"), 50<<20)
	a.must(err)
	a.must(large.Close())

	b.start()
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	if how := a.verdict(); how != "delta" {
		t.Errorf("a %s copy, expected a delta", how)
	}
	line := b.copied()
	var bytes, files, checked int
	if _, err := fmt.Sscanf(line, "Copied %d bytes of %d files (%d files checked", &bytes, &files, &checked); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if checked > 5 || bytes > 10000 {
		t.Errorf("%s: expected the four files that were changed or made, one whose mode was", line)
	}
	same(t, a, b)
}

// noNotes waits for a checkpoint after which neither has notes left.
func noNotes(hosts ...*host) {
	for _, h := range hosts {
		h.t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			s, err := h.c.Status(context.Background())
			h.must(err)
			if s.Noted == 0 {
				break
			}
			if time.Now().After(end) {
				h.t.Fatalf("host %s still has %d notes", h.cfg.Node, s.Noted)
			}
		}
	}
}

// What was changed on both hosts while they were apart stays readable: the
// primary's in its place, the second's in the quarantine.
func TestSplitBrain(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26410)
	a.write("both", "before")
	a.must(os.Mkdir(a.path("d"), 0o755))
	a.write("d/gone", "deleted on b only")
	a.stop(false)
	b.wait(EventPeerLost)
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	b.write("both", "the version of b")
	b.write("only-b", "made on b")
	b.must(os.Remove(b.path("d", "gone")))
	b.stop(false)

	a.start()
	a.must(a.c.Promote(ctx, 3, ForcePrim))
	a.must(a.c.Alone(ctx, 3, AnyStream))
	a.write("both", "the version of a")
	a.write("only-a", "made on a")

	b.start()
	b.must(b.c.Follow(ctx, 3, a.cfg.Listen[0], FollowOptions{}))
	if how := a.verdict(); how != "delta" {
		t.Errorf("a %s copy, expected a delta", how)
	}
	b.copied()
	area := fmt.Sprintf("/proc/self/fd/%d/.skfs/quarantine", b.backing.Fd())
	kept := map[string]bool{}
	filepath.WalkDir(area, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "manifest.json" {
			content, err := os.ReadFile(path)
			b.must(err)
			kept[string(content)] = true
		}
		return err
	})
	if want := map[string]bool{"the version of b": true, "made on b": true}; !cmp.Equal(kept, want) {
		t.Errorf("in quarantine is %v, expected %v", kept, want)
	}
	if content, err := os.ReadFile(b.path("both")); err != nil || string(content) != "the version of a" {
		t.Errorf("b shows %q, %v", content, err)
	}
	b.must(os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/.skfs", b.backing.Fd())))
	var st unix.Stat_t
	b.must(unix.Fstat(int(a.backing.Fd()), &st))
	b.must(unix.UtimesNanoAt(int(b.backing.Fd()), ".", []unix.Timespec{st.Atim, st.Mtim}, 0))
	same(t, a, b)
}

// A quarantine that was begun and never came to its end, because its host became the
// primary, is not taken for that of the next split brain.
func TestSplitBrainAgain(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26415)
	a.write("both", "before")
	a.stop(false)
	b.wait(EventPeerLost)
	layOut(t, fmt.Sprintf("/proc/self/fd/%d", b.backing.Fd()), asideName, fs.Aside{Open: true}, nil)
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	b.write("both", "the version of b")
	b.stop(false)
	a.start()
	a.must(a.c.Promote(ctx, 3, ForcePrim))
	a.must(a.c.Alone(ctx, 3, AnyStream))
	a.write("both", "the version of a")
	b.start()
	b.must(b.c.Follow(ctx, 3, a.cfg.Listen[0], FollowOptions{}))
	b.copied()
	kept, err := filepath.Glob(fmt.Sprintf("/proc/self/fd/%d/.skfs/quarantine/*/files/*", b.backing.Fd()))
	b.must(err)
	if len(kept) != 1 {
		t.Fatalf("in quarantine are %v, expected one file", kept)
	}
	if content, err := os.ReadFile(kept[0]); err != nil || string(content) != "the version of b" {
		t.Errorf("in quarantine is %q, %v", content, err)
	}
}

// What was changed in the directory of either host while skfs did not run is found:
// the primary's stays, the second's is replaced.
func TestChangedBehind(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26420)
	a.populate()
	noNotes(a, b)
	b.stop(true)
	a.wait(EventPeerLost)
	a.stop(true)
	b.must(os.RemoveAll(b.path("dir3")))
	b.write("dir4/file1", "changed on b")
	b.write("dir5/stray", "made on b")
	a.write("dir6/file2", "changed on a")
	a.must(os.Remove(a.path("dir7", "file7")))

	a.start()
	b.start()
	a.must(a.c.Promote(ctx, 2, ForcePrim))
	a.must(a.c.Alone(ctx, 2, AnyStream))
	b.must(b.c.Follow(ctx, 2, a.cfg.Listen[0], FollowOptions{}))
	if how := a.verdict(); how != "delta" {
		t.Errorf("a %s copy, expected a delta", how)
	}
	t.Log(b.copied())
	same(t, a, b)
	if c, err := os.ReadFile(b.path("dir6", "file2")); err != nil || string(c) != "changed on a" {
		t.Errorf("b has %q, %v", c, err)
	}
}

// A primary that gives way without a restart tells what it has made alone.
func TestGivesWay(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26430)
	a.write("both", "before")
	a.must(os.Mkdir(a.path("d"), 0o755))
	noNotes(a, b)
	b.stop(false)
	a.wait(EventPeerLost)
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.write("d/only-a", "made on a")
	a.must(a.c.Demote(ctx))

	b.start()
	b.must(b.c.Promote(ctx, 2, ForcePrim))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	b.write("only-b", "made on b")
	a.must(a.c.Follow(ctx, 2, b.cfg.Listen[0], FollowOptions{}))
	if how := b.verdict(); how != "delta" {
		t.Errorf("a %s copy, expected a delta", how)
	}
	a.copied()
	kept, err := filepath.Glob(fmt.Sprintf("/proc/self/fd/%d/.skfs/quarantine/*/files/*", a.backing.Fd()))
	if err != nil || len(kept) != 1 {
		t.Errorf("in quarantine are %v, %v, expected one file", kept, err)
	}
	if _, err := os.Stat(a.path("d", "only-a")); !os.IsNotExist(err) {
		t.Errorf("what the primary does not have is there: %v", err)
	}
	noNotes(a, b)
}
