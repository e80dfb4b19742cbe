package conf

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestParse runs the scripts in testdata/parse. A cluster.xml that parses stays
// the cluster of the userconfig.xml that follow in the script. The environment
// has HOSTDIR=/srv and nothing else.
func TestParse(t *testing.T) {
	datadriven.Walk(t, "testdata/parse", func(t *testing.T, path string) {
		var cluster *Cluster
		env := func(name string) (string, bool) { return "/srv", name == "HOSTDIR" }
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				c, err := ParseCluster("cluster.xml", strings.NewReader(d.Input))
				if err != nil {
					return showError(t, err)
				}
				cluster = c
				return showCluster(c)
			case "userconfig":
				m, err := parseUserConfig("userconfig.xml", strings.NewReader(d.Input), cluster, env)
				if err != nil {
					if m != nil {
						t.Fatal("a module was returned with an error")
					}
					return showError(t, err)
				}
				return showModule(m)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func showError(t *testing.T, err error) string {
	var ps Problems
	if !errors.As(err, &ps) || len(ps) == 0 {
		t.Fatalf("error of a parser is %T: %v", err, err)
	}
	return err.Error() + "\n"
}

func showCluster(c *Cluster) string {
	var b strings.Builder
	fmt.Fprintf(&b, "port=%d pulse=%v mlost=%d slost=%d nodes=%v\n", c.Port, c.Pulse, c.MLostCount, c.SLostCount, c.Nodes())
	for _, l := range c.Lans {
		fmt.Fprintf(&b, "lan %s framework=%t console=%t command=%t:", l.Name, l.Framework, l.Console, l.Command)
		for _, n := range l.Nodes {
			fmt.Fprintf(&b, " %s=%s", n.Name, n.Host())
			if n.Laddr != "" {
				fmt.Fprintf(&b, "(local %s)", n.LocalHost())
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func showModule(m *Module) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mode=%s boot=%s delay=%v failover=%t defaultprim=%s maxloop=%d interval=%v\n",
		m.Mode, m.Boot, m.BootDelay, m.Failover, m.DefaultPrim, m.MaxLoop, m.LoopInterval)
	if h := m.Heart; h != nil {
		fmt.Fprintf(&b, "heart %d %v %v\n", h.Port, h.Pulse, h.Timeout)
		for _, hb := range h.Heartbeats {
			fmt.Fprintf(&b, "heartbeat %+v\n", hb)
		}
	}
	if r := m.RFS; r != nil {
		show := *r
		show.Replicated = nil
		fmt.Fprintf(&b, "rfs %+v\n", show)
		for _, d := range r.Replicated {
			fmt.Fprintf(&b, "replicated %s readonly=%t tocheck=%v not=", d.Dir, d.ReadOnly, d.ToCheck)
			for _, n := range d.NotReplicated {
				if n.Regexp != nil {
					fmt.Fprintf(&b, " /%v/", n.Regexp)
				} else {
					fmt.Fprintf(&b, " %s", n.Path)
				}
			}
			b.WriteByte('\n')
		}
	}
	if m.Farm != nil {
		fmt.Fprintf(&b, "farm %+v\n", *m.Farm)
	}
	if m.User != nil {
		fmt.Fprintf(&b, "user %+v\n", *m.User)
	}
	if v := m.VIP; v != nil {
		fmt.Fprintf(&b, "vip tcpreset=%t\n", v.TCPReset)
		for _, a := range v.Addresses {
			fmt.Fprintf(&b, "virtual_addr %+v\n", a)
		}
		for _, i := range v.Shared {
			fmt.Fprintf(&b, "shared %+v\n", i)
		}
		for _, g := range v.Groups {
			fmt.Fprintf(&b, "group %+v\n", g)
		}
	}
	if f := m.Rules; f.String() != (&scanner{}).failover(nil, Pos{}, &Module{Mode: m.Mode}).String() {
		fmt.Fprintf(&b, "failover period=%v handle_time=%v, %d rules\n", f.Period, f.HandleTime, len(f.Rules))
		for _, r := range f.Rules {
			if !r.Product {
				fmt.Fprintln(&b, r)
			}
		}
	}
	for _, c := range m.Checkers {
		fmt.Fprintf(&b, "checker %s %+v\n", c.Resource(), c)
	}
	if v := m.VHost; v != nil {
		fmt.Fprintf(&b, "vhost %+v\n", *v)
	}
	if e := m.Errd; e != nil {
		fmt.Fprintf(&b, "errd %v\n", e.PollTimer)
		for _, p := range e.Procs {
			fmt.Fprintf(&b, "proc %+v handler=%t\n", p, p.Handler())
		}
	}
	if len(m.Env) > 0 {
		fmt.Fprintf(&b, "env %v\n", m.Env)
	}
	for _, w := range m.Warnings {
		fmt.Fprintf(&b, "warning %v\n", w)
	}
	return b.String()
}

func TestExcludes(t *testing.T) {
	r := Replicated{Dir: "/d", NotReplicated: []NotReplicated{{Regexp: regexp.MustCompilePOSIX(`^(.*\.tmp)$`)}, {Path: "log/old"}}}
	// The first three are the guide's own examples (§13.6.3).
	for rel, want := range map[string]bool{
		"conf/config.tmp":     true,
		"log.tmp":             true,
		"conf/config.tmp.bak": false,
		"dir.tmp/inside":      true,
		"log/old":             true,
		"log/old/deep/file":   true,
		"log/older":           false,
		"log":                 false,
	} {
		if got := r.Excludes(rel); got != want {
			t.Errorf("Excludes(%q) = %t, want %t", rel, got, want)
		}
	}
}

const twoNodes = `<cluster><lans>
	<lan name="default"><node name="node1" addr="10.0.0.1"/><node name="node2" addr="10.0.0.2"/></lan>
	<lan name="repli"><node name="node1" addr="10.1.0.1"/><node name="node2" addr="10.1.0.2"/></lan>
</lans></cluster>`

func TestNearest(t *testing.T) {
	names := []string{"start", "stop", "stopstart", "state", "swap", "second"}
	for got, want := range map[string]string{
		"strat": "start", "stpo": "stop", "STATE": "state", "secnd": "second", "xyzzy": "", "": "", "stopstrat": "stopstart",
	} {
		if n := Nearest(got, names); n != want {
			t.Errorf("Nearest(%q) = %q, want %q", got, n, want)
		}
	}
}

// Positions count characters, not bytes, and survive other encodings.
func TestPositions(t *testing.T) {
	for _, src := range []string{
		"<!-- é -->\n<cluster><!-- éé --><x/></cluster>",
		"\xef\xbb\xbf<!-- é -->\n<cluster><!-- éé --><x/></cluster>",
		"<?xml version='1.0' encoding='ISO-8859-1'?><!-- \xe9 -->\n<cluster><!-- \xe9\xe9 --><x/></cluster>",
	} {
		_, err := ParseCluster("c", strings.NewReader(src))
		if err == nil || !strings.Contains(err.Error(), "c:2:21: <x> is not known") {
			t.Errorf("%q: %v", src, err)
		}
	}
}

func FuzzParseCluster(f *testing.F) {
	f.Add([]byte(twoNodes))
	f.Add([]byte(`<cluster><lans port="x"><lan name=”a”>`))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := ParseCluster("c", strings.NewReader(string(src)))
		if err != nil {
			checkPlaces(t, err, src)
			return
		}
		for _, l := range c.Lans {
			if CheckName(l.Name) != nil || len(l.Nodes) < 2 {
				t.Fatalf("accepted %+v", l)
			}
		}
	})
}

func FuzzParseUserConfig(f *testing.F) {
	c, err := ParseCluster("c", strings.NewReader(twoNodes))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`<safe><macro name="A" value="/x"/><service mode="mirror"><heart><heartbeat name="default"/></heart>
		<rfs><replicated dir="%A%"/><replicated dir="/y"/></rfs><user><var name="V" value="%PATH%"/></user></service></safe>`))
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := ParseUserConfig("u", strings.NewReader(string(src)), c)
		if err != nil {
			checkPlaces(t, err, src)
			return
		}
		if m.Mode != Mirror || m.Heart == nil || len(m.Heart.Heartbeats) == 0 {
			t.Fatalf("accepted %+v", m)
		}
		if m.RFS == nil {
			return
		}
		for i, d := range m.RFS.Replicated {
			for _, o := range m.RFS.Replicated[:i] {
				if d.Dir == "/" || within(d.Dir, o.Dir) || within(o.Dir, d.Dir) {
					t.Fatalf("accepted %s beside %s", d.Dir, o.Dir)
				}
			}
		}
	})
}

// checkPlaces holds that every problem names a place inside the file.
func checkPlaces(t *testing.T, err error, src []byte) {
	var ps Problems
	if !errors.As(err, &ps) {
		if len(src) <= maxFile {
			t.Fatalf("error is %T: %v", err, err)
		}
		return
	}
	lines := strings.Count(string(src), "\n") + 1
	for _, p := range ps {
		if p.Line < 1 || p.Line > lines || p.Col < 1 || p.Text == "" {
			t.Fatalf("problem without a place: %+v", p)
		}
	}
}

func TestSteady(t *testing.T) {
	for _, x := range []struct {
		rule     NotReplicated
		from, to string
		want     bool
	}{
		{NotReplicated{Path: "a/cache"}, "a", "b", false},
		{NotReplicated{Path: "a/cache"}, "b", "a", false},
		{NotReplicated{Path: "a/cache"}, "a/x", "a/y", true},
		{NotReplicated{Path: "a/cache"}, "ab", "c", true},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*\.tmp)$`)}, "a", "b", true},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*\.(tmp)?[a-c])$`)}, "a", "b", true},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*\.tmp.*)$`)}, "a", "b", false}, // . is a slash too
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*x[^a]y)$`)}, "a", "b", false},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*a/b)$`)}, "a", "b", false},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(.*\.tmp|foo)$`)}, "a", "b", false},
		{NotReplicated{Regexp: regexp.MustCompilePOSIX(`^(a.*)$`)}, "a", "b", false},
	} {
		r := Replicated{NotReplicated: []NotReplicated{x.rule}}
		if got := r.Steady(x.from, x.to); got != x.want {
			t.Errorf("%s, %s to %s: %t, want %t", x.rule, x.from, x.to, got, x.want)
		}
	}
}
