package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

const cluster = `<cluster><lans><lan name="default">
	<node name="node1" addr="10.0.0.1"/><node name="node2" addr="10.0.0.2"/></lan></lans></cluster>`

// Every template can be installed and configured as it is.
func TestTemplates(t *testing.T) {
	p := conf.Paths{Safe: filepath.Join(t.TempDir(), "s"), SafeVar: filepath.Join(t.TempDir(), "v")}
	c, err := p.ApplyCluster("cluster.xml", []byte(cluster), conf.KeepLock)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteTemplates(p.Templates()); err != nil {
		t.Fatal(err)
	}
	names, err := Templates()
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if _, err := p.Install(name, filepath.Join(p.Templates(), name+".safe"), conf.InstallOptions{}); err != nil {
			t.Fatal(err)
		}
		a, err := p.Apply(name, c, time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Module.Warnings) > 0 {
			t.Errorf("template %s: %v", name, a.Module.Warnings)
		}
		scripts(t, p.UserBin(name))
	}
	a, err := p.Active("mirror", c)
	if err != nil || a.Module.Heart.Timeout != 2500*time.Millisecond || a.Module.User == nil {
		t.Fatalf("mirror: %+v, %v", a, err)
	}
}

// scripts are executable and have no syntax error.
func scripts(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatal(dir, err)
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		if st, err := e.Info(); err != nil || st.Mode()&0o111 != 0o111 {
			t.Errorf("%s: mode %v, %v", file, st.Mode(), err)
		}
		if out, err := exec.Command("/bin/sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", file, err, out)
		}
	}
}

// A template that is there stays as it is.
func TestTemplateIsKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mirror.safe")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteTemplates(dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
		t.Fatalf("%q, %v", data, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestUnits(t *testing.T) {
	entries, err := fs.ReadDir(units, "units")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		unit, err := Unit(e.Name())
		if err != nil || !strings.Contains(string(unit), "skfs") {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
	script := filepath.Join(t.TempDir(), "init")
	unit, err := Unit("skfs.init")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, unit, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/bin/sh", "-n", script).CombinedOutput(); err != nil {
		t.Errorf("skfs.init: %v %s", err, out)
	}
	// R1: systemd must not kill what the daemon leaves running.
	if unit, err := Unit("skfs.service"); err != nil || !strings.Contains(string(unit), "\nKillMode=process\n") {
		t.Errorf("skfs.service: KillMode is not process, %v", err)
	}
}
