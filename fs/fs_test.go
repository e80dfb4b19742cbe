package fs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// mountAlone mounts a fresh directory over itself, writable and without a peer.
func mountAlone(t *testing.T) (*FS, string) {
	t.Helper()
	return mountOn(t, t.TempDir())
}

// mountOn mounts a directory as mountAlone does.
func mountOn(t *testing.T, dir string) (*FS, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: FUSE mounts and file handles")
	}
	tree, err := OpenTree(dir, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	g := NewGate()
	f := New(tree, g)
	if err := f.Mount(); err != nil {
		t.Fatal(err)
	}
	f.Rule()
	g.Open(nil)
	t.Cleanup(func() {
		if busy, err := f.Unmount(5 * time.Second); err != nil || busy {
			t.Errorf("unmount: busy %v, %v", busy, err)
		}
		tree.Close()
	})
	return f, dir
}

// TestPosixAlone runs go-fuse's conformance suite on a mount without a peer.
func TestPosixAlone(t *testing.T) {
	for name, fn := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // expects POSIX locks of one process to exclude each other; fails on ext4 too
		}
		t.Run(name, func(t *testing.T) {
			_, dir := mountAlone(t)
			fn(t, dir)
		})
	}
}

// The root is the parent of what is in it, though skfs is mounted there.
func TestParentOfTop(t *testing.T) {
	f, dir := mountAlone(t)
	if err := os.MkdirAll(filepath.Join(dir, "top", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	top, err := f.tree.lookup(f.tree.rootObject(), "top", &st)
	if err != nil {
		t.Fatal(err)
	}
	below, err := f.tree.lookup(top, "below", &st)
	if err != nil {
		t.Fatal(err)
	}
	if up, err := f.tree.Parent(below.id); err != nil || up != top.id {
		t.Errorf("below: %v, %v, expected %v", up, err, top.id)
	}
	if up, err := f.tree.Parent(top.id); err != nil || up != f.tree.rootObject().id {
		t.Errorf("top: %v, %v, expected the root", up, err)
	}
}
