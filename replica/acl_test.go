package replica

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestACLInPass makes a file during a pass in a directory whose default ACL the
// second does not have yet.
func TestACLInPass(t *testing.T) {
	a, b := slowPass(t, 26146, 2)
	acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x37\x12\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	a.must(unix.Setxattr(filepath.Join(a.dir, "group"), "system.posix_acl_default", acl, 0))
	for end := time.Now().Add(5 * time.Second); ; {
		if _, err := os.Stat(filepath.Join(b.dir, "group")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the second does not get the directory")
		}
	}
	time.Sleep(300 * time.Millisecond)
	dir := filepath.Join("group", "dir")
	file := filepath.Join(dir, "file")
	a.must(os.Mkdir(filepath.Join(a.dir, dir), 0o777))
	a.must(os.WriteFile(filepath.Join(a.dir, file), nil, 0o666))
	b.wait(EventSynced)
	settled(t, a, b)
	for _, name := range []string{dir, file} {
		var x, y [100]byte
		n, err := unix.Getxattr(filepath.Join(a.dir, name), "system.posix_acl_access", x[:])
		a.must(err)
		m, err := unix.Getxattr(filepath.Join(b.dir, name), "system.posix_acl_access", y[:])
		if err != nil || !bytes.Equal(x[:n], y[:m]) {
			t.Errorf("ACL of %s: %q here, %q (%v) there", name, x[:n], y[:max(m, 0)], err)
		}
	}
}
