package lab

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// diskFS returns the file systems that a disk can have here.
func diskFS(t *testing.T) []string {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	var can []string
	for _, fs := range []string{"ext4", "xfs"} {
		if _, err := exec.LookPath("mkfs." + fs); err == nil && slices.Contains(strings.Fields(string(known)), fs) {
			can = append(can, fs)
		}
	}
	if len(can) == 0 {
		t.Skip("neither ext4 nor XFS can be made here: apt-get install e2fsprogs xfsprogs")
	}
	return can
}

// diskSize is enough for every file system; mkfs.xfs refuses less than 300 MB.
const diskSize = 320 << 20

func writeFile(t *testing.T, path, content string, sync bool) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		_, err = f.WriteString(content)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What was not synchronised is lost with the power, what was is there; so it is
// on both disks of a host, life after life.
func TestPowerCutLosesUnsynced(t *testing.T) {
	needRoot(t)
	for _, kind := range diskFS(t) {
		t.Run(kind, func(t *testing.T) {
			disks := []string{"/srv/data", "/srv/state"}
			_, a, _ := twoHosts(t, Disk{Path: disks[0], FS: kind, Size: diskSize}, Disk{Path: disks[1], FS: kind, Size: diskSize})
			for life := range 3 {
				for _, dir := range disks {
					writeFile(t, a.Path(filepath.Join(dir, "synced")), strings.Repeat("kept", life+1), true)
					writeFile(t, a.Path(filepath.Join(dir, "old")), "grown", false)
					writeFile(t, a.Path(filepath.Join(dir, "unsynced")), "lost", false)
				}
				if err := a.PowerCut(); err != nil {
					t.Fatal(err)
				}
				if err := a.Boot(); err != nil {
					t.Fatal(err)
				}
				for _, dir := range disks {
					if got, err := os.ReadFile(a.Path(filepath.Join(dir, "synced"))); string(got) != strings.Repeat("kept", life+1) {
						t.Errorf("life %d: what was synchronised is %q, %v", life, got, err)
					}
					for _, name := range []string{"old", "unsynced"} {
						got, err := os.ReadFile(a.Path(filepath.Join(dir, name)))
						if len(got) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
							t.Errorf("life %d: what was not synchronised has survived: %q, %v", life, got, err)
						}
					}
				}
			}
		})
	}
}

// A plain power off is none for the disks.
func TestPowerOffKeepsUnsynced(t *testing.T) {
	needRoot(t)
	for _, kind := range diskFS(t) {
		t.Run(kind, func(t *testing.T) {
			_, a, _ := twoHosts(t, Disk{Path: "/srv/data", FS: kind, Size: diskSize})
			writeFile(t, a.Path("/srv/data/unsynced"), "kept", false)
			if err := a.PowerOff(); err != nil {
				t.Fatal(err)
			}
			if err := a.Boot(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(a.Path("/srv/data/unsynced")); string(got) != "kept" {
				t.Errorf("after a boot the file is %q, %v", got, err)
			}
		})
	}
}

// Every boot of every host has an id of its own, which its processes read where
// the kernel's is.
func TestBootID(t *testing.T) {
	_, a, b := twoHosts(t)
	machine, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{string(machine): true}
	for range 2 {
		for _, h := range []*Host{a, b} {
			out, err := h.Run(t.Context(), "cat", "/proc/sys/kernel/random/boot_id")
			if err != nil {
				t.Fatal(err)
			}
			if len(out) != len(machine) || seen[out] {
				t.Errorf("the boot id of %s is %q, expected a new one like %q", h.Name(), out, machine)
			}
			seen[out] = true
			if err := h.PowerCut(); err != nil {
				t.Fatal(err)
			}
			if err := h.Boot(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A disk can be taken from a host, kept and given back.
func TestDiskIsReplaced(t *testing.T) {
	needRoot(t)
	for _, kind := range diskFS(t) {
		t.Run(kind, func(t *testing.T) {
			l, a, _ := twoHosts(t, Disk{Path: "/srv/data", FS: kind, Size: diskSize})
			backup := filepath.Join(l.Dir(), "backup")
			file := func() string { return a.Path("/srv/data/file") }
			off := func(do func() error) {
				t.Helper()
				for _, step := range []func() error{a.PowerOff, do, a.Boot} {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
			}
			writeFile(t, file(), "first", false)
			if err := a.SaveDisk("/srv/data", backup); err == nil {
				t.Error("the disk of a host that is on was saved")
			}
			off(func() error { return a.SaveDisk("/srv/data", backup) })
			writeFile(t, file(), "second", false)
			off(func() error { return a.ReplaceDisk("/srv/data") })
			if got, err := os.ReadFile(file()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a new disk has %q, %v", got, err)
			}
			off(func() error { return a.RestoreDisk("/srv/data", backup) })
			if got, err := os.ReadFile(file()); string(got) != "first" {
				t.Errorf("the restored disk has %q, %v", got, err)
			}
		})
	}
}
