package fs

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// syncs is a stream that takes everything and counts what is to be flushed.
type syncs struct {
	fsyncs atomic.Int64
	flags  atomic.Uint32 // of the last
}

func (s *syncs) Submit(*journal.Op) (journal.Seq, error) { return 1, nil }
func (s *syncs) Wait(journal.Seq) error                  { return nil }
func (s *syncs) Commit(*journal.Op) error                { return nil }
func (s *syncs) Post(*journal.Op) error                  { return nil }
func (s *syncs) Err() error                              { return nil }
func (s *syncs) LocalFailed(*journal.Op, syscall.Errno)  {}
func (s *syncs) Start(op *journal.Op) (*journal.Pending, error) {
	s.fsyncs.Add(1)
	s.flags.Store(op.Flags)
	return nil, errors.New("counted")
}

// aligned is a buffer that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & 4095
	return b[skip : skip+n]
}

// TestDirectSync: what is written with O_SYNC or O_DSYNC is on both disks when the
// write returns, with O_DIRECT too.
func TestDirectSync(t *testing.T) {
	for name, flags := range map[string]int{
		"O_DSYNC": unix.O_DSYNC, "O_SYNC": unix.O_SYNC,
		"O_DIRECT|O_DSYNC": unix.O_DIRECT | unix.O_DSYNC, "O_DIRECT|O_SYNC": unix.O_DIRECT | unix.O_SYNC,
		"O_DIRECT": unix.O_DIRECT, "none": 0,
	} {
		t.Run(name, func(t *testing.T) {
			f, dir := mountAlone(t)
			s := &syncs{}
			if !f.gate.JoinClean(func() Stream { return s }) {
				t.Fatal("the stream was not taken")
			}
			f.gate.peer.Load().thaw() // what cannot be flushed there is not waited for
			fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_RDWR|flags, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if _, err := unix.Pwrite(fd, aligned(4096), 0); err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if flags&unix.O_DSYNC != 0 {
				want = 1
			}
			if n := s.fsyncs.Load(); n != want {
				t.Errorf("%d fsyncs, expected %d", n, want)
			}
			if only := s.flags.Load()&journal.FsyncDataOnly != 0; want > 0 && only != (flags&unix.O_SYNC != unix.O_SYNC) {
				t.Errorf("data only: %v", only)
			}
		})
	}
}

// TestTmpfileSync: a file that was fsynced while it had no name is on both disks when
// it gets one.
func TestTmpfileSync(t *testing.T) {
	for _, flush := range []bool{false, true} {
		f, dir := mountAlone(t)
		s := &syncs{}
		if !f.gate.JoinClean(func() Stream { return s }) {
			t.Fatal("the stream was not taken")
		}
		f.gate.peer.Load().thaw()
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte("precious")); err != nil {
			t.Fatal(err)
		}
		want := int64(0)
		if flush {
			want = 1
			if err := unix.Fsync(fd); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Linkat(fd, "", unix.AT_FDCWD, filepath.Join(dir, "f"), unix.AT_EMPTY_PATH); err != nil {
			t.Fatal(err)
		}
		if n := s.fsyncs.Load(); n != want {
			t.Errorf("fsynced %v: %d fsyncs on the second, expected %d", flush, n, want)
		}
		unix.Close(fd)
	}
}
