package journal

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// notesFormat is the newest format of Pebble whose log does not say how much of
// it is on disk: as flushes are skipped (storeFS), that would not be true, and a
// log that was cut short by a power cut would be taken for a damaged one.
const notesFormat = pebble.FormatColumnarBlocks

// storeOptions are for a store of a few MB at most, in which nearly everything
// is deleted soon. lazy: see storeFS. failed is called with what cannot be undone;
// it must not wait for the store.
func storeOptions(fs vfs.FS, lazy *atomic.Bool, failed func(error)) *pebble.Options {
	if fs == nil {
		fs = vfs.Default
	}
	return &pebble.Options{
		FS:                          &storeFS{FS: fs, lazy: lazy, failed: failed},
		FormatMajorVersion:          notesFormat,
		CacheSize:                   1 << 20,
		MemTableSize:                1 << 20,
		MemTableStopWritesThreshold: 8,
		MaxOpenFiles:                64,
		DisableTableStats:           true,
		Logger:                      storeLogger(failed),
		EventListener:               &pebble.EventListener{BackgroundError: failed},
	}
}

// storeLogger keeps quiet, and takes an error that Pebble calls fatal for the
// end of the store, not of the process.
type storeLogger func(error)

func (storeLogger) Infof(string, ...any)  {}
func (storeLogger) Errorf(string, ...any) {}

func (failed storeLogger) Fatalf(format string, args ...any) { failed(fmt.Errorf(format, args...)) }

// storeFS is a file system that treats Pebble's log (its write-ahead log) in two
// ways of its own.
//
// While lazy is set, its flushes are skipped. Pebble hands a commit to the kernel
// only together with a flush; without one it keeps up to 32 KiB of commits in
// memory, which a kill would take. So every commit asks for a flush, and those
// that need only survive the process do not get it.
//
// Its errors go to failed, not to Pebble, which would end the process: it
// panics, with locks held, when it cannot end a log or begin another. So who
// commits must look afterwards whether something failed.
type storeFS struct {
	vfs.FS
	lazy   *atomic.Bool
	failed func(error)
}

func (l *storeFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return l.log(name, f, err)
}

func (l *storeFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(oldname, newname, c)
	return l.log(newname, f, err)
}

func (l *storeFS) log(name string, f vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return f, err
	}
	if err != nil { // what is written now goes nowhere, and nobody is told that it went anywhere
		l.failed(err)
		if f, err = vfs.NewMem().Create("lost", vfs.WriteCategoryUnspecified); err != nil {
			return nil, err
		}
	}
	return &storeLog{File: f, fs: l}, nil
}

// OpenDir opens a directory, which Pebble flushes after it began a log in it.
func (l *storeFS) OpenDir(name string) (vfs.File, error) {
	f, err := l.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &storeDir{File: f, fs: l}, nil
}

type storeDir struct {
	vfs.File
	fs *storeFS
}

func (d *storeDir) Sync() error { return d.fs.told(d.File.Sync()) }

// told tells of an error, and hides it.
func (l *storeFS) told(err error) error {
	if err != nil {
		l.failed(err)
	}
	return nil
}

// storeLog is a log. It is on disk before it is closed, whatever was skipped: the
// next one must not outlive its end.
type storeLog struct {
	vfs.File
	fs   *storeFS
	owed atomic.Bool // a flush was skipped since the last one
}

func (f *storeLog) Write(b []byte) (int, error) {
	_, err := f.File.Write(b)
	return len(b), f.fs.told(err)
}

func (f *storeLog) Sync() error     { return f.flush(f.File.Sync) }
func (f *storeLog) SyncData() error { return f.flush(f.File.SyncData) }

func (f *storeLog) flush(flush func() error) error {
	if f.fs.lazy.Load() {
		f.owed.Store(true)
		return nil
	}
	f.owed.Store(false)
	return f.fs.told(flush())
}

func (f *storeLog) Close() error {
	if f.owed.Load() {
		f.fs.told(f.File.SyncData())
	}
	return f.fs.told(f.File.Close())
}
