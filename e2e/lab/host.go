package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// HostSpec describes a host to be.
type HostSpec struct {
	Name  string // its host name, unique in the lab
	Disks []Disk
	Env   []string // what its commands get besides the environment of this process
	// Systemd boots systemd, see NoSystemd and Host.AwaitBooted. Its own units are those
	// of /etc/systemd/system, which forgets them unless it is one of the Disks.
	Systemd bool
}

// Host is one host of a lab. It is on or off; its disks outlive both.
type Host struct {
	lab   *Lab
	name  string
	index int
	env   []string
	disks []*disk
	init  bool // its PID 1 is systemd

	mu    sync.Mutex
	on    *incarnation // nil while the host is off
	loose bool         // kept: lives on without this process
}

// incarnation is one life of a host, from Boot to the death of its PID 1.
type incarnation struct {
	holder *exec.Cmd
	pidfd  int
	life   *os.File // the holder exits when the last writer of this pipe is gone
	net    netns.NsHandle
	power  *os.File        // PID 1 goes on to systemd when something is written here; nil without systemd
	gone   chan struct{}   // closed when PID 1, and so every process, has ended
	guard  <-chan struct{} // closed when the guard has, which follows; nil without systemd
}

// AddHost makes a host and boots it.
func (l *Lab) AddHost(s HostSpec) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &Host{lab: l, name: s.Name, index: len(l.hosts), env: s.Env, init: s.Systemd}
	for _, other := range l.hosts {
		if other.name == s.Name {
			return nil, fmt.Errorf("lab: there is a host %s already", s.Name)
		}
	}
	l.hosts = append(l.hosts, h) // from here on Close cleans up after it
	for _, d := range s.Disks {
		made, err := newDisk(h.dir(), d)
		if err != nil {
			return nil, fmt.Errorf("lab: host %s: disk %s: %w", s.Name, d.Path, err)
		}
		h.disks = append(h.disks, made)
	}
	return h, h.Boot()
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Addr is the host's address on a network.
func (h *Host) Addr(network string) net.IP {
	n, err := h.network(network)
	if err != nil {
		return nil
	}
	return n.addr(h.index)
}

func (h *Host) dir() string { return filepath.Join(h.lab.dir, h.name) }

func (h *Host) network(name string) (*network, error) {
	for _, n := range h.lab.nets {
		if n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("lab: there is no network %q", name)
}

// Boot switches the host on: a new PID 1, new namespaces, all cables plugged in,
// the disks as they were left. Nothing is started, but systemd where the host has it.
func (h *Host) Boot() (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on != nil {
		return fmt.Errorf("lab: host %s is on already", h.name)
	}
	in, err := h.startHolder()
	if err != nil {
		return fmt.Errorf("lab: boot %s: %w", h.name, err)
	}
	h.on = in
	for _, n := range h.lab.nets {
		if err := n.plug(h.index, in.net); err != nil {
			h.off()
			return fmt.Errorf("lab: boot %s: %w", h.name, err)
		}
	}
	if in.power != nil {
		if _, err := in.power.Write([]byte{powerWord}); err != nil {
			h.off()
			return fmt.Errorf("lab: boot %s: %w", h.name, err)
		}
	}
	return nil
}

// startHolder starts PID 1 and waits until it has made the host's root.
func (h *Host) startHolder() (_ *incarnation, err error) {
	root := filepath.Join(h.dir(), "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	spec := holderSpec{Hostname: h.name, Root: root}
	if h.init {
		spec.Cgroup = h.cgroupName()
	}
	for _, d := range h.disks {
		spec.Disks = append(spec.Disks, d.mount())
	}
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeR.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		lifeW.Close()
		return nil, err
	}
	defer readyR.Close()
	switchNS, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", int(h.lab.ns)))
	if err != nil {
		lifeW.Close()
		readyW.Close()
		return nil, err
	}
	defer switchNS.Close()
	powerR, powerW, err := os.Pipe()
	if err != nil {
		lifeW.Close()
		readyW.Close()
		return nil, err
	}
	defer powerR.Close()

	argv := h.lab.Self()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), RoleEnv(holderRole, string(arg))...)
	// Not this process's own output: a kept host would hold it open.
	complaints, err := os.OpenFile(filepath.Join(h.dir(), "holder.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		lifeW.Close()
		readyW.Close()
		powerW.Close()
		return nil, err
	}
	defer complaints.Close()
	cmd.Stderr = complaints
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{lifeLine: lifeR, readyLine: readyW, switchLine: switchNS, powerLine: powerR}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
	}
	err = cmd.Start()
	readyW.Close()
	if err != nil {
		lifeW.Close()
		powerW.Close()
		return nil, fmt.Errorf("start holder: %w", err)
	}
	in := &incarnation{holder: cmd, life: lifeW, pidfd: -1, net: netns.None(), power: powerW, gone: make(chan struct{})}
	go func() {
		cmd.Wait() // how it ended says nothing: it is killed
		close(in.gone)
	}()
	defer func() {
		if err != nil {
			in.end()
		}
	}()
	said, err := io.ReadAll(readyR)
	if err != nil {
		return nil, fmt.Errorf("holder: %w", err)
	}
	if string(said) != holderReady {
		return nil, fmt.Errorf("holder: %s", said)
	}
	if in.pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
		return nil, fmt.Errorf("pidfd of holder: %w", err)
	}
	if in.net, err = netns.GetFromPid(cmd.Process.Pid); err != nil {
		return nil, fmt.Errorf("network namespace of holder: %w", err)
	}
	if h.init {
		in.guard, err = h.startGuard(lifeR, switchNS, in.pidfd)
		return in, err
	}
	in.power.Close()
	in.power = nil
	return in, nil
}

// end kills the incarnation and returns when no process of it is left.
func (in *incarnation) end() {
	in.holder.Process.Kill()
	<-in.gone
	if in.guard != nil {
		<-in.guard
	}
	in.life.Close()
	if in.power != nil {
		in.power.Close()
	}
	if in.pidfd >= 0 {
		unix.Close(in.pidfd)
	}
	if in.net.IsOpen() {
		in.net.Close()
	}
}

// off ends the host's life. The caller holds h.mu.
func (h *Host) off() error {
	h.on.end()
	h.on = nil
	var errs []error
	if h.init {
		errs = append(errs, removeCgroups(h.cgroupName()))
	}
	for _, n := range h.lab.nets {
		errs = append(errs, n.unplug(h.index))
	}
	return errors.Join(errs...)
}

// errOff says that what was asked needs a host that is on.
var errOff = errors.New("the host is off")

// life returns the present incarnation.
func (h *Host) life() (*incarnation, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == nil {
		return nil, fmt.Errorf("lab: %s: %w", h.name, errOff)
	}
	return h.on, nil
}

// Kill kills every process of the host at once. Its kernel lives on for a
// moment and closes their connections, so peers notice.
func (h *Host) Kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == nil {
		return fmt.Errorf("lab: kill %s: %w", h.name, errOff)
	}
	if err := h.off(); err != nil {
		return fmt.Errorf("lab: kill %s: %w", h.name, err)
	}
	return nil
}

// PowerOff switches the host off at the wall: its cables fall silent first, so
// that nobody hears its connections close, then every process is killed.
func (h *Host) PowerOff() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == nil {
		return fmt.Errorf("lab: power off %s: %w", h.name, errOff)
	}
	var errs []error
	for _, n := range h.lab.nets {
		errs = append(errs, n.setLink(h.index, false))
	}
	errs = append(errs, h.off())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab: power off %s: %w", h.name, err)
	}
	return nil
}

// On says whether the host is switched on.
func (h *Host) On() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on != nil
}

// LinkDown pulls the host's cable of a network.
func (h *Host) LinkDown(network string) error { return h.setLink(network, false) }

// LinkUp plugs it in again.
func (h *Host) LinkUp(network string) error { return h.setLink(network, true) }

func (h *Host) setLink(network string, up bool) error {
	n, err := h.network(network)
	if err != nil {
		return err
	}
	if err := n.setLink(h.index, up); err != nil {
		return fmt.Errorf("lab: link %s of %s: %w", network, h.name, err)
	}
	return nil
}

// Drop loses (on) or no longer loses (off) every frame that from sends to to over
// a network. The other direction and other hosts are not touched. It is
// forgotten when to is switched off.
func (l *Lab) Drop(from, to *Host, network string, on bool) error {
	n, err := from.network(network)
	if err != nil {
		return err
	}
	if err := n.drop(from.index, to.index, on); err != nil {
		return fmt.Errorf("lab: drop %s to %s on %s: %w", from.name, to.name, network, err)
	}
	return nil
}

// Partition cuts (on) or heals (off) two hosts in both directions on all
// networks; each still reaches everybody else.
func (l *Lab) Partition(a, b *Host, on bool) error {
	for _, n := range l.nets {
		for _, pair := range [][2]*Host{{a, b}, {b, a}} {
			if err := l.Drop(pair[0], pair[1], n.name, on); err != nil {
				return err
			}
		}
	}
	return nil
}

// Path returns a path by which this process reaches path as the host sees it,
// through the host's mounts. It is valid until the host is switched off.
func (h *Host) Path(path string) string {
	in, err := h.life()
	if err != nil {
		// A path below a process that cannot exist: every use of it fails.
		return filepath.Join("/proc/0/root", path)
	}
	return in.path(path)
}

func (in *incarnation) path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", in.holder.Process.Pid), path)
}

// Backing returns a path by which this process reaches the disk that the host
// mounts at path, below whatever the host has mounted over it. That of a disk
// without a file system of its own is valid while the host is off, too.
func (h *Host) Backing(path string) (string, error) {
	for _, d := range h.disks {
		rest, ok := strings.CutPrefix(path, d.Path)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		if d.FS == "" {
			return filepath.Join(d.source, rest), nil
		}
		return h.Path(filepath.Join(hiddenMount(d.Path), rest)), nil
	}
	return "", fmt.Errorf("lab: %s has no disk at %s", h.name, path)
}

// Command prepares a command for Start: as exec.CommandContext with the host's
// environment.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Dir = "/"
	return cmd
}

// keep tells the holder to live without its owner.
func (h *Host) keep() (processID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == nil {
		return processID{}, fmt.Errorf("lab: keep %s: %w", h.name, errOff)
	}
	if _, err := h.on.life.Write([]byte{keepWord}); err != nil {
		return processID{}, fmt.Errorf("lab: keep %s: %w", h.name, err)
	}
	h.loose = true
	return identify(h.on.holder.Process.Pid)
}

// PID is the process number of the host's PID 1 on the machine, 0 when off.
func (h *Host) PID() int {
	in, err := h.life()
	if err != nil {
		return 0
	}
	return in.holder.Process.Pid
}

// close switches the host off for good.
func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	if h.on != nil {
		errs = append(errs, h.off())
	}
	for _, d := range h.disks {
		errs = append(errs, d.close())
	}
	return errors.Join(errs...)
}
