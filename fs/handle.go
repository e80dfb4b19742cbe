package fs

import (
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxHandle is room for the file handles of ext4 (8 bytes), XFS and tmpfs (12)
// and btrfs (20).
const maxHandle = 24

// handle is a kernel file handle (name_to_handle_at(2)): it finds an object
// again without a path and without an open descriptor, for as long as the object
// exists, and never finds another object with the same inode number.
type handle struct {
	typ int32
	n   uint8
	b   [maxHandle]byte
}

// rawHandle is struct file_handle with room for maxHandle bytes.
type rawHandle struct {
	bytes uint32
	typ   int32
	b     [maxHandle]byte
}

// handleAt returns the handle of name in dirfd; with the name empty, of dirfd
// itself. Symlinks are not followed.
func handleAt(dirfd int, name string) (handle, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return handle{}, err
	}
	flags := 0
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	raw := rawHandle{bytes: maxHandle}
	var mnt int32
	_, _, e := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&mnt)), uintptr(flags), 0)
	if e != 0 {
		return handle{}, e
	}
	return handle{typ: raw.typ, n: uint8(raw.bytes), b: raw.b}, nil
}

// open opens the object that h names on the file system of mountfd. It needs
// CAP_DAC_READ_SEARCH. ESTALE: the object is gone.
func (h handle) open(mountfd, flags int) (int, error) {
	raw := rawHandle{bytes: uint32(h.n), typ: h.typ, b: h.b}
	for {
		fd, _, e := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mountfd),
			uintptr(unsafe.Pointer(&raw)), uintptr(flags|unix.O_CLOEXEC))
		switch e {
		case 0:
			return int(fd), nil
		case unix.EINTR:
			continue
		}
		return -1, e
	}
}

// procPath names an open descriptor as a path. A path that ends in it reaches
// the very object, also a symlink that was opened with O_PATH|O_NOFOLLOW.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// probeHandles checks at start that the file system below dirfd can be worked
// on by handle.
func probeHandles(dirfd int, dir string) error {
	h, err := handleAt(dirfd, "")
	if err != nil {
		return fmt.Errorf("replicated directory %s: its file system gives no file handles (%w): use ext4, XFS, btrfs or another one that can be exported", dir, err)
	}
	fd, err := h.open(dirfd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("replicated directory %s: open_by_handle_at: %w: skfs replica must run as root with CAP_DAC_READ_SEARCH", dir, err)
	}
	return unix.Close(fd)
}
