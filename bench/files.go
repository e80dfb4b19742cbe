package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// rate is n things since began, a second.
func rate(n int, began time.Time) float64 { return float64(n) / time.Since(began).Seconds() }

// createFiles makes files of 4 KiB in one directory, by the system calls that a
// program needs for it and no others.
func createFiles(s site) ([]float64, error) {
	dir := filepath.Join(s.Dir, "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	data := bytes.Repeat([]byte("skfs"), 1024)
	began := time.Now()
	for i := range s.Files {
		if err := createFile(filepath.Join(dir, fmt.Sprintf("file%06d", i)), data); err != nil {
			return nil, err
		}
	}
	r := rate(s.Files, began)
	return []float64{r}, os.RemoveAll(dir)
}

func createFile(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	n, err := unix.Write(fd, data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// unpackAndRemove unpacks the source tree with tar and removes it with rm.
func unpackAndRemove(s site) ([]float64, error) {
	n, err := countTar(s.Tar)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.Dir, "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := command(exec.Command("tar", "xf", s.Tar, "-C", dir)); err != nil {
		return nil, err
	}
	untar := rate(n, began)
	began = time.Now()
	if _, err := command(exec.Command("rm", "-rf", dir)); err != nil {
		return nil, err
	}
	return []float64{untar, rate(n, began)}, nil
}

// countTar counts the entries of an archive.
func countTar(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	for r := tar.NewReader(f); ; n++ {
		if _, err := r.Next(); err == io.EOF {
			return n, nil
		} else if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
	}
}
