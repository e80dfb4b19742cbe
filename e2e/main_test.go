package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/echo"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/ledger"
	"github.com/skfs/skfs/e2e/pair"
)

// skfs is the binary under test, built by TestMain; empty when there is no lab
// here.
var skfs string

func TestMain(m *testing.M) {
	roles := ledger.Roles()
	roles[putRole] = putEntries
	roles[reachRole] = reachHere
	roles[listenRole] = listenHere
	roles[burnRole] = burnHere
	roles[answerRole] = answerHere
	for name, role := range echo.Roles() {
		roles[name] = role
	}
	lab.Main(roles)
	code, err := withBinary(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// withBinary builds skfs (with the race detector when E2E_RACE is set), runs the
// tests and removes it.
func withBinary(run func() int) (code int, err error) {
	if os.Geteuid() != 0 {
		return run(), nil
	}
	if removed, err := lab.Sweep("", false); err != nil {
		return 0, err
	} else if len(removed) > 0 {
		fmt.Fprintln(os.Stderr, "removed what killed labs left:", removed)
	}
	dir, err := os.MkdirTemp("/var/tmp", "skfs-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args := []string{"build", "-o", filepath.Join(dir, "skfs")}
	if os.Getenv("E2E_RACE") != "" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/skfs/skfs/cli/skfs")...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("build skfs: %w\n%s", err, out)
	}
	skfs = filepath.Join(dir, "skfs")
	return run(), nil
}

// long says whether to run everything to the full (make e2e-long).
func long() bool { return os.Getenv("E2E_LONG") != "" }

// rounds is how often to do something: E2E_ROUNDS when it is set.
func rounds(t *testing.T, short, full int) int {
	t.Helper()
	n := short
	if long() {
		n = full
	}
	if given := os.Getenv("E2E_ROUNDS"); given != "" {
		if _, err := fmt.Sscan(given, &n); err != nil {
			t.Fatalf("E2E_ROUNDS: %v", err)
		}
	}
	return n
}

// patience is how long a single change of state may take.
const patience = 60 * time.Second

// within calls do with a deadline, and fails the test with its error.
func within(t *testing.T, d time.Duration, do func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	if err := do(ctx); err != nil {
		t.Fatal(err)
	}
}

// newPair makes a pair of hosts that do not run the module yet.
func newPair(t *testing.T, c pair.Config) *pair.Pair {
	t.Helper()
	return newPairOf(t, pair.Options{Config: c})
}

// newPairOf is newPair with more than the module to choose.
func newPairOf(t *testing.T, o pair.Options) *pair.Pair {
	t.Helper()
	o.Skfs = skfs
	if skfs == "" {
		t.Skip("hosts out of namespaces need root")
	}
	var p *pair.Pair
	within(t, patience, func(ctx context.Context) (err error) {
		p, err = pair.New(ctx, o)
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Logs())
		}
		for _, n := range p.Nodes {
			if crash, err := n.Crashes(); err != nil || crash != "" {
				t.Error(crash, err)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// started makes a pair that is PRIM and SECOND.
func started(t *testing.T, c pair.Config) *pair.Pair {
	t.Helper()
	p := newPair(t, c)
	within(t, patience, p.Start)
	return p
}

// same fails the test unless both hosts have the same on their disks.
func same(t *testing.T, p *pair.Pair) {
	t.Helper()
	r, err := p.Settled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Equal() {
		t.Fatal(r)
	}
}
