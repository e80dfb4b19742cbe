package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// The quarantine keeps what only this host had after a split brain, before the
// primary's version takes its place (R10): one directory for each, named by its
// time, in the hidden directory of the tree.
//
//	.skfs/quarantine/20060102T150405Z/manifest.json   an Aside
//	.skfs/quarantine/20060102T150405Z/files/N         what entry N describes
//
// Files that were changed here are copied there before anything of the pass is
// applied, by reference where the file system can, and with all their data; of a
// file for which there is no room only the changed zones. Names that only this host
// had come from the holding area at the end of the pass. Until then the quarantine
// is open, and an interrupted pass goes on with it.

// AsideTime is how the directory of a quarantine is named.
const AsideTime = "20060102T150405Z"

// Aside is one quarantine.
type Aside struct {
	Time    time.Time    `json:"time"`
	Module  string       `json:"module"`
	Epoch   uint64       `json:"epoch"` // of the primary whose version replaced it
	Peer    string       `json:"peer"`
	Open    bool         `json:"open,omitempty"` // the pass has not ended
	Entries []AsideEntry `json:"entries"`

	t   *Tree
	dir int // descriptor of the quarantine
}

// AsideEntry is one object that was kept.
type AsideEntry struct {
	Path    string `json:"path"` // in the replicated directory; empty: not known
	Kind    string `json:"kind"` // file directory symlink other
	ID      string `json:"id"`
	Why     string `json:"why"` // changed, attributes (of which only these are here), created
	Mode    uint32 `json:"mode"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Size    int64  `json:"size"` // bytes
	Mtime   int64  `json:"mtime"`
	Partial bool   `json:"partial,omitempty"` // only the zones that were changed: there was no room
	Kept    bool   `json:"kept"`              // files/N is there
}

// OpenAside returns the quarantine that is open, nil if there is none.
func (t *Tree) OpenAside() (*Aside, error) {
	area, err := t.openHidden(asideName)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	defer unix.Close(area)
	names, err := os.ReadDir(procPath(area))
	if err != nil {
		return nil, fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	for _, n := range slices.Backward(names) {
		dir, err := unix.Openat(area, n.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("quarantine of %s: %s: %w", t.dir, n.Name(), err)
		}
		a := &Aside{t: t, dir: dir}
		b, err := os.ReadFile(procPath(dir) + "/manifest.json")
		if err == nil {
			err = json.Unmarshal(b, a)
		}
		if err == nil && a.Open {
			return a, nil
		}
		unix.Close(dir) // one without a manifest was never begun: nothing has been replaced
	}
	return nil, nil
}

// Close lets go of an open quarantine; it stays open on disk.
func (a *Aside) Close() error { return unix.Close(a.dir) }

// BeginAside makes a quarantine of the objects that notes describes: those that
// were changed on this host. It is durable when it returns.
func (t *Tree) BeginAside(a Aside, zone int64, notes func(f func(id journal.FileID, l journal.Lack) error) error) (err error) {
	area, err := t.makeHidden(asideName)
	if err != nil {
		return fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	defer unix.Close(area)
	if err := dropUnbegun(area); err != nil {
		return fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	defer func() {
		if err != nil { // it is tried again, and each try takes room
			err = errors.Join(err, dropUnbegun(area))
		}
	}()
	name := a.Time.UTC().Format(AsideTime)
	for _, dir := range [...]string{name, name + "/files"} {
		if err := unix.Mkdirat(area, dir, 0o700); err != nil {
			return fmt.Errorf("quarantine of %s: %s: %w", t.dir, dir, err)
		}
	}
	if a.dir, err = unix.Openat(area, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	defer unix.Close(a.dir)
	a.t, a.Open, a.Entries = t, true, []AsideEntry{}
	inos := map[uint64]int{} // entry by inode
	err = notes(func(id journal.FileID, l journal.Lack) error {
		if !l.HasData() && !l.Attrs {
			return nil // names: what they name comes from the holding area
		}
		ino, err := a.keep(id, &l, zone)
		if err == unix.ENOENT {
			return nil
		}
		if err != nil {
			return fmt.Errorf("object %s: %w", id, err)
		}
		inos[ino] = len(a.Entries) - 1
		return nil
	})
	if err == nil {
		err = t.findPaths(t.root, "", func(ino uint64, path string) {
			if i, ok := inos[ino]; ok && a.Entries[i].Path == "" {
				a.Entries[i].Path = path
			}
		})
	}
	if err == nil {
		err = t.Sync()
	}
	if err == nil {
		err = a.save()
	}
	if err != nil {
		return fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	return nil
}

// dropUnbegun removes the quarantines that have no manifest: nothing has been replaced
// by what would have been kept there.
func dropUnbegun(area int) error {
	names, err := os.ReadDir(procPath(area))
	if err != nil {
		return err
	}
	for _, n := range names {
		path := procPath(area) + "/" + n.Name()
		if _, err := os.Lstat(path + "/manifest.json"); !errors.Is(err, os.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// findPaths calls f for every name below fd, which is path.
func (t *Tree) findPaths(fd int, path string, f func(ino uint64, path string)) error {
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dup)
	d := dirStream{fd: dup}
	for {
		e, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if e.name == "." || e.name == ".." || path == "" && e.name == hiddenName {
			continue
		}
		f(e.ino, filepath.Join(path, e.name))
		c, err := unix.Openat(dup, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err = unix.Fstat(c, &st); err == nil && st.Dev == t.dev {
			err = t.findPaths(c, filepath.Join(path, e.name), f)
		}
		unix.Close(c)
		if err != nil {
			return err
		}
	}
}

// keep copies an object into the quarantine, as its next entry.
func (a *Aside) keep(id journal.FileID, l *journal.Lack, zone int64) (ino uint64, err error) {
	o, err := a.t.byID(id)
	if err != nil {
		return 0, err
	}
	defer a.t.unref(o, 1)
	var st unix.Stat_t
	if err := o.stat(&st); err != nil {
		return 0, gone(err)
	}
	e := entryAside(id.String(), &st)
	e.Why = "attributes"
	if o.typ == unix.S_IFREG && l.HasData() {
		e.Why, e.Kept = "changed", true
		if e.Partial, err = a.copyFile(o, &st, l, zone); err != nil {
			return 0, err
		}
	}
	a.Entries = append(a.Entries, e)
	return st.Ino, nil
}

func entryAside(id string, st *unix.Stat_t) AsideEntry {
	kind := "other"
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		kind = "file"
	case unix.S_IFDIR:
		kind = "directory"
	case unix.S_IFLNK:
		kind = "symlink"
	}
	return AsideEntry{Kind: kind, ID: id, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Size: st.Size, Mtime: st.Mtim.Sec}
}

func (a *Aside) path(n int) string { return fmt.Sprintf("%s/files/%d", procPath(a.dir), n) }

// copyFile copies a file to the next entry: partial says that there was only room
// for the zones that were changed.
func (a *Aside) copyFile(o *object, st *unix.Stat_t, l *journal.Lack, zone int64) (partial bool, err error) {
	fd, err := o.open(unix.O_RDONLY | unix.O_NOFOLLOW)
	if err != nil {
		return false, gone(err)
	}
	src := os.NewFile(uintptr(fd), "source")
	defer src.Close()
	dst, err := os.OpenFile(a.path(len(a.Entries)), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if unix.IoctlFileClone(int(dst.Fd()), fd) == nil {
		return false, nil
	}
	var room unix.Statfs_t
	if err := unix.Fstatfs(fd, &room); err != nil {
		return false, err
	}
	copyRange := func(off, end int64) error {
		return dataRanges(fd, off, end, func(off, end int64) error {
			_, err := io.Copy(io.NewOffsetWriter(dst, off), io.NewSectionReader(src, off, end-off))
			return err
		})
	}
	if err := dst.Truncate(st.Size); err != nil {
		return false, err
	}
	if st.Blocks*512 < int64(room.Bavail)*room.Bsize/2 {
		return false, copyRange(0, st.Size)
	}
	l.Ranges(st.Size, zone, func(off, end int64) {
		if err == nil {
			err = copyRange(off, end)
		}
	})
	return true, err
}

// save makes the manifest durable.
func (a *Aside) save() error {
	b, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		return err
	}
	path := procPath(a.dir) + "/manifest.json"
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return unix.Fsync(a.dir)
}

// takeHeld moves what is in the holding area, open as h, to the quarantine.
func (a *Aside) takeHeld(h int) error {
	if err := a.takeMoved(); err != nil {
		return err
	}
	names, err := os.ReadDir(procPath(h))
	if err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(h, n.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		id, _, _ := strings.Cut(n.Name(), "-")
		e := entryAside(id, &st)
		e.Why, e.Kept, e.Path = "created", true, a.t.heldPaths[n.Name()]
		if k := a.copied(id); k >= 0 { // it was noted: it has been here from the beginning
			left := math.MaxInt
			if err := a.t.removeOne(h, n.Name(), &left); err != nil {
				return err
			}
			a.Entries[k].Why = e.Why
			if err := a.save(); err != nil {
				return err
			}
			continue
		}
		to := fmt.Sprintf("files/%d", len(a.Entries))
		if err := unix.Renameat2(h, n.Name(), a.dir, to, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
		if err := a.t.disownAll(a.dir, to); err != nil {
			return err
		}
		a.Entries = append(a.Entries, e)
		if err := a.save(); err != nil { // the next number must not be given twice
			return err
		}
	}
	return nil
}

// takeMoved makes entries of what was moved here before the manifest could say so.
func (a *Aside) takeMoved() error {
	for {
		file := fmt.Sprintf("files/%d", len(a.Entries))
		var st unix.Stat_t
		if err := unix.Fstatat(a.dir, file, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
			return nil
		} else if err != nil {
			return err
		}
		id := ""
		if known, err := readID(procPath(a.dir)+"/"+file, st.Ino); err == nil {
			id = known.String()
		}
		if err := a.t.disownAll(a.dir, file); err != nil {
			return err
		}
		e := entryAside(id, &st)
		e.Why, e.Kept = "created", true
		a.Entries = append(a.Entries, e)
		if err := a.save(); err != nil {
			return err
		}
	}
}

// EndAside ends the quarantine that is open, if one is, although no pass has come to
// its end: this host is not going to be brought up to date by that pass any more. What
// is held is kept with it.
func (t *Tree) EndAside() error {
	a, err := t.OpenAside()
	if a == nil || err != nil {
		return err
	}
	t.aside, t.heldPaths = a, map[string]string{}
	if _, _, err := t.DropHeld(math.MaxInt); err != nil {
		return fmt.Errorf("quarantine of %s: %w", t.dir, err)
	}
	return t.EndQuarantine()
}

// copied returns the entry that is a whole copy of an object, -1 if there is none.
func (a *Aside) copied(id string) int {
	return slices.IndexFunc(a.Entries, func(e AsideEntry) bool { return e.ID == id && e.Kept && !e.Partial })
}

// disownAll takes the identities of everything at name in dir and below: it is not
// part of the tree any more.
func (t *Tree) disownAll(dir int, name string) error {
	return filepath.WalkDir(procPath(dir)+"/"+name, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		id, err := readID(path, st.Ino)
		if errors.Is(err, errNoID) {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			return t.copyApart(path, d)
		}
		t.forgetID(id)
		return unix.Lremovexattr(path, idXattr)
	})
}

// copyApart makes what has other names in the tree an object of its own.
func (t *Tree) copyApart(path string, d os.DirEntry) error {
	if !d.Type().IsRegular() {
		return os.Remove(path) // the tree has it as it is here
	}
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(path+".copy", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return os.Rename(path+".copy", path)
}

// end says that the pass has ended: nothing more comes.
func (a *Aside) end() error {
	a.Open = false
	return errors.Join(a.save(), unix.Close(a.dir))
}

// QuarantineDir opens the directory of the quarantines; ENOENT: there are none.
func (t *Tree) QuarantineDir() (int, error) { return t.openHidden(asideName) }

// DropQuarantine removes the quarantine of that name; the open one stays (EBUSY).
func (t *Tree) DropQuarantine(name string) error {
	area, err := t.openHidden(asideName)
	if err != nil {
		return err
	}
	defer unix.Close(area)
	b, err := os.ReadFile(procPath(area) + "/" + name + "/manifest.json")
	var a Aside
	if err == nil && json.Unmarshal(b, &a) == nil && a.Open {
		return unix.EBUSY
	}
	if err := os.RemoveAll(procPath(area) + "/" + name); err != nil {
		return err
	}
	if err := t.dropHidden(asideName); err != nil && err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	return nil
}
