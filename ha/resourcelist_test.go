package ha

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/rules"
)

const (
	resourcesDoc = "../docs/resources.md"
	docBegin     = "<!-- The table is that of ha/resourcelist.go: go test ./ha -run TestResourceDoc -update -->\n"
	docEnd       = "<!-- end of the table -->\n"
)

// TestResourceDoc: the documented list is that of the code.
func TestResourceDoc(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("| resource | values | set by | meaning | § |\n|---|---|---|---|---|\n")
	for _, k := range ResourceKinds {
		setter := k.Setter
		if setter == "" {
			setter = "skfs"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.Name, strings.Join(k.Values, ", "), setter, k.Meaning, k.Guide)
	}
	data, err := os.ReadFile(resourcesDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), docBegin)
	table, after, ok2 := strings.Cut(rest, docEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table", resourcesDoc)
	}
	if *update {
		if err := os.WriteFile(resourcesDoc, []byte(before+docBegin+b.String()+docEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if table != b.String() {
		t.Errorf("%s is not what ha/resourcelist.go says: run this test with -update", resourcesDoc)
	}
}

// TestResourceClasses: rules can speak of every class in the list, and of no other.
func TestResourceClasses(t *testing.T) {
	var listed []string
	for _, k := range ResourceKinds {
		if class, _, dotted := strings.Cut(k.Name, "."); dotted && !slices.Contains(listed, class) {
			listed = append(listed, class)
		}
	}
	known := slices.Clone(rules.Classes)
	slices.Sort(listed)
	slices.Sort(known)
	if !slices.Equal(listed, known) {
		t.Errorf("the list has %v, rules know %v", listed, known)
	}
}

// TestResourcesAreListed: what a module shows through its life is in the list, with
// values that the list allows.
func TestResourcesAreListed(t *testing.T) {
	p := newPair(t, true, func(mc *moduleConf) {
		mc.conf.SyncDelta, mc.boot = time.Hour, conf.BootOff
	}, ruled(t, "disk: if (custom.disk == down) then wait();"))
	seen := map[string]bool{}
	look := func() {
		t.Helper()
		for i := range 2 {
			st, err := p.sups[i].State("mirror")
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range slices.Concat(st.Resources, st.RemoteResources) {
				k, ok := kindOf(r.Name)
				if seen[k.Name] = true; !ok || !k.allows(r.Value) {
					t.Errorf("%s is %q: it is not listed, or cannot be so (%v)", r.Name, r.Value, k.Values)
				}
			}
		}
	}
	look()
	p.up()
	look()
	p.do(0, "set", "custom.disk", "down")
	p.want("WAIT red", "ALONE green")
	look()
	p.do(0, "stop")
	p.want("STOP red", "-")
	look()
	for _, name := range []string{"state.local", "state.remote", "heart.stopstartloop", "heartbeat.IDENT", "rfs.uptodate", "rfs.degraded", "rfs.synced",
		"rfs.rfssync", "rfs.netout_bandwidth", "usersetting.boot", "usersetting.checker", "usersetting.errd", "usersetting.failover",
		"usersetting.rfssyncmode", "usersetting.rfssyncrole", "usersetting.rfssyncuid", "custom.IDENT"} {
		if !seen[name] {
			t.Errorf("%s was never there", name)
		}
	}
}
