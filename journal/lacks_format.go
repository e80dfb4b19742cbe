package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// What the peer may lack is a key for each note, without a value, in a Pebble
// store of its own, and one record. Keys are big-endian, so that notes sort by
// their age, then by object; record and page are little-endian. Pebble checks
// the sums of keys.
//
//	key of a note                              record, under the key "v"
//	 0  1  "n"                                  0  4  version (1)
//	 1  8  generation of notes, from 1          4  8  size of a zone, bytes
//	 9     body                                12  4  crc32c of bytes 0–11
//
//	body                                       page of notes, on the wire
//	 0  1  tree                                 0  1  version (1)
//	 1 16  id                                   1  3  0
//	17  1  kind                                 4  4  how many notes
//	18     zones: 4 first, 4 last               8  8  size of a zone, bytes
//	       tail: 8 first                       16     their bodies
//	       else nothing                           4  crc32c of all before it
//
// A generation of notes is what was noted between two rotations (not to be
// mixed up with Generation, which is about data).
const (
	lacksVersion = 1

	keyGeneration = 1
	keyBody       = 9
	bodyFixed     = 18
	maxBody       = bodyFixed + 8
	maxKey        = keyBody + maxBody

	recordSize = 16

	pageHeader  = 16
	pageTrailer = 4
	minPage     = pageHeader + maxBody + pageTrailer
)

const (
	notePrefix = 'n'
	noteEnd    = notePrefix + 1
)

var recordKey = []byte{'v'}

// ErrNotes is what every error about the form of stored or sent notes wraps.
// They are then of no use: what the peer lacks is not known.
var ErrNotes = errors.New("bad notes of what the peer lacks")

func badNotes(where, field string, got, want any) error {
	return fmt.Errorf("%w: %s: %s is %v, expected %v", ErrNotes, where, field, got, want)
}

// generationKey is before all notes of that generation, and behind those of
// all older ones.
func generationKey(generation uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{notePrefix}, generation)
}

func appendNoteKey(b []byte, generation uint64, n *note) []byte {
	return appendNoteBody(binary.BigEndian.AppendUint64(append(b, notePrefix), generation), n)
}

func appendNoteBody(b []byte, n *note) []byte {
	b = append(append(append(b, n.tree), n.id[:]...), byte(n.kind))
	switch n.kind {
	case noteZones:
		b = binary.BigEndian.AppendUint32(b, uint32(n.first))
		b = binary.BigEndian.AppendUint32(b, uint32(n.last))
	case noteTail:
		b = binary.BigEndian.AppendUint64(b, uint64(n.first))
	}
	return b
}

// parseNoteKey reads a key of the store.
func parseNoteKey(key []byte) (generation uint64, n note, err error) {
	where := fmt.Sprintf("key %x", key)
	if len(key) < keyBody || key[0] != notePrefix {
		return 0, n, badNotes(where, "start", fmt.Sprintf("%.9q", key), `"n" and eight bytes`)
	}
	if generation = binary.BigEndian.Uint64(key[keyGeneration:]); generation == 0 || generation > math.MaxInt64 {
		return 0, n, badNotes(where, "generation", generation, "1 to 2^63-1")
	}
	n, size, err := parseNoteBody(where, key[keyBody:])
	if err == nil && size != len(key)-keyBody {
		err = badNotes(where, "length", len(key), keyBody+size)
	}
	return generation, n, err
}

// parseNoteBody reads the body that b starts with, and says how long it is.
func parseNoteBody(where string, b []byte) (n note, size int, err error) {
	if len(b) < bodyFixed {
		return n, 0, badNotes(where, "what is left", len(b), fmt.Sprintf("%d bytes or more", bodyFixed))
	}
	n.tree, n.id, n.kind = b[0], FileID(b[1:17]), noteKind(b[17])
	if n.id.IsZero() {
		return n, 0, badNotes(where, "id", n.id, "the identity of an object")
	}
	if n.kind == 0 || n.kind >= noteKindEnd {
		return n, 0, badNotes(where, "kind", uint8(n.kind), fmt.Sprintf("1 to %d", noteKindEnd-1))
	}
	if n.kind < noteZones {
		return n, bodyFixed, nil
	}
	if len(b) < maxBody {
		return n, 0, badNotes(where, "what is left", len(b), fmt.Sprintf("%d bytes or more", maxBody))
	}
	if n.kind == noteTail {
		first := binary.BigEndian.Uint64(b[bodyFixed:])
		if first > math.MaxInt64 {
			return n, 0, badNotes(where, "tail", first, "less than 2^63")
		}
		n.first = int64(first)
		return n, maxBody, nil
	}
	n.first = int64(binary.BigEndian.Uint32(b[bodyFixed:]))
	n.last = int64(binary.BigEndian.Uint32(b[bodyFixed+4:]))
	if n.first > n.last {
		return n, 0, badNotes(where, "last zone", n.last, fmt.Sprintf("%d or more", n.first))
	}
	return n, maxBody, nil
}

func appendRecord(b []byte, zoneSize int64) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, lacksVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(zoneSize))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func parseRecord(b []byte) (zoneSize int64, err error) {
	if len(b) != recordSize {
		return 0, badNotes("record", "length", len(b), recordSize)
	}
	if got, want := crc32.Checksum(b[:12], castagnoli), binary.LittleEndian.Uint32(b[12:]); got != want {
		return 0, badNotes("record", "crc32c", fmt.Sprintf("%08x", got), fmt.Sprintf("%08x", want))
	}
	if v := binary.LittleEndian.Uint32(b); v != lacksVersion {
		return 0, badNotes("record", "version", v, fmt.Sprintf("%d: they were written by another version of skfs", lacksVersion))
	}
	if zoneSize = int64(binary.LittleEndian.Uint64(b[4:])); zoneSize <= 0 {
		return 0, badNotes("record", "size of a zone", zoneSize, "more than 0")
	}
	return zoneSize, nil
}

// pageWriter makes a page. Runs of zones that touch become one note.
type pageWriter struct {
	buf   []byte
	count uint32
	start int // of the newest note in buf
	tip   note
}

func newPageWriter(zoneSize int64) *pageWriter {
	b := append(make([]byte, 0, minPage), lacksVersion, 0, 0, 0, 0, 0, 0, 0)
	return &pageWriter{buf: binary.LittleEndian.AppendUint64(b, uint64(zoneSize))}
}

// add appends n, unless the page would become longer than limit by that. The
// first note always has room.
func (p *pageWriter) add(n note, limit int) bool {
	if p.count > 0 && n.kind == noteZones && p.tip.kind == noteZones && n.id == p.tip.id &&
		n.first >= p.tip.first && n.first <= p.tip.last+1 {
		p.tip.last = max(p.tip.last, n.last)
		p.buf = appendNoteBody(p.buf[:p.start], &p.tip)
		return true
	}
	if p.count > 0 && len(p.buf)+maxBody+pageTrailer > limit {
		return false
	}
	p.start, p.tip = len(p.buf), n
	p.buf = appendNoteBody(p.buf, &n)
	p.count++
	return true
}

func (p *pageWriter) page() []byte {
	binary.LittleEndian.PutUint32(p.buf[4:], p.count)
	return binary.LittleEndian.AppendUint32(p.buf, crc32.Checksum(p.buf, castagnoli))
}

// parsePage reads a page.
func parsePage(b []byte) (zoneSize int64, notes []note, err error) {
	if len(b) < pageHeader+pageTrailer {
		return 0, nil, badNotes("page", "length", len(b), fmt.Sprintf("%d or more", pageHeader+pageTrailer))
	}
	if b[0] != lacksVersion {
		return 0, nil, badNotes("page", "version", b[0], fmt.Sprintf("%d: run the same version of skfs on both nodes", lacksVersion))
	}
	body, sum := b[:len(b)-pageTrailer], binary.LittleEndian.Uint32(b[len(b)-pageTrailer:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return 0, nil, badNotes("page", "crc32c", fmt.Sprintf("%08x", got), fmt.Sprintf("%08x", sum))
	}
	if b[1]|b[2]|b[3] != 0 {
		return 0, nil, badNotes("page", "bytes 1 to 3", fmt.Sprintf("%x", b[1:4]), 0)
	}
	if zoneSize = int64(binary.LittleEndian.Uint64(b[8:])); zoneSize <= 0 {
		return 0, nil, badNotes("page", "size of a zone", zoneSize, "more than 0")
	}
	count := binary.LittleEndian.Uint32(b[4:])
	for rest := body[pageHeader:]; len(rest) > 0; {
		n, size, err := parseNoteBody(fmt.Sprintf("page, byte %d", len(body)-len(rest)), rest)
		if err != nil {
			return 0, nil, err
		}
		notes, rest = append(notes, n), rest[size:]
	}
	if uint64(len(notes)) != uint64(count) {
		return 0, nil, badNotes("page", "how many notes", count, len(notes))
	}
	return zoneSize, notes, nil
}
