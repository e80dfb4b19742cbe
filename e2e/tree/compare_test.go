package tree

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// build fills a new directory with something of every kind.
func build(t *testing.T) string {
	t.Helper()
	// Not below t.TempDir's usual place: it may be a file system without xattrs.
	root, err := os.MkdirTemp("/var/tmp", "skfs-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	in := func(name string) string { return filepath.Join(root, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(in("dir/deep"), 0o755))
	must(os.WriteFile(in("dir/file"), []byte(strings.Repeat("content ", 300_000)), 0o640))
	must(os.Link(in("dir/file"), in("dir/deep/link")))
	must(os.WriteFile(in("dir/empty"), nil, 0o600))
	must(os.Symlink("dir/file", in("sym")))
	must(unix.Mkfifo(in("fifo"), 0o644))
	must(unix.Setxattr(in("dir/empty"), "user.colour", []byte("green"), 0))
	sparse, err := os.Create(in("sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("head"), 0)
	must(err)
	_, err = sparse.WriteAt([]byte("tail"), 16<<20)
	must(err)
	must(sparse.Close())
	stamp(t, root)
	return root
}

// stamp gives everything below root the same modification time.
func stamp(t *testing.T, root string) {
	t.Helper()
	ts := []unix.Timespec{{Sec: 1_600_000_000, Nsec: 123_456_789}, {Sec: 1_600_000_000, Nsec: 123_456_789}}
	err := filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func compare(t *testing.T, a, b string, o Options) *Result {
	t.Helper()
	r, err := Compare(t.Context(), a, b, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEqualTrees(t *testing.T) {
	a, b := build(t), build(t)
	if err := unix.Setxattr(filepath.Join(a, "dir"), "trusted.skfs.id", []byte("x"), 0); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	r := compare(t, a, b, Options{})
	if !r.Equal() {
		t.Fatal(r)
	}
	want := Result{Files: 4, Directories: 3, Others: 2, Bytes: 2*2_400_000 + 16<<20 + 4}
	if !reflect.DeepEqual(*r, want) {
		t.Fatalf("counted %+v, want %+v", *r, want)
	}
}

// Every kind of difference is found, and nothing but it.
func TestDifferences(t *testing.T) {
	keepTimes := func(dir string, p string) {
		ts := []unix.Timespec{{Sec: 1_600_000_000, Nsec: 123_456_789}, {Sec: 1_600_000_000, Nsec: 123_456_789}}
		for _, p := range []string{p, filepath.Dir(p), dir} {
			unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	for _, test := range []struct {
		name   string
		path   string
		change func(p string) error
		want   []string // path: what
	}{
		{"missing", "dir/empty", os.Remove, []string{"dir/empty: name"}},
		{"extra", "dir/more", func(p string) error { return os.WriteFile(p, nil, 0o600) }, []string{"dir/more: name"}},
		{"type", "dir/empty", func(p string) error {
			os.Remove(p)
			return os.Mkdir(p, 0o600)
		}, []string{"dir/empty: type"}},
		{"mode", "dir/empty", func(p string) error { return os.Chmod(p, 0o601) }, []string{"dir/empty: mode"}},
		{"setuid", "dir/empty", func(p string) error { return os.Chmod(p, 0o600|os.ModeSetuid) }, []string{"dir/empty: mode"}},
		{"owner", "dir/empty", func(p string) error { return os.Lchown(p, 1, -1) }, []string{"dir/empty: owner"}},
		{"root mode", ".", func(p string) error { return os.Chmod(p, 0o711) }, []string{".: mode"}},
		{"one byte", "dir/file", func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("X"), 2_300_000)
				f.Close()
			}
			return err
		}, []string{"dir/deep/link: content from byte 2300000"}},
		{"size", "dir/file", func(p string) error { return os.Truncate(p, 2_400_001) },
			[]string{"dir/deep/link: size", "dir/file: size"}},
		{"xattr value", "dir/empty", func(p string) error { return unix.Setxattr(p, "user.colour", []byte("red"), 0) }, []string{"dir/empty: xattr user.colour"}},
		{"xattr more", "dir/empty", func(p string) error { return unix.Setxattr(p, "user.size", nil, 0) }, []string{"dir/empty: xattr user.size"}},
		{"xattr gone", "dir/empty", func(p string) error { return unix.Removexattr(p, "user.colour") }, []string{"dir/empty: xattr user.colour"}},
		{"target", "sym", func(p string) error {
			os.Remove(p)
			return os.Symlink("dir/flie", p)
		}, []string{"sym: target"}},
		{"unlinked copy", "dir/file", func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			os.Remove(p)
			return os.WriteFile(p, b, 0o640)
		}, []string{"dir/deep/link: number of links", "dir/file: number of links", "dir/file: is a link of"}},
		{"filled hole", "sparse", func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt(make([]byte, 2<<20), 4<<20)
				f.Close()
			}
			return err
		}, []string{"sparse: 2097152 bytes in large holes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "owner" && os.Geteuid() != 0 {
				t.Skip("changing owners needs root")
			}
			a, b := build(t), build(t)
			p := filepath.Join(b, test.path)
			if err := test.change(p); err != nil {
				t.Fatal(err)
			}
			keepTimes(b, p)
			r := compare(t, a, b, Options{})
			var got []string
			for _, d := range r.Differences {
				got = append(got, d.Path+": "+d.What)
			}
			if !reflect.DeepEqual(got, test.want) || r.Differing != len(test.want) {
				t.Errorf("got %v", r)
			}
			// The other way round finds as much.
			if back := compare(t, b, a, Options{}); back.Differing != r.Differing {
				t.Errorf("the other way round: %v", back)
			}
		})
	}
}

func TestTimesToTheNanosecond(t *testing.T) {
	a, b := build(t), build(t)
	for _, name := range []string{"dir", "sym", "dir/empty"} {
		ts := []unix.Timespec{{}, {Sec: 1_600_000_000, Nsec: 123_456_788}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(b, name), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	if r := compare(t, a, b, Options{}); r.Differing != 3 || r.Differences[0].What != "mtime" {
		t.Error(r)
	}
}

func TestOptions(t *testing.T) {
	a, b := build(t), build(t)
	if err := os.RemoveAll(filepath.Join(b, "dir")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "y", "z"} {
		if err := os.WriteFile(filepath.Join(b, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(b, time.Time{}, time.Unix(1_600_000_000, 123_456_789)); err != nil {
		t.Fatal(err)
	}
	r := compare(t, a, b, Options{Max: 2})
	if r.Differing != 4 || len(r.Differences) != 2 || !strings.Contains(r.String(), "and 2 more") {
		t.Error(r)
	}
	r = compare(t, a, b, Options{Ignore: func(p string) bool { return p != "sym" && p != "fifo" && p != "sparse" }})
	if !r.Equal() || r.Others != 2 {
		t.Error(r)
	}
}
