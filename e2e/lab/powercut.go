package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same request, _IOR('X', 125,
// __u32), and this argument tells both to leave even their journal unwritten
// (EXT4_GOING_FLAGS_NOLOGFLUSH, XFS_FSOP_GOING_FLAGS_NOLOGFLUSH).
const (
	goDown         = 0x8004587d
	withoutLogging = 2
)

// PowerCut takes the host's power away: it is PowerOff, and what its disks with a
// file system of their own had not written is lost, as the file system's journal
// finds it at the next Boot. Directories of the machine's disk keep everything,
// and so does what reached the loop device: it has no cache of its own to lose.
func (h *Host) PowerCut() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == nil {
		return fmt.Errorf("lab: power cut of %s: %w", h.name, errOff)
	}
	var errs []error
	for _, n := range h.lab.nets {
		errs = append(errs, n.setLink(h.index, false))
	}
	// The disks stop one after the other. Nobody may see that one is gone and
	// write about it to the next.
	errs = append(errs, h.on.pause())
	for _, d := range h.disks {
		if d.FS != "" {
			errs = append(errs, d.shutdown(h.on))
		}
	}
	errs = append(errs, h.off())
	for _, d := range h.disks {
		errs = append(errs, d.settle())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab: power cut of %s: %w", h.name, err)
	}
	return nil
}

// shutdown makes the mounted file system forget what it has not written.
func (d *disk) shutdown(in *incarnation) error {
	top, err := unix.Open(in.path(hiddenMount(d.Path)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("disk %s: %w", d.Path, err)
	}
	defer unix.Close(top)
	if err := unix.IoctlSetPointerInt(top, goDown, withoutLogging); err != nil {
		return fmt.Errorf("shut down %s on %s: %w", d.FS, d.Path, err)
	}
	return nil
}

const (
	unmountPatience = 20 * time.Second
	unmountPoll     = 2 * time.Millisecond
)

// settle waits until the disk of a host that is off is not mounted any more. The
// kernel unmounts what a dead process had mounted a moment after its end, and
// until then another mount would show the same, dead file system again.
func (d *disk) settle() error {
	if d.loop == nil {
		return nil
	}
	for end := time.Now().Add(unmountPatience); ; time.Sleep(unmountPoll) {
		// Exclusive access is what a mount has.
		dev, err := unix.Open(d.source, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			return unix.Close(dev)
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("disk %s is still mounted: %s: %w", d.Path, d.source, err)
		}
	}
}

// newBootID makes the host's kernel name this boot otherwise than the last one:
// all hosts of a lab share the machine's.
func newBootID(root string) error {
	var id [16]byte
	rand.Read(id[:]) // never fails, see crypto/rand
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	text := fmt.Sprintf("%x-%x-%x-%x-%x\n", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	file := filepath.Join(root, "run", "boot_id")
	if err := os.WriteFile(file, []byte(text), 0o444); err != nil {
		return err
	}
	return mount(file, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "", unix.MS_BIND, "")
}
