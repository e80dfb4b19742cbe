package conf

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A .safe file is a zip of a module tree: conf/userconfig.xml, bin/*, web/*,
// manifest.xml, … either at the top or below one directory.

// Bounds of a package, against archives that are made to fill a disk.
const (
	maxEntries  = 20_000
	maxUnpacked = 2 << 30
)

// InstallOptions are those of the command "module install".
type InstallOptions struct {
	ID      int  // 0: the one it has, else the lowest free
	Replace bool // the module may be there already; its active configuration stays
}

// ErrInstalled says that a module of that name is there already.
var ErrInstalled = errors.New("module is already installed")

// Install unpacks the package at file as module am and returns its id. After a
// crash the module is there as a whole or not at all.
func (p Paths) Install(am, file string, o InstallOptions) (int, error) {
	if err := CheckName(am); err != nil {
		return 0, err
	}
	unlock, err := p.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	if _, err := os.Lstat(p.ModuleDir(am)); err == nil && !o.Replace {
		return 0, fmt.Errorf("%s: %w in %s", am, ErrInstalled, p.ModuleDir(am))
	}
	fresh := filepath.Join(p.Modules(), "."+am+".new")
	if err := os.RemoveAll(fresh); err != nil {
		return 0, err
	}
	defer os.RemoveAll(fresh)
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return 0, err
	}
	if err := unpack(file, fresh); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	if err := syncTree(fresh); err != nil {
		return 0, err
	}
	// Its ports would change under a module that runs.
	if was, err := p.ModuleID(am); err == nil && o.ID != 0 && o.ID != was && p.Configured(am) {
		return 0, fmt.Errorf("module %s is configured with id %d: stop it and run \"deconfig -m %s\" before it gets id %d", am, was, am, o.ID)
	}
	// The id first: an id without a module is given again, a module without an
	// id would be out of reach.
	id, err := p.setID(am, o.ID)
	if err != nil {
		return 0, err
	}
	return id, swapDir(fresh, p.ModuleDir(am))
}

// Uninstall removes module am: configuration, working files and id.
func (p Paths) Uninstall(am string) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := p.ModuleID(am); err != nil {
		return err
	}
	if err := p.removeActive(am); err != nil {
		return err
	}
	if err := os.RemoveAll(p.ModuleDir(am)); err != nil {
		return err
	}
	// What is known about the data goes too: a module that is installed again
	// must not believe a state that nobody has kept up.
	if err := os.RemoveAll(p.UserVar(am)); err != nil {
		return err
	}
	return p.dropID(am)
}

// Package writes the tree of module am to the .safe file dest, which it
// replaces.
func (p Paths) Package(am, dest string) error {
	if _, err := p.ModuleID(am); err != nil {
		return err
	}
	if !filepath.IsAbs(dest) {
		return fmt.Errorf("%s: expected an absolute path", dest)
	}
	f, err := os.CreateTemp(filepath.Dir(dest), "."+filepath.Base(dest)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := WriteSafe(f, os.DirFS(p.ModuleDir(am))); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), dest)
}

// WriteSafe writes a module tree as a .safe file. Files below bin are marked as
// executable.
func WriteSafe(w io.Writer, tree fs.FS) error {
	z := zip.NewWriter(w)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s is no regular file: a module holds files and directories only", name)
		}
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: st.ModTime()}
		h.SetMode(unpackedMode(name, st.Mode()))
		out, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		in, err := tree.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(out, in)
		return err
	})
	return errors.Join(err, z.Close())
}

func unpackedMode(name string, m fs.FileMode) fs.FileMode {
	if strings.HasPrefix(name, "bin/") || m&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// unpack writes the module tree in the zip file to the empty directory dest.
func unpack(file, dest string) error {
	z, err := zip.OpenReader(file)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names are judged below
		return err
	}
	defer z.Close()
	if len(z.File) > maxEntries {
		return fmt.Errorf("the package has %d files: more than %d is no module", len(z.File), maxEntries)
	}
	prefix, err := treePrefix(z.File)
	if err != nil {
		return err
	}
	// os.Root holds every name below dest, whatever the archive claims.
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	left := int64(maxUnpacked)
	for _, f := range z.File {
		full := entryName(f)
		name, ok := strings.CutPrefix(full, prefix)
		if !ok || name == "" || strings.HasSuffix(full, "/") {
			continue // directories come with their files
		}
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return fmt.Errorf("the package holds %q: names stay below the module, \".\" and \"..\" are not allowed", full)
		}
		if !f.Mode().IsRegular() {
			return fmt.Errorf("the package holds %s, which is no regular file", full)
		}
		n, err := unpackFile(root, f, name, left)
		if err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		left -= n
	}
	return nil
}

func unpackFile(root *os.Root, f *zip.File, name string, limit int64) (int64, error) {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	in, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	mode := unpackedMode(name, f.Mode())
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("the package unpacks to more than %d bytes", int64(maxUnpacked))
	}
	return n, errors.Join(err, out.Chmod(mode), out.Close())
}

// entryName is the name of an entry; packages made on Windows have backslashes.
func entryName(f *zip.File) string { return strings.ReplaceAll(f.Name, `\`, "/") }

// treePrefix finds where in the archive the module tree starts.
func treePrefix(files []*zip.File) (string, error) {
	const config = "conf/userconfig.xml"
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = entryName(f)
	}
	if slices.Contains(names, config) {
		return "", nil
	}
	for _, n := range names {
		if dir, ok := strings.CutSuffix(n, "/"+config); ok && dir != "" && !strings.Contains(dir, "/") {
			return dir + "/", nil
		}
	}
	return "", fmt.Errorf("no %s in it: this is no module package", config)
}
