package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/fs"
)

const asideName = "20260102T030405Z"

// layOut makes a quarantine in dir, of which the entries' files are made by files.
func layOut(t *testing.T, dir, name string, a fs.Aside, files map[string]string) {
	t.Helper()
	base := filepath.Join(dir, ".skfs/quarantine", name)
	if err := os.MkdirAll(base+"/files", 0o700); err != nil {
		t.Fatal(err)
	}
	for n, content := range files {
		path := filepath.Join(base, "files", n)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base+"/manifest.json", b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newAside is a replicated directory with one quarantine of everything that there
// is, and what is there now.
func newAside(t *testing.T) (dir string, a *Aside) {
	t.Helper()
	dir = t.TempDir()
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	file := func(path, why string, size int64) fs.AsideEntry {
		return fs.AsideEntry{Path: path, Kind: "file", Why: why, Kept: true, Mode: 0o640, UID: uid, GID: gid, Size: size, Mtime: 1_000_000}
	}
	partial := file("big", "changed", 3<<20)
	partial.Partial = true
	attrs := file("attrs", "attributes", 5)
	attrs.Kept = false
	nowhere := file("", "changed", 3)
	layOut(t, dir, asideName, fs.Aside{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Module: "m", Peer: "node1", Entries: []fs.AsideEntry{
		file("text", "changed", 8), file("blob", "changed", 5), partial, attrs,
		{Path: "made", Kind: "directory", Why: "created", Kept: true, Mode: 0o755, UID: uid, GID: gid}, nowhere, file("same", "changed", 4),
	}}, map[string]string{"0": "one\ntwo\n", "1": "a\x00bcd", "4/deep/f": "deep", "5": "abc", "6": "same"})
	files := filepath.Join(dir, ".skfs/quarantine", asideName, "files")
	big, err := os.Create(files + "/2")
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	if _, err := big.WriteAt([]byte("zone"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := big.Truncate(3 << 20); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("deep/f", files+"/4/link"); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"text": "one\n2\n", "blob": "a\x00bXd", "big": strings.Repeat("x", 3<<20), "attrs": "12345", "same": "same"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/attrs", 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := OpenQuarantine(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	list, err := q.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("list: %d %v", len(list), err)
	}
	t.Cleanup(func() { list[0].Close() })
	return dir, list[0]
}

func TestAsideList(t *testing.T) {
	dir, a := newAside(t)
	if a.Name != asideName || a.Dir != dir || !a.Begun || a.Open || len(a.Entries) != 7 || a.Peer != "node1" {
		t.Errorf("%+v", a)
	}
	if a.Bytes < 20 || a.Bytes > 2<<20 {
		t.Errorf("%d bytes on disk", a.Bytes)
	}
	if _, err := OpenQuarantine(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory without any: %v", err)
	}
}

func TestAsideFind(t *testing.T) {
	dir, a := newAside(t)
	for p, want := range map[string]string{
		"text": "files/0", "./text": "files/0", dir + "/text": "files/0", "#5": "files/5",
		"made": "files/4", "made/deep/f": "files/4/deep/f", "made/link": "files/4/link",
	} {
		if k, err := a.find(p); err != nil || k.file != want {
			t.Errorf("%s is %q %v, want %q", p, k.file, err, want)
		}
	}
	for _, p := range []string{"", "tex", "text/x", "made/none", "#7", "#-1", "#x", "/elsewhere", dir, "made/../../x", "made/link/x"} {
		if k, err := a.find(p); !errors.Is(err, ErrNoKept) {
			t.Errorf("%q is %q %v", p, k.file, err)
		}
	}
}

func TestAsideDiff(t *testing.T) {
	_, a := newAside(t)
	var b bytes.Buffer
	if err := a.Diff(&b, ""); err != nil {
		t.Fatal(err)
	}
	want := `--- quarantine/text
+++ now/text
@@ -1,2 +1,2 @@
 one
-two
+2
blob: 5 bytes in the quarantine, 5 bytes now; the first difference is at byte 3
blob: sha256 HASH in the quarantine, HASH now
big: only the zones that were changed were kept, N bytes of 3145728; the first difference is at byte 1048576
attrs: mode 0640 in the quarantine, 0600 now
made: only in the quarantine (directory)
files/5: file, 3 bytes: its path is not known
same: the content is the same
`
	got := strings.Split(b.String(), "\n")
	for i, line := range strings.Split(want, "\n") {
		switch {
		case i >= len(got):
		case strings.HasPrefix(line, "blob: sha256"):
			if f := strings.Fields(got[i]); len(f) != 8 || len(f[2]) != 64 || len(f[6]) != 64 || f[2] == f[6] {
				t.Errorf("line %q", got[i])
			}
			got[i] = line
		case strings.HasPrefix(line, "big: only"): // what is data around four bytes is the file system's business
			before, after, _ := strings.Cut(got[i], "kept, ")
			_, after, _ = strings.Cut(after, " ")
			got[i] = before + "kept, N " + after
		}
	}
	if d := cmp.Diff(want, strings.Join(got, "\n")); d != "" {
		t.Error(d)
	}
	b.Reset()
	if err := a.Diff(&b, "made/deep/f"); err != nil || b.String() != "made/deep/f: only in the quarantine (file, 4 bytes)\n" {
		t.Errorf("%q %v", b.String(), err)
	}
}

func TestAsideRestore(t *testing.T) {
	dir, a := newAside(t)
	out := t.TempDir()
	for p, content := range map[string]string{"text": "one\ntwo\n", "made/deep/f": "deep", "#5": "abc"} {
		dest := filepath.Join(out, strings.ReplaceAll(p, "/", "_"))
		if remark, err := a.Restore(p, dest); err != nil || remark != "" {
			t.Fatalf("%s: %q %v", p, remark, err)
		}
		if b, err := os.ReadFile(dest); err != nil || string(b) != content {
			t.Errorf("%s: %q %v", p, b, err)
		}
	}
	info, err := os.Stat(out + "/text")
	if err != nil || info.Mode() != 0o640 || info.ModTime().Unix() != 1_000_000 {
		t.Errorf("attributes of text: %v %v %v", info.Mode(), info.ModTime(), err)
	}

	// A directory with what is below it, into the replicated directory itself.
	if _, err := a.Restore("made", dir+"/made"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dir + "/made/link"); err != nil || string(b) != "deep" {
		t.Errorf("made/link: %q %v", b, err)
	}

	remark, err := a.Restore("big", out+"/big")
	if err != nil || !strings.Contains(remark, "the others are zeros") {
		t.Errorf("a partial copy: %q %v", remark, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(out+"/big", &st); err != nil || st.Size != 3<<20 || st.Blocks*512 > 2<<20 {
		t.Errorf("a sparse file has %d bytes, %d on disk: %v", st.Size, st.Blocks*512, err)
	}

	for _, c := range []struct{ p, dest, why string }{
		{"text", out + "/text", "exists already"},
		{"text", "relative", "expected an absolute path"},
		{"text", out + "/none/x", "no such file"},
		{"attrs", out + "/attrs", "only the attributes"},
		{"other", out + "/other", "splitbrain show"},
	} {
		if _, err := a.Restore(c.p, c.dest); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s to %s: %v, want %q", c.p, c.dest, err, c.why)
		}
	}
}

func TestAsidePurge(t *testing.T) {
	dir, a := newAside(t)
	layOut(t, dir, "20270102T030405Z", fs.Aside{Open: true}, nil)
	q, err := OpenQuarantine(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	list, err := q.List()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d %v", len(list), err)
	}
	if err := list[1].Purge(); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("one that is open: %v", err)
	}
	if err := a.Purge(); err != nil {
		t.Fatal(err)
	}
	if list, err = q.List(); err != nil || len(list) != 1 || !list[0].Open {
		t.Errorf("left: %d %v", len(list), err)
	}
}

// A replica hands out what is below its mount, where nobody else sees it.
func TestQuarantinesOfReplica(t *testing.T) {
	h := newHost(t, "a", "127.0.0.1:0", conf.AsyncSecond, func(dir string) {
		layOut(t, dir, asideName, fs.Aside{Module: "test", Entries: []fs.AsideEntry{{Path: "f", Kind: "file", Kept: true, Mode: 0o600}}}, map[string]string{"0": "kept"})
	})
	if _, err := os.Stat(h.dir + "/.skfs"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("applications see it: %v", err)
	}
	c := NewClient(h.cfg.Socket)
	for range 3 { // descriptors are not used up
		areas, err := c.Quarantines(context.Background())
		if err != nil || len(areas) != 1 || areas[0].Dir != h.dir {
			t.Fatalf("%d %v", len(areas), err)
		}
		list, err := areas[0].List()
		if err != nil || len(list) != 1 {
			t.Fatalf("%d %v", len(list), err)
		}
		dest := filepath.Join(t.TempDir(), "f")
		if _, err := list[0].Restore("f", dest); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(dest); err != nil || string(b) != "kept" {
			t.Errorf("%q %v", b, err)
		}
		list[0].Close()
		areas[0].Close()
	}
}
