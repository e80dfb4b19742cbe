package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what sockaddr_un holds, with its final zero.
const maxSocketPath = 108

// listenUnix listens on path, which only root can open. A socket that a killed
// process left is replaced; the caller holds the lock of the daemon, so nobody
// listens there.
func listenUnix(path string) (net.Listener, error) {
	if len(path) >= maxSocketPath {
		return nil, fmt.Errorf("%s is longer than the %d bytes that the path of a socket may have: choose a shorter SAFEVAR", path, maxSocketPath-1)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The mode that a socket has before bind(2) is the one its file is born with
	// (see unix(7) and unix_bind in the kernel): there is no moment in which
	// others can connect, and no umask to change for the whole process.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return lc.Listen(context.Background(), "unix", path)
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	if len(path) >= maxSocketPath {
		return nil, fmt.Errorf("%s is longer than the %d bytes that the path of a socket may have: choose a shorter SAFEVAR", path, maxSocketPath-1)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
