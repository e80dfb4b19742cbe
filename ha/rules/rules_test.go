package rules

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// near stands for conf.Nearest: a name that differs in its end only.
func near(got string, names []string) string {
	for _, n := range names {
		if len(got) > 1 && strings.HasPrefix(n, got[:2]) && got != n {
			return n
		}
	}
	return ""
}

// TestLanguage runs testdata/language. Commands:
//
//	parse   the input is rules: prints them, or what is wrong, with line and column
//	eval    the input is facts, "name value" a line ("remote none": no remote node):
//	        what each rule of the last parse comes to, and what is decided
func TestLanguage(t *testing.T) {
	datadriven.Walk(t, "testdata/language", func(t *testing.T, path string) {
		var set Set
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "parse":
				rules, err := Parse(d.Input, near)
				if err != nil {
					return showErrors(t, d.Input, err)
				}
				set = rules
				if d.HasArg("extend") {
					set = Extend(rules, true)
				}
				var b strings.Builder
				for _, r := range set {
					fmt.Fprintln(&b, r)
				}
				return b.String()
			case "eval":
				return showEval(set, readFacts(t, d.Input))
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func showErrors(t *testing.T, text string, err error) string {
	var errs Errors
	if !errors.As(err, &errs) || len(errs) == 0 {
		t.Fatalf("the error of Parse is %T: %v", err, err)
	}
	var b strings.Builder
	for _, e := range errs {
		line, column := Position(text, e.Offset)
		fmt.Fprintf(&b, "%d:%d: %s\n", line, column, e.Text)
	}
	return b.String()
}

func readFacts(t *testing.T, text string) Facts {
	f := Facts{Local: map[string]string{}, Remote: map[string]string{}, Cluster: Up}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		name, value, ok := strings.Cut(line, " ")
		rest, remote := strings.CutPrefix(name, "remote.")
		switch {
		case line == "":
		case line == "remote none":
			f.Remote = nil
		case name == "cluster":
			f.Cluster = value
		case !ok:
			t.Fatalf("%q is no fact", line)
		case remote:
			f.Remote[rest] = value
		default:
			f.Local[name] = value
		}
	}
	return f
}

func showEval(s Set, f Facts) string {
	var b strings.Builder
	results := s.Evaluate(f)
	for _, r := range results {
		fmt.Fprintf(&b, "%s %s\n", r.Rule.Label, r.Truth)
		for _, x := range r.Findings {
			fmt.Fprintf(&b, "  %s %s %v\n", x.Compare, x.Truth, x.Values)
		}
	}
	d := Decide(results)
	if d.Act != nil {
		fmt.Fprintf(&b, "%s() from %s because of %v\n", d.Act.Rule.Then, d.Act.Rule.Label, d.Act.Evidence())
	}
	fmt.Fprintf(&b, "waits=%t unknown=%t assign=%v\n", d.Waits, d.Unknown, d.Assign)
	return b.String()
}

// TestProduct: the product's own rules can be read, and come after the module's.
func TestProduct(t *testing.T) {
	own, err := Parse("ip_failure: if (ip.? == down) then restart();", near)
	if err != nil {
		t.Fatal(err)
	}
	s := Extend(own, true)
	if len(s) != 6 || s[0].Label != "ip_failure" || s[0].Product || !s[5].Product {
		t.Errorf("extended: %v", s)
	}
	if s := Extend(own, false); len(s) != 1 {
		t.Errorf("not extended: %v", s)
	}
}

// Conditions for the properties below.

var resourcePool = []string{"tcp.a", "tcp.b", "custom.x", "heartbeat.default"}

func drawOperand(t *rapid.T) Operand {
	switch rapid.IntRange(0, 5).Draw(t, "operand") {
	case 0:
		return Value(rapid.SampledFrom([]string{Init, Up, Down, Unknown, "high water"}).Draw(t, "value"))
	case 1:
		return Cluster{}
	case 2:
		return Resource{rapid.Bool().Draw(t, "remote"), rapid.SampledFrom([]string{"tcp", "custom", "ping"}).Draw(t, "class"),
			rapid.SampledFrom([]string{"?", "*"}).Draw(t, "wild")}
	}
	class, id, _ := strings.Cut(rapid.SampledFrom(resourcePool).Draw(t, "resource"), ".")
	return Resource{rapid.Bool().Draw(t, "remote"), class, id}
}

func drawCondition(t *rapid.T, depth int) Condition {
	n := 4
	if depth == 0 {
		n = 0
	}
	switch rapid.IntRange(0, n).Draw(t, "condition") {
	case 1:
		return Or{drawCondition(t, depth-1), drawCondition(t, depth-1)}
	case 2:
		return And{drawCondition(t, depth-1), drawCondition(t, depth-1)}
	case 3:
		return Not{drawCondition(t, depth-1)}
	case 4:
		return Same{drawCondition(t, depth-1), drawCondition(t, depth-1)}
	}
	c := Compare{drawOperand(t), drawOperand(t), rapid.Bool().Draw(t, "differ")}
	if wild(c.A) && wild(c.B) {
		c.B = Value(Down)
	}
	return c
}

// TestPrints: what is printed is read as the same.
func TestPrints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rule{Label: "r", If: drawCondition(t, 4), Then: rapid.SampledFrom(Actions).Draw(t, "action")}
		back, err := Parse(r.String(), near)
		if err != nil || len(back) != 1 || !reflect.DeepEqual(back[0], r) {
			t.Fatalf("%s\nis read as %v, %v", r, back, err)
		}
	})
}

func drawFacts(t *rapid.T, values []string) Facts {
	f := Facts{Local: map[string]string{}, Cluster: rapid.SampledFrom([]string{Up, Down}).Draw(t, "cluster")}
	draw := func() map[string]string {
		m := map[string]string{}
		for _, name := range resourcePool {
			if v := rapid.SampledFrom(append(values, "")).Draw(t, name); v != "" {
				m[name] = v
			}
		}
		return m
	}
	f.Local = draw()
	if rapid.Bool().Draw(t, "peer") {
		f.Remote = draw()
	}
	return f
}

// TestUndetermined: a condition is undetermined only if what is init could turn it
// both ways; if it holds or does not, nothing that it could become turns it.
func TestUndetermined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCondition(t, 3)
		if strings.Contains(c.String(), Init) {
			return // who asks for init gets another answer when it is not init any more
		}
		f := drawFacts(t, []string{Init, Up, Down, Unknown})
		for _, name := range resourcePool { // what is missing is init for who names it, and nothing for a wildcard
			if _, ok := f.Local[name]; !ok {
				f.Local[name] = Init
			}
		}
		before := c.eval(&evaluation{facts: f})
		decide := func(m map[string]string) map[string]string {
			d := maps.Clone(m)
			for _, name := range slices.Sorted(maps.Keys(d)) {
				if d[name] == Init {
					d[name] = rapid.SampledFrom([]string{Up, Down}).Draw(t, "decided "+name)
				}
			}
			return d
		}
		known := Facts{Local: decide(f.Local), Remote: decide(f.Remote), Cluster: f.Cluster}
		after := c.eval(&evaluation{facts: known})
		if after == Undetermined {
			t.Fatalf("%s is undetermined with all known: %v", c, known)
		}
		if before != Undetermined && before != after {
			t.Fatalf("%s %s with %v, and %s with %v", c, before, f, after, known)
		}
	})
}

// naive is the meaning of a condition by definition, when nothing is init.
func naive(c Condition, f Facts) bool {
	switch c := c.(type) {
	case Or:
		return naive(c.A, f) || naive(c.B, f)
	case And:
		return naive(c.A, f) && naive(c.B, f)
	case Not:
		return !naive(c.Of, f)
	case Same:
		return naive(c.A, f) == naive(c.B, f)
	}
	cmp := c.(Compare)
	values := func(o Operand) []string {
		e := evaluation{facts: f}
		var s []string
		for _, r := range e.readings(o) {
			s = append(s, r.Value)
		}
		return s
	}
	as, bs := values(cmp.A), values(cmp.B)
	hits := 0
	for _, a := range as {
		for _, b := range bs {
			if (a == b) != cmp.Differ {
				hits++
			}
		}
	}
	if wildcard(cmp.A) == "*" || wildcard(cmp.B) == "*" {
		return hits > 0 && hits == len(as)*len(bs)
	}
	return hits > 0
}

func TestTwoValued(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCondition(t, 4)
		f := drawFacts(t, []string{Up, Down, Unknown})
		for _, name := range resourcePool { // one that is missing is init
			if _, ok := f.Local[name]; !ok {
				f.Local[name] = Down
			}
		}
		if got, want := c.eval(&evaluation{facts: f}), truth(naive(c, f)); got != want {
			t.Fatalf("%s %s with %v, by definition it %s", c, got, f, want)
		}
	})
}

// FuzzParse: no text breaks the parser, errors are inside the text, and what is
// accepted prints to what is accepted and means the same.
func FuzzParse(f *testing.F) {
	f.Add(Product)
	f.Add(`a: if (!(tcp.x == "a b") && remote.ip.fd00::1 != cluster()) then custom.y = down;`)
	f.Add("r: if (tcp.? = down) then wait(;\nq: /* x")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := Parse(text, near)
		var errs Errors
		if errors.As(err, &errs) {
			for _, e := range errs {
				if e.Offset < 0 || e.Offset > len(text) || e.Text == "" {
					t.Fatalf("error %v is not in the text", e)
				}
				Position(text, e.Offset)
			}
			return
		}
		var again strings.Builder
		for _, r := range rules {
			fmt.Fprintln(&again, r)
		}
		back, err := Parse(again.String(), near)
		if err != nil || len(back) != len(rules) {
			t.Fatalf("%q\nprints as %q: %v", text, again.String(), err)
		}
		for i := range back {
			back[i].Offset, rules[i].Offset = 0, 0
			if !reflect.DeepEqual(back[i], rules[i]) {
				t.Fatalf("%v is read again as %v", rules[i], back[i])
			}
		}
		Decide(Set(rules).Evaluate(Facts{Local: map[string]string{"tcp.x": Down}, Cluster: Down}))
	})
}
