package fs

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// fullDisk returns a directory on an ext4 of its own, which is small.
func fullDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	img, dir := filepath.Join(t.TempDir(), "img"), filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 48<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", img}, {"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs an ext4 on a loop device: %v: %v: %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFallocateFullDisk: an fallocate that finds the disk full changes nothing that is
// seen, here or as an operation on the second: each would get to another point.
func TestFallocateFullDisk(t *testing.T) {
	f, dir := mountOn(t, fullDisk(t))
	path := filepath.Join(dir, "f")
	data := make([]byte, 1<<20)
	rand.Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Fallocate(fd, 0, 0, 400<<20); err != unix.ENOSPC {
		t.Fatalf("fallocate: %v, expected %v", err, unix.ENOSPC)
	}
	var st unix.Stat_t
	o, err := f.tree.lookup(f.tree.rootObject(), "f", &st)
	if err != nil {
		t.Fatal(err)
	}
	defer f.tree.unref(o, 1)
	if st.Size != int64(len(data)) {
		t.Errorf("the file is %d bytes long, expected %d", st.Size, len(data))
	}
	r := f.Apply(&journal.Op{Kind: journal.KindFallocate, ID: o.id, Len: 400 << 20})
	if err := o.stat(&st); err != nil || r.Errno != unix.ENOSPC || st.Size != int64(len(data)) {
		t.Errorf("as an operation: %v, %d bytes, %v; expected %v, %d bytes", r.Errno, st.Size, err, unix.ENOSPC, len(data))
	}
	if r := f.Apply(&journal.Op{Kind: journal.KindFallocate, ID: o.id, Flags: unix.FALLOC_FL_ZERO_RANGE, Off: 512 << 10, Len: 400 << 20}); r.Errno != errPartHere {
		t.Errorf("zeros: %v, expected %v: how far they got is not known", r.Errno, errPartHere)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[:512<<10], data[:512<<10]) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
}
