package fs

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// Data is an open regular file of the backing directory, for those who copy or
// compare it.
type Data struct{ fd int }

// ReadAt implements io.ReaderAt.
func (d *Data) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		k, err := unix.Pread(d.fd, b[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case k == 0:
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}

// Size returns the size in bytes.
func (d *Data) Size() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd, &st)
	return st.Size, err
}

// DataRanges returns the parts of [off, off+n) that are no holes.
func (d *Data) DataRanges(off, n int64) ([]journal.Range, error) {
	var list []journal.Range
	err := dataRanges(d.fd, off, off+n, func(off, end int64) error {
		list = append(list, journal.Range{Off: off, End: end})
		return nil
	})
	return list, err
}

// Close implements io.Closer.
func (d *Data) Close() error { return unix.Close(d.fd) }
