package journal

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const testZone = 100

func openLacks(t testing.TB, fs vfs.FS, o LacksOptions) *Lacks {
	t.Helper()
	if o.FS = fs; o.ZoneSize == 0 {
		o.ZoneSize = testZone
	}
	l, err := OpenLacks("lacks", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func no(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// all is every note as text, by object.
func all(t testing.TB, l *Lacks) map[string]string {
	t.Helper()
	m := map[string]string{}
	no(t, l.Each(func(tree uint8, id FileID, lack Lack) error {
		key := fmt.Sprintf("%d/%d", tree, id[0])
		if m[key] != "" {
			t.Errorf("%s came twice", key)
		}
		m[key] = lack.String()
		return nil
	}))
	return m
}

func wantNotes(t testing.TB, l *Lacks, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, all(t, l)); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

// powerCut is what a power cut leaves, killed what the end of the process does.
func powerCut(fs *vfs.MemFS) *vfs.MemFS { return fs.CrashClone(vfs.CrashCloneCfg{}) }
func killed(fs *vfs.MemFS) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 0))})
}

func TestLacksNote(t *testing.T) {
	id, parent, parent2 := FileID{1}, FileID{2}, FileID{3}
	const z = testZone
	type notes = map[string]string
	nothing := notes{}
	cases := []struct {
		op   Op
		want notes
	}{
		{Op{Kind: KindCreate}, notes{"4/1": "attrs whole", "4/2": "names attrs"}},
		{Op{Kind: KindTmpfile}, notes{"4/1": "attrs whole"}},
		{Op{Kind: KindLink}, notes{"4/2": "names attrs"}},
		{Op{Kind: KindUnlink}, notes{"4/2": "names attrs"}},
		{Op{Kind: KindRmdir}, notes{"4/2": "names attrs"}},
		{Op{Kind: KindRename, Parent2: parent2}, notes{"4/2": "names attrs", "4/3": "names attrs"}},
		{Op{Kind: KindRename, Parent2: parent}, notes{"4/2": "names attrs"}},
		{Op{Kind: KindWrite, Off: 2*z + 1, Data: make([]byte, z-1)}, notes{"4/1": "attrs zones 2"}},
		{Op{Kind: KindWrite, Off: 2*z + 1, Data: make([]byte, z)}, notes{"4/1": "attrs zones 2-3"}},
		{Op{Kind: KindWrite, Off: 5}, nothing},
		{Op{Kind: KindWrite, Off: math.MaxInt64 - 1, Data: make([]byte, 9)}, notes{"4/1": fmt.Sprintf("attrs tail %d", int64(math.MaxInt64-1)/z)}},
		{Op{Kind: KindWrite, Off: (math.MaxUint32+1)*z - 1, Data: []byte{1}}, notes{"4/1": "attrs zones 4294967295"}},
		{Op{Kind: KindWrite, Off: (math.MaxUint32+1)*z - 1, Data: []byte{1, 2}}, notes{"4/1": "attrs tail 4294967295"}},
		{Op{Kind: KindFallocate, Off: z, Len: 1000 * z}, notes{"4/1": "attrs zones 1-1000"}},
		{Op{Kind: KindFallocate, Off: z, Len: z, Flags: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}, notes{"4/1": "attrs zones 1"}},
		{Op{Kind: KindFallocate, Off: 3 * z, Len: z, Flags: unix.FALLOC_FL_COLLAPSE_RANGE}, notes{"4/1": "attrs tail 3"}},
		{Op{Kind: KindFallocate, Off: 3 * z, Len: z, Flags: unix.FALLOC_FL_INSERT_RANGE}, notes{"4/1": "attrs tail 3"}},
		{Op{Kind: KindPunch, Off: z, Len: 1}, notes{"4/1": "attrs zones 1"}},
		{Op{Kind: KindSetAttr, Valid: SetMode | SetUID, Off: 5 * z}, notes{"4/1": "attrs"}},
		{Op{Kind: KindSetAttr, Valid: SetSize, Off: 5*z + 1}, notes{"4/1": "attrs tail 5"}},
		{Op{Kind: KindSetXattr, Name: "user.a"}, notes{"4/1": "attrs"}},
		{Op{Kind: KindRemoveXattr, Name: "user.a"}, notes{"4/1": "attrs"}},
		{Op{Kind: KindTimes}, notes{"4/1": "attrs"}},
		{Op{Kind: KindFsync}, nothing},
		{Op{Kind: KindRelease}, nothing},
		{Op{Kind: KindSyncBegin}, nothing},
		{Op{Kind: KindSyncDir}, nothing},
		{Op{Kind: KindSyncHash}, nothing},
		{Op{Kind: KindSyncAttrs}, nothing},
		{Op{Kind: KindSyncEnd}, nothing},
		{Op{Kind: KindMark}, nothing},
		{Op{Kind: KindCheckpoint}, nothing},
		{Op{Kind: KindLacks}, nothing},
	}
	seen := map[Kind]bool{}
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	for _, c := range cases {
		seen[c.op.Kind] = true
		c.op.Tree, c.op.ID, c.op.Parent = 4, id, parent
		no(t, l.Note(&c.op, false))
		if diff := cmp.Diff(c.want, all(t, l)); diff != "" {
			t.Errorf("%v:\n%s", c.op.Kind, diff)
		}
		no(t, l.ClearAll())
	}
	for k := KindInvalid + 1; k < kindEnd; k++ {
		if !seen[k] {
			t.Errorf("%v is not in the table", k)
		}
	}
	for _, k := range []Kind{KindInvalid, kindEnd} {
		if err := l.Note(&Op{Kind: k, ID: id}, false); err == nil {
			t.Errorf("%v was noted", k)
		}
	}
}

func write(id byte, zone int64) *Op {
	return &Op{Kind: KindWrite, ID: FileID{id}, Off: zone * testZone, Data: []byte{1}}
}

func create(parent, id byte) *Op {
	return &Op{Kind: KindCreate, Parent: FileID{parent}, ID: FileID{id}}
}

func TestLacksWhatACrashLeaves(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openLacks(t, fs, LacksOptions{})
	no(t, l.Note(write(1, 0), true))
	no(t, l.Note(write(1, 1), false))
	no(t, l.Note(write(2, 2), false))
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), map[string]string{"0/1": "attrs zones 0"})
	wantNotes(t, openLacks(t, killed(fs), LacksOptions{}), map[string]string{"0/1": "attrs zones 0-1", "0/2": "attrs zones 2"})

	no(t, l.Note(write(1, 1), true)) // it was there, but not on disk
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), map[string]string{"0/1": "attrs zones 0-1", "0/2": "attrs zones 2"})

	no(t, l.Note(write(3, 3), false))
	no(t, l.Sync())
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), all(t, l))

	no(t, l.Note(write(4, 3), false))
	no(t, l.Close())
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), all(t, openLacks(t, killed(fs), LacksOptions{})))
	if len(all(t, openLacks(t, powerCut(fs), LacksOptions{}))) != 4 {
		t.Error("Close left notes behind")
	}
}

func TestLacksRotateAndClear(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openLacks(t, fs, LacksOptions{})
	no(t, l.Note(write(1, 0), true))
	no(t, l.Note(write(2, 0), true))
	stale := l.Rotate()
	no(t, l.Note(write(1, 0), true)) // again
	no(t, l.Note(write(1, 5), true))
	mark := l.Rotate()
	no(t, l.Note(write(3, 1), true))
	no(t, l.Note(write(1, 5), true)) // again
	before := map[string]string{"0/1": "attrs zones 0 5", "0/2": "attrs zones 0", "0/3": "attrs zones 1"}
	no(t, l.Clear(stale))
	no(t, l.Clear(0))
	wantNotes(t, l, before)
	no(t, l.Clear(mark))
	after := map[string]string{"0/1": "attrs zones 5", "0/3": "attrs zones 1"}
	wantNotes(t, l, after)
	wantNotes(t, openLacks(t, killed(fs), LacksOptions{}), after)
	if got := all(t, openLacks(t, powerCut(fs), LacksOptions{})); !cmp.Equal(got, before) && !cmp.Equal(got, after) {
		t.Errorf("after a power cut: %v", got)
	}
	no(t, l.Clear(mark)) // it has been
	wantNotes(t, l, after)

	// What a restart finds is old, and generations that pile up are joined.
	no(t, l.Close())
	l = openLacks(t, fs, LacksOptions{})
	wantNotes(t, l, after)
	for i := range int64(3 * maxGenerations) {
		no(t, l.Note(write(1, i), false))
		no(t, l.Note(write(byte(i+10), i), false))
		mark = l.Rotate()
	}
	if s := l.Stats(); s.Objects != 2+3*maxGenerations || s.Zones != 1+2*3*maxGenerations || s.Files != s.Objects ||
		s.Bytes != s.Zones*testZone {
		t.Errorf("stats %+v", s)
	}
	no(t, l.Clear(mark))
	wantNotes(t, l, map[string]string{})
	wantNotes(t, openLacks(t, killed(fs), LacksOptions{}), map[string]string{})
}

func TestLacksBorn(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openLacks(t, fs, LacksOptions{MaxBorn: 3})
	no(t, l.Note(create(1, 2), true)) // the peer is there: nothing is born
	wantNotes(t, l, map[string]string{"0/1": "names attrs", "0/2": "attrs whole"})
	l.Unknow()
	no(t, l.ClearAll())
	no(t, l.Note(create(1, 3), false)) // born only what is noted durably
	wantNotes(t, l, map[string]string{"0/1": "names attrs", "0/3": "attrs whole"})
	no(t, l.ClearAll())

	no(t, l.Note(create(1, 3), true))
	no(t, l.Note(create(3, 4), true)) // in a directory that was born
	no(t, l.Note(write(4, 7), true))
	no(t, l.Note(&Op{Kind: KindRename, Parent: FileID{3}, Parent2: FileID{9}, ID: FileID{4}}, true))
	no(t, l.Note(&Op{Kind: KindTmpfile, ID: FileID{5}}, true))
	no(t, l.Add(0, FileID{5}, Lack{Whole: true}, true))
	want := map[string]string{"0/1": "names attrs", "0/9": "names attrs"}
	wantNotes(t, l, want)
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), want)
	no(t, l.Note(create(3, 6), true)) // one too many
	want["0/6"] = "attrs whole"
	wantNotes(t, l, want)
	if s := l.Stats(); s.Born != 3 || s.Wholes != 1 || s.Directories != 2 || s.Objects != 3 {
		t.Errorf("stats %+v", s)
	}
	if mark := l.Rotate(); mark != 0 {
		t.Errorf("rotated to %d while the peer is away", mark)
	}

	no(t, l.Know())
	for _, id := range []string{"3", "4", "5"} {
		want["0/"+id] = "attrs whole"
	}
	wantNotes(t, l, want)
	wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{}), want)
	no(t, l.Note(create(3, 7), true))
	want["0/7"] = "attrs whole"
	wantNotes(t, l, want)

	no(t, l.ClearAll())
	l.Unknow()
	no(t, l.Note(write(8, 0), true))
	no(t, l.Note(create(1, 8), true)) // the peer may know it
	wantNotes(t, l, map[string]string{"0/1": "names attrs", "0/8": "attrs whole zones 0"})
}

func TestLacksManyBorn(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	l.Unknow()
	const n = 10000
	op := Op{Kind: KindCreate, Parent: RootID(0)}
	for i := range n {
		op.ID = FileID{1, byte(i), byte(i >> 8)}
		no(t, l.Note(&op, true))
	}
	if s := l.Stats(); s.Objects != 1 || s.Born != n {
		t.Errorf("stats %+v", s)
	}
	no(t, l.Know())
	if s := l.Stats(); s.Objects != n+1 || s.Wholes != n || s.Born != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestLacksAnotherZoneSize(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openLacks(t, fs, LacksOptions{ZoneSize: 100})
	no(t, l.Add(0, FileID{1}, Lack{Zones: roaring.BitmapOf(0, 3), Tail: 7}, true))
	no(t, l.Add(0, FileID{2}, Lack{Names: true, Tail: NoTail}, true))
	no(t, l.Add(0, FileID{3}, Lack{Zones: roaring.BitmapOf(math.MaxUint32), Tail: NoTail}, true))
	no(t, l.Close())
	for _, c := range []struct {
		size int64
		want map[string]string
	}{
		{30, map[string]string{"0/1": "attrs zones 0-3 10-13 tail 23", "0/2": "names attrs", "0/3": "attrs tail 14316557650"}},
		{1000, map[string]string{"0/1": "attrs zones 0 tail 0", "0/2": "names attrs", "0/3": "attrs tail 429496729"}},
	} {
		l := openLacks(t, fs, LacksOptions{ZoneSize: c.size})
		wantNotes(t, l, c.want)
		wantNotes(t, openLacks(t, powerCut(fs), LacksOptions{ZoneSize: c.size}), c.want)
		no(t, l.Close())
	}
}

func TestLacksOneTreeAnObject(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	no(t, l.Note(write(1, 0), false))
	op := write(1, 0)
	op.Tree = 1
	if err := l.Note(op, false); err == nil {
		t.Error("one object was noted in two trees")
	}
}

func TestLacksPages(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	rng := rand.New(rand.NewPCG(3, 0))
	for i := range 3000 {
		no(t, l.Note(write(byte(1+rng.IntN(200)), rng.Int64N(50)), false))
		no(t, l.Note(&Op{Kind: KindSetAttr, ID: FileID{byte(1 + rng.IntN(250))}, Valid: SetSize, Off: rng.Int64N(500) * testZone}, false))
		no(t, l.Note(create(byte(1+rng.IntN(250)), byte(1+rng.IntN(250))), false))
		if i%700 == 0 {
			l.Rotate()
		}
	}
	for _, max := range []int{0, 100, 1 << 20} {
		other := openLacks(t, vfs.NewMem(), LacksOptions{})
		pages := 0
		for cursor := []byte(nil); ; pages++ {
			page, next, err := l.Page(cursor, max)
			no(t, err)
			if len(page) > max && max >= minPage {
				t.Errorf("a page of %d bytes, at most %d were asked for", len(page), max)
			}
			no(t, other.Merge(page))
			if cursor = next; next == nil {
				break
			}
		}
		if few := pages == 0; few != (max == 1<<20) {
			t.Errorf("%d more pages of %d bytes", pages, max)
		}
		no(t, l.Each(func(tree uint8, id FileID, want Lack) error {
			got, ok := other.Get(id)
			if !ok || canonical(&got) != canonical(&want) {
				t.Errorf("%v: %v became %v", id, &want, &got)
			}
			return nil
		}))
		if got, want := other.Stats().Objects, l.Stats().Objects; got != want {
			t.Errorf("%d objects became %d", want, got)
		}
	}
	if _, _, err := l.Page([]byte("x"), 100); !errors.Is(err, ErrNotes) {
		t.Errorf("a wrong cursor: %v", err)
	}
}

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
		note(1, write(1, 0), true)  // the same: its flush is under way
		note(2, write(1, 1), true)  // these two share the next one
		note(3, write(2, 0), false) //
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
	if !errors.Is(first, syscall.EIO) && (first == nil || !strings.Contains(first.Error(), "input/output error")) {
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

func TestLacksClosed(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	no(t, l.Close())
	no(t, l.Close())
	if err := l.Note(write(1, 0), false); !errors.Is(err, errLacksClosed) {
		t.Errorf("note after Close: %v", err)
	}
	if _, _, err := l.Page(nil, 100); !errors.Is(err, errLacksClosed) {
		t.Errorf("page after Close: %v", err)
	}
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

func TestLacksRepeatedNoteAllocatesNothing(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	for _, durable := range []bool{true, false} {
		op := write(1, 1)
		no(t, l.Note(op, durable))
		if n := testing.AllocsPerRun(1000, func() {
			if err := l.Note(op, durable); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("durable %v: %v allocations", durable, n)
		}
	}
}
