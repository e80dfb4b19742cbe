package journal

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// DefaultSegmentBytes is the size from which a segment is full.
const DefaultSegmentBytes = 64 << 20

// maxSegments is how many full segments may wait for their flush before the
// log makes its writer wait for it too.
const maxSegments = 8

// spareSegments are kept for reuse: writing over allocated blocks spares the
// file system's own journal a commit at every flush.
const spareSegments = 2

// maxUnnamed is how many full segments are kept for files that came without a name
// and have not got one yet.
const maxUnnamed = 16

// ReceiveLogOptions are the choices of a receive log.
type ReceiveLogOptions struct {
	// Flush makes everything durable that was applied before the call, as
	// syncfs of the backing file systems does. It must be set.
	Flush func() error
	// SegmentBytes defaults to DefaultSegmentBytes.
	SegmentBytes int64

	wrap func(logFile) logFile // for tests that break disks
}

// logFile is what a segment needs of its file.
type logFile interface {
	io.WriterAt
	Datasync() error
	Close() error
}

type diskFile struct{ *os.File }

func (f diskFile) Datasync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// ReceiveLog keeps on the second host's disk what async="none" has promised to
// have there: the operations of one stream, from some time before the first
// that may not be in the data durably. One flush covers a whole batch.
//
// It holds one contiguous run of one epoch. Before another run begins the owner
// calls Settle (all of it is in the data; after a crash see Each) or Discard.
//
// An error of the disk is final: what it concerns may or may not be there, and
// asking again would say that it is. Every later call returns the same error.
type ReceiveLog struct {
	dir string
	o   ReceiveLogOptions

	mu       sync.Mutex
	err      error
	trimming bool       // a goroutine flushes and frees full segments
	trimmed  *sync.Cond // signalled when it ends
	old      []segment  // full, oldest first
	spare    []string   // files to reuse
	serial   uint64     // of the newest segment
	flushed  Seq        // operations up to it are in the data, on disk
	found    Contents   // what the log holds, Last kept up by append

	// Owned by whoever calls append, one at a time.
	file    logFile // the newest segment, nil if there is none
	path    string
	size    int64
	lazy    bool // what was written last is not flushed: nothing of it is to be redone
	w       *bufio.Writer
	unnamed []unnamed
}

// unnamed is a file that came without a name (KindTmpfile). A flush of the data
// does not keep it before it has one, so the log does.
type unnamed struct {
	id          FileID
	from, until Seq // until: what gave it a name or let it go; 0 if nothing has
}

type segment struct {
	path string
	last Seq
}

// Contents is what a log holds: operations After+1 to Last, none if they are
// equal.
type Contents struct {
	Epoch       Epoch
	After, Last Seq
}

// Empty says whether there is no operation.
func (c Contents) Empty() bool { return c.After == c.Last }

// OpenReceiveLog opens the log in dir, which it makes if need be, and checks
// what is in it.
func OpenReceiveLog(dir string, o ReceiveLogOptions) (*ReceiveLog, error) {
	if o.Flush == nil {
		return nil, errors.New("open the receive log: Flush must be set")
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.wrap == nil {
		o.wrap = func(f logFile) logFile { return f }
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the receive log: %w", err)
	}
	l := &ReceiveLog{dir: dir, o: o}
	l.trimmed = sync.NewCond(&l.mu)
	var err error
	if l.found, err = l.survey(); err != nil {
		return nil, fmt.Errorf("open the receive log: %w", err)
	}
	if l.spare, err = filepath.Glob(filepath.Join(dir, "*.spare")); err != nil {
		return nil, fmt.Errorf("open the receive log: %w", err)
	}
	return l, nil
}

// Contents says what the log holds.
func (l *ReceiveLog) Contents() Contents {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.found
}

// survey reads the segments on disk in order, up to the first frame of the newest
// that is not whole, and says what of them need not be in the data yet. It also
// learns the newest serial.
func (l *ReceiveLog) survey() (Contents, error) {
	files, err := l.files()
	if err != nil || len(files) == 0 {
		return Contents{}, err
	}
	var c Contents
	for i, f := range files {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return c, err
		}
		l.serial = max(l.serial, f.serial)
		serial, flushed, err := parseSegmentHeader(b)
		if err == nil && serial != f.serial {
			err = fmt.Errorf("%w: its header says segment %x", ErrLog, serial)
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", f.path, err)
		}
		if i == 0 {
			c.Last = flushed
		}
		c.After = max(c.After, flushed) // that of a later segment covers operations of earlier ones
		first := true
		err = parseRecords(b, serial, func(epoch Epoch, op *Op) error {
			if first && i == 0 { // those before it were in segments that are freed
				c.Epoch, c.Last = epoch, op.Seq-1
				c.After = max(c.After, c.Last)
			}
			first = false
			if epoch != c.Epoch || op.Seq != c.Last+1 {
				return fmt.Errorf("%w: operation %d of epoch %d follows %d of epoch %d: the log is damaged before it",
					ErrLog, op.Seq, epoch, c.Last, c.Epoch)
			}
			c.Last = op.Seq
			return nil
		})
		if err != nil {
			return c, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	c.After = min(c.After, c.Last)
	return c, nil
}

// Each calls f with the operations of the log in their order, as often as it is
// called: what need not be in the data yet, up to the first frame that was not
// whole on disk; everything that was acked as durable lies before that, but for what
// changes nothing (an fsync). Operations
// of epoch up to after are left out: the owner knows that the data holds them
// durably. op and its Data are valid during the call; an error of f ends it. The
// caller says that nothing is appending.
//
// What the data holds after a crash is any part of these, so they cannot simply be
// applied: see reintegrate.Redo. When they are in the data, Settle empties the log.
func (l *ReceiveLog) Each(epoch Epoch, after Seq, f func(op *Op) error) error {
	c := l.Contents()
	if c.Epoch == epoch {
		c.After = max(c.After, after)
	}
	if c.After >= c.Last {
		return nil
	}
	files, err := l.files()
	if err != nil {
		return fmt.Errorf("read the receive log: %w", err)
	}
	next := c.After + 1
	for _, file := range files {
		b, err := os.ReadFile(file.path)
		if err != nil {
			return fmt.Errorf("read the receive log: %w", err)
		}
		err = parseRecords(b, file.serial, func(_ Epoch, op *Op) error {
			if op.Seq != next || op.Seq > c.Last {
				return nil
			}
			next++
			return f(op)
		})
		if err != nil {
			return err
		}
	}
	if next <= c.Last {
		return fmt.Errorf("read the receive log: %w: operation %d was there and is not any more", ErrLog, next)
	}
	return nil
}

type segmentFile struct {
	path   string
	serial uint64
}

// files lists the segments, oldest first.
func (l *ReceiveLog) files() ([]segmentFile, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var files []segmentFile
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".log")
		if serial, err := strconv.ParseUint(hex, 16, 64); ok && err == nil {
			files = append(files, segmentFile{filepath.Join(l.dir, e.Name()), serial})
		}
	}
	slices.SortFunc(files, func(a, b segmentFile) int { return cmp.Compare(a.serial, b.serial) })
	return files, nil
}

// Settle empties the log after a flush of the data. The caller says that
// everything in the log is applied, and that nothing is appending.
func (l *ReceiveLog) Settle() error {
	l.waitTrim()
	if err := l.Err(); err != nil {
		return err
	}
	if !l.Contents().Empty() {
		if err := l.o.Flush(); err != nil {
			return l.fail(fmt.Errorf("flush the data that the receive log covers: %w", err))
		}
	}
	return l.Discard()
}

// Discard empties the log. The caller says that it does not matter, and that
// nothing is appending.
func (l *ReceiveLog) Discard() error {
	l.waitTrim()
	if err := l.Err(); err != nil {
		return err
	}
	l.closeFile()
	files, err := l.files()
	if err != nil {
		return l.fail(err)
	}
	slices.Reverse(files) // a crash leaves a prefix
	for _, f := range files {
		if err := os.Remove(f.path); err != nil {
			return l.fail(fmt.Errorf("empty the receive log: %w", err))
		}
	}
	l.mu.Lock()
	for _, path := range l.spare {
		os.Remove(path)
	}
	l.old, l.spare, l.found, l.flushed = nil, nil, Contents{}, 0
	l.mu.Unlock()
	if err := syncDir(l.dir); err != nil {
		return l.fail(err)
	}
	return nil
}

// Err is why the log cannot go on, nil if it can.
func (l *ReceiveLog) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close leaves the log as it is on disk.
func (l *ReceiveLog) Close() error {
	l.waitTrim()
	l.closeFile()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, path := range l.spare {
		os.Remove(path)
	}
	l.spare = nil
	if l.err == nil {
		l.err = os.ErrClosed
		return nil
	}
	return l.err
}

func (l *ReceiveLog) closeFile() {
	if l.file != nil {
		l.file.Close()
		l.file, l.lazy = nil, false
	}
}

func (l *ReceiveLog) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	return l.err
}

// begin prepares for a run of operations from first on.
func (l *ReceiveLog) begin(epoch Epoch, first Seq) error {
	if c := l.Contents(); !c.Empty() {
		return fmt.Errorf("the receive log holds operations %d to %d of epoch %d: redo and settle, or discard it first",
			c.After+1, c.Last, c.Epoch)
	}
	if err := l.Discard(); err != nil { // segments without anything that matters
		return err
	}
	l.unnamed = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = Contents{Epoch: epoch, After: first - 1, Last: first - 1}
	l.flushed = first - 1
	return nil
}

// append makes operations durable, which follow those before. applied is how
// far the data is. Those that change nothing need not be on disk, so a batch of them
// alone waits for no flush: an fsync costs the one of the data, and not two.
func (l *ReceiveLog) append(batch []*inbound, applied Seq) error {
	if err := l.Err(); err != nil {
		return err
	}
	length := 0
	for _, in := range batch {
		length += len(in.frame)
	}
	if l.file == nil || l.size > segmentHeader && l.size+int64(recordHeader+length) > l.o.SegmentBytes {
		if err := l.roll(); err != nil {
			return l.fail(fmt.Errorf("begin a segment of the receive log: %w", err))
		}
	}
	l.trim(applied)
	l.w.Write(appendRecordHeader(nil, l.serial, length))
	for _, in := range batch {
		l.w.Write(in.frame)
	}
	err := l.w.Flush() // has the first error of Write
	if l.lazy = !slices.ContainsFunc(batch, func(in *inbound) bool { return in.op.Kind.changes() }); err == nil && !l.lazy {
		err = l.file.Datasync()
	}
	if err != nil {
		return l.fail(fmt.Errorf("write the receive log %s: %w", l.path, err))
	}
	l.mu.Lock()
	l.found.Last = batch[len(batch)-1].op.Seq
	l.mu.Unlock()
	for _, in := range batch {
		l.noteUnnamed(&in.op)
	}
	return nil
}

func (l *ReceiveLog) noteUnnamed(op *Op) {
	switch op.Kind {
	case KindTmpfile, KindLink, KindRelease:
		for i := range l.unnamed {
			if u := &l.unnamed[i]; u.id == op.ID && u.until == 0 {
				u.until = op.Seq
			}
		}
	}
	if op.Kind == KindTmpfile {
		l.unnamed = append(l.unnamed, unnamed{id: op.ID, from: op.Seq})
	}
}

// kept returns up to where operations are on disk after a flush of the data that
// begins now, when those up to applied are in it. A file that takes more log than
// maxUnnamed segments to get its name, or never gets one, is given up: should a
// crash come before the name does, the end of the log cannot be had.
func (l *ReceiveLog) kept(applied Seq) Seq {
	l.unnamed = slices.DeleteFunc(l.unnamed, func(u unnamed) bool { return u.until != 0 && u.until <= applied })
	if len(l.old) > maxUnnamed {
		l.unnamed = nil
	}
	for _, u := range l.unnamed {
		applied = min(applied, u.from-1)
	}
	return applied
}

// roll begins the next segment, durably.
func (l *ReceiveLog) roll() error {
	l.mu.Lock()
	if l.file != nil {
		l.old = append(l.old, segment{l.path, l.found.Last})
	}
	l.serial++
	path := filepath.Join(l.dir, fmt.Sprintf("%016x.log", l.serial))
	header := appendSegmentHeader(nil, l.serial, l.flushed)
	reuse := ""
	if n := len(l.spare); n > 0 {
		reuse, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	l.mu.Unlock()
	if l.file != nil && l.lazy { // what comes next says that all before it is there
		if err := l.file.Datasync(); err != nil {
			return err
		}
	}
	l.closeFile()

	// The header is on disk before the name is: a file with the name of a
	// segment is one.
	name := path
	if reuse == "" {
		reuse = strings.TrimSuffix(path, ".log") + ".spare"
	}
	path = reuse
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.file, l.path, l.size = l.o.wrap(diskFile{f}), name, 0
	// Room now is no error in the middle of a stream; where this is not
	// supported the file grows as it is written.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, l.o.SegmentBytes); err == unix.ENOSPC || err == unix.EDQUOT {
		return err
	}
	l.w = bufio.NewWriterSize(&appender{l}, 256<<10)
	l.w.Write(header)
	if err := l.w.Flush(); err != nil {
		return err
	}
	if err := l.file.Datasync(); err != nil {
		return err
	}
	if err := os.Rename(path, name); err != nil {
		return err
	}
	return syncDir(l.dir)
}

// appender writes at the end of the newest segment.
type appender struct{ l *ReceiveLog }

func (a *appender) Write(p []byte) (int, error) {
	n, err := a.l.file.WriteAt(p, a.l.size)
	a.l.size += int64(n)
	return n, err
}

// trim frees full segments whose operations are applied, after a flush of the
// data, beside the stream. With too many of them it waits.
func (l *ReceiveLog) trim(applied Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.trimming && len(l.old) >= maxSegments {
		l.trimmed.Wait()
	}
	if l.trimming || len(l.old) == 0 || l.err != nil {
		return
	}
	if applied = l.kept(applied); l.old[0].last > applied {
		return
	}
	l.trimming = true
	go func() {
		err := l.o.Flush()
		l.mu.Lock()
		defer l.mu.Unlock()
		defer l.trimmed.Broadcast()
		l.trimming = false
		if err != nil {
			if l.err == nil {
				l.err = fmt.Errorf("flush the data that the receive log covers: %w", err)
			}
			return
		}
		l.flushed = max(l.flushed, applied)
		l.found.After = l.flushed
		for len(l.old) > 0 && l.old[0].last <= applied {
			l.freeSegment(l.old[0].path)
			l.old = l.old[1:]
		}
	}()
}

// freeSegment takes a file out of the log, oldest first, for reuse if there are
// few. Whether that is durable does not matter: applying again does no harm.
func (l *ReceiveLog) freeSegment(path string) {
	spare := strings.TrimSuffix(path, ".log") + ".spare"
	if len(l.spare) >= spareSegments || os.Rename(path, spare) != nil {
		os.Remove(path)
		return
	}
	l.spare = append(l.spare, spare)
}

func (l *ReceiveLog) waitTrim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.trimming {
		l.trimmed.Wait()
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
