package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// A crowd is a tree of many small files that both hosts have before they know of
// each other.
type crowd struct{ dirs, files int } // files in each directory

func (c crowd) total() int { return c.dirs * c.files }

func (c crowd) dir(d int) string { return fmt.Sprintf("dir%04d", d) }

func (c crowd) file(d, f int) string { return filepath.Join(c.dir(d), fmt.Sprintf("file%04d", f)) }

const crowdSize = 64 // of each file, bytes

// content of a file, in a version.
func (c crowd) content(name, version string) []byte {
	return fmt.Appendf(nil, "%-*s", crowdSize, name+" "+version)
}

// disk has room for the files and an inode for each, and some more of both.
func (c crowd) disk() lab.Disk { return diskOf("ext4", int64(c.total())*20<<10+256<<20) }

// fill makes the tree.
func (c crowd) fill(root string) error {
	for d := range c.dirs {
		if err := os.Mkdir(filepath.Join(root, c.dir(d)), 0o755); err != nil {
			return err
		}
		for f := range c.files {
			name := c.file(d, f)
			if err := os.WriteFile(filepath.Join(root, name), c.content(name, "old"), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// R8: what it costs to synchronize a host that comes back is a matter of what was
// changed, not of the size of the tree: neither host reads any other file, nor the
// primary any other directory.
func TestMillion(t *testing.T) {
	c := crowd{dirs: 20, files: 1000}
	if long() {
		c.dirs = 1000
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no file systems of their own for the hosts: apt-get install e2fsprogs")
	}
	p := newPairOf(t, pair.Options{Config: pair.Config{TimeoutMs: 5000}, Disk: c.disk()})
	began := time.Now()
	each(t, p, func(n *pair.Node) error {
		root, err := n.Backing(dataDir)
		if err != nil {
			return err
		}
		return c.fill(root)
	})
	t.Logf("%d files on both hosts after %.0f s", c.total(), time.Since(began).Seconds())
	began = time.Now()
	s := begin(t, p)
	within(t, 60*patience, p.Start)
	first := s.looked()
	t.Logf("first synchronization after %.0f s: %s; %s", time.Since(began).Seconds(), first, memory(t, p))
	if first.listed < c.dirs || first.opened < c.total() {
		t.Errorf("the first synchronization looked at %s: expected everything, since nothing was known", first)
	}

	// What was changed in sync is on both disks after a checkpoint, and nobody's
	// business any more.
	for d := range 5 {
		s.rewrite(c, c.file(d, c.files-1))
	}
	s.nothingNoted()

	s.must(p.Nodes[1].PowerOff())
	within(t, patience, func(ctx context.Context) error { return p.Nodes[0].Await(ctx, "ALONE") })
	const touched = 10
	for i := range touched - 1 {
		s.rewrite(c, c.file(i*c.dirs/touched, i))
	}
	born := filepath.Join(c.dir(c.dirs-1), "born")
	s.rewrite(c, born)
	within(t, patience, p.Nodes[1].BootNode)

	s.mark(0)
	s.mark(1)
	witnesses := [2]*witness{watch(t, p.Nodes[0], dataDir), watch(t, p.Nodes[1], dataDir)}
	began = time.Now()
	s.do(1, "start")
	within(t, 5*patience, func(ctx context.Context) error { return p.Await(ctx, "PRIM", "SECOND") })
	t.Logf("second synchronization after %.1f s: %s", time.Since(began).Seconds(), s.looked())
	for i, w := range witnesses {
		seen := w.seen(t)
		t.Logf("%s read %d files and %d directories, such as %q", p.Nodes[i].Name(), len(seen.files), len(seen.dirs), seen.names[:min(len(seen.names), 3)])
		// The primary has the directory that was changed to list, and its root to look
		// into. The second looks at all names and times once when it starts, for what
		// was changed behind its back, whether or not it is synchronized.
		if dirs := len(seen.dirs); i == 0 && (dirs < 1 || dirs > 2) {
			t.Errorf("%s read %d directories, expected the one that was changed", p.Nodes[i].Name(), dirs)
		}
		if want := touched - i; len(seen.files) != want { // the second has not got the new one
			t.Errorf("%s read %d files, expected the %d that were changed", p.Nodes[i].Name(), len(seen.files), want)
		}
	}
	got := s.looked()
	if got.listed != 1 || got.opened != touched || got.read != touched*crowdSize {
		t.Errorf("the synchronization looked at %s: expected the directory with a new name, and the %d files of %d bytes that were changed", got, touched, crowdSize)
	}
	if limit := time.Second; long() && got.took >= limit {
		t.Errorf("the synchronization took %v, expected less than %v", got.took, limit)
	}
	t.Log(memory(t, p))
	same(t, p)
	if data, err := os.ReadFile(p.Nodes[1].Path(filepath.Join(dataDir, born))); err != nil || string(data) != string(c.content(born, "new")) {
		t.Errorf("%s on the second has %q, %v", born, data, err)
	}
}

// each does something with both hosts at once.
func each(t *testing.T, p *pair.Pair, do func(*pair.Node) error) {
	t.Helper()
	var g errgroup.Group
	for _, n := range p.Nodes {
		g.Go(func() error { return do(n) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// rewrite makes a file, or writes it anew where it is.
func (s *scenario) rewrite(c crowd, name string) {
	s.t.Helper()
	f, err := os.OpenFile(s.Nodes[0].Path(filepath.Join(dataDir, name)), os.O_WRONLY|os.O_CREATE, 0o644)
	s.must(err)
	_, err = f.Write(c.content(name, "new"))
	s.must(err)
	s.must(f.Close())
}

// nothingNoted waits until the primary has no note of anything that the second
// lacks, twice in a row: the second clears its own a moment later.
func (s *scenario) nothingNoted() {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		poll := time.NewTicker(500 * time.Millisecond)
		defer poll.Stop()
		for clear := 0; ; {
			out, err := s.Nodes[0].Skfs(ctx, "rfsdiff", "-m", pair.Module, "--json")
			if err != nil {
				return err
			}
			var d struct{ Directories, Files, Attributes, Born int }
			if err := json.Unmarshal([]byte(out), &d); err != nil {
				return fmt.Errorf("rfsdiff: %w in %q", err, out)
			}
			if clear++; d != (struct{ Directories, Files, Attributes, Born int }{}) {
				clear = 0
			}
			if clear == 2 {
				return nil
			}
			select {
			case <-poll.C:
			case <-ctx.Done():
				return fmt.Errorf("the notes do not become fewer: %+v", d)
			}
		}
	})
}

// effort is what a synchronization has read on the primary.
type effort struct {
	listed, opened, read int
	took                 time.Duration
}

func (e effort) String() string {
	return fmt.Sprintf("%d directories and %d files (%d bytes) in %v", e.listed, e.opened, e.read, e.took)
}

var lookedLine = regexp.MustCompile(`^Looked at (\d+) directories and (\d+) files of the primary, (\d+) bytes, in (\d+) ms$`)

// looked reads what the second says of the last synchronization.
func (s *scenario) looked() (e effort) {
	s.t.Helper()
	within(s.t, patience, func(ctx context.Context) error {
		line, err := s.Nodes[1].Logged(ctx, s.marks[1], "Looked at ")
		if err != nil {
			return err
		}
		m := lookedLine.FindStringSubmatch(line)
		if m == nil {
			return fmt.Errorf("the log has %q, expected something like %s", line, lookedLine)
		}
		var ms int
		for i, v := range []*int{&e.listed, &e.opened, &e.read, &ms} {
			if *v, err = strconv.Atoi(m[i+1]); err != nil {
				return err
			}
		}
		e.took = time.Duration(ms) * time.Millisecond
		return nil
	})
	return e
}

// memory says what the replicas have used at the most.
func memory(t *testing.T, p *pair.Pair) string {
	t.Helper()
	text := "memory of the replicas at the most:"
	for _, n := range p.Nodes {
		all, err := n.Replicas()
		if err != nil || len(all) != 1 {
			t.Fatalf("%d replicas on %s, %v", len(all), n.Name(), err)
		}
		peak, _, err := usage(all[0])
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %s %d MiB", n.Name(), peak>>20)
	}
	return text
}
