package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
)

// badDisk is an ext4 on an image that lies on a tmpfs of its own. Blocks that it
// forgets cannot be written: the tmpfs is full.
type badDisk struct {
	t    *testing.T
	base string
	dir  string
}

// newBadDisk returns a disk and what mounts it on the directory of a host.
func newBadDisk(t *testing.T) (*badDisk, func(dir string)) {
	d := &badDisk{t: t, base: t.TempDir()}
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	return d, func(dir string) {
		d.dir = dir
		if err := unix.Mount("skfs-test", d.base, "tmpfs", 0, "size=64m"); err != nil {
			t.Skipf("needs a tmpfs: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(d.base, unix.MNT_DETACH) })
		for _, c := range [][]string{
			{"fallocate", "-l", "40M", d.base + "/img"}, {"mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", d.base + "/img"},
			{"mount", "-o", "loop,nodiscard", d.base + "/img", dir},
		} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Skipf("needs an ext4 on a loop device: %v: %v: %s", c, err, out)
			}
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
}

// forget makes the blocks of a file, which are on disk, such that cannot be written.
func (d *badDisk) forget(f *os.File) {
	d.t.Helper()
	cmd := exec.Command("filefrag", "-e", "-b4096", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Skipf("needs filefrag: %v: %s", err, out)
	}
	img, err := os.OpenFile(d.base+"/img", os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer img.Close()
	n := 0
	for _, line := range strings.Split(string(out), "\n") {
		var ext, from, to, phys, end, length int64
		if c, _ := fmt.Sscanf(strings.NewReplacer(":", " ", "..", " ").Replace(line), "%d %d %d %d %d %d", &ext, &from, &to, &phys, &end, &length); c == 6 {
			if err := unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, phys<<12, length<<12); err != nil {
				d.t.Fatal(err)
			}
			n++
		}
	}
	if n == 0 {
		d.t.Fatalf("no blocks: %s", out)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.base, &st); err != nil {
		d.t.Fatal(err)
	}
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	if err := unix.Mount("skfs-test", d.base, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used)); err != nil {
		d.t.Fatal(err)
	}
}

// heal lets all blocks be written again.
func (d *badDisk) heal() {
	d.t.Helper()
	if err := unix.Mount("skfs-test", d.base, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		d.t.Fatal(err)
	}
}

// stored is the content of a file on disk, whatever the page cache says.
func stored(h *host, name string) []byte {
	h.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d/%s", h.backing.Fd(), name))
	h.must(err)
	defer f.Close()
	h.must(f.Sync())
	h.must(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	b := make([]byte, 1<<20)
	n, err := f.ReadAt(b, 0)
	if n == 0 {
		h.t.Fatal(err)
	}
	return b[:n]
}

// TestDiskFails: after an fsync that failed on the primary nothing is answered any
// more, above all no other fsync: the kernel tells of a page that it could not write
// once. The host is no good as primary, and as a second it gets again what its page
// cache has and its disk has not (R13).
func TestDiskFails(t *testing.T) {
	ctx := context.Background()
	disk, mount := newBadDisk(t)
	a := newHost(t, "a", "127.0.0.1:26600", conf.AsyncSecond, mount)
	b := newHost(t, "b", "127.0.0.1:26601", conf.AsyncSecond)
	a.cfg.CheckpointEvery, b.cfg.CheckpointEvery = time.Hour, time.Hour
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	before, after := bytes.Repeat([]byte("b"), 64<<10), bytes.Repeat([]byte("a"), 64<<10)
	a.must(os.WriteFile(a.path("f"), before, 0o644))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	backing, err := os.Open(fmt.Sprintf("/proc/self/fd/%d/f", a.backing.Fd()))
	a.must(err)
	defer backing.Close()
	a.must(unix.Syncfs(int(backing.Fd())))
	disk.forget(backing)

	f, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
	a.must(err)
	_, err = f.WriteAt(after, 0)
	a.must(err)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) { // as loop has it
		t.Fatalf("fsync: %v, expected %v", err, syscall.EIO)
	}
	a.wait(EventFailed)
	disk.heal()
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the next fsync: %v, expected %v", err, syscall.EIO)
	}
	if _, err := f.WriteAt(before, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write after it: %v, expected %v", err, syscall.EIO)
	}
	f.Close()
	if err := a.c.Demote(ctx); err == nil {
		t.Error("a primary whose disk has failed has handed its data over")
	}
	a.stop(true)
	b.wait(EventPeerLost)
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	if got, err := os.ReadFile(b.path("f")); err != nil || !bytes.Equal(got, after) {
		t.Errorf("after the takeover: %d bytes, %v", len(got), err)
	}

	a.start()
	if err := a.c.Promote(ctx, 3, NoForce); !errors.Is(err, ErrNotUptodate) {
		t.Errorf("promote: %v, expected %v", err, ErrNotUptodate)
	}
	a.must(a.c.Follow(ctx, 2, b.cfg.Listen[0], FollowOptions{}))
	a.copied()
	if !bytes.Equal(stored(a, "f"), after) {
		t.Error("what the disk of the second holds is not what the primary has")
	}
}
