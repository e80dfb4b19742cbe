package reintegrate

import (
	"io"

	"golang.org/x/sys/unix"
)

const (
	sIFMT   = unix.S_IFMT
	sIFREG  = unix.S_IFREG
	sIFDIR  = unix.S_IFDIR
	sIFLNK  = unix.S_IFLNK
	sIFCHR  = unix.S_IFCHR
	sIFBLK  = unix.S_IFBLK
	sIFIFO  = unix.S_IFIFO
	sIFSOCK = unix.S_IFSOCK
)

// FD is a File read through a descriptor. Its file offset is not preserved by
// DataRanges, so nothing may depend on it.
type FD int

var _ File = FD(0)

func (fd FD) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(fd), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

func (fd FD) Size() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(fd), &st)
	return st.Size, err
}

// DataRanges asks lseek(SEEK_DATA, SEEK_HOLE). A file system that cannot tell
// says that everything is data.
func (fd FD) DataRanges(off, n int64) ([]Range, error) {
	var ranges []Range
	for end := off + n; off < end; {
		data, err := unix.Seek(int(fd), off, unix.SEEK_DATA)
		if err == unix.ENXIO { // no data from here to the end of the file
			return ranges, nil
		}
		if err != nil {
			return nil, err
		}
		if data >= end {
			return ranges, nil
		}
		hole, err := unix.Seek(int(fd), data, unix.SEEK_HOLE)
		if err != nil {
			if err == unix.ENXIO { // cut off meanwhile
				return ranges, nil
			}
			return nil, err
		}
		off = min(hole, end)
		ranges = append(ranges, Range{Off: data, End: off})
	}
	return ranges, nil
}
