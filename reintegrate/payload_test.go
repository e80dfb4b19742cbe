package reintegrate

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	sampleEntries = []Entry{
		{Name: "file", ID: fid(1), Mode: unix.S_IFREG | 0o644, UID: 1, GID: 2, Nlink: 3, Size: 1 << 40, Mtime: journal.Time{Sec: -1, Nsec: 999999999}, Xattrs: 1 << 63},
		{Name: "link", ID: fid(2), Mode: unix.S_IFLNK | 0o777, Nlink: 1, Target: "../some where"},
		{Name: strings.Repeat("n", 255), ID: fid(3), Mode: unix.S_IFBLK | 0o600, Rdev: 0x801, Nlink: 1},
	}
	sampleTaken     = []taken{{fid(1), "a"}, {fid(2), "b c"}}
	sampleQuestions = []question{{fid(1), 0, 10}, {fid(2), 65536, 65536 * 3}, {fid(3), 0, 1}}
	sampleHashes    = [][]blockHash{{hashBlock([]byte("x"))}, {{}, hashBlock(nil)}}
	sampleAttrs     = &Attrs{
		Mode: unix.S_IFREG | 0o4755, UID: 3, GID: 4, Size: 5, Atime: journal.Time{Sec: 6, Nsec: 7}, Mtime: journal.Time{Sec: 8, Nsec: 9},
		Xattrs: []Xattr{{Name: "user.empty", Value: []byte{}}, {Name: "security.capability", Value: []byte{1, 2, 3}}},
	}
	sampleEnding = &ending{dropped: 7, more: true, lost: 1, failed: []failure{{9, journal.KindWrite, FlagPass, fid(1), syscall.ENOSPC}}}
)

// samples are all payloads by name.
func samples() map[string][]byte {
	var entries, takes, hashes []byte
	for i := range sampleEntries {
		entries = appendEntry(entries, &sampleEntries[i])
	}
	for i := range sampleTaken {
		takes = appendTaken(takes, &sampleTaken[i])
	}
	for _, hs := range sampleHashes {
		hashes = appendHashes(hashes, hs, true)
	}
	return map[string][]byte{
		"entries": entries, "takes": takes, "questions": appendQuestions(nil, 65536, sampleQuestions),
		"hashes": appendHashes(hashes, nil, false), "attrs": appendAttrs(nil, sampleAttrs), "ending": appendEnding(nil, sampleEnding),
	}
}

// decode parses the payload of that name and encodes what it found.
func decode(name string, b []byte) (value any, again []byte, err error) {
	switch name {
	case "entries":
		v, err := parseEntries(b)
		for i := range v {
			again = appendEntry(again, &v[i])
		}
		return v, again, err
	case "takes":
		v, err := parseTaken(b)
		for i := range v {
			again = appendTaken(again, &v[i])
		}
		return v, again, err
	case "questions":
		bs, v, err := parseQuestions(b)
		return v, appendQuestions(nil, bs, v), err
	case "hashes":
		v, err := parseHashes(b, 65536, sampleQuestions)
		for i := range v {
			again = appendHashes(again, v[i].hashes, v[i].asked > 0)
		}
		return v, again, err
	case "attrs":
		v, err := parseAttrs(b)
		return v, appendAttrs(nil, v), err
	}
	v, err := parseEnding(b)
	return v, appendEnding(nil, v), err
}

var wantValues = map[string]any{
	"entries": sampleEntries, "takes": sampleTaken, "questions": sampleQuestions,
	"hashes": []theirs{{sampleHashes[0], 1}, {sampleHashes[1], 3}, {}}, "attrs": sampleAttrs, "ending": sampleEnding,
}

func TestPayloads(t *testing.T) {
	for name, b := range samples() {
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(golden), hex.Dump(b)); d != "" {
			t.Errorf("%s: the format has changed (-golden +now):\n%s", name, d)
		}
		v, _, err := decode(name, b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(wantValues[name], v, cmp.AllowUnexported(theirs{}, taken{}, question{}, ending{}, failure{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		// Cut anywhere it is an error, or what ends there is whole.
		for i := range b {
			if _, again, err := decode(name, b[:i:i]); err == nil && !bytes.Equal(again, b[:i]) {
				t.Errorf("%s cut at %d of %d is taken for something else", name, i, len(b))
			}
		}
	}
}

func TestBadPayloads(t *testing.T) {
	entry := func(change func(e *Entry)) []byte {
		e := sampleEntries[0]
		change(&e)
		return appendEntry(nil, &e)
	}
	for what, b := range map[string][]byte{
		"name":        entry(func(e *Entry) { e.Name = "a/b" }),
		"name ":       entry(func(e *Entry) { e.Name = ".." }),
		"name  ":      entry(func(e *Entry) { e.Name = "" }),
		"identity":    entry(func(e *Entry) { e.ID = journal.FileID{} }),
		"type":        entry(func(e *Entry) { e.Mode = 0o644 }),
		"target":      entry(func(e *Entry) { e.Target = "x" }),
		"size":        entry(func(e *Entry) { e.Size = -1 }),
		"nanoseconds": entry(func(e *Entry) { e.Mtime.Nsec = 1e9 }),
		"length":      entry(func(e *Entry) {})[:70],
	} {
		_, err := parseEntries(b)
		if !errors.Is(err, errPayload) || !strings.Contains(err.Error(), strings.Fields(what)[0]) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, qs := range map[string][]question{
		"start of a block": {{fid(1), 1, 16}},
		"blocks":           {{fid(1), 0, 16 * maxBlocks}, {fid(2), 0, 1}},
		"63 bits":          {{fid(1), 1 << 62, 1 << 62}},
	} {
		if _, _, err := parseQuestions(appendQuestions(nil, 16, qs)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := parseQuestions(appendQuestions(nil, 0, nil)); err == nil {
		t.Error("blocks of no bytes")
	}
}

func FuzzPayloads(f *testing.F) {
	names := []string{"attrs", "ending", "entries", "hashes", "questions", "takes"}
	for i, name := range names {
		f.Add(uint8(i), samples()[name])
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		name := names[int(kind)%len(names)]
		_, again, err := decode(name, b)
		if err == nil && name != "hashes" && name != "ending" && !bytes.Equal(again, b) {
			t.Errorf("%s: %x is taken for %x", name, b, again)
		}
	})
}
