package errd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/ha/process"
)

// A look at the processes at a second after the class was enabled.
type look struct {
	at    float64
	count int
	want  string // the alarm, "": none
}

func TestDecide(t *testing.T) {
	one := Watch{Name: "appli", Class: "prim", AtLeast: 1, AtMax: -1, Action: "restart"}
	with := func(f func(*Watch)) Watch {
		w := one
		f(&w)
		return w
	}
	tests := []struct {
		name  string
		watch Watch
		looks []look
	}{
		{"it ends", one, []look{{0, 1, ""}, {0.5, 1, ""}, {0.6, 0, "atleast"}}},
		{"it was never there", one, []look{{0, 0, ""}, {9.9, 0, ""}, {10, 0, "atleast"}}},
		{"it comes late, and ends", one, []look{{0, 0, ""}, {9, 1, ""}, {9.1, 0, "atleast"}}},
		{"again every poll while nothing changes", one, []look{{0, 1, ""}, {1, 0, "atleast"}, {2, 0, ""}, {10.9, 0, ""}, {11, 0, "atleast"}, {20, 0, ""}, {21, 0, "atleast"}}},
		{"it comes back and ends again", one, []look{{0, 1, ""}, {1, 0, "atleast"}, {2, 1, ""}, {3, 0, "atleast"}}},
		{"nobody knows", one, []look{{0, 1, ""}, {1, -1, ""}, {30, -1, ""}, {31, 0, "atleast"}}},
		{"two of three", with(func(w *Watch) { w.AtLeast = 2 }), []look{{0, 3, ""}, {1, 2, ""}, {2, 1, "atleast"}}},
		{"a message only", with(func(w *Watch) { w.Action = NoAction }), []look{{0, 1, ""}, {1, 0, "atleast"}, {11, 0, ""}, {21, 0, ""}, {22, 1, ""}, {23, 0, "atleast"}}},
		{"start_after 1 is none", with(func(w *Watch) { w.StartAfter = 1 }), []look{{0, 0, ""}, {1, 1, ""}, {2, 0, "atleast"}}},
		{"start_after 3", with(func(w *Watch) { w.StartAfter = 3 }), []look{{0, 0, ""}, {1, 1, ""}, {19.9, 0, ""}, {20, 0, "atleast"}}},
		{"started too often", with(func(w *Watch) { w.AtLeast, w.AtMax = -1, 0 }), []look{{0, 0, ""}, {30, 0, ""}, {31, 1, "atmax"}, {32, 0, ""}, {33, 2, "atmax"}}},
		{"too many at once", with(func(w *Watch) { w.AtMax = 2 }), []look{{0, 3, "atmax"}, {1, 2, ""}, {2, 0, "atleast"}}},
		{"no bound", with(func(w *Watch) { w.AtLeast = -1 }), []look{{0, 0, ""}, {60, 0, ""}, {61, 1000, ""}}},
	}
	for _, c := range tests {
		conf := Conf{Poll: 10 * time.Second, Watches: []Watch{c.watch}}
		begin := time.Unix(1000, 0)
		st := enable(conf, nil, map[string]time.Time{"prim": begin})
		for _, l := range c.looks {
			now := begin.Add(time.Duration(l.at * float64(time.Second)))
			var alarms []Alarm
			var next time.Time
			st, alarms, next = decide(conf, st, []int{l.count}, now)
			got := ""
			for _, a := range alarms {
				got += string(a.Kind)
			}
			if got != l.want {
				t.Errorf("%s: after %vs with %d processes: %q, expected %q", c.name, l.at, l.count, got, l.want)
			}
			if !next.After(now) || next.Sub(now) > conf.Poll {
				if delay(conf, c.watch) == 0 {
					t.Errorf("%s: after %vs: next look after %v", c.name, l.at, next.Sub(now))
				}
			}
		}
	}
}

// What is not monitored has no alarm, and nothing is looked at again because of it.
func TestDecideDisabled(t *testing.T) {
	conf := Conf{Poll: time.Second, Watches: []Watch{{Name: "a", Class: "x", AtLeast: 1, AtMax: -1}}}
	st := enable(conf, nil, map[string]time.Time{"prim": time.Unix(1, 0)})
	st, alarms, next := decide(conf, st, []int{0}, time.Unix(100, 0))
	if len(alarms) > 0 || !next.IsZero() || st[0].ok() {
		t.Errorf("%v %v %+v", alarms, next, st)
	}
}

// A class that is enabled anew begins anew; the same word twice changes nothing.
func TestEnable(t *testing.T) {
	conf := Conf{Poll: time.Second, Watches: []Watch{{Name: "a", Class: "x", AtLeast: 1, AtMax: -1}}}
	first, second := map[string]time.Time{"x": time.Unix(1, 0)}, map[string]time.Time{"x": time.Unix(9, 0)}
	st, _, _ := decide(conf, enable(conf, nil, first), []int{1}, time.Unix(1, 0))
	if st = enable(conf, st, first); !st[0].armed {
		t.Error("the class was enabled all the time, and begins anew")
	}
	if st = enable(conf, st, second); st[0].armed {
		t.Error("the class was enabled again, and what was seen before counts")
	}
}

// Whatever processes end: once fewer are left than there have to be, a sentinel has.
func TestSentinels(t *testing.T) {
	now := time.Unix(100, 0)
	for n := range 5 {
		var all []process.Process
		for i := range n {
			all = append(all, process.Process{ID: process.ID{PID: 10 + (i*7)%n, Start: uint64(i % 3)}})
		}
		for atleast := -1; atleast <= n; atleast++ {
			conf := Conf{Poll: time.Second, Watches: []Watch{{Name: "a", Class: "x", AtLeast: atleast, AtMax: -1}}}
			st := enable(conf, nil, map[string]time.Time{"x": time.Unix(1, 0)})
			ids := sentinels(conf, st, [][]process.Process{all}, now)
			if len(ids) > max(0, atleast) {
				t.Errorf("%d sentinels for atleast %d", len(ids), atleast)
			}
			for alive := range 1 << n {
				left, ended := 0, false
				for i, p := range all {
					if alive>>i&1 == 1 {
						left++
					} else if ids[p.ID] {
						ended = true
					}
				}
				if left < atleast && !ended {
					t.Errorf("%d of %d are left, atleast is %d, and no sentinel has ended", left, n, atleast)
				}
			}
		}
	}
	// The oldest is the one that lives longest, most often.
	conf := Conf{Watches: []Watch{{Class: "x", AtLeast: 1}}}
	all := []process.Process{{ID: process.ID{PID: 1, Start: 9}}, {ID: process.ID{PID: 2, Start: 3}}}
	if ids := sentinels(conf, enable(conf, nil, map[string]time.Time{"x": now}), [][]process.Process{all}, now); !ids[process.ID{PID: 2, Start: 3}] {
		t.Errorf("%v", ids)
	}
}

func TestUnitName(t *testing.T) {
	for name, want := range map[string]string{"ntpd": "ntpd.service", "a.service": "a.service", "postgresql@14-main": "postgresql@14-main.service", "my.app": "my.app.service", "x.socket": "x.socket"} {
		if got := unitName(name); got != want {
			t.Errorf("%s: %s, expected %s", name, got, want)
		}
	}
}

func describe(r Report) string {
	var s []string
	for _, a := range r.Alarms {
		s = append(s, fmt.Sprintf("%s %s", a.Kind, a.Watch.Name))
	}
	for name, up := range r.Up {
		s = append(s, fmt.Sprintf("%s=%v", name, up))
	}
	slices.Sort(s)
	return strings.Join(append(s, r.Problem), "; ")
}
