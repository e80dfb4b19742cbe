package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a directory of a host that is its own and outlives its lives.
type Disk struct {
	Path string // where the host sees it, absolute
	FS   string // "" for a directory of the machine's disk; "ext4" or "xfs" for a file system of its own on a loop device
	Size int64  // bytes, of a file system of its own
}

type disk struct {
	Disk
	source string   // the directory or the block device
	image  string   // of a file system of its own: what the device shows
	loop   *os.File // holds the loop device from first use to close
}

func newDisk(hostDir string, d Disk) (*disk, error) {
	if !filepath.IsAbs(d.Path) {
		return nil, fmt.Errorf("%q is not an absolute path", d.Path)
	}
	made := &disk{Disk: d, source: filepath.Join(hostDir, "disks", strings.ReplaceAll(strings.Trim(d.Path, "/"), "/", "-"))}
	if d.FS == "" {
		return made, os.MkdirAll(made.source, 0o755)
	}
	image := made.source + "." + d.FS
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		return nil, err
	}
	if err := makeImage(image, d); err != nil {
		return nil, err
	}
	loop, err := attachLoop(image)
	if err != nil {
		return nil, err
	}
	made.loop, made.source, made.image = loop, loop.Name(), image
	return made, nil
}

func (d *disk) mount() mountSpec { return mountSpec{Path: d.Path, Source: d.source, FS: d.FS} }

// close lets go of the loop device, which frees itself when it is not mounted any
// more.
func (d *disk) close() error {
	if d.loop == nil {
		return nil
	}
	return d.loop.Close()
}

func makeImage(image string, d Disk) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.Size); err != nil {
		return err
	}
	args := map[string][]string{
		"ext4": {"-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"},
		"xfs":  {"-q", "-f", "-K"},
	}[d.FS]
	if args == nil {
		return fmt.Errorf("file system %q: expected ext4 or xfs", d.FS)
	}
	out, err := exec.Command("mkfs."+d.FS, append(args, image)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.%s: %w: %s", d.FS, err, out)
	}
	return nil
}

// attachLoop puts a loop device on the image. The device frees itself after its
// last user, so that one left by a killed process does not stay.
func attachLoop(image string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:], image)
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // else somebody else took it first
			return nil, fmt.Errorf("configure %s: %w", dev.Name(), err)
		}
	}
}

// Fill uses up the free space of the file system at dir (as this process sees it)
// until free is called. It does so in a file without a name: the directory and its
// times stay as they are.
func Fill(dir string) (free func() error, err error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	size, off := int64(1<<30), int64(0)
	for size >= 1<<10 {
		err := unix.Fallocate(int(f.Fd()), 0, off, size)
		switch {
		case err == nil:
			off += size
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		default:
			return nil, errors.Join(fmt.Errorf("fill %s: %w", dir, err), f.Close())
		}
	}
	// XFS does not give up for an allocation what it holds ready behind the ends of files;
	// for bytes it does.
	for chunk := make([]byte, 64<<10); ; off += int64(len(chunk)) {
		_, err := f.WriteAt(chunk, off)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOSPC) && len(chunk) > 4<<10:
			chunk, off = chunk[:4<<10], off-4<<10
		case errors.Is(err, unix.ENOSPC):
			return f.Close, nil
		default:
			return nil, errors.Join(fmt.Errorf("fill %s: %w", dir, err), f.Close())
		}
	}
}
