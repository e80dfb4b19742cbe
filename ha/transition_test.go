package ha

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A takeover is explained: which heartbeats were silent, for how long, what was done,
// and how long the application was away.
func TestTakeoverIsExplained(t *testing.T) {
	p := newPair(t, true)
	p.up()
	p.close(0) // as the other one sees it, the host is dead
	p.want("-", "ALONE green")
	l, err := p.sups[1].Log("mirror")
	if err != nil {
		t.Fatal(err)
	}
	all, err := l.Transitions(context.Background(), 100)
	if err != nil {
		t.Fatal(err)
	}
	es := Episodes(all)
	e := es[len(es)-1]
	first, last := e.Transitions[0], e.Transitions[len(e.Transitions)-1]
	if first.From.String() != "SECOND green" || last.To.String() != "ALONE green" {
		t.Fatalf("from %s to %s: %+v", first.From, last.To, e)
	}
	c := first.Cause
	timeout := p.confs[1].beats[0].Timeout
	if len(c.Heartbeats) != 1 || c.Heartbeats[0].Up || c.Heartbeats[0].For < timeout || c.Heartbeats[0].Timeout != timeout {
		t.Errorf("heartbeats %+v", c.Heartbeats)
	}
	if !strings.Contains(strings.Join(c.Said, "\n"), "Reason of failover: no heartbeat") {
		t.Errorf("said %q", c.Said)
	}
	var done []string
	for _, x := range e.Transitions[1:] {
		for _, task := range x.Cause.Tasks {
			done = append(done, task.Name)
			if task.Fault != "" || task.Took <= 0 {
				t.Errorf("%+v", task)
			}
		}
	}
	if text := strings.Join(done, " "); !strings.Contains(text, "start_prim") {
		t.Errorf("done: %s", text)
	}
	if e.Gap < timeout || e.Gap != last.Time.Sub(c.Since) {
		t.Errorf("gap %v, the timeout is %v", e.Gap, timeout)
	}
}

func TestTransitionsSurvive(t *testing.T) {
	path := t.TempDir() + "/log.db"
	fail := func(text string) { t.Error(text) }
	l, err := openLog(path, fail)
	if err != nil {
		t.Fatal(err)
	}
	want := Transition{ID: 1, Time: time.UnixMicro(1_700_000_000_000_000), From: Standing{RoleSecond, Green}, To: Standing{RoleAlone, Magenta}, Cause: Cause{
		Event: "e", Since: time.UnixMicro(1_699_999_999_000_000).UTC(), Heartbeats: []Silence{{"flow", false, time.Second, time.Minute}},
		Rule: "r", Readings: []RuleReading{{"a.b", "down"}}, Tasks: []TaskEnd{{"start_prim", time.Second, "exit code 1"}}, Said: []string{"x"}}}
	n := 0
	l.transition(want, &n)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if l, err = openLog(path, fail); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	got, err := l.Transitions(context.Background(), 10)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Error(d)
	}
}

func TestEpisodes(t *testing.T) {
	at := time.UnixMicro(0)
	step := func(from, to string, seconds int, tasks ...string) Transition {
		f, err1 := parseStanding(from)
		g, err2 := parseStanding(to)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		x := Transition{Time: at.Add(time.Duration(seconds) * time.Second), From: f, To: g}
		x.Cause.Since = x.Time
		for _, name := range tasks {
			x.Cause.Tasks = append(x.Cause.Tasks, TaskEnd{Name: name})
		}
		return x
	}
	takeover := step("SECOND green", "ALONE magenta", 10)
	takeover.Cause.Since = at.Add(7 * time.Second)
	es := Episodes([]Transition{
		step("STOP red", "WAIT magenta", 0), step("WAIT magenta", "SECOND magenta", 1), step("SECOND magenta", "SECOND green", 2),
		takeover, step("ALONE magenta", "ALONE green", 11, "promote", "start_prim"),
		step("ALONE green", "PRIM magenta", 20, "start_sec"), step("PRIM magenta", "PRIM green", 21),
		step("PRIM green", "PRIM magenta", 30), step("PRIM magenta", "PRIM green", 32, "stop_prim", "start_prim"),
		step("PRIM green", "WAIT magenta", 40),
	})
	want := []struct {
		n   int
		gap time.Duration
	}{{3, 0}, {2, 4 * time.Second}, {2, 0}, {2, 2 * time.Second}, {1, 0}}
	if len(es) != len(want) {
		t.Fatalf("%d episodes: %+v", len(es), es)
	}
	for i, w := range want {
		if len(es[i].Transitions) != w.n || es[i].Gap != w.gap {
			t.Errorf("episode %d: %d transitions, gap %v; expected %d and %v", i, len(es[i].Transitions), es[i].Gap, w.n, w.gap)
		}
	}
	if len(Episodes(nil)) != 0 {
		t.Error("episodes of nothing")
	}
}
