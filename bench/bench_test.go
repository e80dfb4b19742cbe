package main

import (
	"math"
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	got, err := selectJobs("rm,fs1")
	if err != nil || len(got) != 2 || got[0].name != "fs1" || got[1].name != "tree" {
		t.Errorf("selectJobs: %v, %v, expected fs1 and tree", got, err)
	}
	if _, err := selectJobs("fs2"); err == nil || !strings.Contains(err.Error(), `"fs2"`) {
		t.Errorf("selectJobs of an unknown job: %v", err)
	}
	targets, err := selectTargets("none,floor")
	if err != nil || strings.Join(targets, ",") != "native,floor,none" {
		t.Errorf("selectTargets: %q, %v", targets, err)
	}
	if _, err := selectTargets("ext4"); err == nil || !strings.Contains(err.Error(), `"ext4"`) {
		t.Errorf("selectTargets of an unknown target: %v", err)
	}
}

// TestRatios: a ratio is taken inside a round, so that a slow round does not count.
func TestRatios(t *testing.T) {
	r := newResults(description{})
	j := &job{name: "x", figures: []figure{{name: "x", work: "work", unit: "/s", reach: 0.35, aim: 0.6}}}
	for round, v := range [][2]float64{{1000, 500}, {100, 40}, {2000, 600}} {
		r.add(j, native, round, v[:1])
		r.add(j, second, round, v[1:])
	}
	if got := median(r.ratios("x", second)); got != 0.4 {
		t.Errorf("median ratio %v, expected 0.4", got)
	}
	const row = `| work | 1000 (100–2000)/s | 0.40 (0.30–0.50) | 0.35 | met | 0.60 | 66 % |`
	if table := r.table([]*job{j}, []string{native, second}); !strings.Contains(table, row) {
		t.Errorf("table %s\nexpected the row %s", table, row)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, expected %v", c.values, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

func TestReplaceTable(t *testing.T) {
	old := "# Title\n" + writing.begin + "old\n" + writing.end + "Kept.\n" + returning.begin + "other\n" + returning.end
	for part, was := range map[section]string{writing: "old", returning: "other"} {
		got, err := part.replace(old, "new\n")
		if want := strings.Replace(old, was, "new", 1); err != nil || got != want {
			t.Errorf("replace: %q, %v, expected %q", got, err, want)
		}
	}
	for _, bad := range []string{"", writing.begin, writing.end + writing.begin} {
		if got, err := writing.replace(bad, "new\n"); err == nil {
			t.Errorf("replace in %q = %q, expected an error", bad, got)
		}
	}
}

// TestSelectReturns: what is no reintegration is left for selectJobs.
func TestSelectReturns(t *testing.T) {
	chosen, notes, rest := selectReturns("fs1,redelta,notes,rm")
	if len(chosen) != 1 || chosen[0].name != "redelta" || !notes || rest != "fs1,rm" {
		t.Errorf("selected %v, %v, rest %q", chosen, notes, rest)
	}
	if chosen, notes, _ = selectReturns(""); len(chosen) != len(trials) || !notes {
		t.Errorf("selected %d of %d, notes %v, expected all", len(chosen), len(trials), notes)
	}
}

// TestReturnTable: a limit that does not apply is no ratio, and the least counts.
func TestReturnTable(t *testing.T) {
	tr := &trial{name: "x", work: func(effort) string { return "work" }, unit: " MB/s"}
	table := returnTable([]*trial{tr}, effort{}, map[string][]outcome{"x": {
		{rate: 100, read: 400, tcp: 200}, {rate: 120, read: 400, tcp: 300}, {rate: 50, read: 500, tcp: 250}}})
	const row = `| work | 100 (50.0–120) MB/s | 0.25 (0.10–0.30) of 400 | – | 0.40 (0.20–0.50) of 250 | 0.40 (0.20–0.50) of 250 |`
	if !strings.Contains(table, row) {
		t.Errorf("table %s\nexpected the row %s", table, row)
	}
}
