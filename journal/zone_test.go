package journal

import (
	"math"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func rangesOf(l Lack, size, zoneSize int64) (got [][2]int64) {
	l.Ranges(size, zoneSize, func(off, end int64) { got = append(got, [2]int64{off, end}) })
	return got
}

func TestLackRanges(t *testing.T) {
	zones := func(z ...uint32) *roaring.Bitmap { return roaring.BitmapOf(z...) }
	for name, c := range map[string]struct {
		lack       Lack
		size, zone int64
		want       [][2]int64
	}{
		"nothing":                  {Lack{Tail: NoTail}, 100, 10, nil},
		"names are no bytes":       {Lack{Names: true, Attrs: true, Tail: NoTail}, 100, 10, nil},
		"empty file":               {Lack{Whole: true, Zones: zones(0), Tail: 0}, 0, 10, nil},
		"one zone":                 {Lack{Zones: zones(3), Tail: NoTail}, 100, 10, [][2]int64{{30, 40}}},
		"the last one is short":    {Lack{Zones: zones(3), Tail: NoTail}, 35, 10, [][2]int64{{30, 35}}},
		"behind the end":           {Lack{Zones: zones(1, 4), Tail: 7}, 35, 10, [][2]int64{{10, 20}}},
		"neighbours merge":         {Lack{Zones: zones(1, 2, 4), Tail: NoTail}, 100, 10, [][2]int64{{10, 30}, {40, 50}}},
		"a tail takes up":          {Lack{Zones: zones(1, 4, 7), Tail: 5}, 100, 10, [][2]int64{{10, 20}, {40, 100}}},
		"a tail of nothing":        {Lack{Tail: 5}, 50, 10, nil},
		"whole":                    {Lack{Whole: true, Zones: zones(2), Tail: NoTail}, 35, 10, [][2]int64{{0, 35}}},
		"the greatest file":        {Lack{Zones: zones(0), Tail: math.MaxInt64 / 10}, math.MaxInt64, 10, [][2]int64{{0, 10}, {math.MaxInt64 / 10 * 10, math.MaxInt64}}},
		"the last zone of a giant": {Lack{Zones: zones(math.MaxUint32), Tail: NoTail}, math.MaxInt64, 8 << 20, [][2]int64{{math.MaxUint32 * 8 << 20, (math.MaxUint32 + 1) * 8 << 20}}},
	} {
		if diff := cmp.Diff(c.want, rangesOf(c.lack, c.size, c.zone)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// genLack is anything that may be lacked of a file of few zones.
func genLack(t *rapid.T, zones int) Lack {
	l := Lack{Names: rapid.Bool().Draw(t, "names"), Attrs: rapid.Bool().Draw(t, "attrs"),
		Whole: rapid.IntRange(0, 9).Draw(t, "whole") == 0, Tail: NoTail}
	if rapid.Bool().Draw(t, "zones") {
		l.Zones = roaring.BitmapOf(rapid.SliceOf(rapid.Uint32Range(0, uint32(zones-1))).Draw(t, "zone")...)
	}
	if rapid.IntRange(0, 3).Draw(t, "tail") == 0 {
		l.Tail = rapid.Int64Range(0, int64(zones)).Draw(t, "from")
	}
	return l
}

func TestLackRangesAreTheZones(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, size, zone := genLack(t, 8), rapid.Int64Range(0, 90).Draw(t, "size"), rapid.Int64Range(1, 11).Draw(t, "zone")
		got := make([]bool, size)
		before := int64(-1)
		for _, r := range rangesOf(l, size, zone) {
			if r[0] <= before || r[0] >= r[1] || r[1] > size {
				t.Fatalf("range %v after %d of %d bytes", r, before, size)
			}
			for i := r[0]; i < r[1]; i++ {
				got[i] = true
			}
			before = r[1] // the next one may not touch this one
		}
		for i := range got {
			if want := l.HasZone(Zone(int64(i) / zone)); got[i] != want {
				t.Fatalf("byte %d of %d, zones of %d, %v: in the ranges %v", i, size, zone, &l, got[i])
			}
		}
	})
}

func TestLackUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genLack(t, 8), genLack(t, 8)
		u := Lack{Tail: NoTail}
		u.Union(a)
		u.Union(b)
		for z := range Zone(12) {
			if u.HasZone(z) != (a.HasZone(z) || b.HasZone(z)) {
				t.Fatalf("zone %d of %v and %v: %v", z, &a, &b, &u)
			}
		}
		if u.Names != (a.Names || b.Names) || u.Attrs != (a.Attrs || b.Attrs) || u.Empty() != (a.Empty() && b.Empty()) ||
			u.HasData() != (a.HasData() || b.HasData()) {
			t.Fatalf("%v and %v: %v", &a, &b, &u)
		}
		if u.Zones != nil { // nothing is shared
			before := b.HasZone(100)
			u.Zones.Add(100)
			if b.HasZone(100) != before {
				t.Fatal("a change of the union changed its part")
			}
		}
	})
}
