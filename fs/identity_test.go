package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// TestOneIdentity lets many meet an object that has no identity yet at once.
func TestOneIdentity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: file handles")
	}
	dir := t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := OpenTree(dir, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	tree.assign.Store(true)
	for i := range 300 {
		var ids [16]journal.FileID
		var wg sync.WaitGroup
		start := make(chan struct{})
		for k := range ids {
			wg.Go(func() {
				<-start
				var st unix.Stat_t
				o, err := tree.lookup(tree.rootObject(), fmt.Sprint(i), &st)
				if err != nil {
					t.Error(err)
					return
				}
				ids[k] = o.id
			})
		}
		close(start)
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("file %d was given the identities %s and %s", i, ids[0], id)
			}
		}
	}
}

// TestListGivesNoIdentity: a list that takes no lock may meet an object between its
// making and its identity, and must leave that to who makes it. It did not once, and
// a symlink had another identity on the primary than on the second.
func TestListGivesNoIdentity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: file handles")
	}
	dir := t.TempDir()
	tree, err := OpenTree(dir, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	tree.assign.Store(true)
	root := tree.rootObject()
	// What create has done when it has not got to finish.
	if err := unix.Symlinkat("target", tree.root, "new"); err != nil {
		t.Fatal(err)
	}
	for what, look := range map[string]func() error{
		"list": func() error {
			list, err := tree.List(root.id)
			if err == nil && (len(list) != 1 || !list[0].ID.IsZero()) {
				err = fmt.Errorf("%+v", list)
			}
			return err
		},
		"index": func() error { return tree.scan(tree.root, root) },
	} {
		if err := look(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(tree.root, "new", &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		if id, err := readID(filepath.Join(dir, "new"), st.Ino); err != errNoID {
			t.Errorf("%s has given it identity %s, %v", what, id, err)
		}
	}
	fd, err := unix.Openat(tree.root, "new", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	op := &journal.Op{Kind: journal.KindCreate, ID: journal.NewFileID(), Parent: root.id, Name: "new", Mode: unix.S_IFLNK | 0o777}
	var st unix.Stat_t
	o, err := tree.finish(fd, op, nil, &st)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.unref(o, 1)
	err = tree.WithDir(root.id, func(list []journal.Entry) error {
		if len(list) != 1 || list[0].ID != op.ID {
			return fmt.Errorf("%+v, expected identity %s", list, op.ID)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestStillOfTheDead: what is deleted while its lock is waited for is not there.
func TestStillOfTheDead(t *testing.T) {
	f, dir := mountAlone(t)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	o, err := f.tree.lookup(f.tree.rootObject(), "d", &st)
	if err != nil {
		t.Fatal(err)
	}
	defer f.tree.unref(o, 1)
	for what, look := range map[string]func() error{
		"still":  func() error { return f.Still(o.id, func() error { return nil }) },
		"dir":    func() error { return f.tree.WithDir(o.id, func([]journal.Entry) error { return nil }) },
		"object": func() error { return f.tree.WithObject(o.id, func(*journal.Attrs, *Data) error { return nil }) },
	} {
		l := o.lock.lockAll()
		done := make(chan error, 1)
		go func() { done <- look() }()
		for { // until it waits
			f.tree.mu.Lock()
			refs := o.refs
			f.tree.mu.Unlock()
			if refs >= 3 { // the kernel's, ours, its
				break
			}
			time.Sleep(time.Millisecond)
		}
		o.mu.Lock()
		o.unlinked = true // as rmdir does under the lock
		o.mu.Unlock()
		o.lock.unlock(l)
		if err := <-done; err != unix.ENOENT {
			t.Errorf("%s: %v", what, err)
		}
		o.mu.Lock()
		o.unlinked = false
		o.mu.Unlock()
	}
}
