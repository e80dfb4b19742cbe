package lab

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// SaveDisk copies the file system at path, of a host that is off, to a file: a
// backup of the whole disk.
func (h *Host) SaveDisk(path, file string) error {
	return h.whileOff("save", path, func(d *disk) error {
		to, err := os.Create(file)
		if err != nil {
			return err
		}
		return errors.Join(copySparse(to, d.image), to.Close())
	})
}

// RestoreDisk gives a host that is off the disk that SaveDisk had copied.
func (h *Host) RestoreDisk(path, file string) error {
	return h.whileOff("restore", path, func(d *disk) error {
		to, err := os.OpenFile(d.image, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return errors.Join(copySparse(to, file), to.Close())
	})
}

// ReplaceDisk gives a host that is off a new, empty disk at path.
func (h *Host) ReplaceDisk(path string) error {
	return h.whileOff("replace", path, func(d *disk) error { return makeImage(d.image, d.Disk) })
}

// whileOff changes the image of a disk that is not mounted.
func (h *Host) whileOff(what, path string, do func(*disk) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := func() error {
		if h.on != nil {
			return errors.New("the host is on")
		}
		for _, d := range h.disks {
			if d.Path != path || d.FS == "" {
				continue
			}
			if err := d.settle(); err != nil {
				return err
			}
			if err := do(d); err != nil {
				return err
			}
			// The device caches what it read of the old image.
			return unix.IoctlSetInt(int(d.loop.Fd()), unix.BLKFLSBUF, 0)
		}
		return errors.New("there is no disk with a file system of its own")
	}()
	if err != nil {
		return fmt.Errorf("lab: %s disk %s of %s: %w", what, path, h.name, err)
	}
	return nil
}

// copySparse fills an empty file with what another has, holes as holes.
func copySparse(to *os.File, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(st.Size()); err != nil {
		return err
	}
	for off := int64(0); off < st.Size(); {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := to.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(to, io.NewSectionReader(f, data, hole-data)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}
