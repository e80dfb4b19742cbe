package reintegrate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// verifyTree is a tree of one host.
type verifyTree struct {
	mu      sync.Mutex
	objects map[journal.FileID]*verifyObject

	// PRIM: called when a lock is taken, before its holder looks.
	still  func(journal.FileID)
	ranged func(id journal.FileID, off, n int64)
}

type verifyObject struct {
	e      Entry
	names  map[string]journal.FileID
	data   []byte
	xattrs []Xattr
	bad    error
}

const verifyBlock = 1024

func (t *verifyTree) Tree() uint8 { return 0 }

func (t *verifyTree) object(id journal.FileID) (*verifyObject, error) {
	o := t.objects[id]
	if o == nil {
		return nil, syscall.ENOENT
	}
	return o, o.bad
}

func (t *verifyTree) describe(id journal.FileID, name string) Entry {
	o := t.objects[id]
	e := o.e
	e.ID, e.Name, e.Nlink, e.Size = id, name, max(e.Nlink, 1), int64(len(o.data))
	return e
}

func (t *verifyTree) List(dir journal.FileID) (es []Entry, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, err := t.object(dir)
	if err != nil {
		return nil, err
	}
	for name, id := range d.names {
		es = append(es, t.describe(id, name))
	}
	return es, nil
}

func (t *verifyTree) Lookup(dir journal.FileID, name string) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, err := t.object(dir)
	if err != nil {
		return Entry{}, err
	}
	id, ok := d.names[name]
	if !ok {
		return Entry{}, syscall.ENOENT
	}
	return t.describe(id, name), nil
}

func (t *verifyTree) Find(id journal.FileID) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.objects[id] == nil {
		return Entry{}, syscall.ENOENT
	}
	return t.describe(id, ""), nil
}

func (t *verifyTree) Xattrs(id journal.FileID) ([]Xattr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.objects[id] == nil {
		return nil, syscall.ENOENT
	}
	return slices.Clone(t.objects[id].xattrs), nil
}

func (t *verifyTree) Open(id journal.FileID) (SinkFile, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, err := t.object(id)
	if err != nil {
		return nil, err
	}
	return verifyBytes{bytes.NewReader(bytes.Clone(o.data))}, nil
}

func (t *verifyTree) WithRange(id journal.FileID, off, n int64, f func(File) error) error {
	if t.ranged != nil {
		t.ranged(id, off, n)
	}
	file, err := t.Open(id)
	if err != nil {
		return err
	}
	return f(file)
}

func (t *verifyTree) Still(id journal.FileID, f func() error) error {
	if t.still != nil {
		t.still(id)
	}
	if _, err := t.Find(id); err != nil {
		return err
	}
	return f()
}

type verifyBytes struct{ r *bytes.Reader }

func (b verifyBytes) ReadAt(p []byte, off int64) (int, error) { return b.r.ReadAt(p, off) }
func (b verifyBytes) Size() (int64, error)                    { return b.r.Size(), nil }
func (b verifyBytes) Close() error                            { return nil }
func (b verifyBytes) DataRanges(off, n int64) ([]Range, error) {
	return []Range{{Off: off, End: min(off+n, b.r.Size())}}, nil
}

var _ io.ReaderAt = verifyBytes{}

// newVerifyTree has a directory, a small file and one of three zones.
func newVerifyTree() *verifyTree {
	reg := func(n int) *verifyObject {
		return &verifyObject{e: Entry{Mode: unix.S_IFREG | 0o644}, data: bytes.Repeat([]byte("0123456789abcdef"), n/16)}
	}
	return &verifyTree{objects: map[journal.FileID]*verifyObject{
		journal.RootID(0): {e: Entry{Mode: unix.S_IFDIR | 0o755}, names: map[string]journal.FileID{"dir": fid(1), "small": fid(2)}},
		fid(1):            {e: Entry{Mode: unix.S_IFDIR | 0o755}, names: map[string]journal.FileID{"large": fid(3)}},
		fid(2):            reg(96),
		fid(3):            reg(10 * verifyBlock),
	}}
}

func (t *verifyTree) change(f func(*verifyTree)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(t)
}

// verifyAll compares two trees; passed is called when PRIM waits for the live stream.
func verifyAll(t *testing.T, prim, second *verifyTree, passed func()) []string {
	t.Helper()
	a, b := net.Pipe()
	s := journal.NewSender(journal.NewLink(a), journal.SenderOptions{Epoch: 1})
	r := journal.NewReceiver(journal.NewLink(b), NewVerifyTarget([]Reader{second}), journal.ReceiverOptions{Epoch: 1})
	done := make(chan struct{})
	go func() { defer close(done); r.Run(context.Background()) }()
	defer func() { s.Close(nil); <-done }()
	var found []string
	v := NewVerification([]Original{prim}, Over(s), func(context.Context) error {
		if passed != nil {
			passed()
		}
		return nil
	}, VerifyOptions{Workers: 2, BlockSize: verifyBlock, ZoneSize: 4 * verifyBlock, Report: func(d Difference) error {
		found = append(found, string(d.What)+" "+d.Path)
		return nil
	}})
	if _, err := v.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// What is on its way when it is first seen is no difference, if it is there when the
// lock is held; otherwise it is one.
func TestVerifyOnItsWay(t *testing.T) {
	root := journal.RootID(0)
	name := func(t *verifyTree) {
		t.objects[root].names["new"] = fid(9)
		t.objects[fid(9)] = &verifyObject{e: Entry{Mode: unix.S_IFREG}, data: []byte("x")}
	}
	mode := func(t *verifyTree) { t.objects[fid(2)].e.Mode = unix.S_IFREG | 0o600 }
	data := func(t *verifyTree) { t.objects[fid(3)].data[5*verifyBlock+1] = 'X' }
	longer := func(t *verifyTree) {
		t.objects[fid(2)].data = append(t.objects[fid(2)].data, make([]byte, 8*verifyBlock)...)
	}
	xattr := func(t *verifyTree) {
		t.objects[fid(1)].xattrs = []Xattr{{Name: "user.b", Value: []byte("1")}, {Name: "user.a"}}
	}
	for _, c := range []struct {
		what   string
		change func(*verifyTree)
		want   string
	}{
		{"a name", name, "missing new"},
		{"a mode", mode, "attributes small"},
		{"a block", data, "data dir/large"},
		{"the size", longer, "data small"},
		{"an xattr", xattr, "xattrs dir"},
	} {
		t.Run(c.what, func(t *testing.T) {
			// PRIM has carried it out; SECOND does when PRIM waits for it.
			prim, second := newVerifyTree(), newVerifyTree()
			prim.change(c.change)
			var once sync.Once
			if got := verifyAll(t, prim, second, func() { once.Do(func() { second.change(c.change) }) }); len(got) > 0 {
				t.Errorf("applied late: %v", got)
			}
			// SECOND has; PRIM carries it out before it lets go of the lock.
			prim, second = newVerifyTree(), newVerifyTree()
			second.change(c.change)
			once = sync.Once{}
			act := func() { once.Do(func() { prim.change(c.change) }) }
			prim.still = func(journal.FileID) { act() }
			prim.ranged = func(journal.FileID, int64, int64) { act() }
			if got := verifyAll(t, prim, second, nil); len(got) > 0 {
				t.Errorf("carried out late: %v", got)
			}
			prim, second = newVerifyTree(), newVerifyTree()
			prim.change(c.change)
			if got := verifyAll(t, prim, second, nil); !slices.Equal(got, []string{c.want}) {
				t.Errorf("never applied: %v, expected %s", got, c.want)
			}
		})
	}
}

// A write behind the end makes the last block longer, although it locks other bytes:
// the end of a file is looked at under a lock of all that may come.
func TestVerifyEndOfFile(t *testing.T) {
	prim, second := newVerifyTree(), newVerifyTree()
	// The sizes were equal when the names were listed. Then SECOND got a write at
	// 3000, which PRIM carries out later: it holds the lock from there on.
	write := func(t *verifyTree) { t.objects[fid(2)].data = append(t.objects[fid(2)].data, make([]byte, 3000)...) }
	prim.objects[fid(2)].data[0], second.objects[fid(2)].data[0] = 'a', 'b' // seen as a difference first
	var once sync.Once
	prim.ranged = func(id journal.FileID, off, n int64) {
		once.Do(func() {
			prim.change(func(t *verifyTree) { t.objects[fid(2)].data[0] = 'b' })
			second.change(write)
		})
		if id == fid(2) && off+n > 3000 {
			prim.change(func(t *verifyTree) {
				if len(t.objects[id].data) < 3000 {
					write(t)
				}
			})
		}
	}
	if got := verifyAll(t, prim, second, nil); len(got) > 0 {
		t.Errorf("differences: %v", got)
	}
}

// A new object gets its time from the primary under the lock of its directory only.
func TestVerifyNewObject(t *testing.T) {
	prim, second := newVerifyTree(), newVerifyTree()
	second.objects[fid(3)].e.Mtime = journal.Time{Sec: 5}
	prim.still = func(id journal.FileID) {
		if id == fid(1) {
			second.change(func(t *verifyTree) { t.objects[fid(3)].e.Mtime = journal.Time{} })
		}
	}
	if got := verifyAll(t, prim, second, nil); len(got) > 0 {
		t.Errorf("differences: %v", got)
	}
}

// What cannot be read on SECOND differs, and ends nothing.
func TestVerifyUnreadable(t *testing.T) {
	prim, second := newVerifyTree(), newVerifyTree()
	second.objects[fid(1)].bad = syscall.EIO
	second.objects[fid(2)].bad = syscall.EIO
	if d := cmp.Diff([]string{"data small", "names dir"}, verifyAll(t, prim, second, nil)); d != "" {
		t.Error(d)
	}
}

// A directory is listed in pages.
func TestVerifyPages(t *testing.T) {
	prim, second := newVerifyTree(), newVerifyTree()
	for _, x := range []*verifyTree{prim, second} {
		for i := range 6000 {
			name := strings.Repeat("n", 200) + strconv.Itoa(i)
			x.objects[fid(1)].names[name] = fid(2)
		}
	}
	delete(second.objects[fid(1)].names, "large")
	second.objects[fid(1)].names["only"] = fid(2)
	if d := cmp.Diff([]string{"extra dir/only", "missing dir/large"}, verifyAll(t, prim, second, nil)); d != "" {
		t.Error(d)
	}
}

// The error of Report ends the verification and comes back.
func TestVerifyReportFails(t *testing.T) {
	prim, second := newVerifyTree(), newVerifyTree()
	second.objects[fid(2)].data[0] = 'x'
	a, b := net.Pipe()
	s := journal.NewSender(journal.NewLink(a), journal.SenderOptions{Epoch: 1})
	r := journal.NewReceiver(journal.NewLink(b), NewVerifyTarget([]Reader{second}), journal.ReceiverOptions{Epoch: 1})
	done := make(chan struct{})
	go func() { defer close(done); r.Run(context.Background()) }()
	defer func() { s.Close(nil); <-done }()
	full := errors.New("no room to tell it")
	v := NewVerification([]Original{prim}, Over(s), func(context.Context) error { return nil },
		VerifyOptions{Report: func(Difference) error { return full }})
	if _, err := v.Run(context.Background()); !errors.Is(err, full) {
		t.Errorf("%v, expected %v", err, full)
	}
}

var sampleHaves = []have{
	{Entry: Entry{Name: "a", ID: fid(1), Mode: unix.S_IFREG | 0o4755, UID: 1, GID: 2, Size: 1 << 40, Mtime: journal.Time{Sec: -1, Nsec: 5}}, there: true, xattrs: hashBlock(nil)},
	{Entry: Entry{Name: "b", Mode: unix.S_IFLNK | 0o777, Target: "to"}, there: true},
	{Entry: Entry{Name: "c", ID: fid(2), Mode: unix.S_IFBLK, Rdev: 0x801}, there: true, xattrs: unreadable},
}

func TestVerifyPayload(t *testing.T) {
	b := []byte{1}
	for i := range sampleHaves {
		b = appendHave(b, &sampleHaves[i])
	}
	opt := cmp.AllowUnexported(have{})
	got, more, err := parsePage(b)
	if d := cmp.Diff(sampleHaves, got, opt); d != "" || !more || err != nil {
		t.Errorf("page: %s, more %v, %v", d, more, err)
	}
	list, err := parseHaves(append(b[1:], 0), 4)
	if d := cmp.Diff(append(slices.Clone(sampleHaves), have{}), list, opt); d != "" || err != nil {
		t.Errorf("objects: %s, %v", d, err)
	}
	for n := range b { // every part of it is an error, or a shorter list
		if list, _, err := parsePage(b[:n]); err == nil && len(list) == len(sampleHaves) {
			t.Errorf("%d bytes of %d are taken for all", n, len(b))
		}
	}
	if _, err := parseHaves(b[1:], 2); !errors.Is(err, errPayload) {
		t.Errorf("more than was asked for: %v", err)
	}
	swapped := appendHave(appendHave([]byte{0}, &sampleHaves[1]), &sampleHaves[0])
	if _, _, err := parsePage(swapped); !errors.Is(err, errPayload) {
		t.Errorf("names out of order: %v", err)
	}
}

func FuzzVerifyPayload(f *testing.F) {
	b := []byte{1}
	for i := range sampleHaves {
		b = appendHave(b, &sampleHaves[i])
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, more, err := parsePage(b)
		if err != nil {
			return
		}
		again := []byte{0}
		if more {
			again[0] = b[0]
		}
		for i := range list {
			again = appendHave(again, &list[i])
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x is read and written as %x", b, again)
		}
	})
}

func TestJoinRanges(t *testing.T) {
	ranges := func(at ...int64) (rs []Range) {
		for ; len(at) > 0; at = at[2:] {
			rs = append(rs, Range{Off: at[0], End: at[1]})
		}
		return rs
	}
	for _, c := range []struct{ in, want []Range }{
		{nil, nil},
		{ranges(0, 1, 1, 2, 5, 6), ranges(0, 2, 5, 6)},
		{ranges(0, 1, 10, 20, 30, 40, 5, 35), ranges(0, 1, 5, 40)},
		{ranges(10, 20, 0, 100), ranges(0, 100)},
	} {
		if d := cmp.Diff(c.want, joinRanges(c.in)); d != "" {
			t.Errorf("%v: %s", c.in, d)
		}
	}
}
