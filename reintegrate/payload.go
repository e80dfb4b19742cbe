package reintegrate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// The Data of the operations of a pass and of their answers. The stream carries
// the version and the checksum; integers are little endian. "name8" is a length
// of one byte and that many bytes, "name16" likewise with two.
//
//	KindSyncDir     ID is the directory, Flags one of the Dir… below
//	  (none), More  entry…     all names of the directory, in one part or several
//	  Put           entry…     names that are to be so, whatever is there now
//	  Take          take…      names that are to go to the holding area
//	  Keep          nothing    ID is a file without a name: it gets one there
//	  entry         id 16, mode 4, uid 4, gid 4, rdev 4, nlink 4, size 8,
//	                mtime 12, xattrs 8 (journal.SumXattrs), name8, target16
//	  take          id 16, name8
//	  time          seconds 8, nanoseconds 4
//	  answer        to the last part of the names: one byte for each entry of all
//	                parts, see entryCreated; with Vouch, how it compares
//	KindSyncHash    blocksize 4, range…
//	  range         id 16, off 8, len 8; off is a multiple of blocksize
//	  answer        for each range: blocks 4, hash 16 × blocks; blocks is noHashes
//	                if there is no such file or it cannot be read, else as many as
//	                lie within the file. A hash of zeros: the block is a hole.
//	KindSyncAttrs   mode 4, uid 4, gid 4, size 8, atime 12, mtime 12,
//	                xattr… (name8, length 4, value)
//	KindSyncBegin   Flags some of Begin… below; since 12 (a scan; otherwise nothing)
//	KindSyncEnd     nothing
//	  answer        dropped 8, more 1 (1: the holding area is not empty yet),
//	                lost 8 (failures that there was no room to note),
//	                failure… (seq 8, kind 1, flags 4, id 16, errno 4)
const (
	DirMore uint32 = 1 << iota
	DirPut
	DirTake
	DirKeep
	DirVouch // with none, More or Put: the answer says what differs
)

// Bits of Op.Flags of KindSyncBegin.
const (
	BeginKeep  uint32 = 1 << iota // what only SECOND had is kept aside, see Sink.Quarantine
	BeginDelta                    // SECOND's tree is not looked through
)

// FlagPass in Op.Flags marks the operations of ordinary kinds that are the pass's
// own, not an application's.
const FlagPass uint32 = 1 << 31

// Own says whether op is a pass's own. What fails of it on SECOND is in the answer
// to SyncEnd, and passed again: the owner of the stream need not care.
func Own(op *journal.Op) bool {
	return op.Kind >= journal.KindSyncBegin && op.Kind <= journal.KindPunch || op.Flags&FlagPass != 0
}

// Bits of the answer to KindSyncDir for an entry; all but the first only where
// DirVouch asks for them.
const (
	entryCreated byte = 1 << iota // the object was not there
	entryDiffers                  // by type, size, mtime, mode, owner or xattrs
	entrySuspect                  // changed since the time that a scan begins with
	entryStub                     // what is there is of an earlier pass, not completed, or without identity until now
)

// stubMode are the permissions of a file that was made by a pass, until its attributes are sent, after its data: notes tell what was changed of
// an object that SECOND had, so the next pass must know one that never was
// complete. Nobody gives a file these bits, and if: it is compared.
const stubMode = 0o7000

const (
	hashLen  = 16
	noHashes = ^uint32(0)

	maxName   = 255
	maxTarget = 4095
	maxXattr  = 64 << 10
	// maxPart bounds a part of the names of a directory, maxBlocks a question:
	// both, and the answers, stay far below the largest frame.
	maxPart   = 1 << 20
	maxBlocks = 256 << 10
	// maxFailures bounds the failures that SECOND notes.
	maxFailures = 4096
)

var errPayload = errors.New("malformed reintegration payload")

func appendTime(b []byte, t journal.Time) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Sec))
	return binary.LittleEndian.AppendUint32(b, t.Nsec)
}

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func appendEntry(b []byte, e *Entry) []byte {
	le := binary.LittleEndian
	b = append(b, e.ID[:]...)
	for _, v := range [...]uint32{e.Mode, e.UID, e.GID, e.Rdev, e.Nlink} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, uint64(e.Size))
	b = le.AppendUint64(appendTime(b, e.Mtime), e.Xattrs)
	b = appendName(b, e.Name)
	b = le.AppendUint16(b, uint16(len(e.Target)))
	return append(b, e.Target...)
}

func parseEntries(b []byte) ([]Entry, error) {
	d := decoder{b: b}
	var entries []Entry
	for d.more() {
		e := Entry{
			ID: d.id(), Mode: d.u32(), UID: d.u32(), GID: d.u32(), Rdev: d.u32(), Nlink: d.u32(),
			Size: d.size(), Mtime: d.time(), Xattrs: d.u64(), Name: d.name(), Target: d.target(),
		}
		switch {
		case e.ID.IsZero():
			d.fail("identity of an entry", "not zero")
		case !knownType(e.Mode):
			d.fail("type of an entry", "a file type")
		case (e.Type() == sIFLNK) != (e.Target != ""):
			d.fail("target of an entry", "one for a symlink, none for others")
		}
		entries = append(entries, e)
	}
	return entries, d.err
}

// parseSince is the Data of KindSyncBegin; nil: no scan.
func parseSince(b []byte) (*journal.Time, error) {
	if len(b) == 0 {
		return nil, nil
	}
	d := decoder{b: b}
	since := d.time()
	if d.more() {
		d.fail("beginning", "a time")
	}
	return &since, d.err
}

// taken is a name to be taken away, if it still names ID.
type taken struct {
	ID   journal.FileID
	Name string
}

func appendTaken(b []byte, t *taken) []byte { return appendName(append(b, t.ID[:]...), t.Name) }

func parseTaken(b []byte) ([]taken, error) {
	d := decoder{b: b}
	var ts []taken
	for d.more() {
		ts = append(ts, taken{ID: d.id(), Name: d.name()})
	}
	return ts, d.err
}

// question asks for the hashes of the blocks of one range.
type question struct {
	ID       journal.FileID
	Off, Len int64
}

func appendQuestions(b []byte, blockSize int, qs []question) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(blockSize))
	for i := range qs {
		b = append(b, qs[i].ID[:]...)
		b = le.AppendUint64(b, uint64(qs[i].Off))
		b = le.AppendUint64(b, uint64(qs[i].Len))
	}
	return b
}

func parseQuestions(b []byte) (blockSize int, qs []question, err error) {
	d := decoder{b: b}
	bs := d.u32()
	if bs == 0 || bs > 16<<20 {
		d.fail("block size", "1 byte to 16 MiB")
	}
	left := int64(maxBlocks)
	for d.more() {
		q := question{ID: d.id(), Off: d.size(), Len: d.size()}
		if d.err == nil && (q.Off%int64(bs) != 0 || q.Off+q.Len < q.Off) {
			d.fail("range to hash", "the start of a block, and an end that fits 63 bits")
		}
		if d.err == nil {
			if left -= blocks(q.Len, int(bs)); left < 0 {
				d.fail("ranges to hash", fmt.Sprintf("at most %d blocks", maxBlocks))
			}
		}
		qs = append(qs, q)
	}
	return int(bs), qs, d.err
}

func appendHashes(b []byte, hs []blockHash, known bool) []byte {
	if !known {
		return binary.LittleEndian.AppendUint32(b, noHashes)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(hs)))
	for i := range hs {
		b = append(b, hs[i][:]...)
	}
	return b
}

// parseHashes returns, for each question, what SECOND has there.
func parseHashes(b []byte, blockSize int, qs []question) ([]theirs, error) {
	d := decoder{b: b}
	ts := make([]theirs, len(qs))
	for i := range ts {
		count := d.u32()
		if count == noHashes {
			continue
		}
		ts[i].asked = blocks(qs[i].Len, blockSize)
		raw := d.take(int(min(int64(count)*hashLen, int64(len(b)+1))), "hashes")
		for ; len(raw) >= hashLen; raw = raw[hashLen:] {
			ts[i].hashes = append(ts[i].hashes, blockHash(raw[:hashLen]))
		}
	}
	if d.more() {
		d.fail("answer", fmt.Sprintf("%d ranges", len(qs)))
	}
	return ts, d.err
}

func appendAttrs(b []byte, a *Attrs) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, a.Mode)
	b = le.AppendUint32(b, a.UID)
	b = le.AppendUint32(b, a.GID)
	b = le.AppendUint64(b, uint64(a.Size))
	b = appendTime(b, a.Atime)
	b = appendTime(b, a.Mtime)
	for i := range a.Xattrs {
		b = appendName(b, a.Xattrs[i].Name)
		b = le.AppendUint32(b, uint32(len(a.Xattrs[i].Value)))
		b = append(b, a.Xattrs[i].Value...)
	}
	return b
}

func parseAttrs(b []byte) (*Attrs, error) {
	d := decoder{b: b}
	a := &Attrs{Mode: d.u32(), UID: d.u32(), GID: d.u32(), Size: d.size(), Atime: d.time(), Mtime: d.time()}
	if d.err == nil && !knownType(a.Mode) {
		d.fail("type", "a file type")
	}
	for d.more() {
		x := Xattr{Name: string(d.take(int(d.u8()), "name of an xattr"))}
		n := d.u32()
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 || n > maxXattr {
			d.fail("xattr", "a name, and a value of at most 64 KiB")
		}
		x.Value = append([]byte{}, d.take(int(n), "value of an xattr")...)
		a.Xattrs = append(a.Xattrs, x)
	}
	return a, d.err
}

// ending is the answer to KindSyncEnd.
type ending struct {
	dropped int64
	more    bool
	lost    int64
	failed  []failure
}

// failure is an operation of the pass that failed on SECOND.
type failure struct {
	seq   journal.Seq
	kind  journal.Kind
	flags uint32
	id    journal.FileID
	errno syscall.Errno
}

func appendEnding(b []byte, e *ending) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(e.dropped))
	more := byte(0)
	if e.more {
		more = 1
	}
	b = le.AppendUint64(append(b, more), uint64(e.lost))
	for _, f := range e.failed {
		b = le.AppendUint32(append(le.AppendUint64(b, uint64(f.seq)), byte(f.kind)), f.flags)
		b = le.AppendUint32(append(b, f.id[:]...), uint32(f.errno))
	}
	return b
}

func parseEnding(b []byte) (*ending, error) {
	d := decoder{b: b}
	e := &ending{dropped: d.size(), more: d.u8() != 0, lost: d.size()}
	for d.more() {
		f := failure{seq: journal.Seq(d.size()), kind: journal.Kind(d.u8()), flags: d.u32(), id: d.id(), errno: syscall.Errno(d.u32())}
		if f.errno == 0 {
			d.fail("failure", "an errno")
		}
		e.failed = append(e.failed, f)
	}
	return e, d.err
}

// decoder reads fields until the first that is wrong; from then on it returns
// zeros, and more is false.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(field, want string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s: expected %s", errPayload, field, want)
	}
}

func (d *decoder) more() bool { return d.err == nil && len(d.b) > 0 }

func (d *decoder) take(n int, field string) []byte {
	if d.err == nil && n > len(d.b) {
		d.fail(field, fmt.Sprintf("%d bytes, have %d", n, len(d.b)))
	}
	if d.err != nil {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1, "length"); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2, "length"); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4, "number of 32 bits"); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8, "number of 64 bits"); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// size reads an offset, a length or a size: never negative.
func (d *decoder) size() int64 {
	b := d.take(8, "number of 64 bits")
	if b == nil {
		return 0
	}
	v := int64(binary.LittleEndian.Uint64(b))
	if v < 0 {
		d.fail("size", "not negative")
		return 0
	}
	return v
}

func (d *decoder) id() (id journal.FileID) {
	copy(id[:], d.take(len(id), "identity"))
	return id
}

func (d *decoder) time() journal.Time {
	b := d.take(12, "time")
	if b == nil {
		return journal.Time{}
	}
	t := journal.Time{Sec: int64(binary.LittleEndian.Uint64(b)), Nsec: binary.LittleEndian.Uint32(b[8:])}
	if t.Nsec >= 1e9 {
		d.fail("time", "less than 1000000000 nanoseconds")
	}
	return t
}

func (d *decoder) name() string {
	s := string(d.take(int(d.u8()), "name"))
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
		d.fail("name", "one component, neither . nor ..")
	}
	return s
}

func (d *decoder) target() string {
	s := string(d.take(int(d.u16()), "target"))
	if len(s) > maxTarget || strings.IndexByte(s, 0) >= 0 {
		d.fail("target", "at most 4095 bytes without NUL")
	}
	return s
}

func knownType(mode uint32) bool {
	switch mode & sIFMT {
	case sIFREG, sIFDIR, sIFLNK, sIFCHR, sIFBLK, sIFIFO, sIFSOCK:
		return true
	}
	return false
}
