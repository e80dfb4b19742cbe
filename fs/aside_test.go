package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// What was changed is copied when the quarantine begins, what was held comes at
// the end, interrupted or not; what is kept is no part of the tree any more.
func TestQuarantine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: file handles")
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "d", "created"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "d", "changed"), []byte("here"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "d", "same"), []byte("both"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "d", "created", "new"), []byte("only here"), 0o644))
	must(os.Link(filepath.Join(dir, "d", "same"), filepath.Join(dir, "d", "link")))
	open := func() *Tree {
		tree, err := OpenTree(dir, 0, "")
		must(err)
		tree.assign.Store(true)
		must(tree.BuildIndex())
		return tree
	}
	id := func(tree *Tree, path string) journal.FileID {
		t.Helper()
		o := tree.rootObject()
		for _, name := range filepath.SplitList(path) {
			var st unix.Stat_t
			var err error
			o, err = tree.lookup(o, name, &st)
			must(err)
		}
		return o.id
	}
	tree := open()
	d := id(tree, "d")
	changed := id(tree, "d:changed")
	when := time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC)
	zones := roaring.New()
	zones.Add(0)
	must(tree.BeginAside(Aside{Time: when, Module: "AM", Peer: "node2", Epoch: 4}, 8<<20, func(f func(journal.FileID, journal.Lack) error) error {
		if err := f(d, journal.Lack{Names: true, Tail: -1}); err != nil {
			return err
		}
		if err := f(journal.FileID{99}, journal.Lack{Zones: zones, Tail: -1}); err != nil { // gone
			return err
		}
		return f(changed, journal.Lack{Zones: zones, Tail: -1})
	}))
	must(os.WriteFile(filepath.Join(dir, "d", "changed"), []byte("the primary's"), 0o640))
	must(tree.Quarantine(true))
	must(tree.Hold(d, "created"))
	must(tree.Close()) // interrupted

	tree = open()
	must(tree.Quarantine(true))
	must(tree.Hold(d, "link"))
	if err := tree.DropQuarantine(when.Format(AsideTime)); err != unix.EBUSY {
		t.Errorf("the open quarantine can be dropped: %v", err)
	}
	if _, more, err := tree.DropHeld(1000); err != nil || more {
		t.Fatal(more, err)
	}
	must(tree.EndQuarantine())
	if a, err := tree.OpenAside(); a != nil || err != nil {
		t.Errorf("still open: %v, %v", a, err)
	}

	q := filepath.Join(dir, hiddenName, asideName, when.Format(AsideTime))
	var a Aside
	b, err := os.ReadFile(filepath.Join(q, "manifest.json"))
	must(err)
	must(json.Unmarshal(b, &a))
	got := map[string]string{}
	for i, e := range a.Entries {
		content := ""
		switch path := filepath.Join(q, "files", fmt.Sprint(i)); e.Kind {
		case "file":
			b, err := os.ReadFile(path)
			must(err)
			content = string(b)
		case "directory":
			b, err := os.ReadFile(filepath.Join(path, "new"))
			must(err)
			content = "new: " + string(b)
		}
		got[fmt.Sprintf("%s %s %s", e.Why, e.Kind, e.Path)] = content
		var x [idLen]byte
		if _, err := unix.Lgetxattr(filepath.Join(q, "files", fmt.Sprint(i)), idXattr, x[:]); err != unix.ENODATA {
			t.Errorf("entry %d still has an identity: %v", i, err)
		}
	}
	want := map[string]string{
		"changed file d/changed": "here",
		"created directory ":     "new: only here", // held before the interruption: its path is not known any more
		"created file d/link":    "both",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in quarantine is\n%v\nexpected\n%v", got, want)
	}
	if _, err := tree.Stat(id(tree, "d:same")); err != nil {
		t.Errorf("the other name of what was held: %v", err)
	}
	must(tree.DropQuarantine(when.Format(AsideTime)))
	if _, err := os.Lstat(filepath.Join(dir, hiddenName)); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}
	must(tree.Close())
}

// TestQuarantineTriedAgain: a quarantine that could not be made leaves nothing, and one
// that was interrupted goes on wherever that was.
func TestQuarantineTriedAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: file handles")
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		must(os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
	}
	tree, err := OpenTree(dir, 0, "")
	must(err)
	defer tree.Close()
	tree.assign.Store(true)
	must(tree.BuildIndex())
	area := filepath.Join(dir, hiddenName, asideName)
	must(os.MkdirAll(filepath.Join(area, "20260101T000000Z", "files"), 0o700)) // of a crash
	full := errors.New("full")
	begin := func(result error) error {
		return tree.BeginAside(Aside{Time: time.Now()}, 8<<20, func(func(journal.FileID, journal.Lack) error) error { return result })
	}
	if err := begin(full); !errors.Is(err, full) {
		t.Fatalf("begin: %v, expected %v", err, full)
	}
	if names, err := os.ReadDir(area); err != nil || len(names) != 0 {
		t.Errorf("in the directory of the quarantines is %v, %v; expected nothing", names, err)
	}
	must(begin(nil))
	must(tree.Quarantine(true))
	root := tree.rootObject().id
	must(tree.Hold(root, "a"))
	if _, _, err := tree.DropHeld(1000); err != nil {
		t.Fatal(err)
	}
	// The crash came before the manifest was there.
	tree.aside.Entries = nil
	must(tree.aside.save())
	must(tree.Hold(root, "b"))
	must(tree.EndAside())
	names, err := os.ReadDir(area)
	must(err)
	b, err := os.ReadFile(filepath.Join(area, names[0].Name(), "manifest.json"))
	must(err)
	var a Aside
	must(json.Unmarshal(b, &a))
	if len(a.Entries) != 2 || a.Open {
		t.Fatalf("the quarantine is %+v, expected two entries", a)
	}
	for i, want := range []string{"a", "b"} {
		if got, err := os.ReadFile(filepath.Join(area, names[0].Name(), "files", fmt.Sprint(i))); string(got) != want || err != nil {
			t.Errorf("entry %d: %q, %v; expected %q", i, got, err, want)
		}
	}
}
