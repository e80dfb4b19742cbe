package exercise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// place on disk: /tmp may lack xattrs or direct I/O.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "skfs-exercise-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// An ordinary file system passes, and what the exercise made is gone.
func TestOrdinaryDirectory(t *testing.T) {
	dir := newDir(t)
	for seed := range uint64(3) {
		r, err := File(t.Context(), dir, Options{Seed: seed, Ops: 5000})
		if err != nil {
			t.Fatal(err)
		}
		if r.Ops != 5000 || len(r.Unsupported) > 0 {
			t.Errorf("file: %+v", r)
		}
		if os.Geteuid() != 0 {
			t.Skip("Names changes owners, which needs root")
		}
		if r, err = Names(t.Context(), dir, Options{Seed: seed, Ops: 10_000}); err != nil {
			t.Fatal(err)
		}
		if r.Ops != 10_000 || len(r.Unsupported) > 0 {
			t.Errorf("names: %+v", r)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Faults done to the file behind the exerciser's back are all noticed.
func TestFileNoticesFaults(t *testing.T) {
	for name, fault := range map[string]func(path string) error{
		"a byte changes": func(path string) error {
			fd, err := unix.Open(path, unix.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			b := make([]byte, 1)
			if n, err := unix.Pread(fd, b, 777); n != 1 {
				return fmt.Errorf("file too short for the fault: %v", err)
			}
			b[0] ^= 1
			_, err = unix.Pwrite(fd, b, 777)
			return err
		},
		"an append is lost": func(path string) error {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return err
			}
			return unix.Truncate(path, st.Size-1)
		},
		"the file grows": func(path string) error {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return err
			}
			return unix.Truncate(path, st.Size+1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			const seed, at = 5, 1000
			var injected error
			_, err := File(t.Context(), dir, Options{Seed: seed, Ops: at + 1, after: func(op int) {
				if op == at {
					injected = fault(filepath.Join(dir, fmt.Sprintf("exercise-%d", seed)))
				}
			}})
			if injected != nil {
				t.Fatal(injected)
			}
			var d *Divergence
			if !errors.As(err, &d) || d.Seed != seed || d.Op != at || len(d.History) != historyLen {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNamesNoticesFaults(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("Names changes owners, which needs root")
	}
	// first finds an object of a type below root.
	first := func(root string, mode os.FileMode) (string, error) {
		found := ""
		err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err == nil && p != root && d.Type() == mode && found == "" {
				if mode == 0 {
					if i, err := d.Info(); err != nil || i.Size() == 0 {
						return err
					}
				}
				found = p
			}
			return err
		})
		if err == nil && found == "" {
			err = fmt.Errorf("nothing of type %v", mode)
		}
		return found, err
	}
	on := func(mode os.FileMode, do func(string) error) func(string) error {
		return func(root string) error {
			p, err := first(root, mode)
			if err != nil {
				return err
			}
			return do(p)
		}
	}
	for name, fault := range map[string]func(root string) error{
		"a file is gone":      on(0, os.Remove),
		"a file appears":      func(root string) error { return os.WriteFile(root+"/n0.extra", nil, 0o600) },
		"a mode changes":      on(0, func(p string) error { return chmodBy(p, 0o001) }),
		"a dir mode changes":  on(os.ModeDir, func(p string) error { return chmodBy(p, 0o010) }),
		"an owner changes":    on(os.ModeSymlink, func(p string) error { return os.Lchown(p, 77, 77) }),
		"an xattr appears":    on(0, func(p string) error { return unix.Lsetxattr(p, "user.more", nil, 0) }),
		"an ACL appears":      on(os.ModeDir, func(p string) error { return unix.Lsetxattr(p, aclDefault, (&acl{uid: 4242}).encode(), 0) }),
		"a fifo becomes file": on(os.ModeNamedPipe, func(p string) error { os.Remove(p); return os.WriteFile(p, nil, 0o600) }),
		"a target changes":    on(os.ModeSymlink, func(p string) error { os.Remove(p); return os.Symlink("y", p) }),
		"a link is a copy": on(0, func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			os.Remove(p)
			return os.WriteFile(p, b, 0o600)
		}),
		"content changes": on(0, func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte{b[len(b)-1] ^ 1}, int64(len(b)-1))
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			const seed, at = 9, 4000
			var injected error
			_, err := Names(t.Context(), dir, Options{Seed: seed, Ops: at + 1, after: func(op int) {
				if op == at {
					injected = fault(filepath.Join(dir, fmt.Sprintf("exercise-names-%d", seed)))
				}
			}})
			if injected != nil {
				t.Fatal(injected)
			}
			var d *Divergence
			if !errors.As(err, &d) {
				t.Errorf("not noticed: %v", err)
			}
		})
	}
}

// chmodBy flips mode bits.
func chmodBy(p string, bits uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return err
	}
	return unix.Chmod(p, st.Mode&0o7777^bits)
}

// The same seed does the same.
func TestSeedDecides(t *testing.T) {
	history := func(seed uint64) []string {
		dir := newDir(t)
		_, err := File(t.Context(), dir, Options{Seed: seed, Ops: 200, after: func(op int) {
			if op == 199 {
				unix.Truncate(filepath.Join(dir, fmt.Sprintf("exercise-%d", seed)), 1<<30)
			}
		}})
		var d *Divergence
		if !errors.As(err, &d) {
			t.Fatalf("got %v", err)
		}
		return d.History
	}
	a := history(1)
	if b := history(1); !reflect.DeepEqual(a, b) {
		t.Errorf("one seed, two histories: %q, %q", a, b)
	}
	if c := history(2); reflect.DeepEqual(a, c) {
		t.Error("two seeds, one history")
	}
}
