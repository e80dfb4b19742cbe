package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What limits a reintegration, measured right after it in the same round: the same
// files are read on the disk of the primary and written to that of the second,
// below the mounts, and bytes go from host to host.

const ioSize = 1 << 20

// writeFiles makes files of random content, and returns when they are on the disk
// and no longer in the page cache.
func writeFiles(dir string, names []string, size int64) error {
	block := make([]byte, min(ioSize, size))
	rand.Read(block) // zeros would be copied as holes
	for _, name := range names {
		rand.Read(block[:16]) // so that no two files are alike
		if err := writeFile(filepath.Join(dir, name), block, size); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return dropFiles(dir, names)
}

func writeFile(name string, block []byte, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	}
	if err != nil {
		return err
	}
	for left := size; left > 0 && err == nil; left -= int64(len(block)) {
		_, err = f.Write(block[:min(left, int64(len(block)))])
	}
	return errors.Join(err, f.Close())
}

// syncDir flushes the file system of dir.
func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	if err := errors.Join(unix.Syncfs(fd), unix.Close(fd)); err != nil {
		return fmt.Errorf("flush %s: %w", dir, err)
	}
	return nil
}

// dropFiles takes the content of files out of the page cache.
func dropFiles(dir string, names []string) error {
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); errors.Join(err, f.Close()) != nil {
			return fmt.Errorf("drop %s from the page cache: %w", name, err)
		}
	}
	return nil
}

// backing is where the data of the trial at hand is on the disk of a host, whatever
// is mounted over it.
func (y *yard) backing(host int) (string, error) { return y.hosts[host].Backing(y.t.dir()) }

// atOnce does something with every file, in as many goroutines as a pass has: a
// disk does more for several readers than for one.
func atOnce(names []string, do func(name string) error) error {
	var g errgroup.Group
	g.SetLimit(workers)
	for _, name := range names {
		g.Go(func() error { return do(name) })
	}
	return g.Wait()
}

// part is what is read of each file of a size: length bytes at every step.
type part struct{ size, step, length int64 }

// readRate reads files on the disks of hosts, on all at once; n is what the files of
// one of them amount to.
func (y *yard) readRate(names []string, p part, n float64, hosts ...int) (float64, error) {
	var dirs []string
	for _, host := range hosts {
		dir, err := y.backing(host)
		if err == nil {
			err = dropFiles(dir, names)
		}
		if err != nil {
			return 0, err
		}
		dirs = append(dirs, dir)
	}
	var g errgroup.Group
	began := time.Now()
	for _, dir := range dirs {
		g.Go(func() error {
			return atOnce(names, func(name string) error { return p.read(filepath.Join(dir, name)) })
		})
	}
	err := g.Wait()
	return perSecond(n, time.Since(began)), err
}

func (p part) read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	buf := make([]byte, min(ioSize, p.length))
	for at := int64(0); at+p.length <= p.size && err == nil; at += p.step {
		for off := at; off < at+p.length && err == nil; off += int64(len(buf)) {
			_, err = f.ReadAt(buf, off)
		}
	}
	return errors.Join(err, f.Close())
}

// writeRate writes as many files to the second's disk, and flushes them.
func (y *yard) writeRate(names []string, size int64, n float64) (_ float64, err error) {
	dir := y.hosts[1].Path(path.Join(benchDir, "limit"))
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	block := make([]byte, min(ioSize, size))
	rand.Read(block)
	began := time.Now()
	if err := atOnce(names, func(name string) error { return writeFile(filepath.Join(dir, name), block, size) }); err != nil {
		return 0, err
	}
	if err := syncDir(dir); err != nil {
		return 0, err
	}
	return perSecond(n, time.Since(began)), nil
}

// tcpPort is where the second host takes bytes.
const tcpPort = replicaPort - 1

// tcpRate is bytes a second from host to host over one connection.
func (y *yard) tcpRate(ctx context.Context) (float64, error) {
	addr := net.JoinHostPort(y.hosts[1].Addr(network).String(), fmt.Sprint(tcpPort))
	cmd := y.hosts[1].RoleCommand(ctx, "tcpsink", addr)
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd.Stdout = w
	sink, err := y.hosts[1].Start(cmd)
	w.Close()
	if err != nil {
		return 0, err
	}
	if _, err := r.Read(make([]byte, 64)); err != nil { // it says that it listens, or ends
		return 0, errors.Join(err, sink.Wait())
	}
	out, err := y.hosts[0].RunCommand(y.hosts[0].RoleCommand(ctx, "tcpsource", addr, fmt.Sprint(y.Secs)))
	if err != nil {
		return 0, err
	}
	if err := sink.Wait(); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(out), 64)
}

// tcpSinkRole takes what comes over one connection, until it is closed.
func tcpSinkRole(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("arguments %q: expected an address", args)
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	buf := make([]byte, ioSize)
	for err == nil {
		_, err = c.Read(buf)
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// tcpSourceRole sends for some seconds and prints the rate.
func tcpSourceRole(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("arguments %q: expected an address and seconds", args)
	}
	secs, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	buf, sent, began := make([]byte, ioSize), 0, time.Now()
	for err == nil && time.Since(began) < time.Duration(secs)*time.Second {
		var n int
		n, err = c.Write(buf)
		sent += n
	}
	fmt.Println(perSecond(float64(sent), time.Since(began)))
	return errors.Join(err, c.Close())
}
