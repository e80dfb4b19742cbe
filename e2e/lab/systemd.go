package lab

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A host whose PID 1 is systemd, as a container manager runs it (systemd.io,
// CONTAINER_INTERFACE): the holder makes the root, dresses it, and executes systemd
// when the host's cables are plugged in. Another helper process, the guard, sees to
// it that the host ends with the lab.
//
// systemd finds a /sys, a /dev and an /etc of its own, so that nothing it sets up
// reaches the machine, and of the machine's units only those of systemdUnits: none that
// has to do with devices, the clock or settings of the kernel.

const (
	systemdBinary = "/lib/systemd/systemd"
	guardRole     = "guard"
)

// systemdUnits are the units that the host has besides its own in /etc/systemd/system.
var systemdUnits = []string{
	"multi-user.target", "basic.target", "sysinit.target", "sockets.target", "timers.target", "paths.target", "slices.target", "swap.target",
	"local-fs-pre.target", "local-fs.target", "remote-fs-pre.target", "remote-fs.target", "umount.target",
	"network-pre.target", "network.target", "network-online.target",
	"shutdown.target", "final.target", "reboot.target", "poweroff.target", "halt.target",
	"systemd-reboot.service", "systemd-poweroff.service", "systemd-halt.service",
	"systemd-journald.socket", "systemd-journald.service", "dbus.socket", "dbus.service",
}

// systemdWants is what starts by itself.
var systemdWants = map[string]string{
	"systemd-journald.socket": "sockets.target", "dbus.socket": "sockets.target",
	"systemd-journald.service": "sysinit.target",
}

// NoSystemd says why no host can run systemd here, "" if it can.
func NoSystemd() string {
	for _, path := range []string{systemdBinary, "/usr/bin/systemctl", "/usr/bin/dbus-daemon"} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Sprintf("there is no %s: apt-get install systemd dbus", path)
		}
	}
	root, err := cgroups()
	if err != nil {
		return fmt.Sprintf("no cgroup2 hierarchy: %v", err)
	}
	defer root.Close()
	probe := filepath.Join(root.path, fmt.Sprintf("%sprobe-%d", dirPrefix, os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		return fmt.Sprintf("cgroup2 is not to be written: %v", err)
	}
	if err := os.Remove(probe); err != nil {
		return err.Error()
	}
	return ""
}

// cgroupTree is the cgroup2 hierarchy, mounted nowhere.
type cgroupTree struct {
	io.Closer
	path string // of its root, for this process
}

func cgroups() (*cgroupTree, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig: %w", err)
	}
	at, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	f := os.NewFile(uintptr(at), "cgroup2")
	return &cgroupTree{f, fmt.Sprintf("/proc/self/fd/%d", at)}, nil
}

// removeCgroups removes the groups whose name begins with prefix. No process is left in
// them.
func removeCgroups(prefix string) error {
	root, err := cgroups()
	if err != nil {
		return nil // then none was made
	}
	defer root.Close()
	found, err := filepath.Glob(filepath.Join(root.path, prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, group := range found {
		errs = append(errs, removeCgroup(group))
	}
	return errors.Join(errs...)
}

func removeCgroup(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(path)
}

// cgroupName is the host's group: its lab's directory tells whose it is.
func (h *Host) cgroupName() string { return filepath.Base(h.lab.dir) + "." + h.name }

// dressForSystemd gives the new root what systemd would otherwise write to the machine's.
func dressForSystemd(root, hostname string) error {
	if err := ownEtc(root, hostname); err != nil {
		return fmt.Errorf("/etc: %w", err)
	}
	if err := ownDev(filepath.Join(root, "dev")); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	if err := ownUnits(root); err != nil {
		return fmt.Errorf("units: %w", err)
	}
	if err := mount("sysfs", filepath.Join(root, "sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return keepMounts(root)
}

// keepMounts has the mounts that make up the root outlive a shutdown, as / and /usr do
// everywhere. Those that come later, the disks first of all, do not.
func keepMounts(root string) error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		path, ours := strings.CutPrefix(m.Path, root+"/")
		if !ours {
			continue
		}
		dir := filepath.Join(root, "run/systemd/system", escapeUnit(path)+".mount.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "lab.conf"), []byte("[Unit]\nDefaultDependencies=no\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// escapeUnit is the name of the unit of a path without its first slash (systemd-escape).
func escapeUnit(path string) string {
	var b strings.Builder
	for i, c := range []byte(path) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == ':' || c == '_' || c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// ownEtc covers /etc with one that shows the machine's, and forgets what is written.
func ownEtc(root, hostname string) error {
	etc, upper, work := filepath.Join(root, "etc"), filepath.Join(root, ".etc/upper"), filepath.Join(root, ".etc/work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount("overlay", etc, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", etc, upper, work)); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hostname":   hostname,
		"machine-id": fmt.Sprintf("%x", md5.Sum([]byte(hostname))),
		// The journal of the host is nothing of the machine's, nor the other way round.
		"systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=",
	} {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		os.Remove(path) // it may be a link out of /etc, or read-only
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ownDev covers dev with a small one that has a few of the machine's devices.
func ownDev(dev string) error {
	below, err := unix.Open(dev, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(below)
	if err := mount("skfs-lab", dev, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "fuse"} {
		at := filepath.Join(dev, name)
		if err := os.WriteFile(at, nil, 0o666); err != nil {
			return err
		}
		if err := mount(fmt.Sprintf("/proc/self/fd/%d/%s", below, name), at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for _, special := range []struct{ dir, fs, data string }{{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"}, {"shm", "tmpfs", "mode=1777"}} {
		at := filepath.Join(dev, special.dir)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := mount(special.fs, at, special.fs, unix.MS_NOSUID, special.data); err != nil {
			return err
		}
	}
	return os.Symlink("pts/ptmx", filepath.Join(dev, "ptmx"))
}

// ownUnits leaves of the machine's units those of systemdUnits, and of its generators
// none.
func ownUnits(root string) error {
	lib, err := filepath.EvalSymlinks(filepath.Dir(systemdBinary))
	if err != nil {
		return err
	}
	units, err := filepath.EvalSymlinks(filepath.Join(lib, "system"))
	if err != nil {
		return err
	}
	contents := map[string][]byte{}
	for _, name := range systemdUnits {
		if contents[name], err = os.ReadFile(filepath.Join(units, name)); err != nil {
			return err
		}
	}
	for _, dir := range []string{units, filepath.Join(lib, "system-generators")} {
		if err := mount("skfs-lab", filepath.Join(root, dir), "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	for name, text := range contents {
		if err := os.WriteFile(filepath.Join(root, units, name), text, 0o644); err != nil {
			return err
		}
	}
	for name, by := range systemdWants {
		dir := filepath.Join(root, units, by+".wants")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink("../"+name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// becomeSystemd turns the calling process into the host's systemd, in a cgroup
// namespace of its own. It returns only if it cannot.
func becomeSystemd(cgroup string) error {
	runtime.LockOSThread() // the thread that leaves the namespace is the one that executes
	root, err := cgroups()
	if err != nil {
		return fmt.Errorf("cgroup2: %w", err)
	}
	group := filepath.Join(root.path, cgroup)
	if err := os.MkdirAll(group, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	argv := []string{systemdBinary, "--system", "--unit=multi-user.target", "--log-target=journal", "--show-status=no"}
	// A systemd that knows that it is in a container leaves the clock, the file systems
	// of the machine and the kernel's settings alone.
	env := []string{"container=skfs-lab", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return fmt.Errorf("%s: %w", systemdBinary, unix.Exec(systemdBinary, argv, env))
}

// Descriptors that the guard inherits, counted from 3.
const (
	guardLife  = iota // as the holder's lifeLine
	guardPidfd        // of the host's PID 1
	guardSwitch
)

// startGuard starts the process that kills the host's PID 1 when the lab's owner is gone.
// The channel is closed when it has ended, as it does after that PID 1.
func (h *Host) startGuard(life, switchNS *os.File, pidfd int) (<-chan struct{}, error) {
	argv := h.lab.Self()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), RoleEnv(guardRole)...)
	cmd.Dir = "/"
	own, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(own), "pidfd")
	defer f.Close()
	cmd.ExtraFiles = []*os.File{guardLife: life, guardPidfd: f, guardSwitch: switchNS}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	return ended, nil
}

func guard([]string) error {
	orphaned, ended := make(chan struct{}), make(chan error, 1)
	go watchOwner(os.NewFile(3+guardLife, "life"), orphaned)
	go func() {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: 3 + guardPidfd, Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				ended <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-orphaned:
		return unix.PidfdSendSignal(3+guardPidfd, unix.SIGKILL, nil, 0)
	}
}

// AwaitBooted waits until systemd has started everything that it is to start, and
// returns what it says of the system: "running", or "degraded" when something failed.
func (h *Host) AwaitBooted(ctx context.Context) (string, error) {
	for {
		out, err := h.Run(ctx, "systemctl", "is-system-running", "--wait")
		state := strings.TrimSpace(out)
		if state == "running" || state == "degraded" {
			return state, nil
		}
		select { // it does not answer yet
		case <-ctx.Done():
			return "", fmt.Errorf("lab: %s does not boot: %w: %s: %w", h.name, ctx.Err(), state, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Shutdown is how a host ended by itself.
type Shutdown string

// The ways in which a host ends by itself.
const (
	Rebooted   Shutdown = "reboot"
	PoweredOff Shutdown = "poweroff" // or halt
)

// AwaitShutdown waits until the host's systemd has shut it down; the host is off then.
func (h *Host) AwaitShutdown(ctx context.Context) (Shutdown, error) {
	in, err := h.life()
	if err != nil {
		return "", err
	}
	select {
	case <-in.gone:
	case <-ctx.Done():
		return "", fmt.Errorf("lab: %s does not shut down: %w", h.name, ctx.Err())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on != in {
		return "", fmt.Errorf("lab: %s was switched off", h.name)
	}
	if err := h.off(); err != nil {
		return "", fmt.Errorf("lab: shutdown of %s: %w", h.name, err)
	}
	// reboot(2) in a PID namespace ends its PID 1 by a signal.
	status, _ := in.holder.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGHUP:
		return Rebooted, nil
	case status.Signaled() && status.Signal() == syscall.SIGINT:
		return PoweredOff, nil
	}
	return "", fmt.Errorf("lab: PID 1 of %s ended: %v", h.name, in.holder.ProcessState)
}
