package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/pair"
)

// witness is told by the kernel of everything that is read on a host's disk below
// the mount, by whichever process and through whichever descriptor: what a replica
// says of its work can be held against it.
type witness struct {
	fd   int
	root string // of the file system
}

// witnessed is what was read: how often does not matter.
type witnessed struct {
	dirs, files map[string]struct{} // by file handle
	names       []string            // of the directories, as far as they can be found
}

// watch begins to watch the file system of its own that a host has at path. Nobody
// may take it away before the test ends.
func watch(t *testing.T, n *pair.Node, path string) *witness {
	t.Helper()
	root, err := n.Backing(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE|unix.FAN_REPORT_FID, 0)
	if err != nil {
		t.Fatalf("fanotify: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// Reading a directory is an access to it as reading a file is. Neither stat nor
	// an open by handle that reads nothing is one.
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_ACCESS|unix.FAN_ONDIR, unix.AT_FDCWD, root)
	if err != nil {
		t.Fatalf("watch what is read on %s: %v", root, err)
	}
	return &witness{fd, root}
}

// seen returns what was read up to now, once.
func (w *witness) seen(t *testing.T) witnessed {
	t.Helper()
	got := witnessed{dirs: map[string]struct{}{}, files: map[string]struct{}{}}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return got
		}
		if err != nil {
			t.Fatalf("events of what was read: %v", err)
		}
		for rest := buf[:n]; len(rest) > 0; {
			var size int
			if size, err = w.event(&got, rest); err != nil {
				t.Fatal(err)
			}
			rest = rest[size:]
		}
	}
}

// The layout of an event and of the identity that follows it (fanotify(7)).
const (
	eventSize    = 24 // of struct fanotify_event_metadata: length 0–3, mask 8–15
	infoHandle   = 12 // in struct fanotify_event_info_fid, of struct file_handle: bytes 0–3, type 4–7, handle
	handleHeader = 8
)

// event takes one event and returns its length.
func (w *witness) event(got *witnessed, b []byte) (int, error) {
	if len(b) < eventSize {
		return 0, fmt.Errorf("an event of %d bytes, expected %d at least", len(b), eventSize)
	}
	size, mask := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint64(b[8:])
	if mask&unix.FAN_Q_OVERFLOW != 0 {
		return 0, errors.New("events were lost")
	}
	if size > len(b) || size < eventSize+infoHandle+handleHeader {
		return 0, fmt.Errorf("an event of %d bytes without an identity", size)
	}
	h := b[eventSize+infoHandle : size]
	length, typ := binary.NativeEndian.Uint32(h), int32(binary.NativeEndian.Uint32(h[4:]))
	if int(length) > len(h)-handleHeader {
		return 0, fmt.Errorf("an event with a handle of %d bytes in %d", length, len(h))
	}
	key := h[handleHeader : handleHeader+length]
	if mask&unix.FAN_ONDIR == 0 {
		got.files[string(key)] = struct{}{}
	} else if _, known := got.dirs[string(key)]; !known {
		got.dirs[string(key)] = struct{}{}
		got.names = append(got.names, w.name(typ, key))
	}
	return size, nil
}

// name says where in the file system a directory is.
func (w *witness) name(typ int32, handle []byte) string {
	root, err := unix.Open(w.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(root)
	fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(typ, handle), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err.Error()
	}
	return filepath.Clean(name)
}
