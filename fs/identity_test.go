package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

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
