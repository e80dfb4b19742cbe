package journal

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultyFS lets a test stop and count the flushes of Pebble's log, and fail
// what it likes.
type faultyFS struct {
	vfs.FS
	flushes atomic.Int64
	fail    atomic.Pointer[string] // a call and the end or start of a file's name
	hold    chan chan struct{}     // nil: do not stop; else a flush sends on it what it waits for
}

func (f *faultyFS) check(call, name string) error {
	if fail := f.fail.Load(); fail != nil {
		c, what, _ := strings.Cut(*fail, " ")
		if base := f.PathBase(name); c == call && (strings.HasSuffix(base, what) || strings.HasPrefix(base, what)) {
			return syscall.EIO
		}
	}
	return nil
}

type faultyFile struct {
	vfs.File
	fs   *faultyFS
	name string
}

func (f *faultyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.check("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

func (f *faultyFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, c)
}

func (f *faultyFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, "dir"}, nil
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.fs.check("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func (f *faultyFile) SyncData() error {
	if strings.HasSuffix(f.name, ".log") {
		f.fs.flushes.Add(1)
		if f.fs.hold != nil {
			wait := make(chan struct{})
			f.fs.hold <- wait
			<-wait
		}
	}
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *faultyFile) Sync() error { return f.SyncData() }

func (f *faultyFile) Close() error {
	if err := f.fs.check("close", f.name); err != nil {
		return err
	}
	return f.File.Close()
}

func TestLacksFlushes(t *testing.T) {
	fs := &faultyFS{FS: vfs.NewMem()}
	l := openLacks(t, fs, LacksOptions{})
	flushes := func(what string, want int64, f func() error) {
		t.Helper()
		before := fs.flushes.Load()
		no(t, f())
		if got := fs.flushes.Load() - before; got != want {
			t.Errorf("%s: %d flushes, expected %d", what, got, want)
		}
	}
	note := func(op *Op, durable bool) func() error { return func() error { return l.Note(op, durable) } }
	flushes("first touch", 1, note(write(1, 0), true))
	flushes("the same zone", 0, note(write(1, 0), true))
	flushes("attributes of what is noted", 0, note(&Op{Kind: KindTimes, ID: FileID{1}}, true))
	flushes("another zone", 1, note(write(1, 1), true))
	flushes("not durable", 0, note(write(1, 2), false))
	flushes("the same durable", 1, note(write(1, 2), true))
	flushes("and again", 0, note(write(1, 2), true))
	flushes("cut", 1, note(&Op{Kind: KindSetAttr, ID: FileID{1}, Valid: SetSize, Off: 3 * testZone}, true))
	flushes("behind the cut", 0, note(write(1, 9), true))
	flushes("create", 1, note(create(2, 3), true))
	flushes("in an object that is noted whole", 0, note(write(3, 7), true))
	flushes("not durable", 0, note(write(4, 2), false))
	flushes("sync", 1, l.Sync)
	flushes("sync again", 0, l.Sync)
	mark := l.Rotate()
	flushes("clear", 0, func() error { return l.Clear(mark) })
	flushes("know nothing", 0, l.Know)
	l.Unknow()
	flushes("a directory", 1, note(create(2, 5), true))
	flushes("born in it", 0, note(create(2, 6), true))
	flushes("born below", 0, note(create(5, 7), true))
	flushes("know", 1, l.Know)
}

func TestLacksWaitsForAnothersFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &faultyFS{FS: vfs.NewMem()}
		l := openLacks(t, fs, LacksOptions{})
		fs.hold = make(chan chan struct{})
		var done [4]atomic.Bool
		note := func(i int, op *Op, durable bool) {
			go func() {
				if err := l.Note(op, durable); err != nil {
					t.Error(err)
				}
				done[i].Store(true)
			}()
		}
		state := func() (s [4]bool) {
			synctest.Wait()
			for i := range s {
				s[i] = done[i].Load()
			}
			return s
		}
		note(0, write(1, 0), true)
		first := <-fs.hold
		note(1, write(1, 0), true) // the same: its flush is under way
		synctest.Wait()
		note(2, write(1, 1), true) // these two share the next one
		note(3, write(2, 0), false)
		if got := state(); got != [4]bool{} {
			t.Errorf("returned before the flush: %v", got)
		}
		close(first)
		second := <-fs.hold
		if got := state(); got != [4]bool{true, true, false, false} {
			t.Errorf("after one flush: %v", got)
		}
		close(second)
		if got := state(); got != [4]bool{true, true, true, true} {
			t.Errorf("after two flushes: %v", got)
		}
		go func() {
			for wait := range fs.hold {
				close(wait)
			}
		}()
		no(t, l.Close())
		close(fs.hold)
	})
}

func TestLacksErrorIsFinal(t *testing.T) {
	fs := &faultyFS{FS: vfs.NewMem()}
	l := openLacks(t, fs, LacksOptions{})
	no(t, l.Note(write(1, 0), true))
	flush := "sync .log"
	fs.fail.Store(&flush)
	first := l.Note(write(1, 1), true)
	if !errors.Is(first, syscall.EIO) {
		t.Fatalf("a failed flush: %v", first)
	}
	fs.fail.Store(nil)
	page := newPageWriter(testZone).page()
	for name, f := range map[string]func() error{
		"note what is there": func() error { return l.Note(write(1, 0), false) },
		"note nothing":       func() error { return l.Note(&Op{Kind: KindMark}, false) },
		"add":                func() error { return l.Add(0, FileID{9}, Lack{Names: true, Tail: NoTail}, false) },
		"sync":               l.Sync,
		"know":               l.Know,
		"clear":              func() error { return l.Clear(1) },
		"clear all":          l.ClearAll,
		"each":               func() error { return l.Each(func(uint8, FileID, Lack) error { return nil }) },
		"page":               func() error { _, _, err := l.Page(nil, 100); return err },
		"merge":              func() error { return l.Merge(page) },
	} {
		if err := f(); !errors.Is(err, first) {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
	if err := l.Close(); !errors.Is(err, first) {
		t.Errorf("Close: %v", err)
	}
	no(t, l.Close())
}

// TestLacksStoreFails: Pebble panics with its locks held when it cannot end a log
// or begin another, and retries in the background what fails there. All of that
// must become an error of Note, and Close must return.
func TestLacksStoreFails(t *testing.T) {
	for _, fails := range []string{"write .log", "sync .log", "close .log", "create .log", "sync dir", "create .sst", "write MANIFEST", "sync MANIFEST"} {
		for _, durable := range []bool{false, true} {
			fs := &faultyFS{FS: vfs.NewMem()}
			l := openLacks(t, fs, LacksOptions{})
			fs.fail.Store(&fails)
			err := error(nil)
			for i := int64(0); i < 1<<17 && err == nil; i++ {
				err = l.Note(write(1, 2*i), durable)
			}
			if err == nil || !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("%s, durable %v: %v", fails, durable, err)
			}
			if closed := l.Close(); !errors.Is(closed, err) {
				t.Errorf("%s, durable %v: Close: %v", fails, durable, closed)
			}
		}
	}
}
