package fs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fsType is the subtype in the mount table.
const fsType = "skfs"

// maxWrite is the largest request, bytes: what the kernel allows.
const maxWrite = 1 << 20

// ClearStale unmounts what a replica that was killed has left mounted on dir, so
// that the plain directory is there again. Processes that still use the dead
// mount keep getting ENOTCONN.
func ClearStale(dir string) error {
	for {
		mounted, err := mountedOn(dir)
		if err != nil || !mounted {
			return err
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the stale mount on %s: %w", dir, err)
		}
	}
}

// mountedOn says whether skfs is what is mounted on dir (the topmost mount).
func mountedOn(dir string) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("the mount table: %w (is /proc mounted?)", err)
	}
	defer f.Close()
	is := false
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || unescape(fields[4]) != dir {
			continue
		}
		is = strings.HasPrefix(after, "fuse."+fsType+" ")
	}
	return is, nil
}

// unescape undoes the octal escapes of the mount table.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Mount mounts f over the directory of its tree and answers the kernel until
// Unmount.
func (f *FS) Mount() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.tree.root, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", f.tree.dir, err)
	}
	opts := &fuse.MountOptions{
		AllowOther: true, Options: []string{"default_permissions"},
		FsName: f.tree.dir, Name: fsType,
		// Suid programs, devices and execution are as the backing mount has them.
		DirectMountStrict: true, DirectMountFlags: unix.MS_MGC_VAL | uintptr(st.Flags)&(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC),
		MaxWrite: maxWrite, MaxBackground: 64, DisableSplice: true,
		EnableAcl: true, EnableSymlinkCaching: true, ExplicitDataCacheControl: true,
		// Without HANDLE_KILLPRIV_V2 the kernel asks for security.capability before
		// every write; with passthrough writes would bypass us.
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK |
			fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_READDIRPLUS_AUTO,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
	}
	s, err := fuse.NewServer(f, f.tree.dir, opts)
	if err != nil {
		return fmt.Errorf("mount on %s: %w", f.tree.dir, err)
	}
	f.server = s
	f.served = make(chan struct{})
	go func() {
		defer close(f.served)
		s.Serve()
	}()
	if err := s.WaitMount(); err != nil {
		return fmt.Errorf("mount on %s: %w", f.tree.dir, err)
	}
	f.tree.kernel.Store(f)
	return nil
}

// Unmount gives the plain directory back and returns when the last request has
// been answered, so that the tree can be closed. While processes use the mount it
// waits for them, patience long at most; then it detaches the mount and they get
// errors once this process ends. busy says that it came to that.
func (f *FS) Unmount(patience time.Duration) (busy bool, err error) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(f.tree.dir, 0)
		if err == nil || errors.Is(err, syscall.EINVAL) {
			select {
			case <-f.served:
				return false, nil
			case <-time.After(max(time.Until(end), time.Second)):
				return true, nil // mounted in another namespace too
			}
		}
		if !errors.Is(err, syscall.EBUSY) {
			return false, fmt.Errorf("unmount %s: %w", f.tree.dir, err)
		}
		if time.Now().After(end) {
			break
		}
	}
	if err := unix.Unmount(f.tree.dir, unix.MNT_DETACH); err != nil {
		return true, fmt.Errorf("detach the mount on %s: %w", f.tree.dir, err)
	}
	return true, nil
}

// Tree is the tree below the mount.
func (f *FS) Tree() *Tree { return f.tree }

// Rule prepares the tree for mutations by the kernel: this host is to be the
// primary. Objects without identity get one when they are met. What the kernel
// has kept of what was changed since, it forgets: pages of a file that was mapped
// and closed would be taken for the file's content for ever.
func (f *FS) Rule() {
	f.EndStream()
	t := f.tree
	f.forgetKernel(true)
	t.cached.Store(true)
	t.mu.Lock()
	for ino, o := range t.inos {
		if isLocal(o.id) {
			delete(t.inos, ino)
		}
	}
	t.mu.Unlock()
	t.assign.Store(true)
}

// Serve prepares the tree for changes by the applier: this host is to be the
// second. The kernel forgets what it has cached, and is told of changes of names
// that it may have cached.
func (f *FS) Serve() {
	t := f.tree
	was := t.assign.Swap(false)
	if !was {
		return
	}
	for _, o := range t.takeDirty() {
		t.cleanTimes(o)
		t.unref(o, 1)
	}
	f.forgetKernel(false)
}
