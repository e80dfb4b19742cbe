package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// short or full size of something that the long mode does in earnest.
func many(short, full int) int {
	if long() {
		return full
	}
	return short
}

// usual is the change of the rows that are about how a host goes away: two zones
// of three in a file, a new file, another one gone.
var usual = change{
	prepare: func(s *trip) {
		s.write("file", 3*zone)
		s.write("gone", 1000)
	},
	do: func(s *trip) {
		s.overwrite("file", 1000, 0, 2*zone+4711)
		s.write("new/file", 2000)
		s.must(os.Remove(s.at("gone")))
	},
	bytes: 2 * zone,
	files: 2,
}

// unsynced is the usual change made in sync and not synchronised: what of it was
// on whose disk when a host crashes is anybody's guess.
var unsynced = change{
	prepare: func(s *trip) {
		s.write("file", 3*zone)
		s.write("gone", 1000)
		s.sh("mkdir a b; seq 1000 >a/one; ln a/one b/two; chmod 640 a/one; setfattr -n user.k -v v a/one; ln -s one a/link; mv a b/a")
		usual.do(s)
	},
	do:    func(s *trip) { s.overwrite("file", 1000, zone) },
	bytes: zone,
	files: 1,
}

// streamed takes a while to copy.
var streamed = change{
	do:    func(s *trip) { s.write("file", 4*zone) },
	bytes: 4 * zone,
	files: 1,
}

// own is about what is not replicated: it is neither sent nor deleted, and costs
// nothing. What gets another name becomes replicated, or ceases to be.
var own = change{
	prepare: func(s *trip) {
		s.write("file", 3*zone)
		s.write("leaves", 1000)
		s.sh("mkdir dir")
		s.must(os.WriteFile(s.at("dir/cache"+ownSuffix), firstOwn, 0o600))
		s.must(syncFS(s.prim, dataDir))
	},
	do: func(s *trip) {
		s.overwrite("file", 1000, zone)
		s.write("dir/cache"+ownSuffix, 3*zone)
		s.write("saved"+ownSuffix, 2000)
		s.sh("mv saved" + ownSuffix + " saved; mv leaves leaves" + ownSuffix)
	},
	bytes: zone,
	files: 2,
}

// firstOwn is what the first primary of a row has for itself.
var firstOwn = bytes.Repeat([]byte("of the first primary "), 1<<16)

// ownStays says that the host that was away has of what is not replicated what it had.
func (s *trip) ownStays() {
	s.t.Helper()
	found := map[string]string{}
	root := filepath.Join(s.backing(s.away), strings.TrimPrefix(s.dir, dataDir))
	s.must(filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ownSuffix) {
			return err
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root)] = string(data)
		return err
	}))
	want := map[string]string{}
	if s.row.role == "PRIM" {
		want["/dir/cache"+ownSuffix] = string(firstOwn)
	}
	if !maps.Equal(found, want) {
		s.t.Errorf("%s has %d files of its own that are not replicated, expected %d as they were", s.away.Name(), len(found), len(want))
	}
}

// changes are what a host may have to be told that was stopped meanwhile.
func changes() []change {
	renames, attrs, births := many(5000, 500_000), many(500, 10_000), many(500, 50_000)
	big := int64(many(64<<20, 10<<30))
	return []change{
		{name: "nothing changed"},
		{name: "a file made anew under its name",
			prepare: func(s *trip) { s.write("file", 3*zone) },
			do:      func(s *trip) { s.must(os.Remove(s.at("file"))); s.write("file", zone) },
			bytes:   zone, files: 1},
		{name: "a file replaced by rename",
			prepare: func(s *trip) { s.write("file", zone) },
			do:      func(s *trip) { s.write(".file.new", zone/2); s.sh("mv .file.new file") },
			bytes:   zone / 2, files: 1},
		{name: "a log appended to",
			prepare: func(s *trip) { s.write("log", 2*zone+zone/2) },
			do:      func(s *trip) { s.sh("for i in $(seq 100); do echo appended line $i >>log; done") },
			bytes:   zone, files: 1},
		{name: "one byte in each of three zones",
			prepare: func(s *trip) { s.write("file", 6*zone) },
			do:      func(s *trip) { s.overwrite("file", 1, 0, 3*zone-1, 5*zone) },
			bytes:   3 * zone, files: 1},
		{name: "a write across the border of zones",
			prepare: func(s *trip) { s.write("file", 5*zone) },
			do:      func(s *trip) { s.overwrite("file", 8192, 2*zone-4096) },
			bytes:   2 * zone, files: 1},
		{name: "cut short and grown again",
			prepare: func(s *trip) { s.write("file", 5*zone) },
			do: func(s *trip) {
				s.must(os.Truncate(s.at("file"), 3*zone+100))
				s.must(os.Truncate(s.at("file"), 5*zone))
			},
			bytes: 2 * zone, files: 1},
		{name: "emptied",
			prepare: func(s *trip) { s.write("file", 3*zone) },
			do:      func(s *trip) { s.must(os.Truncate(s.at("file"), 0)) },
			files:   1},
		{name: "holes punched and space allocated", prepare: func(s *trip) { s.write("file", 5*zone) },
			do: func(s *trip) {
				f := s.open("file", os.O_RDWR)
				defer f.Close()
				s.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, zone, 1<<20))
				s.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 3*zone, 1<<20))
				s.must(unix.Fallocate(int(f.Fd()), 0, 5*zone, zone))
			},
			bytes: 3 * zone, files: 1},
		{name: "2 TiB sparse with three dirty zones",
			prepare: func(s *trip) {
				s.write("sparse", 4096)
				s.must(os.Truncate(s.at("sparse"), 2<<40))
				s.overwrite("sparse", 1<<20, 1<<40)
			},
			do:    func(s *trip) { s.overwrite("sparse", 1<<20, 3*zone, 1<<40+1<<19, 2<<40-1<<20) },
			bytes: 3 * zone, files: 1,
		},
		{name: "written through a mapping",
			prepare: func(s *trip) { s.write("file", 3*zone) },
			do: func(s *trip) {
				f := s.open("file", os.O_RDWR)
				defer f.Close()
				m, err := unix.Mmap(int(f.Fd()), zone, zone, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				s.must(err)
				copy(m[4000:], "through a mapping")
				s.must(unix.Msync(m, unix.MS_SYNC))
				s.must(unix.Munmap(m))
			},
			bytes: zone, files: 1},
		{name: "the same size and time, other content",
			prepare: func(s *trip) { s.write("file", 3*zone); s.sh("touch -d '2020-01-01 00:00:00.123456789' file") },
			do: func(s *trip) {
				s.overwrite("file", 1000, zone)
				s.sh("touch -d '2020-01-01 00:00:00.123456789' file")
			},
			bytes: zone, files: 1},
		{name: "times set back an hour",
			prepare: func(s *trip) { s.write("file", 3*zone) },
			do: func(s *trip) {
				s.overwrite("file", 1000, zone)
				ago := time.Now().Add(-time.Hour)
				s.must(os.Chtimes(s.at("file"), ago, ago))
				s.must(os.Chtimes(s.at("."), ago, ago))
			},
			bytes: zone, files: 1},
		{name: "mode, owner, attributes and ACL only",
			prepare: func(s *trip) { s.write("file", 3*zone); s.sh("mkdir dir; setfattr -n user.old -v x file") },
			do: func(s *trip) {
				s.sh("chown 1000:1000 file dir; chmod 4750 file; chmod 1777 dir; setfattr -n user.new -v y file; setfattr -x user.old file; setfacl -m u:1001:rw,g:7:r file; setfacl -d -m u:1002:rwx dir")
			},
			files: 1},
		{name: "attributes of many files",
			prepare: func(s *trip) { s.sh(fmt.Sprintf("mkdir d; cd d; seq %d | xargs touch", attrs)) },
			do: func(s *trip) {
				s.sh("find d -type f -exec chmod 600 {} +; find d -type f -name '*7' -exec touch -d 2001-01-01 {} +")
			},
			files: int64(attrs)},
		{name: "many files made",
			do:    func(s *trip) { s.sh(fmt.Sprintf("mkdir d; seq %d | split -l 1 -a 5 - d/f", births)) },
			bytes: int64(births) * 8, files: int64(births)},
		{name: "many files renamed",
			prepare: func(s *trip) { s.sh("mkdir d e"); s.touch("d", renames) },
			do: func(s *trip) {
				for i := range renames {
					s.must(os.Rename(s.at(fmt.Sprintf("d/%d", i)), s.at(fmt.Sprintf("%c/renamed-%d", "de"[i%2], i))))
				}
			}},
		{name: "a big directory renamed",
			prepare: func(s *trip) {
				for i := range 8 {
					s.writeLarge(fmt.Sprintf("big/sub/%d", i), big/8)
				}
				s.sh("mkdir other")
			},
			do: func(s *trip) { s.sh("mv big/sub other/moved; mv big renamed") }},
		{name: "directories moved into each other",
			prepare: func(s *trip) { s.sh("mkdir -p a/b c/d; seq 10 >a/b/x; seq 20 >c/d/y") },
			do:      func(s *trip) { s.sh("mv c/d a/b/d; mv a/b c/b; mv a c/b/d/a; mv c/b/d/y c/b/x") }},
		{name: "a tree deleted",
			prepare: func(s *trip) {
				s.sh("for i in $(seq 20); do mkdir -p t/$i/deep; seq 500 | split -l 20 - t/$i/deep/f; done")
			},
			do: func(s *trip) { s.sh("rm -r t") }},
		{name: "a tree deleted and made again",
			prepare: func(s *trip) { s.sh("mkdir -p t/u; seq 10 >t/u/a; seq 20 >t/b") },
			do:      func(s *trip) { s.sh("rm -r t; mkdir -p t/u; seq 30 >t/u/a; mkdir t/b; seq 5 >t/b/c") },
			files:   2},
		{name: "a deep tree made",
			do:    func(s *trip) { s.sh("d=.; for i in $(seq 60); do d=$d/level-$i; mkdir $d; echo $i >$d/file; done") },
			files: 60},
		{name: "hard links across directories",
			prepare: func(s *trip) {
				s.write("a/file", zone)
				s.write("b/other", zone)
				s.sh("ln b/other a/twin; ln b/other b/third")
			},
			do: func(s *trip) {
				s.sh("mkdir c; ln a/file b/file2; ln a/file c/file3; rm a/file a/twin; ln c/file3 b/file4; mv b/file4 b/third")
			},
			files: 2},
		{name: "a linked file written through its new name",
			prepare: func(s *trip) { s.write("a/file", 3*zone) },
			do:      func(s *trip) { s.sh("mkdir b; ln a/file b/file; rm a/file"); s.overwrite("b/file", 100, zone) },
			bytes:   zone, files: 1},
		{name: "types changed",
			prepare: func(s *trip) { s.sh("mkdir -p d/sub; seq 10 >d/sub/f; seq 10 >f; ln -s f l; mkfifo p") },
			do: func(s *trip) {
				s.sh("rm -r d; seq 20 >d; rm f l p; mkdir -p f/new; seq 30 >f/new/f; mkdir l; ln -s d p")
			},
			files: 2},
		{name: "a symlink replaced",
			prepare: func(s *trip) { s.sh("ln -s old link; ln -s keep kept") },
			do:      func(s *trip) { s.sh("ln -sfn new-target link; chown -h 5:6 kept") }},
		{name: "special files",
			prepare: func(s *trip) { s.sh("mknod c1 c 1 3; mkfifo f1") },
			do:      func(s *trip) { s.sh("rm c1 f1; mknod c1 c 1 5; mknod b1 b 7 0; mkfifo f1 f2; chmod 604 f2") }},
		{name: "names exchanged",
			prepare: func(s *trip) { s.write("a", zone); s.write("b", 2000); s.sh("mkdir d; seq 5 >d/x") },
			do: func(s *trip) {
				for _, pair := range [][2]string{{"a", "b"}, {"a", "d"}} {
					s.must(unix.Renameat2(unix.AT_FDCWD, s.at(pair[0]), unix.AT_FDCWD, s.at(pair[1]), unix.RENAME_EXCHANGE))
				}
			}},
		{name: "a file without a name gets one",
			do: func(s *trip) {
				f := s.open(".", unix.O_TMPFILE|os.O_RDWR)
				defer f.Close()
				_, err := f.Write(bytes.Repeat([]byte("content "), 2*zone/8))
				s.must(err)
				s.must(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, s.at("named"), unix.AT_SYMLINK_FOLLOW))
			},
			bytes: 2 * zone, files: 1},
		{name: "a file deleted while it is written",
			prepare: func(s *trip) { s.write("file", zone) },
			do: func(s *trip) {
				f := s.open("file", os.O_RDWR)
				s.must(os.Remove(s.at("file")))
				_, err := f.Write(make([]byte, zone))
				s.must(err)
				s.must(f.Close())
			}},
		{name: "strange names",
			do: func(s *trip) {
				for i, name := range []string{"line\nbreak", "\xff\xfe not UTF-8", "-rf", " ", string(make255()), `back\slash"quote'`} {
					s.write(name, i+1)
				}
			},
			files: 6},
	}
}

func make255() []byte {
	name := make([]byte, 255)
	for i := range name {
		name[i] = 'a' + byte(i%26)
	}
	return name
}

// touch makes n files named 0, 1, … in a directory of the row.
func (s *trip) touch(dir string, n int) {
	s.t.Helper()
	for i := range n {
		f := s.open(filepath.Join(dir, fmt.Sprint(i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY)
		s.must(f.Close())
	}
}

// writeLarge makes a file of any size without holding it in memory.
func (s *trip) writeLarge(name string, size int64) {
	s.t.Helper()
	s.write(name, int(min(size, zone)))
	f := s.open(name, os.O_WRONLY|os.O_APPEND)
	defer f.Close()
	chunk := make([]byte, zone)
	for left := size - zone; left > 0; left -= zone {
		copy(chunk, fmt.Sprint(name, left))
		_, err := f.Write(chunk[:min(left, zone)])
		s.must(err)
	}
}
