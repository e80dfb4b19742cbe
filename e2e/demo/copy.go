package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// copied counts what a copy has done so far.
type copied struct{ files, bytes atomic.Int64 }

const copyWorkers = 4

// copyTree copies the directory from to the new directory to as cp -a does, but
// for extended attributes and hard links.
func copyTree(ctx context.Context, from, to string, count *copied) error {
	type dir struct {
		path string
		st   unix.Stat_t
	}
	var dirs []dir
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(copyWorkers)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("stat %s: %w", path, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs = append(dirs, dir{target, st})
			return os.Mkdir(target, 0o700)
		case unix.S_IFREG:
			files.Go(func() error {
				n, err := copyFile(path, target)
				if err != nil {
					return err
				}
				count.files.Add(1)
				count.bytes.Add(n)
				return setAttributes(target, &st)
			})
		case unix.S_IFLNK:
			link, err := os.Readlink(path)
			if err == nil {
				err = os.Symlink(link, target)
			}
			if err != nil {
				return err
			}
			return setAttributes(target, &st)
		}
		return nil // no source tree has anything else
	})
	if err := errors.Join(err, files.Wait()); err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- { // from the leaves, because each change below sets a time
		if err := setAttributes(dirs[i].path, &dirs[i].st); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) (int64, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return 0, err
	}
	return int64(len(data)), os.WriteFile(to, data, 0o600)
}

// setAttributes gives path owner, mode and times.
func setAttributes(path string, st *unix.Stat_t) error {
	if err := unix.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
			return fmt.Errorf("chmod %s: %w", path, err)
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times of %s: %w", path, err)
	}
	return nil
}
