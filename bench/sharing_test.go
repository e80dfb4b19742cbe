package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSelectSharing(t *testing.T) {
	for _, c := range []struct {
		list, rest string
		wanted     bool
	}{{"", "", true}, {"sharing", "", true}, {"fs1,sharing,refull", "fs1,refull", true}, {"fs1", "fs1", false}} {
		if wanted, rest := selectSharing(c.list); wanted != c.wanted || rest != c.rest {
			t.Errorf("selectSharing(%q) = %v, %q", c.list, wanted, rest)
		}
	}
}

func TestSharingTables(t *testing.T) {
	costs := map[string]map[string][]float64{"accepted": {noFilter: {100, 200}, bySkfs: {110, 240}, byNft: {220, 440}}}
	if got, want := packetTable(costs), "| UDP, accepted | 150 (100–200) ns | 1.15 (1.10–1.20) | 2.20 (2.20–2.20) | 0.52 (0.50–0.55) |"; !strings.Contains(got, want) {
		t.Errorf("table\n%s\nexpected the row\n%s", got, want)
	}
	rates := map[string][]float64{"direct address": {2e9}, "`vmac_invisible`": {1e9}}
	if got, want := flowTable(rates), "| `vmac_invisible` | 0.50 |"; !strings.Contains(got, want) {
		t.Errorf("table\n%s\nexpected the row\n%s", got, want)
	}
}

// TestSharing: what is measured is what the rows say: packets are accepted, dropped
// and sent on as they should, by skfs and by nftables, and TCP gets through.
func TestSharing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	g, err := newGround(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, row := range packetRows {
		for _, way := range []string{noFilter, bySkfs, byNft} {
			if ns, err := g.packets(t.Context(), row, way, 1000); err != nil && !errors.Is(err, errNoNft) {
				t.Errorf("%s, %s: %v", row.name, way, err)
			} else if err == nil && ns <= 0 {
				t.Errorf("%s, %s: %v ns", row.name, way, ns)
			}
		}
	}
	for _, f := range flows {
		if _, err := g.throughput(f, 10*time.Millisecond); err != nil {
			t.Errorf("%s: %v", f.work, err)
		}
	}
}
