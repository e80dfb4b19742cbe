package reintegrate

import (
	"math"
	"sort"
)

// region is the parts of a file in pass that are pending, in order and apart from
// each other: SECOND's bytes there do not change before the copy changes them, so
// what was asked about them stays true. Everything outside is forwarded.
type region struct{ pending []Range }

// newRegion is the region of a file of that size of which all bytes are pending.
func newRegion(size int64) *region {
	r := &region{}
	r.add(0, size)
	return r
}

// add appends [off, end), which lies behind what is there.
func (r *region) add(off, end int64) {
	if off < end {
		r.pending = append(r.pending, Range{Off: off, End: end})
	}
}

// bytes is how many bytes are pending.
func (r *region) bytes() (n int64) {
	for _, p := range r.pending {
		n += p.End - p.Off
	}
	return n
}

// cut says that the file now ends at size: nothing beyond is pending, since
// SECOND cuts its file too.
func (r *region) cut(size int64) {
	i := sort.Search(len(r.pending), func(i int) bool { return r.pending[i].Off >= size })
	if r.pending = r.pending[:i]; i > 0 {
		r.pending[i-1].End = min(r.pending[i-1].End, size)
	}
}

// advance says that nothing below to is pending any more.
func (r *region) advance(to int64) {
	for len(r.pending) > 0 && r.pending[0].End <= to {
		r.pending = r.pending[1:]
	}
	if len(r.pending) > 0 {
		r.pending[0].Off = max(r.pending[0].Off, to)
	}
}

// next returns the first pending bytes from off on, as far as they lie in one zone.
func (r *region) next(off, zoneSize int64) (Range, bool) {
	i := sort.Search(len(r.pending), func(i int) bool { return r.pending[i].End > off })
	if i == len(r.pending) {
		return Range{}, false
	}
	p := r.pending[i]
	p.Off = max(p.Off, off)
	p.End = min(p.End, zoneEnd(p.Off, zoneSize))
	return p, true
}

// zoneEnd is the end of the zone that off lies in.
func zoneEnd(off, zoneSize int64) int64 { return (off/zoneSize + 1) * zoneSize }

// outside returns the parts of [off, off+n) that are to be forwarded.
func (r *region) outside(off, n int64) (parts []Range) {
	end := off + n
	if n > math.MaxInt64-off {
		end = math.MaxInt64
	}
	i := sort.Search(len(r.pending), func(i int) bool { return r.pending[i].End > off })
	for ; i < len(r.pending) && r.pending[i].Off < end; i++ {
		if off < r.pending[i].Off {
			parts = append(parts, Range{Off: off, End: r.pending[i].Off})
		}
		off = r.pending[i].End
	}
	if off < end {
		parts = append(parts, Range{Off: off, End: end})
	}
	return parts
}
