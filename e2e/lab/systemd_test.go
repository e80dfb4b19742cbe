package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A host boots systemd, which starts the units that are enabled, and goes down in order:
// by its own command, and for the lab's.
func TestSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if why := NoSystemd(); why != "" {
		t.Skip(why)
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	h, err := l.AddHost(HostSpec{Name: "node1", Systemd: true, Disks: []Disk{{Path: "/etc/systemd/system"}, {Path: "/srv/count"}}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := h.Run(ctx, name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	booted := func() {
		t.Helper()
		if state, err := h.AwaitBooted(ctx); err != nil || state != "running" {
			t.Fatalf("%s, %v\n%s", state, err, run("systemctl", "list-units", "--failed"))
		}
	}
	booted()
	unit := "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo start >>/srv/count/log'\n" +
		"ExecStop=/bin/sh -c 'echo stop >>/srv/count/log'\n[Install]\nWantedBy=multi-user.target\n"
	disk, err := h.Backing("/etc/systemd/system")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(disk, "count.service"), []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	run("systemctl", "daemon-reload")
	run("systemctl", "enable", "--now", "count")
	if got := run("hostname"); got != "node1" {
		t.Errorf("the host calls itself %q", got)
	}
	for _, way := range []Shutdown{Rebooted, PoweredOff} {
		run("systemctl", "--no-block", string(way))
		got, err := h.AwaitShutdown(ctx)
		if err != nil || got != way {
			t.Fatalf("%s: %q, %v", way, got, err)
		}
		if err := h.Boot(); err != nil {
			t.Fatal(err)
		}
		booted()
		run("systemctl", "is-active", "count", "dbus", "systemd-journald")
	}
	if err := h.PowerOff(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(l.Dir(), "node1/disks/srv-count/log"))
	if want := "start\nstop\nstart\nstop\nstart\n"; err != nil || string(log) != want {
		t.Errorf("the unit's log is %q, %v; want %q", log, err, want)
	}
	noCgroups(t, l.Dir())
}

// noCgroups fails the test if the lab in dir has left control groups.
func noCgroups(t *testing.T, dir string) {
	t.Helper()
	root, err := cgroups()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if left, _ := filepath.Glob(filepath.Join(root.path, filepath.Base(dir)+".*")); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
}
