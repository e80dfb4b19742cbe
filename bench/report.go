package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// description says what was measured and where.
type description struct {
	Commit  string
	Date    time.Time
	Kernel  string
	FS      string // of the backing directories
	CPUs    int
	Load    string // of the machine when the measurement began
	Rounds  int
	Secs    int
	Took    time.Duration
	Version string // of Go
}

func describe(ctx context.Context, s *settings, dir string) description {
	d := description{Commit: commit(ctx), Date: time.Now(), Kernel: "Linux", FS: "another file system", CPUs: runtime.NumCPU(),
		Rounds: s.rounds, Secs: s.effort.Secs, Version: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		d.Kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		if name, ok := fileSystems[st.Type]; ok {
			d.FS = name
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		d.Load, _, _ = strings.Cut(string(load), " ")
	}
	return d
}

var fileSystems = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}

// commit names the commit that is checked out, and says whether other files than
// the report itself differ from it.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	if changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!"+reportFile).Output(); err != nil || len(changes) > 0 {
		name += " with changes"
	}
	return name
}

func (d description) String() string {
	return fmt.Sprintf("Commit %s, %s. %s, %d processors, %s, %s; load %s at the start.\n"+
		"Median of %d interleaved rounds (lowest–highest), %d s a measurement; took %s.\n",
		d.Commit, d.Date.UTC().Format("2006-01-02 15:04 MST"), d.Kernel, d.CPUs, d.FS, d.Version, d.Load, d.Rounds, d.Secs, d.Took.Round(time.Second))
}

// section is a part of the report that belongs to this program: what stands between
// two lines.
type section struct{ begin, end string }

var (
	writing = section{"<!-- written by make bench -->\n", "<!-- end of what make bench writes -->\n"}
	// returning is about a host that comes back.
	returning = section{"<!-- written by make bench: coming back -->\n", "<!-- end of what make bench writes: coming back -->\n"}
	// sharing is about an address that several hosts have.
	sharing = section{"<!-- written by make bench: sharing an address -->\n", "<!-- end of what make bench writes: sharing an address -->\n"}
)

// keep replaces a section of a report and leaves the rest of it alone.
func keep(file string, part section, table string) error {
	old, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		old, err = []byte("# Performance\n\n"+writing.begin+writing.end+"\n"+returning.begin+returning.end+"\n"+sharing.begin+sharing.end), nil
	}
	if err != nil {
		return err
	}
	text, err := part.replace(string(old), table)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func (p section) replace(text, table string) (string, error) {
	before, rest, ok := strings.Cut(text, p.begin)
	_, after, ok2 := strings.Cut(rest, p.end)
	if !ok || !ok2 {
		return "", fmt.Errorf("expected the lines %q and %q around the table", strings.TrimSpace(p.begin), strings.TrimSpace(p.end))
	}
	return before + p.begin + table + p.end + after, nil
}
