package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountSpec says how a disk gets into a host.
type mountSpec struct {
	Path   string // where, in the host
	Source string // directory, or block device
	FS     string // "" for a directory
}

// hiddenMount is where a disk can also be reached in the host, below whatever is
// mounted over its path.
func hiddenMount(path string) string {
	return filepath.Join("/.disks", strings.ReplaceAll(strings.Trim(path, "/"), "/", "-"))
}

// makeRoot gives the calling process's mount namespace a root of its own: a small
// tmpfs with the machine's top directories bound into it, without what is mounted
// there by FUSE, a /proc for the
// process namespace and a boot id of its own, a /run of its own, and the disks. What
// systemd needs besides is in dressForSystemd.
func makeRoot(spec holderSpec) error {
	root := spec.Root
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("skfs-lab", root, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := mirrorDir("/", root, map[string]bool{"proc": true, "run": true}); err != nil {
		return err
	}
	// The copy of the directory that holds root brought a copy of the mounts on
	// root with it.
	if err := unix.Unmount(filepath.Join(root, root), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount the copy of %s: %w", root, err)
	}
	if err := dropFuse(root); err != nil {
		return err
	}
	for _, special := range []struct{ dir, fs, data string }{{"proc", "proc", ""}, {"run", "tmpfs", "mode=0755"}} {
		dir := filepath.Join(root, special.dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := mount(special.fs, dir, special.fs, unix.MS_NOSUID|unix.MS_NODEV, special.data); err != nil {
			return err
		}
	}
	if err := newBootID(root); err != nil {
		return err
	}
	for _, dir := range []string{"run/lock", "run/postgresql"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, dir), 0o1777); err != nil {
			return err
		}
	}
	if spec.Cgroup != "" {
		if err := dressForSystemd(root, spec.Hostname); err != nil {
			return err
		}
	}
	for _, d := range spec.Disks {
		if err := mountDisk(root, d); err != nil {
			return err
		}
	}
	return enterRoot(root)
}

// dropFuse takes the machine's FUSE mounts out of the new root: the host has
// nothing to do with them, and would keep them alive after their end.
func dropFuse(root string) error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.FS, "fuse") && strings.HasPrefix(m.Path, root+"/") {
			if err := unix.Unmount(m.Path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", m.Path, err)
			}
		}
	}
	return nil
}

func mountDisk(root string, d mountSpec) error {
	hidden := filepath.Join(root, hiddenMount(d.Path))
	if err := os.MkdirAll(hidden, 0o755); err != nil {
		return err
	}
	flags := uintptr(0)
	if d.FS == "" {
		flags = unix.MS_BIND
	}
	if err := mount(d.Source, hidden, d.FS, flags, ""); err != nil {
		return err
	}
	at := filepath.Join(root, d.Path)
	if err := makeMountPoint(root, d.Path); err != nil {
		return fmt.Errorf("mount point %s: %w", d.Path, err)
	}
	return mount(hidden, at, "", unix.MS_BIND, "")
}

// makeMountPoint makes the directory path under root without writing to the
// machine's file systems: where a parent that exists lacks it, that parent is
// covered by a small file system that shows the same entries.
func makeMountPoint(root, path string) error {
	at := filepath.Join(root, path)
	if _, err := os.Stat(at); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(at)
	for parent != root {
		if _, err := os.Stat(parent); err == nil {
			break
		}
		parent = filepath.Dir(parent)
	}
	if parent != root {
		ours, err := onTmpfs(parent)
		if err != nil {
			return err
		}
		if !ours {
			if err := coverDir(parent); err != nil {
				return err
			}
		}
	}
	return os.MkdirAll(at, 0o755)
}

// onTmpfs says whether dir is already one of the host's own small file systems.
func onTmpfs(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Type == unix.TMPFS_MAGIC, nil
}

// coverDir mounts a tmpfs over dir that shows the entries of dir.
func coverDir(dir string) error {
	below, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(below)
	if err := mount("skfs-lab", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	return mirrorDir(fmt.Sprintf("/proc/self/fd/%d", below), dir, nil)
}

// mirrorDir makes the entries of from appear in to, an empty directory.
func mirrorDir(from, to string, skip map[string]bool) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if skip[e.Name()] {
			continue
		}
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(src)
			if err == nil {
				err = os.Symlink(target, dst)
			}
			if err != nil {
				return err
			}
			continue
		case e.IsDir():
			err = os.Mkdir(dst, 0o755)
		default:
			err = os.WriteFile(dst, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := mount(src, dst, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot makes root the root of the namespace and drops the old one.
func enterRoot(root string) error {
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/.old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return os.Remove("/.old")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
