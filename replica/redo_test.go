package replica

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	skfs "github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
)

// script draws a history of operations by carrying them out on a directory.
type script struct {
	t     *testing.T
	rnd   *rand.Rand
	ref   *skfs.FS
	dirs  []journal.FileID
	files []journal.FileID
	ops   []*journal.Op
}

// openOn opens a directory as the tree of a second.
func openOn(t *testing.T, dir, index string) *skfs.FS {
	t.Helper()
	tree, err := skfs.OpenTree(dir, 0, index)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.BuildIndex(); err != nil {
		t.Fatal(err)
	}
	return skfs.New(tree, skfs.NewGate())
}

func closeOn(t *testing.T, f *skfs.FS) {
	t.Helper()
	if err := f.Tree().Close(); err != nil {
		t.Fatal(err)
	}
}

// do carries op out, and keeps it if that succeeds.
func (s *script) do(op journal.Op) bool {
	if s.ref.Apply(&op).Errno != 0 {
		return false
	}
	s.ops = append(s.ops, &op)
	return true
}

// defaultACL is u::rwx,u:1000:r-x,g::r-x,m::rwx,o::--- as an xattr.
var defaultACL = []byte{2, 0, 0, 0,
	1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
	16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}

// step draws one more operation.
func (s *script) step() {
	pick := func(list []journal.FileID) journal.FileID { return list[s.rnd.IntN(len(list))] }
	name := func() string { return string(rune('a' + s.rnd.IntN(5))) }
	dir, dir2, n, n2 := pick(s.dirs), pick(s.dirs), name(), name()
	at, _ := s.ref.Tree().Lookup(dir, n)
	over, _ := s.ref.Tree().Lookup(dir2, n2)
	some := pick(s.dirs)
	if len(s.files) > 0 && s.rnd.IntN(3) > 0 {
		some = pick(s.files)
	}
	if _, err := s.ref.Tree().Stat(some); err != nil {
		return // it is gone
	}
	bytes := func() []byte { return []byte(strings.Repeat(fmt.Sprintf("%d,", len(s.ops)), 1+s.rnd.IntN(3000))) }
	id := journal.NewFileID()
	switch kind := s.rnd.IntN(20); kind {
	case 0, 1, 2, 3:
		typ := []uint32{unix.S_IFREG, unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR}[s.rnd.IntN(5)]
		op := journal.Op{Kind: journal.KindCreate, ID: id, Parent: dir, Name: n, Mode: typ | 0o666, UID: 7, GID: 8, Rdev: 0x103}
		if typ == unix.S_IFLNK {
			op.Data = []byte("nowhere")
		}
		if !s.do(op) {
			return
		}
		switch typ {
		case unix.S_IFDIR:
			s.dirs = append(s.dirs, id)
		case unix.S_IFREG:
			s.files = append(s.files, id)
		}
	case 4:
		if !at.ID.IsZero() {
			return
		}
		s.do(journal.Op{Kind: journal.KindTmpfile, ID: id, Mode: unix.S_IFREG | 0o600})
		s.do(journal.Op{Kind: journal.KindWrite, ID: id, Off: 10, Data: bytes()})
		s.do(journal.Op{Kind: journal.KindLink, ID: id, Parent: dir, Name: n})
		s.do(journal.Op{Kind: journal.KindRelease, ID: id})
		s.files = append(s.files, id)
	case 5, 6:
		s.do(journal.Op{Kind: journal.KindLink, ID: some, Parent: dir, Name: n})
	case 7, 8, 9:
		kind := journal.KindUnlink
		if at.Type() == unix.S_IFDIR {
			kind = journal.KindRmdir
		}
		if !at.ID.IsZero() && s.do(journal.Op{Kind: kind, ID: at.ID, Parent: dir, Name: n}) && kind == journal.KindRmdir {
			s.dirs = slices.DeleteFunc(s.dirs, func(d journal.FileID) bool { return d == at.ID })
		}
	case 10, 11, 12, 13:
		op := journal.Op{Kind: journal.KindRename, ID: at.ID, Parent: dir, Name: n, Parent2: dir2, Name2: n2, ID2: over.ID}
		if !over.ID.IsZero() && kind == 13 {
			op.Flags = unix.RENAME_EXCHANGE
		}
		if at.ID == over.ID { // nothing at all, or rename(2) does nothing: it is never sent
			return
		}
		if !at.ID.IsZero() && s.do(op) && op.Flags == 0 && over.Type() == unix.S_IFDIR {
			s.dirs = slices.DeleteFunc(s.dirs, func(d journal.FileID) bool { return d == over.ID })
		}
	case 14:
		if dir == journal.RootID(0) {
			return // where files without a name are made: theirs come with them
		}
		s.do(journal.Op{Kind: journal.KindSetXattr, ID: dir, Name: "system.posix_acl_default", Data: defaultACL})
	case 15:
		s.do(journal.Op{Kind: journal.KindSetXattr, ID: some, Name: "user.note", Data: fmt.Append(nil, len(s.ops))})
	case 16:
		s.do(journal.Op{Kind: journal.KindSetAttr, ID: some, Valid: journal.SetMode, Mode: uint32(s.rnd.IntN(0o1000))})
		s.do(journal.Op{Kind: journal.KindSetAttr, ID: some, Valid: journal.SetSize, Off: int64(s.rnd.IntN(9000))})
	case 17:
		s.do(journal.Op{Kind: journal.KindTimes, ID: some, Mtime: journal.Time{Sec: int64(len(s.ops))}})
	default:
		s.do(journal.Op{Kind: journal.KindWrite, ID: some, Off: int64(s.rnd.IntN(9000)), Data: bytes()})
	}
}

// content describes every object below dir, which ends in a slash: identities
// included, times not.
func content(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d", strings.TrimPrefix(path+"/", dir), st.Mode, st.Uid, st.Gid, st.Rdev)
		if path != dir {
			id := make([]byte, 64)
			n, err := unix.Lgetxattr(path, "trusted.skfs.id", id)
			if err != nil || n < 17 {
				return fmt.Errorf("identity of %s: %d bytes, %w", path, n, err)
			}
			line += fmt.Sprintf(" %x", id[1:17])
		}
		for _, name := range []string{"user.note", "system.posix_acl_access", "system.posix_acl_default"} {
			b := make([]byte, 256)
			if n, err := unix.Lgetxattr(path, name, b); err == nil {
				line += fmt.Sprintf(" %s=%x", name, b[:n])
			}
		}
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d names %q", st.Nlink, b)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// part carries out a part of a history: no operation without those before it of
// the same objects.
type part struct {
	f    *skfs.FS
	skip func() bool
	late map[journal.FileID]bool
}

func (p *part) Apply(op *journal.Op) journal.Result {
	out := p.skip()
	for _, k := range journal.Keys(op) {
		out = out || p.late[k]
	}
	if out || p.f.Apply(op).Errno != 0 {
		for _, k := range journal.Keys(op) {
			p.late[k] = true
		}
	}
	return journal.Result{Seq: op.Seq}
}

// receive brings ops to a second with async="none", whose log they stay in.
func receive(t *testing.T, ops []*journal.Op, a journal.Applier, dir string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	primary, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l, err := journal.OpenReceiveLog(dir, journal.ReceiveLogOptions{Flush: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	r := journal.NewReceiver(journal.NewLink(second), a, journal.ReceiverOptions{Epoch: 3, Async: journal.AsyncNone, Log: l, Workers: 1})
	s := journal.NewSender(journal.NewLink(primary), journal.SenderOptions{Epoch: 3, Async: journal.AsyncNone})
	ran := make(chan struct{})
	go func() {
		r.Run(context.Background())
		close(ran)
	}()
	for _, op := range ops {
		sent := *op
		if err := s.Commit(&sent); err != nil {
			t.Fatal(err)
		}
	}
	s.Close(nil)
	<-ran
	if r.Applied() != journal.Seq(len(ops)) {
		t.Fatalf("%d of %d operations were applied", r.Applied(), len(ops))
	}
	l.Close() // nothing is settled: as a crash leaves it
}

// TestReplayOnDisk: a second that was killed with any part of its receive log in
// the data, and its index as of before the log, has all of it after its next start,
// and a note of it; also if that was killed before it could empty the log.
func TestReplayOnDisk(t *testing.T) {
	unix.Umask(0) // as Run does
	start := rand.Uint64() >> 1
	for i, percent := range []int{0, 2, 10, 40, 100, 10} {
		seed := start + uint64(i)
		t.Run(fmt.Sprintf("%d percent, seed %d", percent, seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			var s *script
			var end []string
			h := newHost(t, "b", "127.0.0.1:0", conf.AsyncNone, func(dir string) {
				reference := t.TempDir()
				if err := os.Chmod(reference, 0o755); err != nil {
					t.Fatal(err)
				}
				s = &script{t: t, rnd: rnd, ref: openOn(t, reference, ""), dirs: []journal.FileID{journal.RootID(0)}}
				for range 60 {
					s.step()
				}
				state := filepath.Join(filepath.Dir(dir), "var")
				index := filepath.Join(state, "index", "0")
				if err := os.MkdirAll(index, 0o700); err != nil {
					t.Fatal(err)
				}
				f := openOn(t, dir, index)
				for _, op := range s.ops {
					if e := f.Apply(op).Errno; e != 0 {
						t.Fatalf("operation %+v: %v", op, e)
					}
				}
				if err := f.Tree().Sync(); err != nil {
					t.Fatal(err)
				}
				s.ops = nil
				for range 150 {
					s.step()
				}
				receive(t, s.ops, &part{f: f, late: map[journal.FileID]bool{}, skip: func() bool { return rnd.IntN(100) < percent }},
					filepath.Join(state, "receive.log"))
				closeOn(t, f)
				if err := os.CopyFS(filepath.Join(state, "log.kept"), os.DirFS(filepath.Join(state, "receive.log"))); err != nil {
					t.Fatal(err)
				}
				record := State{Role: RoleSecond, Epoch: 3}
				record.Current, record.Shared = 7, true
				if err := saveState(filepath.Join(state, "rfs.state"), record); err != nil {
					t.Fatal(err)
				}
				end = content(t, reference+"/")
				closeOn(t, s.ref)
			})
			backing := fmt.Sprintf("/proc/self/fd/%d/", h.backing.Fd())
			compare := func(when string) {
				t.Helper()
				if got := content(t, backing); !slices.Equal(got, end) {
					t.Fatalf("%s: %s", when, cmp.Diff(end, got))
				}
			}
			compare("after one start")
			h.stop(false)

			state := h.cfg.StateDir
			if err := os.RemoveAll(filepath.Join(state, "receive.log")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(state, "log.kept"), filepath.Join(state, "receive.log")); err != nil {
				t.Fatal(err)
			}
			h.start()
			compare("after another")
			h.stop(false)

			notes, err := openNotes(&h.cfg, State{})
			if err != nil {
				t.Fatal(err)
			}
			defer notes.Close()
			for _, op := range s.ops {
				if _, ok := notes.Get(op.ID); op.Kind == journal.KindWrite && !ok {
					t.Errorf("no note of what was written to %s", op.ID)
				}
			}
		})
	}
}
