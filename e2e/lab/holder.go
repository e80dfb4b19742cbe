package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const holderRole = "holder"

// Descriptors that the holder inherits, counted from 3.
const (
	lifeLine   = iota // its end means that the owner is gone
	readyLine         // takes holderReady, or why not
	switchLine        // keeps the namespace of the bridges alive as long as a host of a kept lab
	powerLine         // with systemd: powerWord, or the end of the lab
)

const (
	holderReady = "ready"
	keepWord    = 'k' // on the life line: live on without the owner
	powerWord   = 'p' // on the power line: the cables are plugged in
)

type holderSpec struct {
	Hostname string
	Root     string // a directory for the host's root to be mounted on
	Disks    []mountSpec
	Cgroup   string // the host's group if it runs systemd, else ""
}

// hold is PID 1 of a host: it makes the root, then reaps until its owner is gone.
// The kernel kills every process of the host when it exits.
func hold(args []string) error {
	ready := os.NewFile(3+readyLine, "ready")
	var spec holderSpec
	err := func() error {
		if len(args) != 1 {
			return fmt.Errorf("%d arguments, expected 1", len(args))
		}
		if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
			return err
		}
		if os.Getpid() != 1 {
			return errors.New("not PID 1 of a namespace: a holder is started by a lab only")
		}
		if err := makeRoot(spec); err != nil {
			return err
		}
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		return netlink.LinkSetUp(lo)
	}()
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	if spec.Cgroup != "" {
		return bootSystemd(ready, spec.Cgroup)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	orphaned := make(chan struct{})
	go watchOwner(os.NewFile(3+lifeLine, "life"), orphaned)
	fmt.Fprint(ready, holderReady)
	ready.Close()
	for {
		select {
		case <-orphaned:
			return nil
		case <-children:
			reap()
		}
	}
}

// bootSystemd waits until the host is plugged in, and leaves it to systemd. Who watches
// the owner then is the guard.
func bootSystemd(ready *os.File, cgroup string) error {
	for line := range 4 {
		unix.CloseOnExec(3 + line)
	}
	fmt.Fprint(ready, holderReady)
	ready.Close()
	power := os.NewFile(3+powerLine, "power")
	word := make([]byte, 1)
	if n, err := power.Read(word); n != 1 || word[0] != powerWord {
		return fmt.Errorf("the lab ended before the host was booted: %w", err)
	}
	return becomeSystemd(cgroup)
}

// watchOwner closes orphaned at the end of the life line, unless it was told to
// keep the host.
func watchOwner(life *os.File, orphaned chan<- struct{}) {
	defer life.Close()
	word := make([]byte, 1)
	if n, _ := life.Read(word); n == 1 && word[0] == keepWord {
		return
	}
	close(orphaned)
}

// reap takes the exit status of every orphan that has ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
	}
}
