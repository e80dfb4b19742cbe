package ha

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/rules"
)

func parseRules(t *testing.T, text string) rules.Set {
	t.Helper()
	own, err := rules.Parse(text, conf.Nearest)
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// TestFailoverMachine runs testdata/failover. Commands:
//
//	rules [handle=15s]      the input is the rules
//	judge [at=10s] [remote] the input is what changed, "name value" a line ("name -": gone);
//	                        prints what is to be done. The automaton of the test takes
//	                        every action but those of a rule named in busy=LABEL.
//	stop, start             of the module
//	state FIELD=VALUE       held, waiting, unwatched
func TestFailoverMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/failover", func(t *testing.T, path string) {
		var f *failoverMachine
		facts := rules.Facts{Local: map[string]string{}, Cluster: rules.Up}
		s := situation{Running: true}
		begin := time.Unix(0, 0)
		now := begin
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "rules":
				handle := "15s"
				d.MaybeScanArgs(t, "handle", &handle)
				h, err := time.ParseDuration(handle)
				if err != nil {
					t.Fatal(err)
				}
				f = &failoverMachine{set: parseRules(t, d.Input), period: 5 * time.Second, handle: h}
				facts.Local, s = map[string]string{}, situation{Running: true}
				return ""
			case "stop":
				s = situation{}
				return ""
			case "start":
				s = situation{Running: true, Waiting: true}
				return ""
			case "state":
				d.MaybeScanArgs(t, "held", &s.Held)
				d.MaybeScanArgs(t, "waiting", &s.Waiting)
				d.MaybeScanArgs(t, "unwatched", &s.Unwatched)
				return ""
			case "judge":
				var at, busy string
				if d.MaybeScanArgs(t, "at", &at); at != "" {
					after, err := time.ParseDuration(at)
					if err != nil {
						t.Fatal(err)
					}
					now = begin.Add(after)
				}
				d.MaybeScanArgs(t, "busy", &busy)
				for _, line := range strings.Split(d.Input, "\n") {
					name, value, ok := strings.Cut(line, " ")
					switch {
					case value == "-":
						delete(facts.Local, name)
					case ok:
						facts.Local[name] = value
					}
				}
				return showRuling(f, facts, &s, now, begin, busy)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// showRuling judges once and plays the automaton.
func showRuling(f *failoverMachine, facts rules.Facts, s *situation, now, begin time.Time, busy string) string {
	var b strings.Builder
	r := f.judge(facts, *s, now)
	for _, x := range r.Assign {
		fmt.Fprintf(&b, "%s = %s from %s\n", x.Rule.Assign.Resource, x.Rule.Assign.Value, x.Rule.Label)
		facts.Local[x.Rule.Assign.Resource] = x.Rule.Assign.Value
	}
	switch e := r.Event; {
	case e == Ruled{}:
	case e.Rule == busy:
		fmt.Fprintf(&b, "%s from %s, not taken\n", e.Action, e.Rule)
	case e.Action == "wakeup":
		s.Held = ""
		fmt.Fprintf(&b, "wakeup\n")
	default:
		fmt.Fprintf(&b, "%s from %s because of %s\n", e.Action, e.Rule, causeText(r.Cause))
		f.accepted(e.Rule)
		if e.Action == "wait" {
			s.Held, s.Waiting = e.Rule, true
		}
	}
	if !r.Again.IsZero() {
		fmt.Fprintf(&b, "again at %v\n", r.Again.Sub(begin))
	}
	return b.String()
}
