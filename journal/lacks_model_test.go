package journal

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

const modelZones = 6

// canonical is what a Lack means: two that mean the same are one string.
func canonical(l *Lack) string {
	if l.Whole {
		return "whole"
	}
	s := ""
	for z := range Zone(modelZones) {
		if l.HasZone(z) {
			s += fmt.Sprintf("%d ", z)
		}
	}
	if l.HasZone(1 << 20) {
		s += "… "
	}
	if l.Names {
		s += "names "
	}
	if l.Attrs {
		s += "attrs"
	}
	return s
}

// modelNotes are facts about objects, the meaning of which is canonical.
type modelNotes map[FileID]Lack

func (m modelNotes) add(id FileID, l Lack) {
	if l.Empty() {
		return
	}
	was, ok := m[id]
	if !ok {
		was.Tail = NoTail
	}
	sum := Lack{Tail: NoTail, Attrs: true}
	sum.Union(was)
	sum.Union(l)
	m[id] = sum
}

func (m modelNotes) plus(o modelNotes) modelNotes {
	sum := maps.Clone(m)
	for id, l := range o {
		sum.add(id, l)
	}
	return sum
}

func (m modelNotes) text() string {
	var lines []string
	for id, l := range m {
		lines = append(lines, fmt.Sprintf("%d: %s\n", id[0], canonical(&l)))
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}

// lacksModel is Lacks without a disk, and what its disk may hold.
type lacksModel struct {
	fs    *vfs.MemFS
	l     *Lacks
	cur   modelNotes
	old   modelNotes
	mark  uint64
	stale []uint64 // marks of before
	away  bool
	born  map[FileID]bool

	// What a power cut leaves is one of these states, and in it is what was
	// durable and not cleared since.
	states         []modelNotes
	durCur, durOld modelNotes
}

const modelMaxBorn = 3

func (m *lacksModel) all() modelNotes { return m.old.plus(m.cur) }

// changed is called after every change.
func (m *lacksModel) changed() { m.states = append(m.states, m.all()) }

// reopened takes up what is in fs.
func (m *lacksModel) reopened(t *rapid.T, fs *vfs.MemFS) {
	if err := m.l.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.l, err = OpenLacks("lacks", LacksOptions{ZoneSize: testZone, MaxBorn: modelMaxBorn, FS: fs}); err != nil {
		t.Fatal(err)
	}
	m.fs = fs
	m.cur, m.old, m.durCur = modelNotes{}, modelNotes{}, modelNotes{}
	m.mark, m.away, m.born, m.stale = 0, false, map[FileID]bool{}, nil
	m.old = contents(t, m.l)
	m.durOld = m.old // opening it has put it on disk
	m.states = []modelNotes{m.old}
}

func contents(t *rapid.T, l *Lacks) modelNotes {
	got := modelNotes{}
	if err := l.Each(func(_ uint8, id FileID, lack Lack) error {
		if _, ok := got[id]; ok {
			t.Fatalf("%v came twice", id)
		}
		got[id] = lack
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func (m *lacksModel) note(durable bool, id FileID, l Lack) {
	m.cur.add(id, l)
	if durable {
		m.durCur.add(id, l)
	}
}

// op carries out what the design says of an operation.
func (m *lacksModel) op(op *Op, durable bool) {
	note := func(id FileID, l Lack) {
		if !m.born[id] {
			m.note(durable, id, l)
		}
	}
	zones := func(first, last int64) Lack {
		l := Lack{Zones: roaring.New(), Tail: NoTail}
		for z := first; z <= last; z++ {
			l.Zones.Add(uint32(z))
		}
		return l
	}
	names, attrs := Lack{Names: true, Tail: NoTail}, Lack{Attrs: true, Tail: NoTail}
	switch op.Kind {
	case KindCreate, KindTmpfile:
		if op.Kind == KindCreate {
			note(op.Parent, names)
		}
		if _, known := m.all()[op.ID]; m.away && durable && len(m.born) < modelMaxBorn && !known && !m.born[op.ID] {
			m.born[op.ID] = true
		} else {
			note(op.ID, Lack{Whole: true, Tail: NoTail})
		}
	case KindUnlink:
		note(op.Parent, names)
	case KindRename:
		note(op.Parent, names)
		note(op.Parent2, names)
	case KindWrite:
		if len(op.Data) > 0 {
			note(op.ID, zones(op.Off/testZone, (op.Off+int64(len(op.Data))-1)/testZone))
		}
	case KindSetAttr:
		if op.Valid&SetSize != 0 {
			note(op.ID, Lack{Tail: op.Off / testZone})
		} else {
			note(op.ID, attrs)
		}
	}
}

func (m *lacksModel) check(t *rapid.T) {
	want := m.all()
	if got := contents(t, m.l); got.text() != want.text() {
		t.Fatalf("notes are %s, expected %s", got.text(), want.text())
	}
	for i := range byte(10) {
		got, ok := m.l.Get(FileID{i})
		w, wok := want[FileID{i}]
		if ok != wok || ok && canonical(&got) != canonical(&w) {
			t.Fatalf("Get of %d: %v %v, expected %v %v", i, &got, ok, &w, wok)
		}
	}
}

func TestLacksModel(t *testing.T) {
	counts := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := &lacksModel{fs: vfs.NewCrashableMem()}
		var err error
		if m.l, err = OpenLacks("lacks", LacksOptions{ZoneSize: testZone, MaxBorn: modelMaxBorn, FS: m.fs}); err != nil {
			t.Fatal(err)
		}
		defer func() { m.l.Close() }()
		m.reopened(t, m.fs)
		id := rapid.Custom(func(t *rapid.T) FileID { return FileID{rapid.ByteRange(1, 8).Draw(t, "id")} })
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"note": func(t *rapid.T) {
				op := &Op{ID: id.Draw(t, "id"), Parent: id.Draw(t, "parent"), Parent2: id.Draw(t, "parent2"),
					Kind: rapid.SampledFrom([]Kind{KindCreate, KindTmpfile, KindUnlink, KindRename, KindWrite, KindWrite, KindSetAttr, KindFsync}).Draw(t, "kind"),
					Off:  rapid.Int64Range(0, (modelZones-1)*testZone).Draw(t, "off")}
				op.Data = make([]byte, rapid.IntRange(0, testZone).Draw(t, "size"))
				if rapid.Bool().Draw(t, "resize") {
					op.Valid = SetSize
				}
				durable := rapid.Bool().Draw(t, "durable")
				m.op(op, durable)
				must(m.l.Note(op, durable))
				m.changed()
			},
			"add": func(t *rapid.T) {
				id, l, durable := id.Draw(t, "id"), genLack(t, modelZones), rapid.Bool().Draw(t, "durable")
				if !m.born[id] {
					m.note(durable, id, l)
				}
				must(m.l.Add(0, id, l, durable))
				m.changed()
			},
			"rotate": func(t *rapid.T) {
				mark := m.l.Rotate()
				if m.away {
					if mark != 0 {
						t.Fatal("rotated while the peer is away")
					}
					return
				}
				m.stale = append(m.stale, m.mark)
				m.mark = mark
				m.old, m.cur = m.all(), modelNotes{}
				m.durOld, m.durCur = m.durOld.plus(m.durCur), modelNotes{}
			},
			"clear": func(t *rapid.T) {
				must(m.l.Clear(m.mark))
				if m.mark != 0 {
					m.old, m.durOld, m.mark = modelNotes{}, modelNotes{}, 0
				}
				m.changed()
			},
			"clear of before": func(t *rapid.T) {
				if len(m.stale) == 0 {
					t.Skip()
				}
				must(m.l.Clear(rapid.SampledFrom(m.stale).Draw(t, "mark")))
			},
			"clear all": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
					t.Skip()
				}
				must(m.l.ClearAll())
				m.cur, m.old, m.durCur, m.durOld = modelNotes{}, modelNotes{}, modelNotes{}, modelNotes{}
				m.born = map[FileID]bool{}
				m.changed()
			},
			"unknow": func(t *rapid.T) { m.l.Unknow(); m.away = true },
			"know": func(t *rapid.T) {
				must(m.l.Know())
				for id := range m.born {
					m.note(true, id, Lack{Whole: true, Tail: NoTail})
				}
				m.away, m.born = false, map[FileID]bool{}
				m.changed()
			},
			"sync": func(t *rapid.T) {
				must(m.l.Sync())
				m.durCur, m.durOld = maps.Clone(m.cur), maps.Clone(m.old)
			},
			"page": func(t *rapid.T) {
				other, err := OpenLacks("other", LacksOptions{ZoneSize: testZone, FS: vfs.NewMem()})
				must(err)
				defer other.Close()
				max := rapid.IntRange(0, 200).Draw(t, "max")
				for cursor := []byte(nil); ; counts["pages"]++ {
					page, next, err := m.l.Page(cursor, max)
					must(err)
					must(other.Merge(page))
					if cursor = next; next == nil {
						break
					}
				}
				if got, want := contents(t, other), m.all(); got.text() != want.text() {
					t.Fatalf("pages hold %s, expected %s", got.text(), want.text())
				}
			},
			"kill": func(t *rapid.T) {
				want := m.all()
				m.reopened(t, killed(m.fs))
				if m.old.text() != want.text() {
					t.Fatalf("after a kill: %s, expected %s", m.old.text(), want.text())
				}
				counts["kills"]++
			},
			"power cut": func(t *rapid.T) {
				states, durable := m.states, m.durOld.plus(m.durCur)
				m.reopened(t, m.fs.CrashClone(vfs.CrashCloneCfg{
					UnsyncedDataPercent: rapid.SampledFrom([]int{0, 30, 70}).Draw(t, "unsynced"),
					RNG:                 rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}))
				counts["cuts"]++
				if m.old.plus(durable).text() != m.old.text() {
					t.Fatalf("after a power cut: %s, durable were %s", m.old.text(), durable.text())
				}
				if !slices.ContainsFunc(states, func(s modelNotes) bool { return s.text() == m.old.text() }) {
					t.Fatalf("after a power cut: %s, which never was; last it was %s", m.old.text(), states[len(states)-1].text())
				}
			},
			"close and open": func(t *rapid.T) {
				want := m.all()
				must(m.l.Close())
				m.reopened(t, powerCut(m.fs))
				if m.old.text() != want.text() {
					t.Fatalf("opened again: %s, expected %s", m.old.text(), want.text())
				}
			},
		})
	})
	t.Logf("%v", counts)
	for _, what := range []string{"kills", "cuts", "pages"} {
		if counts[what] == 0 {
			t.Errorf("no %s", what)
		}
	}
}

// TestLacksConcurrently: what has been noted when the host fails is there
// afterwards, whoever made which part of it durable.
func TestLacksConcurrently(t *testing.T) {
	const workers, rounds, objects, zones = 8, 12, 5, 400
	type fact struct{ id, zone int }
	for round := range rounds {
		fs := vfs.NewCrashableMem()
		l := openLacks(t, fs, LacksOptions{})
		var mu sync.Mutex
		hard, soft := map[fact]bool{}, map[fact]bool{}
		crash := make(chan struct{})
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(round), uint64(w)))
				for i := range 600 {
					f, durable := fact{1 + rng.IntN(objects), rng.IntN(zones)}, rng.IntN(2) == 0
					if err := l.Note(write(byte(f.id), int64(f.zone)), durable); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if soft[f] = true; durable {
						hard[f] = true
					}
					mu.Unlock()
					switch {
					case w == 0 && i == 200+10*round:
						close(crash)
					case w == 1 && i%100 == 0:
						l.Stats()
					case w == 2 && i%200 == 0:
						if _, _, err := l.Page(nil, 1000); err != nil {
							t.Error(err)
						}
					case w == 3 && i%300 == 0:
						l.Rotate() // nothing is cleared
					}
				}
			})
		}
		<-crash
		for _, c := range []struct {
			facts map[fact]bool
			cut   func(*vfs.MemFS) *vfs.MemFS
		}{{hard, powerCut}, {soft, killed}} {
			mu.Lock()
			facts := maps.Clone(c.facts)
			mu.Unlock()
			left := openLacks(t, c.cut(fs), LacksOptions{})
			for f := range facts {
				if lack, _ := left.Get(FileID{byte(f.id)}); !lack.HasZone(Zone(f.zone)) {
					t.Fatalf("round %d: %+v is lost", round, f)
				}
			}
			no(t, left.Close())
		}
		wg.Wait()
		no(t, l.Close())
	}
}

var errEnough = errors.New("enough")

func TestLacksEachWhileNotesGoOn(t *testing.T) {
	l := openLacks(t, vfs.NewMem(), LacksOptions{})
	const n = 100
	for i := range byte(n) {
		no(t, l.Note(write(i+1, 0), false))
		if i == n/2 {
			l.Rotate()
		}
	}
	seen := map[FileID]bool{}
	no(t, l.Each(func(_ uint8, id FileID, _ Lack) error {
		seen[id] = true
		no(t, l.Note(write(byte(100+len(seen)), 1), false)) // new ones, and others again
		if len(seen) == 10 {
			no(t, l.Clear(l.Rotate()))
		}
		return nil
	}))
	for i := range byte(n) {
		if !seen[FileID{i + 1}] {
			t.Errorf("%d is missing", i+1)
		}
	}
	calls := 0
	no(t, l.Note(write(1, 0), false))
	no(t, l.Note(write(2, 0), false))
	if err := l.Each(func(uint8, FileID, Lack) error { calls++; return errEnough }); err != errEnough || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}
