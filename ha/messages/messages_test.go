package messages

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The guide's index of log messages, one line for each text that is not like another.
// Where index and chapters differ, as the chapters have it.
var guide = []string{
	"Action forcestop called by web@<IP>/SYSTEM/root", "Action primforce called by SYSTEM/root",
	"Action restart called by customscript", "Action stopstart called by errd",
	"Action restart from failover rule tcp_failure", "Action shutdown called by SYSTEM",
	"Action start called at boot time", "Action start called automatically",
	"Action stopstart called by failover-off", "Action stopstart called by modulecheck",
	"Action stopstart from failover rule customid_failure", "Action wait from failover rule degraded_server",
	"Copied <reintegration statistics>",
	"Data may be inconsistent for replicated directories (stopped during reintegration)",
	"Data may be not uptodate for replicated directories (wait for the start of the remote server)",
	"If you are sure that this server has valid data, run safekit prim to force start as primary",
	"If you are sure that this server has valid data, run safekit primforce to force start as primary",
	"Reintegration ended (synchronize)", "Updating directory tree from /replicated",
	"farm load: 128/256 (group FarmProto)", "farm membership: node1 node2 (group FarmProto)",
	"Local state ALONE green", "Local state UP green", "Local state WAIT red", "Remote state UNKNOWN grey",
	"Resource custom.id set to down by customscript", "Resource heartbeat.flow set to down by heart",
	"Resource rfs.degraded set to up by nfsadmin", "Resource module.othermodule_ip set to up by modulecheck",
	"Script start_prim", "Script stop_both",
	"Transition RESTART from failover rule customid_failure", "Transition STOPSTART from failover-off",
	"Transition SWAP from defaultprim", "Transition SWAP from SYSTEM", "Transition WAIT_TR from failover rule interface_failure",
	"Transition WAKEUP from failover rule Implicit_WAKEUP",
	"Begin of Swap", "End of stop", "event atleast on proc appli.exe", "Failover-off configured", "Previous halt unexpected",
	"Reason of failover: no heartbeat", "Reason of failover: remote stop", "Requested prim start aborted",
	"Split brain recovery: exiting alone", "Split brain recovery: staying alone", "Stopping loop",
	"Virtual IP <ip 1.10 of mirror> set",
}

func TestGuide(t *testing.T) {
	for _, text := range guide {
		if !Known(text) {
			t.Errorf("%q of the guide is not in the catalogue", text)
		}
	}
}

func TestTranslate(t *testing.T) {
	for _, c := range []struct{ en, fr string }{
		{"Resource heartbeat.flow set to down by heart", "Ressource heartbeat.flow positionnée à down par heart"},
		{"Script start_prim", "Script start_prim"},
		{"swap refused: the module is ALONE green: swap needs PRIM green or SECOND green",
			"swap refusée : le module est ALONE green : swap exige PRIM green ou SECOND green"},
		{"The farm cannot be joined again: x", "La ferme ne peut pas être rejointe à nouveau : x"},
		{"Action incloop called by errd: 2 of 3", "Action incloop appelée par errd : 2 sur 3"},
		{"Action start called by {}", "Action start appelée par {}"}, // what is put in is not looked at
		{"Action {} called by me", "Action {} appelée par me"},
		{"what a script says", "what a script says"},
		{"", ""},
	} {
		if got := Translate(c.en, French); got != c.fr {
			t.Errorf("%q: %q, expected %q", c.en, got, c.fr)
		}
		if got := Translate(c.en, English); got != c.en {
			t.Errorf("%q in English: %q", c.en, got)
		}
	}
}

// Each entry is reached by its own text, and loses nothing of it.
func TestCatalogue(t *testing.T) {
	for i, m := range catalogue {
		if strings.Count(m.en, hole) != strings.Count(m.fr, hole) {
			t.Errorf("%q: not as many holes in French", m.en)
		}
		sample := m.en
		for n := 0; strings.Contains(sample, hole); n++ {
			sample = strings.Replace(sample, hole, "<"+strconv.Itoa(n)+">", 1)
		}
		for _, p := range patterns()[:i] {
			if p.match.MatchString(sample) {
				t.Errorf("%q is never used: %q comes before", m.en, p.match)
			}
		}
		got := Translate(sample, French)
		for n := range strings.Count(m.en, hole) {
			if !strings.Contains(got, "<"+strconv.Itoa(n)+">") {
				t.Errorf("%q becomes %q", sample, got)
			}
		}
	}
}

func TestFromEnv(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want Language
	}{
		{nil, English}, {map[string]string{"LANG": "fr_FR.UTF-8"}, French}, {map[string]string{"LANG": "fr"}, French},
		{map[string]string{"LANG": "fr_FR.UTF-8", "LC_ALL": "C"}, English}, {map[string]string{"LC_MESSAGES": "fr_CA", "LANG": "de_DE"}, French},
		{map[string]string{"LANG": "fry_NL"}, English},
	} {
		if got := FromEnv(func(n string) string { return c.env[n] }); got != c.want {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

// sources are where texts for the log are written, from this directory.
var sources = []string{"../../ha", "../../replica"}

// writers are the functions that write them, and which argument is the text.
var writers = map[string]int{"say": 1, "info": 1, "Write": 2, "log": 2, "remark": 1, "complain": 1}

var verb = regexp.MustCompile(`%[-+# 0]*[0-9.]*[a-zA-Z]`)

// TestSources reads what the sources write, and looks for it in the catalogue: one that
// is not there would be shown in English to everybody.
func TestSources(t *testing.T) {
	n := 0
	for _, dir := range sources {
		consts := constants(t, dir)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(node ast.Node) bool {
				call, ok := node.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				at, ok := writers[sel.Sel.Name]
				if !ok || len(call.Args) <= at {
					return true
				}
				text, ok := consts.literal(call.Args[at])
				if !ok {
					return true
				}
				n++
				if !Known(text) {
					t.Errorf("%s: %q is not in the catalogue", set.Position(call.Pos()), text)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 50 {
		t.Errorf("only %d texts were found in %v", n, sources)
	}
}

// constantTexts are the texts of a package that have a name.
type constantTexts map[string]string

func constants(t *testing.T, dir string) constantTexts {
	t.Helper()
	all := constantTexts{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(node ast.Node) bool {
			if v, ok := node.(*ast.ValueSpec); ok && len(v.Names) == 1 && len(v.Values) == 1 {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					all[v.Names[0].Name], _ = strconv.Unquote(lit.Value)
				}
			}
			return true
		})
	}
	return all
}

// literal is an expression as it may look in the log; false if all of it is only known
// when it runs.
func (c constantTexts) literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.Ident:
		if s, ok := c[e.Name]; ok {
			return s, true
		}
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "x", false
		}
		s, err := strconv.Unquote(e.Value)
		s = verb.ReplaceAllString(s, "x")
		return s, err == nil && strings.Trim(s, "x: ") != ""
	case *ast.BinaryExpr:
		a, known := c.literal(e.X)
		b, also := c.literal(e.Y)
		return a + b, known || also
	case *ast.CallExpr:
		if sel, ok := e.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sprintf" {
			return c.literal(e.Args[0])
		}
	}
	return "x", false
}
