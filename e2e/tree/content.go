package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// largeHole is the size in bytes from which on a hole of one file must not be
// data in the other. Smaller ones depend on block sizes and preallocation.
const largeHole = 1 << 20

const compareChunk = 1 << 20

// extent is a range of bytes with data.
type extent struct{ off, end int64 }

// extents returns where the file has data.
func extents(fd int, size int64) ([]extent, error) {
	var found []extent
	for off := int64(0); off < size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("seek data: %w", err)
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("seek hole: %w", err)
		}
		found = append(found, extent{data, min(hole, size)})
		off = hole
	}
	return found, nil
}

// content compares two regular files of equal size.
func (c *comparison) content(at string, fd pair[int], size int64) error {
	var data pair[[]extent]
	for i := range fd {
		var err error
		if data[i], err = extents(fd[i], size); err != nil {
			return fmt.Errorf("in %s: %w", c.side[i].root, err)
		}
	}
	for i := range fd {
		if n := dataInHoles(data[1-i], holes(data[i], size)); n > 0 {
			described := pair[string]{"no data", "no data"}
			described[1-i] = "data"
			c.differ(at, fmt.Sprintf("%d bytes in large holes", n), described[0], described[1])
		}
	}
	var buf pair[[]byte]
	for i := range buf {
		buf[i] = make([]byte, min(compareChunk, size))
	}
	for _, e := range union(data[0], data[1]) {
		for off := e.off; off < e.end; {
			n := min(int64(len(buf[0])), e.end-off)
			for i := range fd {
				if err := readFull(fd[i], buf[i][:n], off); err != nil {
					return fmt.Errorf("read in %s: %w", c.side[i].root, err)
				}
			}
			if x, y := buf[0][:n], buf[1][:n]; !bytes.Equal(x, y) {
				k := 0
				for x[k] == y[k] {
					k++
				}
				c.differ(at, fmt.Sprintf("content from byte %d", off+int64(k)), sample(x[k:]), sample(y[k:]))
				return nil
			}
			off += n
		}
	}
	return nil
}

func sample(b []byte) string { return fmt.Sprintf("%x", b[:min(8, len(b))]) }

// holes returns the large gaps between the extents.
func holes(data []extent, size int64) []extent {
	var found []extent
	at := int64(0)
	for _, e := range append(data[:len(data):len(data)], extent{size, size}) {
		if e.off-at >= largeHole {
			found = append(found, extent{at, e.off})
		}
		at = e.end
	}
	return found
}

// dataInHoles returns how many bytes of data lie in holes of which they fill at
// least the size of a large hole.
func dataInHoles(data, holes []extent) int64 {
	var total int64
	for _, h := range holes {
		var n int64
		for _, e := range data {
			n += max(0, min(e.end, h.end)-max(e.off, h.off))
		}
		if n >= largeHole {
			total += n
		}
	}
	return total
}

// union merges two sorted lists of extents.
func union(a, b []extent) []extent {
	var merged []extent
	for len(a) > 0 || len(b) > 0 {
		var e extent
		if len(b) == 0 || len(a) > 0 && a[0].off <= b[0].off {
			e, a = a[0], a[1:]
		} else {
			e, b = b[0], b[1:]
		}
		if n := len(merged); n > 0 && e.off <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, e.end)
		} else {
			merged = append(merged, e)
		}
	}
	return merged
}

func readFull(fd int, buf []byte, off int64) error {
	for len(buf) > 0 {
		n, err := unix.Pread(fd, buf, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		buf, off = buf[n:], off+int64(n)
	}
	return nil
}
