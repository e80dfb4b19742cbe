package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Options of a lab. The zero value is usable by a program whose main function
// calls Main whatever its arguments.
type Options struct {
	Dir        string   // where the lab's directory is made; default /var/tmp. It must allow trusted.* xattrs
	HelperArgs []string // arguments with which this program comes to call Main
	Networks   []string // default: "default" and "repli"
}

const (
	dirPrefix = "skfs-lab-"
	lockName  = "owner.lock" // locked by the process that owns the lab
	keptName  = "kept.json"  // holders of a lab that outlives its owner
)

// Lab is a set of hosts and the networks between them.
type Lab struct {
	dir    string
	helper []string
	nets   []*network
	ns     netns.NsHandle // the namespace of the bridges
	lock   *os.File

	mu    sync.Mutex
	hosts []*Host
	kept  bool
}

// New makes a lab without hosts. The caller closes it.
func New(o Options) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: namespaces and mounts need root: run this as root")
	}
	if o.Dir == "" {
		o.Dir = "/var/tmp"
	}
	if o.Networks == nil {
		o.Networks = []string{"default", "repli"}
	}
	dir, err := os.MkdirTemp(o.Dir, dirPrefix)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := &Lab{dir: dir, helper: o.HelperArgs, ns: netns.None()}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // services of other users run in the hosts
		return nil, fmt.Errorf("lab: %w", err)
	}
	if l.lock, err = os.Create(filepath.Join(dir, lockName)); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lab: lock %s: %w", l.lock.Name(), err)
	}
	if err := trustedXattrs(dir); err != nil {
		return nil, err
	}
	if l.ns, err = newNetNS(); err != nil {
		return nil, fmt.Errorf("lab: network namespace: %w", err)
	}
	for i, name := range o.Networks {
		n, err := newNetwork(l.ns, i, name)
		if err != nil {
			return nil, err
		}
		l.nets = append(l.nets, n)
	}
	return l, nil
}

// trustedXattrs refuses a place where skfs could not keep its identities.
func trustedXattrs(dir string) error {
	const name = "trusted.skfs.probe"
	if err := unix.Setxattr(dir, name, []byte("x"), 0); err != nil {
		return fmt.Errorf("lab: %s does not take trusted.* extended attributes (%w): name another directory", dir, err)
	}
	return unix.Removexattr(dir, name)
}

// newNetNS makes a network namespace that lives as long as the handle is open.
func newNetNS() (ns netns.NsHandle, err error) {
	err = onLostThread(func() error {
		ns, err = netns.New()
		return err
	})
	return ns, err
}

// Dir is the lab's directory on the machine: outside all hosts, a place for what
// clients must remember.
func (l *Lab) Dir() string { return l.dir }

// Host returns the host of that name, nil if there is none.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// Hosts returns all hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

// Keep makes the hosts live on after Close and after the end of this process.
// Sweep(dir, true) removes them.
func (l *Lab) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var holders []processID
	for _, h := range l.hosts {
		id, err := h.keep()
		if err != nil {
			return err
		}
		holders = append(holders, id)
	}
	b, err := json.Marshal(holders)
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dir, keptName), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("lab: keep: %w", err)
	}
	l.kept = true
	return nil
}

// Close kills all hosts and removes everything the lab made, unless it is kept.
// Its error names what is left.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if !l.kept {
		for _, h := range l.hosts {
			errs = append(errs, h.close())
		}
		errs = append(errs, removeLab(l.dir))
	}
	l.hosts = nil
	if l.ns.IsOpen() {
		errs = append(errs, l.ns.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
		l.lock = nil
	}
	return errors.Join(errs...)
}

// removeLab deletes a lab's directory, and refuses to cross into what is still
// mounted there.
func removeLab(dir string) error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Path, dir+"/") {
			return fmt.Errorf("lab: %s is still mounted, %s is left", m.Path, dir)
		}
	}
	if err := removeCgroups(filepath.Base(dir) + "."); err != nil {
		return fmt.Errorf("lab: control groups of %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// Sweep removes what killed labs left under dir (default /var/tmp), and with kept
// also the labs that were told to stay. It returns the directories removed.
func Sweep(dir string, kept bool) ([]string, error) {
	if dir == "" {
		dir = "/var/tmp"
	}
	found, err := filepath.Glob(filepath.Join(dir, dirPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, d := range found {
		ok, err := sweepOne(d, kept)
		if ok {
			removed = append(removed, d)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

func sweepOne(dir string, kept bool) (bool, error) {
	lock, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // just being made, or just being removed
	}
	if err != nil {
		return false, fmt.Errorf("lab: sweep: %w", err)
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil // its owner lives
	}
	b, err := os.ReadFile(filepath.Join(dir, keptName))
	if err == nil {
		if !kept {
			return false, nil
		}
		var holders []processID
		if err := json.Unmarshal(b, &holders); err != nil {
			return false, fmt.Errorf("lab: sweep %s: %w", dir, err)
		}
		for _, p := range holders {
			if err := p.kill(); err != nil {
				return false, fmt.Errorf("lab: sweep %s: %w", dir, err)
			}
		}
	}
	if err := removeLab(dir); err != nil {
		return false, fmt.Errorf("lab: sweep: %w", err)
	}
	return true, nil
}
