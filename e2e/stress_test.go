package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// fileStressors are those of stress-ng that work on files and names.
var fileStressors = []string{
	"access", "acl", "chattr", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "fallocate", "fcntl",
	"file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "hdd", "inode-flags", "io", "iomix", "lease",
	"link", "locka", "lockf", "lockofd", "metamix", "mmap", "open", "readahead", "rename", "revio", "seek", "symlink", "sync-file",
	"touch", "unlink", "utime", "verity", "xattr",
}

// Exit codes of stress-ng that say that the stressor could not run here.
const (
	stressNoResource     = 3
	stressNotImplemented = 4
)

// stress-ng's file stressors, which verify what they do, on a primary with a
// second. One that also fails on an ordinary directory of this machine says
// nothing of skfs.
func TestStress(t *testing.T) {
	if _, err := exec.LookPath("stress-ng"); err != nil {
		t.Skip("no stress-ng: apt-get install stress-ng")
	}
	seconds := "1"
	if long() {
		seconds = "10"
	}
	p := started(t, pair.Config{})
	node := p.Nodes[0]
	native, err := os.MkdirTemp("/var/tmp", "skfs-stress-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(native) })
	if err := os.Chmod(native, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range fileStressors {
		t.Run(name, func(t *testing.T) {
			stress := func(dir string) (string, error) {
				ctx, stop := context.WithTimeout(t.Context(), 2*patience)
				defer stop()
				return node.Run(ctx, "stress-ng", "--temp-path", dir, "--verify", "--timeout", seconds, "--"+name, "2")
			}
			out, err := stress("/replicated")
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				switch code := exit.ExitCode(); {
				case code == stressNoResource, code == stressNotImplemented, strings.Contains(out, "unrecognized option"):
					t.Skip("this stress-ng cannot run it here")
				}
			}
			if err != nil {
				if _, nativeErr := stress(native); nativeErr != nil {
					t.Skipf("it fails on an ordinary directory, too: %v", nativeErr)
				}
				t.Fatal(err)
			}
			same(t, p)
		})
	}
}

// One directory with very many files: what the replicas use stays bounded, while
// they are made and while a host that comes back is brought up to date.
func TestManyFiles(t *testing.T) {
	files := 10_000
	if long() {
		files = 100_000
	}
	const (
		memory      = 200 << 20 // bytes, resident, at the most
		descriptors = 2000
		makers      = 4
	)
	p := started(t, pair.Config{})
	dir := p.Nodes[0].Path("/replicated/many")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, makers)
	for m := range makers {
		go func() {
			var err error
			for i := m; i < files && err == nil; i += makers {
				err = os.WriteFile(filepath.Join(dir, "file-with-a-name-of-usual-length-"+strconv.Itoa(i)), []byte(strconv.Itoa(i)), 0o644)
			}
			done <- err
		}()
	}
	for range makers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	bounded := func(when string) {
		t.Helper()
		for _, n := range p.Nodes {
			all, err := n.Replicas()
			if err != nil || len(all) != 1 {
				t.Fatalf("%s: %d replicas on %s, %v", when, len(all), n.Name(), err)
			}
			peak, fds, err := usage(all[0])
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: the replica of %s used %d MiB at the most, and has %d descriptors", when, n.Name(), peak>>20, fds)
			if peak > memory || fds > descriptors {
				t.Errorf("%s: expected at most %d MiB and %d descriptors", when, memory>>20, descriptors)
			}
		}
	}
	same(t, p)
	bounded("made")
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != files {
		t.Fatalf("listed %d files of %d, %v", len(names), files, err)
	}
	for _, command := range []string{"stop", "start"} {
		within(t, patience, func(ctx context.Context) error { return p.Nodes[1].Do(ctx, command) })
		role := map[string]string{"stop": "STOP", "start": "SECOND"}[command]
		within(t, 5*time.Minute, func(ctx context.Context) error { return p.Nodes[1].Await(ctx, role) })
	}
	same(t, p)
	bounded("synchronised")
}

// usage returns the greatest resident size of a process so far, and how many
// descriptors it has open.
func usage(p lab.Process) (peak int64, fds int, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(p.PID))
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return 0, 0, err
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, len(open), err
		}
	}
	return 0, 0, errors.New("no VmHWM in " + proc + "/status")
}
