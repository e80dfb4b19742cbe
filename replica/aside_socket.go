package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// asideLine comes with the descriptor of a directory of quarantines.
type asideLine struct {
	Dir string `json:"dir"` // the replicated directory
}

// sendQuarantines hands out the directories of the quarantines.
func (r *Replica) sendQuarantines(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("quarantines: a descriptor can only go through a unix socket")
	}
	for _, f := range r.trees {
		t := f.Tree()
		fd, err := t.QuarantineDir()
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return fmt.Errorf("quarantines of %s: %w", t.Dir(), err)
		}
		line, err := json.Marshal(asideLine{t.Dir()})
		if err == nil {
			_, _, err = u.WriteMsgUnix(append(line, '\n'), unix.UnixRights(fd), nil)
		}
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("quarantines of %s: %w", t.Dir(), err)
		}
	}
	return nil
}

// Quarantines opens the quarantines of all replicated directories that have some.
func (c *Client) Quarantines(ctx context.Context) (list []*Quarantine, err error) {
	conn, err := dialer.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("replica: quarantines: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(request{Method: "quarantines"}); err != nil {
		return nil, fmt.Errorf("replica: quarantines: %w", err)
	}
	text, fds, err := receiveAll(conn.(*net.UnixConn))
	defer func() {
		for _, fd := range fds { // those that nobody took over
			unix.Close(fd)
		}
		if err != nil {
			for _, q := range list {
				q.Close()
			}
			list = nil
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("replica: quarantines: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	for len(fds) > 0 {
		var line asideLine
		if err := dec.Decode(&line); err != nil {
			return list, fmt.Errorf("replica: quarantines: %w", err)
		}
		q, err := openQuarantineAt(line.Dir, fds[0])
		fds = fds[1:]
		if err != nil {
			return list, err
		}
		list = append(list, q)
	}
	var resp response
	if err := dec.Decode(&resp); err != nil {
		return list, fmt.Errorf("replica: quarantines: %w", err)
	}
	if resp.Error != "" {
		return list, errors.New(resp.Error)
	}
	return list, nil
}

// receiveAll reads until the other end closes: the bytes, and the descriptors in
// the order in which they were sent.
func receiveAll(u *net.UnixConn) (text []byte, fds []int, err error) {
	b := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, m, flags, _, err := u.ReadMsgUnix(b, oob)
		if errors.Is(err, io.EOF) {
			return text, fds, nil
		}
		if err != nil {
			return text, fds, err
		}
		text = append(text, b[:n]...)
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			return text, fds, err
		}
		for _, msg := range msgs {
			got, err := unix.ParseUnixRights(&msg)
			if err != nil {
				return text, fds, err
			}
			fds = append(fds, got...)
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return text, fds, errors.New("descriptors were lost on the way: are too many files open?")
		}
	}
}
