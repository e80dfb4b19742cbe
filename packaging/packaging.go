// Package packaging holds what is installed beside the binary: the module
// templates and the units of the init systems. All of it is embedded, so that
// the binary alone is an installation.
package packaging

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skfs/skfs/conf"
)

//go:embed modules
var modules embed.FS

//go:embed units
var units embed.FS

// Unit returns a file of the init systems: skfs.service (systemd) or skfs.init
// (System V).
func Unit(name string) ([]byte, error) { return units.ReadFile("units/" + name) }

// Templates returns the names of the module templates.
func Templates() ([]string, error) {
	entries, err := modules.ReadDir("modules")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Template is the module tree of a template.
func Template(name string) (fs.FS, error) {
	if _, err := fs.Stat(modules, "modules/"+name); err != nil {
		return nil, err
	}
	return fs.Sub(modules, "modules/"+name)
}

// WriteTemplates writes the .safe package of every template that dir lacks. One
// that is there, perhaps changed by the administrator, is left alone.
func WriteTemplates(dir string) error {
	names, err := Templates()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if err := writeTemplate(name, filepath.Join(dir, name+".safe")); err != nil {
			return fmt.Errorf("write template %s: %w", name, err)
		}
	}
	return nil
}

func writeTemplate(name, file string) (err error) {
	if _, err := os.Lstat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tree, err := Template(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+name+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := conf.WriteSafe(f, tree); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	// link(2) does not replace: of two processes that write the template, one wins.
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
