package replica

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/fs"
)

// Quarantine is what was kept aside of one replicated directory after split
// brains (R10), as an administrator works with it. Package fs fills it, in a
// directory that is hidden from applications; a running replica hands a descriptor
// of that to who may use its control socket.
type Quarantine struct {
	Dir  string   // the replicated directory
	root *os.Root // the quarantines, one directory each
}

// Aside is one quarantine.
type Aside struct {
	fs.Aside
	Name  string // how commands name it: its time, see fs.AsideTime
	Dir   string // the replicated directory
	Bytes int64  // of all that is kept, on disk
	Begun bool   // it has a manifest; without one nothing was replaced yet

	root, in *os.Root // its directory, and the one that it is in
}

// Errors about what does not exist.
var (
	ErrNoAside = errors.New("no such quarantine")
	ErrNoKept  = errors.New("not kept in the quarantine")
)

// OpenQuarantine opens the quarantines of the replicated directory dir while no
// replica serves it. Without any it returns iofs.ErrNotExist.
func OpenQuarantine(dir string) (*Quarantine, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("quarantines of %s: %w", dir, err)
	}
	defer root.Close()
	area, err := root.OpenRoot(".skfs/quarantine")
	if err != nil {
		return nil, fmt.Errorf("quarantines of %s: %w", dir, err)
	}
	return &Quarantine{Dir: dir, root: area}, nil
}

// openQuarantineAt takes over fd, the directory of the quarantines of dir.
func openQuarantineAt(dir string, fd int) (*Quarantine, error) {
	defer unix.Close(fd)
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("quarantines of %s: %w", dir, err)
	}
	return &Quarantine{Dir: dir, root: root}, nil
}

// Close frees what is open. Asides of q are of no use afterwards.
func (q *Quarantine) Close() error { return q.root.Close() }

// List returns the quarantines, oldest first.
func (q *Quarantine) List() ([]*Aside, error) {
	entries, err := iofs.ReadDir(q.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("quarantines of %s: %w", q.Dir, err)
	}
	var list []*Aside
	for _, e := range entries {
		a, err := q.open(e.Name())
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *Aside) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func (q *Quarantine) open(name string) (*Aside, error) {
	fail := func(err error) (*Aside, error) {
		return nil, fmt.Errorf("quarantine %s of %s: %w", name, q.Dir, err)
	}
	root, err := q.root.OpenRoot(name)
	if err != nil {
		return fail(err)
	}
	a := &Aside{Name: name, Dir: q.Dir, root: root, in: q.root}
	b, err := root.ReadFile("manifest.json")
	switch {
	case errors.Is(err, iofs.ErrNotExist): // interrupted before anything was replaced
	case err != nil:
		return fail(err)
	default:
		if err := json.Unmarshal(b, &a.Aside); err != nil {
			return fail(fmt.Errorf("manifest.json: %w", err))
		}
		a.Begun = true
	}
	err = iofs.WalkDir(root.FS(), "files", func(_ string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := statOf(info); ok {
			a.Bytes += st.Blocks * 512
		}
		return nil
	})
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fail(err)
	}
	return a, nil
}

// Purge deletes the quarantine. One that a reintegration is still adding to is
// refused.
func (a *Aside) Purge() error {
	if a.Open {
		return fmt.Errorf("purge quarantine %s of %s: the reintegration that fills it has not ended; start the module and wait for SECOND green", a.Name, a.Dir)
	}
	// The manifest goes last: what an interrupted purge leaves is still listed.
	for _, name := range []string{"files", "."} {
		if err := a.in.RemoveAll(path.Join(a.Name, name)); err != nil {
			return fmt.Errorf("purge quarantine %s of %s: %w", a.Name, a.Dir, err)
		}
	}
	return nil
}

// Has says why nothing of p, see find, was kept.
func (a *Aside) Has(p string) error {
	_, err := a.find(p)
	return err
}

// kept is an object of a quarantine: an entry, or what is below one.
type kept struct {
	entry fs.AsideEntry
	below bool   // it is below the entry
	path  string // in the replicated directory; empty: not known
	file  string // in the quarantine
}

// find resolves what an administrator calls p: a path in the replicated directory,
// relative or absolute, or "#N" for entry N.
func (a *Aside) find(p string) (kept, error) {
	missing := func(why string) (kept, error) {
		return kept{}, fmt.Errorf("%s: %w %s of %s: %s", p, ErrNoKept, a.Name, a.Dir, why)
	}
	var n int
	if c, err := fmt.Sscanf(p, "#%d", &n); c == 1 && err == nil && fmt.Sprintf("#%d", n) == p {
		if n < 0 || n >= len(a.Entries) {
			return missing(fmt.Sprintf("it has the entries #0 to #%d", len(a.Entries)-1))
		}
		return a.entry(n), nil
	}
	rel := path.Clean(p)
	if filepath.IsAbs(p) {
		r, ok := strings.CutPrefix(rel, strings.TrimSuffix(a.Dir, "/")+"/")
		if !ok {
			return missing("the path is not in that directory")
		}
		rel = r
	}
	best := -1
	for i, e := range a.Entries {
		if e.Path == "" || rel != e.Path && !(e.Kind == "directory" && strings.HasPrefix(rel, e.Path+"/")) {
			continue
		}
		if best < 0 || len(e.Path) > len(a.Entries[best].Path) || len(e.Path) == len(a.Entries[best].Path) && e.Kept {
			best = i
		}
	}
	if best < 0 {
		return missing("list what is with \"splitbrain show\"")
	}
	k := a.entry(best)
	if rel != k.path {
		k.file = path.Join(k.file, strings.TrimPrefix(rel, k.path+"/"))
		k.path, k.below = rel, true
		if _, err := a.root.Lstat(k.file); err != nil {
			return missing("the directory that was kept does not have it")
		}
	}
	return k, nil
}

func (a *Aside) entry(n int) kept {
	return kept{entry: a.Entries[n], path: a.Entries[n].Path, file: fmt.Sprintf("files/%d", n)}
}

// EntryName is how commands call an entry: its path, or its number.
func EntryName(a *Aside, n int) string {
	if p := a.Entries[n].Path; p != "" {
		return p
	}
	return fmt.Sprintf("#%d", n)
}

// Close frees what is open.
func (a *Aside) Close() error { return a.root.Close() }

// statOf is what the kernel says of a file.
func statOf(info iofs.FileInfo) (*unix.Stat_t, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, false
	}
	return &unix.Stat_t{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Rdev: st.Rdev, Size: st.Size, Blocks: st.Blocks,
		Mtim: unix.Timespec(st.Mtim)}, true
}
