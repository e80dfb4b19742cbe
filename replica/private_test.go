package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skfs/skfs/conf"
)

// excluding starts h anew with part of its directory excluded.
func (h *host) excluding() {
	h.stop(false)
	h.cfg.RFS.Replicated[0].NotReplicated = []conf.NotReplicated{
		{Regexp: regexp.MustCompilePOSIX(`^(.*\.tmp)$`)},
		{Path: "app/cache"},
	}
	h.start()
}

// replicated is digest of what is replicated, and how many names are not.
func (h *host) replicated() (lines []string, private int) {
	for _, l := range digest(h.t, h.backing) {
		path, _, _ := strings.Cut(l, "/ ")
		switch {
		case h.cfg.RFS.Replicated[0].Excludes(path):
			private++
		default:
			lines = append(lines, l)
		}
	}
	return lines, private
}

// sameButPrivate waits until what is replicated is the same on both hosts.
func sameButPrivate(t *testing.T, a, b *host) {
	t.Helper()
	var x, y []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		x, _ = a.replicated()
		if y, _ = b.replicated(); slices.Equal(x, y) {
			return
		}
	}
	t.Errorf("the trees differ: %s", cmp.Diff(x, y))
}

// excludedPair is pair with part of the directory excluded, in which each host has
// something of its own.
func excludedPair(t *testing.T, async conf.Async) (a, b *host) {
	ctx := context.Background()
	own := func(text string) func(dir string) {
		return func(dir string) {
			for _, err := range []error{
				os.MkdirAll(filepath.Join(dir, "app/cache"), 0o755),
				os.WriteFile(filepath.Join(dir, "app/cache/own"), []byte(text), 0o644),
				os.WriteFile(filepath.Join(dir, "own.tmp"), []byte(text), 0o644),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	a = newHost(t, "a", "127.0.0.1:25601", async, own("of a"))
	b = newHost(t, "b", "127.0.0.1:25602", async, own("of b"))
	a.excluding()
	b.excluding()
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(os.WriteFile(filepath.Join(a.dir, "before"), []byte("made alone"), 0o640))
	a.must(os.WriteFile(filepath.Join(a.dir, "before.tmp"), []byte("made alone"), 0o640))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	return a, b
}

// TestNotReplicated: what is excluded is there and works, and is neither sent nor
// compared nor deleted.
func TestNotReplicated(t *testing.T) {
	ctx := context.Background()
	for _, async := range []conf.Async{conf.AsyncSecond, conf.AsyncNone} {
		t.Run(string(async), func(t *testing.T) {
			a, b := excludedPair(t, async)
			at := func(name string) string { return filepath.Join(a.dir, name) }
			own := func() {
				t.Helper()
				for _, name := range []string{"app/cache/own", "own.tmp"} {
					if got, err := os.ReadFile(filepath.Join(b.dir, name)); err != nil || string(got) != "of b" {
						t.Errorf("%s of the second: %q, %v", name, got, err)
					}
				}
			}
			own()
			work := func(d string) {
				a.must(os.Mkdir(at(d), 0o755))
				a.must(os.WriteFile(at(d+"/x.tmp"), []byte("private"), 0o600))
				a.must(os.WriteFile(at(d+"/x"), []byte("old"), 0o600))
				a.must(os.Chmod(at(d+"/x.tmp"), 0o640))
				a.must(os.Rename(at(d+"/x.tmp"), at(d+"/x"))) // as programs save a file
				if got, err := os.ReadFile(at(d + "/x")); err != nil || string(got) != "private" {
					t.Errorf("after the rename: %q, %v", got, err)
				}
				f, err := os.OpenFile(at(d+"/x"), os.O_WRONLY|os.O_APPEND, 0)
				a.must(err)
				_, err = f.WriteString(", and replicated")
				a.must(err)
				if d == "live" { // once: it waits for the file to be closed
					if err := os.Rename(at(d+"/x"), at(d+"/y.tmp")); !errors.Is(err, syscall.EXDEV) {
						t.Errorf("an open file across the border: %v", err)
					}
				}
				a.must(f.Close())
				a.must(os.WriteFile(at(d+"/out"), []byte("replicated"), 0o600))
				a.must(os.Rename(at(d+"/out"), at(d+"/out.tmp")))
				a.must(os.WriteFile(at(d+"/out.tmp"), []byte("private now"), 0o600))
				a.must(os.Rename(at(d+"/out.tmp"), at(d+"/back"))) // and back
				a.must(os.WriteFile(at(d+"/back"), []byte("replicated again"), 0o600))
				a.must(os.Mkdir(at(d+"/dir.tmp"), 0o755))
				a.must(os.WriteFile(at(d+"/dir.tmp/f"), nil, 0o600))
				a.must(os.Rename(at(d+"/dir.tmp/f"), at(d+"/g.tmp"))) // both private
				for _, x := range []struct {
					what string
					err  error
				}{
					{"directory", os.Rename(at(d+"/dir.tmp"), at(d+"/dir"))},
					{"link in", os.Link(at(d+"/g.tmp"), at(d+"/g"))},
					{"link out", os.Link(at(d+"/x"), at(d+"/h.tmp"))},
				} {
					if !errors.Is(x.err, syscall.EXDEV) {
						t.Errorf("%s across the border: %v", x.what, x.err)
					}
				}
				a.must(os.Link(at(d+"/g.tmp"), at(d+"/g2.tmp")))
				a.must(os.Link(at(d+"/x"), at(d+"/x2")))
			}
			work("live")
			sameButPrivate(t, a, b)
			if _, n := b.replicated(); n != 3 { // app/cache, its file, own.tmp
				t.Errorf("the second has %d private names", n)
			}
			own()
			if err := os.Rename(at("app"), at("moved")); !errors.Is(err, syscall.EXDEV) {
				t.Errorf("a directory with what is excluded by its path: %v", err)
			}
			a.must(os.Rename(at("live"), at("moved")))

			// Alone, then the second comes back.
			b.stop(false)
			a.wait(EventPeerLost)
			a.must(a.c.Alone(ctx, 1, AnyStream))
			work("alone")
			a.must(os.Rename(at("alone/back"), at("alone/gone.tmp")))
			b.start()
			b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
			a.wait(EventSynced)
			b.wait(EventSynced)
			sameButPrivate(t, a, b)
			own()

			if found, sum := b.verify(false); len(found) > 0 {
				t.Errorf("a verification finds %+v, %+v", found, sum)
			}

			// What is deleted takes with it what only the second has in it.
			a.must(os.RemoveAll(at("app")))
			a.must(os.RemoveAll(at("alone")))
			sameButPrivate(t, a, b)
			if _, err := os.Lstat(filepath.Join(b.dir, "app")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory on the second: %v", err)
			}
			if s, err := a.c.Status(ctx); err != nil || !s.Synced {
				t.Errorf("at the end: %+v, %v", s, err)
			}
		})
	}
}
