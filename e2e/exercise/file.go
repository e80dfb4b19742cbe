package exercise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxFileSize = 1 << 20
	maxIO       = 96 << 10
	directAlign = 4096
	checkEvery  = 2000 // operations between comparisons of the whole file
)

// file exercises one file against a shadow of its content.
type file struct {
	run
	path   string
	fd     int // read and write
	append int // opened with O_APPEND
	direct int // opened with O_DIRECT, -1 if unsupported
	shadow []byte
	mapped bool // written through a map since the last sync
	seq    byte
}

// File does random operations on one new file in dir, and removes it. The error
// is a *Divergence when the file system did wrong.
func File(ctx context.Context, dir string, o Options) (*Result, error) {
	f := &file{run: newRun(o), path: filepath.Join(dir, fmt.Sprintf("exercise-%d", o.Seed)), fd: -1, append: -1, direct: -1}
	if err := f.open(unix.O_CREAT | unix.O_EXCL); err != nil {
		return nil, err
	}
	defer unix.Unlink(f.path)
	defer f.close()
	choices, err := f.choices()
	if err != nil {
		return nil, err
	}
	for f.op = 0; f.op < o.Ops; f.op++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := pick(f.rnd, choices)(); err != nil {
			return nil, err
		}
		if f.after != nil {
			f.after(f.op)
		}
		if f.op%checkEvery == checkEvery-1 {
			if err := f.checkAll(); err != nil {
				return nil, err
			}
		}
	}
	f.op-- // a divergence from here on belongs to the last operation
	if err := f.checkAll(); err != nil {
		return nil, err
	}
	f.op++
	return f.result(), nil
}

func (f *file) open(flags int) error {
	var err error
	if f.fd, err = unix.Open(f.path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0o600); err != nil {
		return fmt.Errorf("exercise: open %s: %w", f.path, err)
	}
	if f.append, err = unix.Open(f.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0); err != nil {
		f.close()
		return fmt.Errorf("exercise: open %s to append: %w", f.path, err)
	}
	if f.direct, err = unix.Open(f.path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0); err != nil {
		f.direct = -1
	}
	return nil
}

func (f *file) close() error {
	var first error
	for _, fd := range []*int{&f.fd, &f.append, &f.direct} {
		if *fd >= 0 {
			if err := unix.Close(*fd); err != nil && first == nil {
				first = err
			}
		}
		*fd = -1
	}
	return first
}

// choices returns the operations that work here.
func (f *file) choices() ([]choice, error) {
	all := []choice{
		{20, f.read}, {20, f.write}, {6, f.appendTo}, {6, f.truncate}, {2, f.sync}, {2, f.reopen},
		{6, f.mapRead}, {6, f.mapWrite}, {4, f.stat}, {4, f.vector},
	}
	for _, optional := range []struct {
		name   string
		choice choice
		try    func() error
	}{
		{"O_DIRECT read", choice{4, f.directRead}, f.tryDirect},
		{"O_DIRECT write", choice{4, f.directWrite}, f.tryDirect},
		{"fallocate", choice{3, f.allocate}, f.tryFallocate(0)},
		{"fallocate KEEP_SIZE", choice{2, f.allocateKeep}, f.tryFallocate(unix.FALLOC_FL_KEEP_SIZE)},
		{"fallocate PUNCH_HOLE", choice{6, f.punch}, f.tryFallocate(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)},
		{"fallocate ZERO_RANGE", choice{4, f.zero}, f.tryFallocate(unix.FALLOC_FL_ZERO_RANGE)},
		{"copy_file_range", choice{5, f.copyRange}, f.tryCopy},
	} {
		err := optional.try()
		switch {
		case err == nil:
			all = append(all, optional.choice)
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EXDEV):
			f.unsupported = append(f.unsupported, optional.name)
		default:
			return nil, fmt.Errorf("exercise: %s: %w", optional.name, err)
		}
	}
	if err := unix.Ftruncate(f.fd, 0); err != nil {
		return nil, fmt.Errorf("exercise: truncate: %w", err)
	}
	return all, nil
}

func (f *file) tryDirect() error {
	if f.direct < 0 {
		return unix.EINVAL
	}
	_, err := unix.Pwrite(f.direct, aligned(directAlign), 0)
	return err
}

func (f *file) tryFallocate(mode uint32) func() error {
	return func() error { return unix.Fallocate(f.fd, mode, 0, directAlign) }
}

func (f *file) tryCopy() error {
	if _, err := unix.Pwrite(f.fd, make([]byte, directAlign), 0); err != nil {
		return err
	}
	from, to := int64(0), int64(directAlign)
	_, err := unix.CopyFileRange(f.fd, &from, f.fd, &to, directAlign, 0)
	return err
}

// span returns a random range of at most maxIO bytes within limit.
func (f *file) span(limit int) (off, n int) {
	off = f.rnd.IntN(limit)
	n = 1 + f.rnd.IntN(min(maxIO, limit-off))
	if f.rnd.IntN(4) == 0 { // page-aligned ranges meet other code
		off &^= directAlign - 1
		n = min((n+directAlign-1)&^(directAlign-1), limit-off)
	}
	return off, n
}

// inside is span within the file as it is. ok is false when it is empty.
func (f *file) inside() (off, n int, ok bool) {
	if len(f.shadow) == 0 {
		return 0, 0, false
	}
	off, n = f.span(len(f.shadow))
	return off, n, true
}

// fresh returns n bytes that differ from what is there and tell where they came
// from: each operation has its own run of values.
func (f *file) fresh(n int) []byte {
	b := make([]byte, n)
	f.seq += 7
	for i := range b {
		b[i] = f.seq + byte(i) + byte(i>>8)
	}
	return b
}

func (f *file) resize(n int) {
	if n <= len(f.shadow) {
		f.shadow = f.shadow[:n]
		return
	}
	f.shadow = append(f.shadow, make([]byte, n-len(f.shadow))...)
}

// put is what a write of b at off does to the content.
func (f *file) put(off int, b []byte) {
	f.resize(max(len(f.shadow), off+len(b)))
	copy(f.shadow[off:], b)
}

// equal compares what was read at off, all of it within the file.
func (f *file) equal(off int, got []byte, how string) error {
	want := f.shadow[off : off+len(got)]
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for got[i] == want[i] {
		i++
	}
	return f.diverged("%s at %d: byte %d is %#02x, expected %#02x", how, off, off+i, got[i], want[i])
}

func (f *file) wrote(n int, err error, want int) error {
	if err != nil {
		return f.diverged("%v", err)
	}
	if n != want {
		return f.diverged("wrote %d bytes, expected %d", n, want)
	}
	return nil
}

func (f *file) read() error {
	off, n := f.span(maxFileSize)
	f.log("read %d at %d", n, off)
	buf := make([]byte, n)
	got, err := unix.Pread(f.fd, buf, int64(off))
	if err != nil {
		return f.diverged("%v", err)
	}
	if off >= len(f.shadow) {
		if got != 0 {
			return f.diverged("read %d bytes after the end", got)
		}
		return nil
	}
	if want := min(n, len(f.shadow)-off); got != want {
		return f.diverged("read %d bytes, expected %d", got, want)
	}
	return f.equal(off, buf[:got], "read")
}

func (f *file) write() error {
	off, n := f.span(maxFileSize)
	b := f.fresh(n)
	f.log("write %d at %d", n, off)
	got, err := unix.Pwrite(f.fd, b, int64(off))
	f.put(off, b)
	return f.wrote(got, err, n)
}

func (f *file) vector() error {
	off, n := f.span(maxFileSize)
	b := f.fresh(n)
	cut := f.rnd.IntN(n + 1)
	f.log("pwritev %d+%d at %d", cut, n-cut, off)
	got, err := unix.Pwritev(f.fd, [][]byte{b[:cut], b[cut:]}, int64(off))
	f.put(off, b)
	return f.wrote(got, err, n)
}

func (f *file) appendTo() error {
	if len(f.shadow) >= maxFileSize {
		return f.truncate()
	}
	_, n := f.span(maxFileSize - len(f.shadow))
	b := f.fresh(n)
	f.log("append %d to %d", n, len(f.shadow))
	got, err := unix.Write(f.append, b)
	f.put(len(f.shadow), b)
	return f.wrote(got, err, n)
}

func (f *file) truncate() error {
	size := f.rnd.IntN(maxFileSize)
	f.log("truncate to %d", size)
	if err := unix.Ftruncate(f.fd, int64(size)); err != nil {
		return f.diverged("%v", err)
	}
	f.resize(size)
	return nil
}

func (f *file) sync() error {
	do, name := unix.Fsync, "fsync"
	if f.rnd.IntN(2) == 0 {
		do, name = unix.Fdatasync, "fdatasync"
	}
	f.log("%s", name)
	if err := do(f.fd); err != nil {
		return f.diverged("%v", err)
	}
	f.mapped = false
	return nil
}

func (f *file) reopen() error {
	f.log("close and open")
	if err := f.close(); err != nil {
		return f.diverged("close: %v", err)
	}
	if err := f.open(0); err != nil {
		return f.diverged("%v", err)
	}
	return nil
}

func (f *file) stat() error {
	f.log("stat")
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return f.diverged("%v", err)
	}
	if st.Size != int64(len(f.shadow)) {
		return f.diverged("size %d, expected %d", st.Size, len(f.shadow))
	}
	return nil
}

// withMap maps the pages of a range that lies in the file and calls do with the
// bytes of the range. A page that cannot be had is a divergence, not a crash.
func (f *file) withMap(off, n, prot int, do func([]byte) error) (err error) {
	start := off &^ (directAlign - 1)
	m, err := unix.Mmap(f.fd, int64(start), off-start+n, prot, unix.MAP_SHARED)
	if err != nil {
		return f.diverged("mmap: %v", err)
	}
	defer func() {
		if e := unix.Munmap(m); e != nil && err == nil {
			err = f.diverged("munmap: %v", e)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = f.diverged("fault in the map: %v", p)
		}
	}()
	return do(m[off-start:])
}

func (f *file) mapRead() error {
	off, n, ok := f.inside()
	if !ok {
		return f.write()
	}
	f.log("read %d at %d through a map", n, off)
	return f.withMap(off, n, unix.PROT_READ, func(m []byte) error { return f.equal(off, m, "map") })
}

func (f *file) mapWrite() error {
	off, n, ok := f.inside()
	if !ok {
		return f.write()
	}
	b, sync := f.fresh(n), f.rnd.IntN(3) == 0
	f.log("write %d at %d through a map, msync %v", n, off, sync)
	f.mapped = true
	return f.withMap(off, n, unix.PROT_READ|unix.PROT_WRITE, func(m []byte) error {
		copy(m, b)
		f.put(off, b)
		if sync {
			// msync wants the start of a page.
			start := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(&m[0]), -(off&(directAlign-1)))), n+off&(directAlign-1))
			if err := unix.Msync(start, unix.MS_SYNC); err != nil {
				return f.diverged("msync: %v", err)
			}
		}
		return nil
	})
}

// aligned returns n bytes that direct I/O accepts.
func aligned(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (directAlign - 1)
	return b[skip : skip+n]
}

// settle writes back what was written through maps: direct I/O promises nothing
// about pages that are dirty in somebody's map.
func (f *file) settle() error {
	if !f.mapped {
		return nil
	}
	return f.sync()
}

func (f *file) directRead() error {
	if err := f.settle(); err != nil {
		return err
	}
	off := f.rnd.IntN(maxFileSize/directAlign) * directAlign
	n := (1 + f.rnd.IntN(16)) * directAlign
	f.log("direct read %d at %d", n, off)
	buf := aligned(n)
	got, err := unix.Pread(f.direct, buf, int64(off))
	if err != nil {
		return f.diverged("%v", err)
	}
	want := max(0, min(n, len(f.shadow)-off))
	if got != want {
		return f.diverged("read %d bytes, expected %d", got, want)
	}
	if got == 0 {
		return nil
	}
	return f.equal(off, buf[:got], "direct read")
}

func (f *file) directWrite() error {
	if err := f.settle(); err != nil {
		return err
	}
	off := f.rnd.IntN(maxFileSize/directAlign-16) * directAlign
	b := aligned((1 + f.rnd.IntN(16)) * directAlign)
	copy(b, f.fresh(len(b)))
	f.log("direct write %d at %d", len(b), off)
	got, err := unix.Pwrite(f.direct, b, int64(off))
	f.put(off, b)
	return f.wrote(got, err, len(b))
}

func (f *file) fallocate(mode uint32, off, n int) error {
	if err := unix.Fallocate(f.fd, mode, int64(off), int64(n)); err != nil {
		return f.diverged("%v", err)
	}
	return nil
}

func (f *file) allocate() error {
	off, n := f.span(maxFileSize)
	f.log("allocate %d at %d", n, off)
	f.resize(max(len(f.shadow), off+n))
	return f.fallocate(0, off, n)
}

func (f *file) allocateKeep() error {
	off, n := f.span(maxFileSize)
	f.log("allocate %d at %d, keep size", n, off)
	return f.fallocate(unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// clear is what a punched or zeroed range does to the content.
func (f *file) clear(off, n int) {
	if off < len(f.shadow) {
		clear(f.shadow[off:min(off+n, len(f.shadow))])
	}
}

func (f *file) punch() error {
	off, n := f.span(maxFileSize)
	f.log("punch %d at %d", n, off)
	f.clear(off, n)
	return f.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (f *file) zero() error {
	off, n := f.span(maxFileSize)
	mode, keep := uint32(unix.FALLOC_FL_ZERO_RANGE), f.rnd.IntN(2) == 0
	f.log("zero %d at %d, keep size %v", n, off, keep)
	f.clear(off, n)
	if keep {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	} else {
		f.resize(max(len(f.shadow), off+n))
	}
	return f.fallocate(mode, off, n)
}

func (f *file) copyRange() error {
	off, n, ok := f.inside()
	if !ok {
		return f.write()
	}
	// The target must not overlap the source.
	to := off + n + f.rnd.IntN(maxIO)
	if off > n && f.rnd.IntN(2) == 0 {
		to = f.rnd.IntN(off - n + 1)
	}
	if to+n > maxFileSize {
		return f.read()
	}
	f.log("copy %d from %d to %d", n, off, to)
	for done := 0; done < n; {
		from, at := int64(off+done), int64(to+done)
		got, err := unix.CopyFileRange(f.fd, &from, f.fd, &at, n-done, 0)
		if err != nil {
			return f.diverged("%v", err)
		}
		if got == 0 {
			return f.diverged("copied %d bytes of %d", done, n)
		}
		done += got
	}
	f.put(to, bytes.Clone(f.shadow[off:off+n]))
	return nil
}

// checkAll compares size and content.
func (f *file) checkAll() error {
	if err := f.stat(); err != nil {
		return err
	}
	f.log("read all")
	buf := make([]byte, len(f.shadow)+1)
	for got := 0; ; {
		n, err := unix.Pread(f.fd, buf[got:], int64(got))
		if err != nil {
			return f.diverged("%v", err)
		}
		if got += n; n > 0 {
			continue
		}
		if got != len(f.shadow) {
			return f.diverged("read %d bytes, expected %d", got, len(f.shadow))
		}
		return f.equal(0, buf[:got], "read all")
	}
}
