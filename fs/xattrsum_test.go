package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// TestXattrSum: what a list says of xattrs is what all attributes say.
func TestXattrSum(t *testing.T) {
	f, dir := mountAlone(t)
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	sums := map[uint64]bool{}
	check := func(what string) {
		t.Helper()
		list, err := f.tree.List(f.tree.rootObject().id)
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %+v, %v", what, list, err)
		}
		for _, e := range list {
			if e.Name == "link" {
				if e.Xattrs != 0 {
					t.Errorf("%s: a symlink has %x", what, e.Xattrs)
				}
				continue
			}
			st, err := f.tree.Stat(e.ID)
			if err != nil || st.Xattrs != e.Xattrs {
				t.Errorf("%s: %x in the list, %x of the object, %v", what, e.Xattrs, st.Xattrs, err)
			}
			err = f.tree.WithObject(e.ID, func(a *journal.Attrs, _ *Data) error {
				if sum := journal.SumXattrs(a.Xattrs); sum != e.Xattrs {
					t.Errorf("%s: %x in the list, %x of all attributes", what, e.Xattrs, sum)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if sums[e.Xattrs] {
				t.Errorf("%s: as before", what)
			}
			sums[e.Xattrs] = true
		}
	}
	check("none")
	for _, x := range []struct {
		name  string
		value []byte
	}{
		{"user.a", []byte("1")}, {"user.a", []byte("2")}, {"user.b", nil}, {"user.large", bytes.Repeat([]byte("x"), 2000)},
	} {
		if err := unix.Setxattr(name, x.name, x.value, 0); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		check(x.name)
	}
}
