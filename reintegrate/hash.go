package reintegrate

import (
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"sync"
)

// blockHash says what is in a block: the first 128 bits of its SHA-256, or zeros
// if no byte of it is stored (a hole).
//
// Equal hashes decide that bytes are not copied, so the hash must hold against
// content that somebody chose: an application's data comes from its users. Two
// xxHash64 are four times as fast but colliding blocks can be computed. SHA-256
// with the processor's instructions does 1.7 GB/s a core here, more than the
// disks below it.
type blockHash [hashLen]byte

func hashBlock(b []byte) blockHash {
	sum := sha256.Sum256(b)
	return blockHash(sum[:hashLen])
}

// isHole: SHA-256 never returns 128 zero bits (nobody knows a block for which it
// does); a block of zeros that is stored has another hash.
func (h blockHash) isHole() bool { return h == blockHash{} }

// theirs is what SECOND has in the first so many blocks of a range: hashes up to
// the end of its file, beyond which a file is a hole. Of what was not asked nothing
// is known.
type theirs struct {
	hashes []blockHash
	asked  int64 // blocks
}

// nothing: the file is new on SECOND.
var nothing = theirs{asked: math.MaxInt64}

// at returns the hash of block i, counted from the start of the range.
func (t *theirs) at(i int64) (h blockHash, known bool) {
	if i < min(int64(len(t.hashes)), t.asked) {
		return t.hashes[i], true
	}
	return blockHash{}, i < t.asked
}

// blocks is how many blocks n bytes have.
func blocks(n int64, blockSize int) int64 {
	return n/int64(blockSize) + min(1, n%int64(blockSize))
}

var blockPool = sync.Pool{New: func() any { return new([]byte) }}

// hashRange hashes the blocks of [off, off+n) of f, as far as the file goes. off
// is a multiple of blockSize.
func hashRange(f File, off, n int64, blockSize int) ([]blockHash, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	end := min(off+n, size)
	if end <= off {
		return nil, nil
	}
	ranges, err := f.DataRanges(off, end-off)
	if err != nil {
		return nil, err
	}
	pooled := blockPool.Get().(*[]byte)
	defer blockPool.Put(pooled)
	if cap(*pooled) < blockSize {
		*pooled = make([]byte, blockSize)
	}
	hs := make([]blockHash, 0, blocks(end-off, blockSize))
	for ; off < end; off += int64(blockSize) {
		to := min(off+int64(blockSize), end)
		for len(ranges) > 0 && ranges[0].End <= off {
			ranges = ranges[1:]
		}
		if len(ranges) == 0 || ranges[0].Off >= to {
			hs = append(hs, blockHash{})
			continue
		}
		b := (*pooled)[:to-off]
		// A short read: it has become shorter since Size. What is beyond the end
		// is not hashed then.
		got, err := f.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if got == 0 {
			break
		}
		hs = append(hs, hashBlock(b[:got]))
	}
	return hs, nil
}
