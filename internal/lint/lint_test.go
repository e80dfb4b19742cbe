package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/format"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// imports says what each part of the module may import of the module: one way,
// the data side replica → {fs, reintegrate} → journal, the control side
// web → ha → {netvip, lbfilter}. A part is the first element of a package's path.
// A package that has a line of its own stands by itself: its part does not speak for
// it. Tests obey too.
var imports = map[string][]string{
	"conf":        {"ha/rules"}, // the language of failover rules, which is pure
	"journal":     nil,
	"fs":          {"journal"},
	"reintegrate": {"journal"},
	"replica":     {"conf", "fs", "journal", "reintegrate"},
	"netvip":      {"internal/netnstest"},
	"lbfilter":    {"internal/netnstest"},
	"ha":          {"conf", "ha/rules", "internal/netnstest", "lbfilter", "netvip"},
	"ha/rules":    nil,
	"web":         {"conf", "ha"},
	"packaging":   {"conf"},
	"cli":         {"conf", "e2e", "ha", "ha/rules", "packaging", "replica", "web"}, // e2e: the demo runs in the lab
	"e2e":         {"conf"},
	"bench":       {"conf", "e2e", "fs", "journal", "lbfilter", "reintegrate", "replica"},
	"internal":    nil,

	"internal/netnstest": nil,
}

// meaningless are names that say nothing of what a package is for.
var meaningless = []string{"util", "utils", "common", "helper", "helpers", "types", "misc"}

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath, Name, Doc              string
	Imports, TestImports, XTestImports []string
	Module                             struct{ Path string }
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports,Module", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// part is the first element of a package's path inside the module, "" outside; or the
// whole path if it has a line in imports.
func part(module, importPath string) string {
	rel, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	if _, own := imports[rel]; own {
		return rel
	}
	first, _, _ := strings.Cut(rel, "/")
	return first
}

func TestImportGraph(t *testing.T) {
	for _, p := range packages(t) {
		own := part(p.Module.Path, p.ImportPath)
		allowed, known := imports[own]
		if !known {
			t.Errorf("%s: no rule says what %q may import: add it to the graph", p.ImportPath, own)
			continue
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			to := part(p.Module.Path, imported)
			if to != "" && to != own && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s; %s may import %v", p.ImportPath, imported, own, allowed)
			}
		}
	}
}

func TestPackages(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(meaningless, path.Base(p.ImportPath)) || slices.Contains(meaningless, p.Name) {
			t.Errorf("%s: the name says nothing", p.ImportPath)
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestSources reads every Go file in this process. That also lets go test know
// on which files the results of this package depend, so that they are cached
// only as long as no file changes.
func TestSources(t *testing.T) {
	n := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(file) != ".go" {
			return nil
		}
		n++
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		formatted, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if !bytes.Equal(src, formatted) {
			t.Errorf("%s is not formatted: run gofmt -w", file)
		}
		for _, mark := range []string{"TO" + "DO", "FIX" + "ME"} {
			if bytes.Contains(src, []byte(mark)) {
				t.Errorf("%s has a %s: do it, or write it down where others look", file, mark)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Fatalf("only %d Go files were found below %s", n, root)
	}
}

func TestVet(t *testing.T) { run(t, "go", "vet", "./...") }

func TestStaticcheck(t *testing.T) { run(t, "go", "tool", "staticcheck", "./...") }

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
