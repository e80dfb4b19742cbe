package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/skfs/skfs/e2e/exercise"
	"github.com/skfs/skfs/e2e/pair"
)

// go-fuse's conformance suite on the mount of a primary with a second, and after
// each case both hosts have the same on disk.
func TestPosix(t *testing.T) {
	p := started(t, pair.Config{})
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("it wants a process to be refused by its own lock, which no file system of Linux does")
			}
			dir := p.Nodes[0].Path(filepath.Join("/replicated", name))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // so that one difference fails one case
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			})
			posixtest.All[name](t, dir)
			same(t, p)
		})
	}
}

// Random operations on a file and on names, on a primary with a second.
func TestExercise(t *testing.T) {
	ops := 5000
	if long() {
		ops = 100_000
	}
	for _, async := range []string{"second", "none"} {
		t.Run("async="+async, func(t *testing.T) {
			p := started(t, pair.Config{Async: async})
			dir := p.Nodes[0].Path("/replicated")
			seed := randomSeed(t)
			for name, run := range map[string]func() (*exercise.Result, error){
				"file": func() (*exercise.Result, error) {
					return exercise.File(t.Context(), dir, exercise.Options{Seed: seed, Ops: ops})
				},
				"names": func() (*exercise.Result, error) {
					return exercise.Names(t.Context(), dir, exercise.Options{Seed: seed, Ops: ops})
				},
			} {
				r, err := run()
				if err != nil {
					t.Fatal(name, err)
				}
				if len(r.Unsupported) > 0 {
					t.Errorf("%s: not supported: %v", name, r.Unsupported)
				}
				same(t, p)
			}
		})
	}
}

// randomSeed returns a seed that is new in every run, or E2E_SEED, and notes it.
func randomSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(os.Getpid())
	if given := os.Getenv("E2E_SEED"); given != "" {
		if _, err := fmt.Sscan(given, &seed); err != nil {
			t.Fatalf("E2E_SEED: %v", err)
		}
	}
	t.Logf("E2E_SEED=%d", seed)
	return seed
}
