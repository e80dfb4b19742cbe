package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(map[string]Role{"echo": echoRole, "ask": askRole, "owner": ownerRole, "say": sayRole, "times": timesRole})
	goleak.VerifyTestMain(m)
}

// echoRole answers every datagram with what came, and says when it is listening.
func echoRole([]string) error {
	c, err := net.ListenPacket("udp4", ":7777")
	if err != nil {
		return err
	}
	fmt.Println("listening")
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		fmt.Printf("got %s\n", buf[:n])
		c.WriteTo(buf[:n], from)
	}
}

// askRole sends args[1] to args[0] again and again until it comes back, for as
// long as args[2] says.
func askRole(args []string) error {
	patience, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	c, err := net.Dial("udp4", args[0])
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for end := time.Now().Add(patience); ; {
		_, err := c.Write([]byte(args[1]))
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for err == nil {
			var n int
			if n, err = c.Read(buf); err == nil && string(buf[:n]) == args[1] {
				return nil
			}
		}
		if time.Now().After(end) {
			return err
		}
	}
}

func sayRole([]string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	data, err := os.ReadFile("/replicated/who")
	fmt.Printf("%s %s %d\n", name, data, os.Getpid())
	return err
}

// ownerRole makes a lab and waits to be killed.
func ownerRole(args []string) error {
	l, err := New(Options{Dir: args[0]})
	if err != nil {
		return err
	}
	h, err := l.AddHost(HostSpec{Name: "node1", Disks: []Disk{{Path: "/replicated", FS: "ext4", Size: 8 << 20}}, Systemd: len(args) > 1})
	if err != nil {
		return err
	}
	if len(args) > 1 {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if _, err := h.AwaitBooted(ctx); err != nil {
			return err
		}
	}
	fmt.Println(h.PID())
	select {}
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
}

func twoHosts(t *testing.T, disks ...Disk) (*Lab, *Host, *Host) {
	t.Helper()
	needRoot(t)
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", l.Dir(), err)
		}
	})
	var hosts []*Host
	for _, name := range []string{"node1", "node2"} {
		h, err := l.AddHost(HostSpec{Name: name, Disks: disks, Env: []string{"WHO=" + name}})
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	return l, hosts[0], hosts[1]
}

func runRole(t *testing.T, h *Host, role string, args ...string) (string, error) {
	t.Helper()
	return h.RunCommand(h.RoleCommand(t.Context(), role, args...))
}

// startEcho starts the echo role and returns its output from then on.
func startEcho(t *testing.T, h *Host) *bufio.Reader {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := h.RoleCommand(ctx, "echo")
	cmd.Stdout = w
	echo, err := h.Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		echo.Wait()
		r.Close()
	})
	out := bufio.NewReader(r)
	if line, err := out.ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("echo said %q, %v", line, err)
	}
	return out
}

func TestHostsAreSeparate(t *testing.T) {
	l, a, b := twoHosts(t, Disk{Path: "/replicated"}, Disk{Path: "/opt/skfs-lab-test"}, Disk{Path: "/var/lib/skfs-lab-test/deep"})
	for _, h := range []*Host{a, b} {
		if err := os.WriteFile(h.Path("/replicated/who"), []byte(h.Name()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []*Host{a, b} {
		out, err := runRole(t, h, "say")
		if err != nil {
			t.Fatal(err, out)
		}
		f := strings.Fields(out)
		pid, _ := strconv.Atoi(f[2])
		if f[0] != h.Name() || f[1] != h.Name() || pid == 0 || pid > 100 {
			t.Errorf("%s said %q", h.Name(), out)
		}
		back, err := h.Backing("/replicated/who")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(back); string(got) != h.Name() {
			t.Errorf("backing of %s: %q, %v", h.Name(), got, err)
		}
		out, err = h.Run(t.Context(), "/bin/sh", "-c", "echo $WHO; mountpoint -q /opt/skfs-lab-test && test -d /opt && test -d /usr/lib && test -d /var/lib/skfs-lab-test/deep && ls /proc | grep -c '^[0-9]'")
		if err != nil {
			t.Fatal(err)
		}
		if f := strings.Fields(out); f[0] != h.Name() || len(f[1]) > 1 {
			t.Errorf("%s: environment and number of processes %q", h.Name(), out)
		}
	}
	for _, p := range []string{"/replicated", "/opt/skfs-lab-test", "/var/lib/skfs-lab-test"} {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is on the machine: %v", p, err)
		}
	}
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.Contains(m.Path, l.Dir()) {
			t.Errorf("%s is mounted on the machine", m.Path)
		}
	}
}

func TestNetworksAndCuts(t *testing.T) {
	l, a, b := twoHosts(t)
	heard := startEcho(t, b)
	ask := func(network, text, patience string) error {
		_, err := runRole(t, a, "ask", b.Addr(network).String()+":7777", text, patience)
		return err
	}
	hears := func(text string) {
		t.Helper()
		for {
			line, err := heard.ReadString('\n')
			if err != nil {
				t.Fatalf("node2 did not hear %s: %v", text, err)
			}
			if line == "got "+text+"\n" {
				return // what came before was held back by the sender while its cable was out
			}
		}
	}
	expect := func(network, text string) {
		t.Helper()
		if err := ask(network, text, "10s"); err != nil {
			t.Fatalf("%s over %s: %v", text, network, err)
		}
		hears(text)
	}
	for _, n := range []string{"default", "repli"} {
		expect(n, "hello")
		if err := a.LinkDown(n); err != nil {
			t.Fatal(err)
		}
		if ask(n, "unplugged", "500ms") == nil {
			t.Fatalf("%s works without its cable", n)
		}
		if err := a.LinkUp(n); err != nil {
			t.Fatal(err)
		}
		expect(n, "again")
	}
	// One way: the request arrives, its answer does not.
	if err := l.Drop(b, a, "default", true); err != nil {
		t.Fatal(err)
	}
	if ask("default", "oneway", "500ms") == nil {
		t.Fatal("an answer came through a dropped direction")
	}
	hears("oneway") // the other direction is open
	expect("repli", "other network")
	if err := l.Drop(b, a, "default", false); err != nil {
		t.Fatal(err)
	}
	expect("default", "healed")
	if err := l.Partition(a, b, true); err != nil {
		t.Fatal(err)
	}
	if ask("default", "partitioned", "500ms") == nil || ask("repli", "partitioned", "500ms") == nil {
		t.Fatal("a partition lets through")
	}
	if err := l.Partition(a, b, false); err != nil {
		t.Fatal(err)
	}
	expect("default", "whole")
}

func TestPowerOffAndBoot(t *testing.T) {
	_, a, b := twoHosts(t, Disk{Path: "/srv/data"})
	if err := os.WriteFile(b.Path("/srv/data/file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	startEcho(t, b)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := runRole(t, a, "ask", b.Addr("default").String()+":7777", "x", "500ms"); err == nil {
		t.Fatal("a paused host answers")
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if out, err := runRole(t, a, "ask", b.Addr("default").String()+":7777", "x", "10s"); err != nil {
		t.Fatal(err, out)
	}
	for name, kill := range map[string]func() error{"power off": b.PowerOff, "kill": b.Kill} {
		pid := b.PID()
		if err := kill(); err != nil {
			t.Fatal(name, err)
		}
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Fatalf("%s: PID 1 lives: %v", name, err)
		}
		if _, err := b.Run(t.Context(), "/bin/true"); !errors.Is(err, errOff) {
			t.Fatalf("%s: a command ran: %v", name, err)
		}
		if err := b.Boot(); err != nil {
			t.Fatal(name, err)
		}
		if got, err := os.ReadFile(b.Path("/srv/data/file")); string(got) != "kept" {
			t.Fatalf("%s: the disk has %q, %v", name, got, err)
		}
		startEcho(t, b)
		if out, err := runRole(t, a, "ask", b.Addr("repli").String()+":7777", "x", "10s"); err != nil {
			t.Fatal(name, err, out)
		}
	}
}

func TestLoopDiskFills(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no mkfs.ext4")
	}
	_, a, _ := twoHosts(t, Disk{Path: "/srv/data", FS: "ext4", Size: 16 << 20})
	free, err := Fill(a.Path("/srv/data"))
	if err != nil {
		t.Fatal(err)
	}
	file := a.Path("/srv/data/file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("writing to a full disk: %v", err)
	}
	if err := free(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := a.Boot(); err != nil {
		t.Fatal(err)
	}
	back, err := a.Backing("/srv/data/file")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); string(got) != "kept" {
		t.Fatalf("after a boot the disk has %q, %v", got, err)
	}
}

// A lab whose owner is killed dies with it, and Sweep finds the rest.
func TestKilledOwnerLeavesNothing(t *testing.T) {
	needRoot(t)
	t.Run("bare", func(t *testing.T) { killOwner(t) })
	t.Run("systemd", func(t *testing.T) {
		if why := NoSystemd(); why != "" {
			t.Skip(why)
		}
		killOwner(t, "systemd")
	})
}

func killOwner(t *testing.T, args ...string) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(exe)
	owner.Env = append(os.Environ(), RoleEnv("owner", append([]string{dir}, args...)...)...)
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var holder int
	if _, err := fmt.Fscan(out, &holder); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(holder, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if removed, err := Sweep(dir, true); err != nil || len(removed) != 0 {
		t.Fatalf("swept a living lab: %v, %v", removed, err)
	}
	owner.Process.Kill()
	io.Copy(io.Discard, out)
	owner.Wait()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 60_000)
	if n != 1 {
		t.Fatalf("the holder outlives its owner: %v", err)
	}
	removed, err := Sweep(dir, false)
	if err != nil || len(removed) != 1 {
		t.Fatalf("swept %v, %v", removed, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	if len(args) > 0 {
		noCgroups(t, removed[0])
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if b, _ := os.ReadFile(l); strings.Contains(string(b), dir) {
			t.Errorf("%s is left on %s", l, b)
		}
	}
}

func TestUnescapeOctal(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, `/plain`: "/plain", `/end\04`: `/end\04`} {
		if got := unescapeOctal(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
