package conf

import (
	"archive/zip"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const goodConfig = `<safe><service mode="mirror"><heart><heartbeat name="default" ident="flow"/></heart>
	<rfs><replicated dir="/srv/one"/></rfs><user/></service></safe>`

// newNode makes an empty installation, with a cluster.
func newNode(t *testing.T) (Paths, *Cluster) {
	p := Paths{Safe: filepath.Join(t.TempDir(), "safe"), SafeVar: filepath.Join(t.TempDir(), "var")}
	c, err := p.ApplyCluster("cluster.xml", []byte(twoNodes), KeepLock)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

// safe writes a zip with these entries, in order of name, and returns its path.
func safe(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		w, err := z.Create(n)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[n])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.safe")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// tree reads all files below dir, as path → permission and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		st, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		m[rel] = st.Mode().String() + " " + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The life of a module: install, configure, edit, configure again, package,
// install elsewhere, uninstall.
func TestModuleLife(t *testing.T) {
	p, c := newNode(t)
	file := safe(t, map[string]string{
		"conf/userconfig.xml": goodConfig, "bin/start_prim": "#!/bin/sh\n", "web/index.html": "<html>", "manifest.xml": "<m/>",
	})
	id, err := p.Install("app", file, InstallOptions{})
	if err != nil || id != 1 {
		t.Fatalf("Install: id %d, %v", id, err)
	}
	want := map[string]string{
		"conf/userconfig.xml": "-rw-r--r-- " + goodConfig, "bin/start_prim": "-rwxr-xr-x #!/bin/sh\n",
		"web/index.html": "-rw-r--r-- <html>", "manifest.xml": "-rw-r--r-- <m/>",
	}
	if d := cmp.Diff(want, tree(t, p.ModuleDir("app"))); d != "" {
		t.Fatal(d)
	}
	if _, err := p.Install("app", file, InstallOptions{}); !errors.Is(err, ErrInstalled) {
		t.Fatalf("second Install: %v", err)
	}
	if _, err := p.Active("app", c); !errors.Is(err, ErrNotConfigured) {
		t.Fatalf("Active before Apply: %v", err)
	}

	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if _, err := p.Apply("app", c, day, nil); err != nil {
		t.Fatal(err)
	}
	a, err := p.Active("app", c)
	if err != nil {
		t.Fatal(err)
	}
	if a.ID != 1 || !a.Date.Equal(day) || a.Module.RFS.Replicated[0].Dir != "/srv/one" {
		t.Fatalf("%+v", a)
	}
	i, err := p.Info("app")
	if err != nil || i.Active != i.Current || i.Active != a.Signature {
		t.Fatalf("Info after Apply: %+v, %v", i, err)
	}

	// An edit changes the current signature only, a mistake is refused and the
	// active configuration stays whole.
	edit := filepath.Join(p.ModuleDir("app"), "conf/userconfig.xml")
	if err := os.WriteFile(edit, []byte("<safe><service mode=\"mirror\"/></safe>"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := tree(t, p.ActiveModules())
	_, err = p.Apply("app", c, day, nil)
	if err == nil || !strings.HasPrefix(err.Error(), edit+":1:7: ") {
		t.Fatalf("Apply of a mistake: %v", err)
	}
	if d := cmp.Diff(before, tree(t, p.ActiveModules())); d != "" {
		t.Fatal(d)
	}
	if j, err := p.Info("app"); err != nil || j.Active != i.Active || j.Current == i.Current {
		t.Fatalf("Info after an edit: %+v, %v", j, err)
	}

	if err := os.WriteFile(edit, []byte(strings.ReplaceAll(goodConfig, "/srv/one", "/srv/two")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.ModuleDir("app"), "bin/start_prim")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.ModuleDir("app"), "bin/stop_prim"), []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply("app", c, day, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"stop_prim": "-rwxr-xr-x #!/bin/sh\n"}, tree(t, p.UserBin("app"))); d != "" {
		t.Fatal(d)
	}

	out := filepath.Join(t.TempDir(), "new.safe")
	if err := p.Package("app", out); err != nil {
		t.Fatal(err)
	}
	if id, err := p.Install("copy", out, InstallOptions{ID: 7}); err != nil || id != 7 {
		t.Fatalf("Install of the package: id %d, %v", id, err)
	}
	if d := cmp.Diff(tree(t, filepath.Join(p.ModuleDir("app"), "conf")), tree(t, filepath.Join(p.ModuleDir("copy"), "conf"))); d != "" {
		t.Fatal(d)
	}
	// Two modules cannot replicate the same directory.
	if _, err := p.Apply("copy", c, day, nil); err == nil || !strings.Contains(err.Error(), "of module app lie in each other") {
		t.Fatalf("Apply of a second module with the same directory: %v", err)
	}

	if err := p.Uninstall("app"); err != nil {
		t.Fatal(err)
	}
	ms, err := p.Installed()
	if d := cmp.Diff([]Installed{{"copy", 7}}, ms); d != "" || err != nil {
		t.Fatal(d, err)
	}
	for _, gone := range []string{p.ModuleDir("app"), p.ActiveDir("app"), p.UserVar("app")} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if err := p.Uninstall("app"); !errors.Is(err, ErrNotInstalled) {
		t.Fatalf("second Uninstall: %v", err)
	}
}

// Leftovers of an Apply and an Install that were killed are in nobody's way.
func TestLeftovers(t *testing.T) {
	p, c := newNode(t)
	file := safe(t, map[string]string{"mod/conf/userconfig.xml": goodConfig, "mod/bin/x": "x"})
	for _, dir := range []string{p.Modules() + "/.app.new/conf", p.ActiveModules() + "/.app.new/bin", p.ActiveModules() + "/.app.old/bin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/left", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Install("app", file, InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply("app", c, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	for rel := range tree(t, p.Safe) {
		if strings.HasSuffix(rel, "left") && !strings.Contains(rel, ".app.old") {
			t.Errorf("%s is left", rel)
		}
	}
	if err := p.Deconfigure("app"); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, p.ActiveModules()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// No package writes outside of its module, or is half installed.
func TestHostilePackages(t *testing.T) {
	conf := "conf/userconfig.xml"
	link := func() string {
		file := filepath.Join(t.TempDir(), "l.safe")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z := zip.NewWriter(f)
		w, err := z.Create(conf)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(goodConfig))
		h := &zip.FileHeader{Name: "bin"}
		h.SetMode(fs.ModeSymlink | 0o777)
		if w, err = z.CreateHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("/"))
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return file
	}
	noZip := filepath.Join(t.TempDir(), "no.safe")
	if err := os.WriteFile(noZip, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, want string }{
		"dotdot":            {safe(t, map[string]string{conf: "", "bin/../../evil": "x"}), "names stay below the module"},
		"absolute":          {safe(t, map[string]string{conf: "", "/tmp/evil": "x"}), "names stay below the module"},
		"backslash":         {safe(t, map[string]string{conf: "", `bin\..\..\evil`: "x"}), "names stay below the module"},
		"dot":               {safe(t, map[string]string{conf: "", "bin/./x": "x"}), "names stay below the module"},
		"symlink":           {link(), "no regular file"},
		"no config":         {safe(t, map[string]string{"bin/x": ""}), "no conf/userconfig.xml in it"},
		"file as directory": {safe(t, map[string]string{conf: "", "bin": "x", "bin/x": "y"}), "bin/x"},
		"no zip":            {noZip, "zip: not a valid zip file"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := newNode(t)
			_, err := p.Install("evil", c.file, InstallOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), c.file) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if left := tree(t, filepath.Dir(p.Safe)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if ms, err := p.Installed(); len(ms) > 0 || err != nil {
				t.Errorf("installed: %v, %v", ms, err)
			}
		})
	}
	p, _ := newNode(t)
	for _, bad := range []string{"", "..", ".x", "a/b", "-m", strings.Repeat("a", 65)} {
		if _, err := p.Install(bad, safe(t, map[string]string{conf: ""}), InstallOptions{}); err == nil {
			t.Errorf("installed as %q", bad)
		}
	}
}

func TestIDs(t *testing.T) {
	p, _ := newNode(t)
	file := safe(t, map[string]string{"conf/userconfig.xml": goodConfig})
	install := func(am string, id int) int {
		t.Helper()
		got, err := p.Install(am, file, InstallOptions{ID: id, Replace: true})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, step := range []struct {
		am       string
		ask, got int
	}{{"a", 0, 1}, {"b", 3, 3}, {"c", 0, 2}, {"d", 0, 4}, {"b", 0, 3}, {"b", 9, 9}, {"e", 0, 3}} {
		if got := install(step.am, step.ask); got != step.got {
			t.Errorf("%s asks for %d: got %d, want %d", step.am, step.ask, got, step.got)
		}
	}
	if _, err := p.Install("f", file, InstallOptions{ID: 9}); err == nil || !strings.Contains(err.Error(), "belongs to module b") {
		t.Errorf("an id that is taken: %v", err)
	}
	if _, err := p.Install("f", file, InstallOptions{ID: MaxID + 1}); err == nil {
		t.Error("an id without ports was given")
	}
	if _, err := p.ModuleID("bb"); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("ModuleID of an unknown module: %v", err)
	}
	data, err := os.ReadFile(p.ModuleIDs())
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(p.ModuleIDs(), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Installed(); err == nil || !strings.Contains(err.Error(), "modules.ids") {
		t.Errorf("a damaged file of ids was read: %v", err)
	}
}

// The ports of different modules never meet (§10.3.3.2.2).
func TestPorts(t *testing.T) {
	if got, want := PortsOf(1), (Ports{Heart: 8888, RFS: 5600, Farm: 4803}); got != want {
		t.Errorf("PortsOf(1) = %+v, want %+v", got, want)
	}
	if got := PortsOf(2).Farm; got != 4806 {
		t.Errorf("PortsOf(2).Farm = %d", got)
	}
	udp, tcp := map[int]bool{4800: true}, map[int]bool{WebPort: true}
	for id := 1; id <= MaxID; id++ {
		p := PortsOf(id)
		for port := range 3 {
			if udp[p.Farm+port] || p.Farm+port > 65535 {
				t.Fatalf("farm port of id %d is taken", id)
			}
			udp[p.Farm+port] = true
		}
		if udp[p.Heart] || tcp[p.RFS] {
			t.Fatalf("ports of id %d are taken: %+v", id, p)
		}
		udp[p.Heart], tcp[p.RFS] = true, true
	}
	var b strings.Builder
	if err := WritePorts(&b, nil, nil, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"heart\n\tport    UDP 8888\n", "rfs\n\tsafenfs_port    TCP 5600\n", "farm\n\tport    UDP 4803\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}

func TestClusterLock(t *testing.T) {
	p, _ := newNode(t)
	changed := strings.ReplaceAll(twoNodes, "10.0.0.2", "10.0.0.3")
	steps := []struct {
		data string
		l    Locking
		want error
	}{
		{"", Lock, nil}, {"", Lock, ErrClusterLocked}, {changed, KeepLock, ErrClusterLocked}, {changed, Lock, ErrClusterLocked}, {"", KeepLock, ErrClusterLocked},
		{changed, Unlock, nil}, {twoNodes, KeepLock, nil},
	}
	for i, s := range steps {
		if _, err := p.ApplyCluster("f", []byte(s.data), s.l); !errors.Is(err, s.want) {
			t.Fatalf("step %d: %v, want %v", i, err, s.want)
		}
	}
	before, err := p.ClusterInfo()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.ApplyCluster("f", []byte("<cluster/>"), KeepLock); err == nil {
		t.Fatal("a wrong cluster.xml was applied")
	}
	if after, err := p.ClusterInfo(); err != nil || after != before {
		t.Fatalf("a wrong cluster.xml changed %+v to %+v, %v", before, after, err)
	}
	if err := p.DropCluster(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.LoadCluster(); !errors.Is(err, ErrNoCluster) {
		t.Fatal(err)
	}
}

// A cluster.xml gets a new key each time; cluster.zip carries it to another node; a
// key that is only staged is not in force.
func TestClusterKey(t *testing.T) {
	one, _ := newNode(t)
	look := func(p Paths) (ClusterInfo, ClusterKey) {
		t.Helper()
		i, err := p.ClusterInfo()
		if err != nil {
			t.Fatal(err)
		}
		k, err := p.LoadClusterKey()
		if err != nil || k.ID() != i.Key {
			t.Fatalf("key %s, shown as %s, %v", k.ID(), i.Key, err)
		}
		return i, k
	}
	first, k1 := look(one)
	if _, err := one.ApplyCluster("f", nil, KeepLock); err != nil {
		t.Fatal(err)
	}
	second, k2 := look(one)
	if k1 == (ClusterKey{}) || k1 == k2 || first.Signature == second.Signature {
		t.Fatalf("keys %x and %x, signatures %s and %s", k1, k2, first.Signature, second.Signature)
	}
	two, _ := newNode(t)
	carry := func() {
		t.Helper()
		zip, err := os.ReadFile(one.ClusterZip())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := two.ApplyCluster("cluster.zip", zip, KeepLock); err != nil {
			t.Fatal(err)
		}
	}
	carry()
	if i, k := look(two); k != k2 || i.Signature != second.Signature {
		t.Fatalf("the other node has key %x and signature %s", k, i.Signature)
	}
	if err := one.StageClusterKey(ClusterKey{}); err != nil {
		t.Fatal(err)
	}
	if _, k := look(one); k != k2 {
		t.Fatalf("what was only staged is in force: %x", k)
	}
	carry()
	if _, k := look(two); k != (ClusterKey{}) {
		t.Fatalf("key %x after it was deleted", k)
	}
	for file, mode := range map[string]os.FileMode{one.ClusterKeyFile(): 0o600, one.ClusterZip(): 0o600} {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", file, st.Mode(), err)
		}
	}
	before, _ := look(one)
	for _, bad := range []string{"PK\x03\x04", "PK\x03\x04 and no more"} {
		if _, err := one.ApplyCluster("cluster.zip", []byte(bad), KeepLock); err == nil || !strings.Contains(err.Error(), "cluster.zip") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if after, _ := look(one); after != before {
		t.Errorf("a wrong cluster.zip changed %+v to %+v", before, after)
	}
}

func FuzzClusterKey(f *testing.F) {
	f.Add(encodeClusterKey(ClusterKey{1, 2, 3}))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := decodeClusterKey(data)
		if err == nil && !bytes.Equal(encodeClusterKey(k), data) {
			t.Errorf("%q is taken as %x, which is written differently", data, k)
		}
	})
}

func TestClusterKeyFormat(t *testing.T) {
	const want = "skfs cluster key 1\nkey 0102030000000000000000000000000000000000000000000000000000000000\ncrc32c adc28943\n"
	if got := encodeClusterKey(ClusterKey{1, 2, 3}); string(got) != want {
		t.Errorf("the format has changed: give it a new version\n%s", got)
	}
}

// Variables of the environment stay what they were when the configuration was
// applied.
func TestEnvironmentIsFrozen(t *testing.T) {
	p, c := newNode(t)
	t.Setenv("SKFS_TEST_DIR", "/srv/then")
	file := safe(t, map[string]string{"conf/userconfig.xml": strings.ReplaceAll(goodConfig, "/srv/one", "%SKFS_TEST_DIR%")})
	if _, err := p.Install("app", file, InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply("app", c, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SKFS_TEST_DIR", "/srv/now")
	a, err := p.Active("app", c)
	if err != nil || a.Module.RFS.Replicated[0].Dir != "/srv/then" {
		t.Fatalf("%+v, %v", a, err)
	}
}

// The command boot counts unless the configuration says otherwise.
func TestBoot(t *testing.T) {
	p, c := newNode(t)
	for am, attr := range map[string]string{"free": "", "fixed": ` boot="off"`} {
		src := strings.ReplaceAll(strings.ReplaceAll(goodConfig, `mode="mirror"`, `mode="mirror"`+attr), "/srv/one", "/srv/"+am)
		if _, err := p.Install(am, safe(t, map[string]string{"conf/userconfig.xml": src}), InstallOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Apply(am, c, time.Now(), nil); err != nil {
			t.Fatal(err)
		}
	}
	boot := func(am string) Boot {
		t.Helper()
		a, err := p.Active(am, c)
		if err != nil {
			t.Fatal(err)
		}
		return a.Module.Boot
	}
	for _, step := range []struct {
		am   string
		on   bool
		want Boot
	}{{"free", true, BootOn}, {"fixed", true, BootOff}, {"free", false, BootOff}} {
		if err := p.SetBoot(step.am, step.on); err != nil {
			t.Fatal(err)
		}
		if got := boot(step.am); got != step.want {
			t.Errorf("%s set to %t: %s, want %s", step.am, step.on, got, step.want)
		}
	}
	if err := p.SetBoot("none", true); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("an unknown module: %v", err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(encodeIDs([]Installed{{"mirror", 1}, {"x", 800}}))
	f.Add(encodeActive(activeInfo{signature: "ab", date: time.Unix(1e9, 0), env: map[string]string{"A": "b\nc"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if ms, err := decodeIDs(data); err == nil {
			again, err := decodeIDs(encodeIDs(ms))
			if err != nil || len(again) != len(ms) {
				t.Fatalf("%v does not come back: %v", ms, err)
			}
		}
		if a, err := decodeActive(data); err == nil {
			again, err := decodeActive(encodeActive(a))
			if err != nil || again.signature != a.signature || len(again.env) != len(a.env) {
				t.Fatalf("%+v does not come back: %v", a, err)
			}
		}
	})
}

// The formats on disk are what earlier versions wrote.
func TestGolden(t *testing.T) {
	ids := "skfs modules 1\n1 mirror\n3 db\ncrc32c 7818c813\n"
	if got := string(encodeIDs([]Installed{{"db", 3}, {"mirror", 1}})); got != ids {
		t.Errorf("modules.ids is\n%s", got)
	}
	active := "skfs active 1\nsignature 6f10\ndate 1767323045\nenv A \"x\\ny\"\nenv B \"\"\ncrc32c 7a79cc46\n"
	got := string(encodeActive(activeInfo{signature: "6f10", date: time.Unix(1767323045, 0), env: map[string]string{"B": "", "A": "x\ny"}}))
	if got != active {
		t.Errorf("active is\n%s", got)
	}
}
