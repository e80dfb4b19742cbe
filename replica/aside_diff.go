package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/fs"
)

// maxText bounds the files of which the lines that differ are shown, bytes.
const maxText = 4 << 20

// Diff writes how what was kept of p, see find, differs from what is there now;
// all entries if p is empty. Text is shown as a unified diff, the quarantine's
// version as the old one.
func (a *Aside) Diff(w io.Writer, p string) error {
	now, err := os.OpenRoot(a.Dir)
	if err != nil {
		return fmt.Errorf("compare with %s: %w", a.Dir, err)
	}
	defer now.Close()
	d := differ{w: &keepError{w: w}, aside: a.root, now: now}
	var list []kept
	if p == "" {
		for n := range a.Entries {
			list = append(list, a.entry(n))
		}
	} else {
		k, err := a.find(p)
		if err != nil {
			return err
		}
		list = append(list, k)
	}
	for _, k := range list {
		if err := d.entry(k); err != nil {
			return fmt.Errorf("compare %s: %w", k.path, err)
		}
	}
	return d.w.err
}

// keepError is a writer whose error is looked at in the end.
type keepError struct {
	w   io.Writer
	err error
}

func (k *keepError) printf(format string, args ...any) {
	if k.err == nil {
		_, k.err = fmt.Fprintf(k.w, format, args...)
	}
}

type differ struct {
	w          *keepError
	aside, now *os.Root
}

func (d *differ) entry(k kept) error {
	if k.path == "" {
		d.w.printf("%s: %s, %d bytes: its path is not known\n", k.file, k.entry.Kind, k.entry.Size)
		return nil
	}
	if !k.entry.Kept {
		return d.attributes(k.path, k.entry)
	}
	if err := d.objects(k.file, k.path, k.entry.Partial); err != nil || k.below || k.entry.Kind != "file" {
		return err
	}
	return d.attributes(k.path, k.entry)
}

// attributes compares what the manifest says of an object with what it has now.
func (d *differ) attributes(p string, e fs.AsideEntry) error {
	info, err := d.now.Lstat(p)
	if absent(err) {
		if !e.Kept {
			d.w.printf("%s: it is not there now\n", p)
		}
		return nil
	}
	if err != nil {
		return err
	}
	st, ok := statOf(info)
	if !ok {
		return errors.New("its attributes are not known")
	}
	if mode := st.Mode & 0o7777; mode != e.Mode {
		d.w.printf("%s: mode %04o in the quarantine, %04o now\n", p, e.Mode, mode)
	}
	if st.Uid != e.UID || st.Gid != e.GID {
		d.w.printf("%s: owner %d:%d in the quarantine, %d:%d now\n", p, e.UID, e.GID, st.Uid, st.Gid)
	}
	return nil
}

// absent says that err means that nothing has that name.
func absent(err error) bool {
	return errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// objects compares file, in the quarantine, with p as it is now.
func (d *differ) objects(file, p string, partial bool) error {
	then, err := d.aside.Lstat(file)
	if err != nil {
		return err
	}
	now, err := d.now.Lstat(p)
	switch {
	case absent(err):
		d.w.printf("%s: only in the quarantine (%s)\n", p, describe(then))
		return nil
	case err != nil:
		return err
	case then.Mode().Type() != now.Mode().Type():
		d.w.printf("%s: %s in the quarantine, %s now\n", p, describe(then), describe(now))
		return nil
	}
	switch then.Mode().Type() {
	case 0:
		return d.files(file, p, partial)
	case iofs.ModeDir:
		return d.dirs(file, p)
	case iofs.ModeSymlink:
		was, err := d.aside.Readlink(file)
		if err != nil {
			return err
		}
		is, err := d.now.Readlink(p)
		if err != nil {
			return err
		}
		if was != is {
			d.w.printf("%s: symlink to %s in the quarantine, to %s now\n", p, was, is)
		}
	}
	return nil
}

func (d *differ) dirs(file, p string) error {
	entries, err := iofs.ReadDir(d.aside.FS(), file)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := d.objects(path.Join(file, e.Name()), path.Join(p, e.Name()), false); err != nil {
			return err
		}
	}
	return nil
}

func describe(info iofs.FileInfo) string {
	switch info.Mode().Type() {
	case 0:
		return fmt.Sprintf("file, %d bytes", info.Size())
	case iofs.ModeDir:
		return "directory"
	case iofs.ModeSymlink:
		return "symlink"
	}
	return "special file"
}

func (d *differ) files(file, p string, partial bool) error {
	then, err := d.aside.Open(file)
	if err != nil {
		return err
	}
	defer then.Close()
	now, err := d.now.Open(p)
	if err != nil {
		return err
	}
	defer now.Close()
	c, err := compareFiles(then, now, partial)
	if err != nil {
		return err
	}
	if partial {
		d.w.printf("%s: only the zones that were changed were kept, %d bytes of %d; %s\n", p, c.compared, c.size[0], c.difference())
		return nil
	}
	if c.first < 0 {
		d.w.printf("%s: the content is the same\n", p)
		return nil
	}
	if max(c.size[0], c.size[1]) <= maxText {
		text, ok, err := unified(then, now, p)
		if err != nil {
			return err
		}
		if ok {
			d.w.printf("%s", text)
			return nil
		}
	}
	d.w.printf("%s: %d bytes in the quarantine, %d bytes now; %s\n", p, c.size[0], c.size[1], c.difference())
	d.w.printf("%s: sha256 %x in the quarantine, %x now\n", p, c.hash[0], c.hash[1])
	return nil
}

// comparison is what compareFiles found. Of index 0 is the quarantine's version.
type comparison struct {
	size     [2]int64
	first    int64 // offset of the first byte that differs; -1: none does
	compared int64 // bytes
	hash     [2][]byte
}

func (c comparison) difference() string {
	if c.first < 0 {
		return "they are the same now"
	}
	return fmt.Sprintf("the first difference is at byte %d", c.first)
}

// compareFiles reads both files; of a partial copy only where it has data.
func compareFiles(then, now *os.File, partial bool) (comparison, error) {
	c := comparison{first: -1}
	for i, f := range []*os.File{then, now} {
		info, err := f.Stat()
		if err != nil {
			return c, err
		}
		c.size[i] = info.Size()
	}
	compare := func(off, end int64) error {
		a := make([]byte, 256<<10)
		b := make([]byte, len(a))
		for ; off < end; off += int64(len(a)) {
			n, err := readAt(then, a[:min(int64(len(a)), end-off)], off)
			if err != nil {
				return err
			}
			m, err := readAt(now, b[:min(int64(len(b)), end-off)], off)
			if err != nil {
				return err
			}
			c.compared += int64(n)
			if i := firstDifference(a[:n], b[:m]); i >= 0 && c.first < 0 {
				c.first = off + int64(i)
			}
			if c.first >= 0 {
				return nil
			}
		}
		return nil
	}
	if partial {
		return c, eachData(then, c.size[0], compare)
	}
	if err := compare(0, max(c.size[0], c.size[1])); err != nil || c.first < 0 {
		return c, err
	}
	for i, f := range []*os.File{then, now} {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, c.size[i])); err != nil {
			return c, err
		}
		c.hash[i] = h.Sum(nil)
	}
	return c, nil
}

// readAt reads until b is full or the file ends.
func readAt(f *os.File, b []byte, off int64) (int, error) {
	n, err := f.ReadAt(b, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return n
	}
	return -1
}

// unified shows the lines that differ; false: it is not text.
func unified(then, now *os.File, p string) ([]byte, bool, error) {
	var text [2][]byte
	for i, f := range []*os.File{then, now} {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, maxText))
		if err != nil {
			return nil, false, err
		}
		if bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b) {
			return nil, false, nil
		}
		text[i] = b
	}
	out := diff.Diff("quarantine/"+p, text[0], "now/"+p, text[1])
	_, rest, _ := strings.Cut(string(out), "\n") // its first line is a command that nobody gave
	return []byte(rest), true, nil
}
