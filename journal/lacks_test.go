package journal

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

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
		{Op{Kind: KindSyncList}, nothing},
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
	if n, objects := l.Len(), l.Stats().Objects; n < objects || n > objects+maxGenerations {
		t.Errorf("Len is %d, of %d objects", n, objects)
	}
	no(t, l.Clear(mark))
	if n := l.Len(); n != 0 {
		t.Errorf("Len of nothing is %d", n)
	}
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
