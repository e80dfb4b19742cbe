package ha

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// record turns lines "SECONDS NAME VALUE" into a history.
func record(t *testing.T, lines string) []Change {
	t.Helper()
	var all []Change
	for i, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		var at float64
		var c Change
		n, err := fmt.Sscan(line, &at, &c.Name, &c.Value)
		if n < 2 {
			t.Fatalf("%q: %v", line, err)
		}
		c.ID, c.Time = int64(i+1), time.UnixMilli(int64(at*1000))
		all = append(all, c)
	}
	return all
}

func TestDryRun(t *testing.T) {
	for _, c := range []struct {
		rules, history string
		want           []string
	}{
		{ // handle_time between changes, and after the last one; once for a cause
			"web: if (tcp.web == down) then restart();",
			"0 state.local alone\n1 tcp.web up\n5 tcp.web down\n8 tcp.web up\n20 tcp.web down\n100 tcp.web up\n200 tcp.web down",
			[]string{"35 restart web", "215 restart web"},
		},
		{ // a stopped module has no rules, and begins anew
			"web: if (tcp.web == down) then stop();",
			"0 state.local stop\n1 tcp.web down\n50 state.local alone\n70 state.local stop\n80 state.local alone",
			[]string{"65 stop web", "95 stop web"},
		},
		{ // held until no rule says wait, though the history knows nothing of it
			"disk: if (custom.disk == down) then wait();",
			"0 state.local prim\n1 custom.disk down\n40 custom.disk up\n60 custom.disk up",
			[]string{"16 wait disk", "40 wakeup Implicit_WAKEUP"},
		},
		{ // in WAIT at once
			"disk: if (custom.disk == down) then wait();",
			"0 state.local wait\n1 custom.disk down\n2 state.local wait",
			[]string{"1 wait disk"},
		},
		{ // another action in between begins anew; the other node's, while they are known; a resource that is gone; cluster()
			"far: if (remote.custom.x == down) then swap();\nlost: if (remote.custom.x == unknown && cluster() == down) then custom.lost = up;\nany: if (tcp.? == down) then restart();",
			"0 state.local prim\n0 heartbeat.default up\n1 remote.custom.x down\n5 tcp.a down\n6 tcp.a\n30 remote unknown\n31 heartbeat.default down\n40 heartbeat.default up\n40 remote.custom.x up",
			[]string{"21 swap far", "31 custom.lost = up lost"},
		},
	} {
		set, err := conf.ParseRules("rules", c.rules)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range DryRun(set, record(t, c.history)) {
			got = append(got, fmt.Sprintf("%v %s %s", f.Time.Sub(time.UnixMilli(0)).Seconds(), f.Action, f.Rule))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s\non\n%s\ngives %q, want %q", c.rules, c.history, got, c.want)
		}
	}
}

// TestDryRunAsItWas: on the history that a module has left, its rules come to what
// they did.
func TestDryRunAsItWas(t *testing.T) {
	p := newPair(t, false, ruled(t, "disk: if (custom.disk == down) then wait();"))
	p.do(0, "prim")
	p.want("ALONE green", "-")
	p.do(0, "set", "custom.disk", "down")
	p.want("WAIT red", "-")
	p.do(0, "set", "custom.disk", "up")
	p.want("ALONE green", "-")
	var history []Change
	if err := p.sups[0].History(t.Context(), "mirror", "", time.Time{}, func(c Change) error {
		history = append(history, c)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range DryRun(p.confs[0].rules, history) {
		got = append(got, f.Action+" "+f.Rule)
	}
	if want := []string{"wait disk", "wakeup Implicit_WAKEUP"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// Some of it only.
	n := 0
	if err := p.sups[0].History(t.Context(), "mirror", "custom.disk", history[len(history)-1].Time.Add(time.Hour), func(Change) error { n++; return nil }); err != nil || n > 0 {
		t.Errorf("%d changes of the future, %v", n, err)
	}
	if err := p.sups[0].History(t.Context(), "mirror", "custom.disk", time.Time{}, func(c Change) error {
		if n++; c.Name != "custom.disk" || c.By != bySystem {
			t.Errorf("%+v", c)
		}
		return nil
	}); err != nil || n != 2 {
		t.Errorf("%d changes of custom.disk, %v", n, err)
	}
}

// TestRulesView: what a rule comes to, and why.
func TestRulesView(t *testing.T) {
	p := newPair(t, true, ruled(t, `disk: if (custom.disk == down) then wait();
		both: if (custom.disk == down) then restart();
		gone: if (custom.nothing == up) then stop();
		far: if (remote.custom.x == down) then swap();`))
	p.do(0, "prim")
	p.want("ALONE green", "-")
	view := func() map[string]RuleView {
		t.Helper()
		v, err := p.sups[0].Rules(context.Background(), "mirror")
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Inner) == 0 || !v.Running {
			t.Errorf("%+v", v)
		}
		all := map[string]RuleView{}
		for _, r := range v.Rules {
			all[r.Label] = r
		}
		return all
	}
	p.do(0, "set", "custom.disk", "down")
	p.want("WAIT red", "-")
	v := view()
	if r := v["disk"]; r.Truth != "holds" || r.Effect != "it keeps the module in WAIT" {
		t.Errorf("%+v", r)
	}
	if r := v["both"]; r.Truth != "holds" || !strings.Contains(r.Effect, "restart() in ") && r.Effect != "rule disk goes before it" && r.Effect != "it has acted for this cause" {
		t.Errorf("%+v", r)
	}
	if r := v["gone"]; r.Truth != "is undetermined" || r.Compared[0].Note != "custom.nothing is not set" {
		t.Errorf("%+v", r)
	}
	if r := v["far"]; r.Truth != "does not hold" {
		t.Errorf("%+v", r)
	}
}
