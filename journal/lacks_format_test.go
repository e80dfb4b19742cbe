package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func testNotes() []note {
	id := FileID{0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	return []note{
		{id: id, tree: 1, kind: noteNames},
		{id: id, tree: 1, kind: noteAttrs},
		{id: id, tree: 1, kind: noteWhole},
		{id: id, tree: 1, kind: noteZones, first: 3, last: 3},
		{id: id, tree: 1, kind: noteZones, first: 0x102, last: math.MaxUint32},
		{id: id, tree: 1, kind: noteTail, first: 0x10203040506},
	}
}

func testPage() []byte {
	w := newPageWriter(8 << 20)
	for _, n := range testNotes() {
		w.add(n, 1<<20)
	}
	return w.page()
}

func TestLacksGolden(t *testing.T) {
	var keys []byte
	for i, n := range testNotes() {
		keys = appendNoteKey(keys, uint64(0x100+i), &n)
	}
	golden(t, "lacks-keys", keys)
	golden(t, "lacks-record", appendRecord(nil, 8<<20))
	golden(t, "lacks-page", testPage())
}

func TestLacksKeysSort(t *testing.T) {
	var before []byte
	for generation := range uint64(3) {
		for _, n := range testNotes() {
			key := appendNoteKey(nil, generation+1, &n)
			if bytes.Compare(before, key) >= 0 || bytes.Compare(generationKey(generation+1), key) >= 0 ||
				bytes.Compare(key, generationKey(generation+2)) >= 0 {
				t.Errorf("%v of generation %d is out of order", n, generation+1)
			}
			before = key
		}
	}
}

func TestLacksPageMergesRuns(t *testing.T) {
	w := newPageWriter(testZone)
	for _, z := range [][2]int64{{1, 1}, {2, 2}, {2, 5}, {6, 6}, {8, 9}} {
		w.add(note{id: FileID{1}, kind: noteZones, first: z[0], last: z[1]}, 1<<20)
	}
	_, notes, err := parsePage(w.page())
	if err != nil || len(notes) != 2 || notes[0].last != 6 || notes[1].first != 8 {
		t.Errorf("%v %v", notes, err)
	}
}

// TestLacksWrongPage: every error says where, and nothing of the page is noted.
func TestLacksWrongPage(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	no(t, l.Note(&Op{Kind: KindTimes, ID: FileID{77}, Tree: 3}, false))
	sum := func(b []byte) []byte {
		return binary.LittleEndian.AppendUint32(b[:len(b)-4], crc32.Checksum(b[:len(b)-4], castagnoli))
	}
	change := func(at int, to byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = to; return sum(b) }
	}
	last := pageHeader + 4*bodyFixed + 8 // the fifth of the six notes: two zones
	for where, f := range map[string]func([]byte) []byte{
		"page: length":       func(b []byte) []byte { return b[:19] },
		"page: crc32c":       func(b []byte) []byte { b[30]++; return b },
		"page: version":      change(0, 2),
		"bytes 1 to 3":       change(2, 1),
		"how many notes":     change(4, 7),
		"size of a zone":     func(b []byte) []byte { copy(b[8:16], make([]byte, 8)); return sum(b) },
		"byte 16: kind":      change(pageHeader+17, 9),
		"byte 34: id":        func(b []byte) []byte { copy(b[pageHeader+bodyFixed+1:], make([]byte, 16)); return sum(b) },
		"byte 96: last zone": func(b []byte) []byte { copy(b[last+bodyFixed+4:last+bodyFixed+8], make([]byte, 4)); return sum(b) },
		"less than 2^63":     func(b []byte) []byte { b[len(b)-12] = 0xff; return sum(b) },
		"page, byte 122":     func(b []byte) []byte { return sum(b[:len(b)-1]) },
		"tree of 4d000000": func(b []byte) []byte {
			copy(b[pageHeader+5*bodyFixed+16+1:], append([]byte{77}, make([]byte, 15)...))
			return sum(b)
		},
		"tree of a0010203040": change(pageHeader+bodyFixed, 2),
	} {
		err := l.Merge(f(testPage()))
		if !errors.Is(err, ErrNotes) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
		wantNotes(t, l, map[string]string{"3/77": "attrs"})
	}
	no(t, l.Merge(testPage()))
}

func TestLacksWrongStore(t *testing.T) {
	key := func(f func(note) note) []byte {
		n := f(testNotes()[0])
		return appendNoteKey(nil, 1, &n)
	}
	for where, kv := range map[string][2][]byte{
		"record: version": {recordKey, func() []byte {
			b := binary.LittleEndian.AppendUint64([]byte{2, 0, 0, 0}, 100)
			return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
		}()},
		"record: crc32c":         {recordKey, make([]byte, recordSize)},
		"record: length":         {recordKey, []byte("?")},
		"kind":                   {key(func(n note) note { n.kind = 0; return n }), nil},
		"start":                  {[]byte("other"), nil},
		"tree":                   {key(func(n note) note { n.tree++; return n }), nil},
		"record: there is none,": {recordKey, nil},
	} {
		fs := vfs.NewMem()
		l := openLacks(t, fs, LacksOptions{})
		n := testNotes()[0]
		no(t, l.Add(n.tree, n.id, Lack{Names: true, Tail: NoTail}, true))
		no(t, l.Close())
		db, err := pebble.Open("lacks", storeOptions(fs, &l.lazy, func(err error) { t.Error(err) }))
		no(t, err)
		if strings.HasSuffix(where, "none,") {
			no(t, db.Delete(recordKey, pebble.Sync))
		} else {
			no(t, db.Set(kv[0], kv[1], pebble.Sync))
		}
		no(t, db.Close())
		if _, err := OpenLacks("lacks", LacksOptions{FS: fs}); !errors.Is(err, ErrNotes) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
	}
}

func FuzzNoteKey(f *testing.F) {
	for i, n := range testNotes() {
		f.Add(appendNoteKey(nil, uint64(i+1), &n))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		generation, n, err := parseNoteKey(key)
		if err != nil {
			if !errors.Is(err, ErrNotes) {
				t.Errorf("%v", err)
			}
			return
		}
		if again := appendNoteKey(nil, generation, &n); !bytes.Equal(key, again) {
			t.Errorf("%x became %x", key, again)
		}
	})
}

// FuzzMerge: the fuzzer makes a page without its sum.
func FuzzMerge(f *testing.F) {
	page := testPage()
	f.Add(page[:len(page)-pageTrailer])
	f.Add(page[:pageHeader])
	l := openLacks(f, vfs.NewMem(), LacksOptions{})
	f.Fuzz(func(t *testing.T, page []byte) {
		if err := l.Merge(page); err == nil && len(page) < pageHeader+pageTrailer {
			t.Errorf("%x was taken for a page", page)
		}
		no(t, l.ClearAll())
		page = binary.LittleEndian.AppendUint32(bytes.Clone(page), crc32.Checksum(page, castagnoli))
		if err := l.Merge(page); err != nil {
			if !errors.Is(err, ErrNotes) {
				t.Error(err)
			}
			if s := l.Stats(); s != (LacksStats{}) {
				t.Errorf("a wrong page left %+v", s)
			}
			return
		}
		zoneSize, notes, err := parsePage(page)
		no(t, err)
		for _, n := range notes {
			n = n.rescaled(zoneSize, testZone)
			lack, ok := l.Get(n.id)
			if !ok || n.kind == noteNames && !lack.Names || n.kind == noteWhole && !lack.Whole ||
				n.kind == noteTail && !lack.HasZone(Zone(min(n.first, math.MaxUint32))) && lack.Tail > n.first ||
				n.kind == noteZones && !(lack.HasZone(Zone(n.first)) && lack.HasZone(Zone(n.last))) {
				t.Errorf("%v became %v", n, &lack)
			}
		}
		no(t, l.ClearAll())
	})
}
