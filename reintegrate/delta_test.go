package reintegrate

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCompare: what compare sends makes any file of SECOND the file of PRIM, and
// nothing travels that is equal.
func TestCompare(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		tr := newTree(0)
		random := func(n *node) {
			for range r.IntN(5) {
				b := bytes.Repeat([]byte{byte(r.IntN(3))}, r.IntN(60))
				n.write(int64(r.IntN(200)), b)
			}
		}
		ours := &node{}
		random(ours)
		yours := &node{data: bytes.Clone(ours.data), stored: slices.Clone(ours.stored)}
		if r.IntN(3) == 0 {
			yours = &node{}
		}
		equal := r.IntN(5) == 0
		if !equal {
			random(yours)
		}
		const block = 16
		size := int64(len(ours.data))
		from := min(size, int64(r.IntN(4))*block)
		asked := int64(r.IntN(15))
		hs, err := hashRange(file{tr, yours}, from, asked*block, block)
		if err != nil {
			t.Fatal(err)
		}
		th := theirs{hs, asked}
		if from%block != 0 { // an empty range at the end
			continue
		}
		d, err := compare(file{tr, ours}, from, size, block, maxSegment, th, make([]byte, size-from))
		if err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(yours.data[:min(from, int64(len(yours.data)))])
		yours.resize(size)
		var punched int64
		for _, s := range d.segments {
			if s.Off < from || s.End > size || s.Off >= s.End {
				t.Fatalf("seed %d: segment %v of [%d,%d)", seed, s.Range, from, size)
			}
			if s.data == nil {
				yours.punch(s.Off, s.End-s.Off)
				punched += s.End - s.Off
				continue
			}
			if int64(len(s.data)) != s.End-s.Off {
				t.Fatalf("seed %d: %d bytes for %v", seed, len(s.data), s.Range)
			}
			yours.write(s.Off, s.data)
		}
		if !bytes.Equal(yours.data[from:], ours.data[from:]) {
			t.Fatalf("seed %d: the content differs", seed)
		}
		if !bytes.Equal(yours.data[:len(before)], before) {
			t.Fatalf("seed %d: bytes before the range have changed", seed)
		}
		if equal && asked*block >= size-from && len(before) == int(from) && d.bytes()+punched > 0 && int64(len(hs))*block >= size-from {
			t.Errorf("seed %d: equal, but %d bytes are sent, %d punched", seed, d.bytes(), punched)
		}
	}
}

// TestSparse: the holes of a new file cost nothing, and stay holes.
func TestSparse(t *testing.T) {
	tr, n := newTree(0), &node{}
	n.resize(1000)
	n.write(504, []byte("12345678"))
	d, err := compare(file{tr, n}, 0, 1000, 100, maxSegment, nothing, make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.segments) != 1 || d.segments[0].Range != (Range{Off: 504, End: 512}) {
		t.Fatalf("sent %v", d.segments)
	}
	// Where it is not known what SECOND has, they are punched.
	if d, err = compare(file{tr, n}, 0, 1000, 100, maxSegment, theirs{}, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if len(d.segments) != 3 || d.segments[0].data != nil || d.segments[2].data != nil || d.bytes() != 8 {
		t.Fatalf("sent %v", d.segments)
	}
}

// TestStoredZeros: what is stored here is stored there, zeros too.
func TestStoredZeros(t *testing.T) {
	tr, ours, yours := newTree(0), &node{}, &node{}
	for _, n := range []*node{ours, yours} {
		n.resize(1000)
	}
	ours.write(0, make([]byte, 1000))
	hs, err := hashRange(file{tr, yours}, 0, 1000, 100)
	if err != nil {
		t.Fatal(err)
	}
	d, err := compare(file{tr, ours}, 0, 1000, 100, maxSegment, theirs{hs, 10}, make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if d.bytes() != 1000 {
		t.Errorf("%d bytes are sent into a hole, expected the 1000 zeros that are stored here", d.bytes())
	}
}

// TestFD: the ranges of a real file are its bytes.
func TestFD(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(10 << 20); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{1 << 20, 5<<20 + 100} {
		if _, err := f.WriteAt([]byte("something"), off); err != nil {
			t.Fatal(err)
		}
	}
	fd := FD(f.Fd())
	if size, err := fd.Size(); err != nil || size != 10<<20 {
		t.Fatal(size, err)
	}
	rs, err := fd.DataRanges(4096, 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	var all int64
	for _, off := range []int64{1 << 20, 5<<20 + 100} {
		if !slices.ContainsFunc(rs, func(r Range) bool { return r.Off <= off && off+9 <= r.End }) {
			t.Errorf("%d is in a hole: %v", off, rs)
		}
	}
	for _, r := range rs {
		all += r.End - r.Off
	}
	if all > 1<<20 {
		t.Skipf("the file system here keeps no holes: %v", rs)
	}
	if rs, err = fd.DataRanges(2<<20, 1<<20); err != nil || len(rs) != 0 {
		t.Errorf("a hole: %v, %v", rs, err)
	}
	if err := unix.Ftruncate(int(fd), 0); err != nil {
		t.Fatal(err)
	}
	if rs, err = fd.DataRanges(0, 1<<20); err != nil || len(rs) != 0 {
		t.Errorf("an empty file: %v, %v", rs, err)
	}
}

func BenchmarkHash(b *testing.B) {
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		hashBlock(block)
	}
}
