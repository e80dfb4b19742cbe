package ledger

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

func TestMain(m *testing.M) {
	lab.Main(Roles())
	os.Exit(m.Run())
}

var kinds = []string{"sql", "files"}

// fill stores the entries 1 to n and notes all of them.
func fill(t *testing.T, kind string, n uint64) (dir, notes string) {
	t.Helper()
	dir = t.TempDir()
	notes = filepath.Join(t.TempDir(), "notes")
	s, err := Open(kind, dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for id := uint64(1); id <= n; id++ {
		if err := s.Put(id); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, id)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(notes, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, notes
}

func TestNothingMissing(t *testing.T) {
	for _, kind := range kinds {
		dir, notes := fill(t, kind, 100)
		v, err := Check(kind, dir, notes)
		if err != nil || !v.OK() || v.Noted != 100 || v.Found != 100 {
			t.Errorf("%s: %v, %v", kind, v, err)
		}
	}
}

// Whatever is lost or damaged is noticed.
func TestLossIsNoticed(t *testing.T) {
	cut := func(name string, bytes int64) func(string) error {
		return func(dir string) error {
			st, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.Truncate(filepath.Join(dir, name), st.Size()-bytes)
		}
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for name, test := range map[string]struct {
		kind  string
		fault func(dir string) error
		lost  string // what is missing, or ""
		err   string // what the error says, or ""
	}{
		"row":            {"sql", func(dir string) error { return exec1(dir, "DELETE FROM entry WHERE id = 42") }, "[42]", ""},
		"damaged row":    {"sql", func(dir string) error { return exec1(dir, "UPDATE entry SET text = '' WHERE id = 42") }, "", "entry 42 is damaged"},
		"last record":    {"files", cut("log0", recordLen), "[100]", ""},
		"half a record":  {"files", cut("log0", recordLen/2), "", "part of a write"},
		"file":           {"files", remove("made/13"), "[13]", ""},
		"renamed file":   {"files", remove("made/14"), "[14]", ""},
		"linked file":    {"files", remove("made/15"), "[15]", ""},
		"empty file":     {"files", cut("made/13", recordLen), "[13]", ""},
		"damaged record": {"files", func(dir string) error { return os.WriteFile(filepath.Join(dir, "made/13"), record(14), 0o600) }, "", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, notes := fill(t, test.kind, 100)
			if err := test.fault(dir); err != nil {
				t.Fatal(err)
			}
			v, err := Check(test.kind, dir, notes)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, %v, expected an error with %q", v, err, test.err)
				}
				return
			}
			if err != nil || v.OK() || fmt.Sprint(v.Missing) != test.lost {
				t.Errorf("got %v, %v, expected %s to be missing", v, err, test.lost)
			}
		})
	}
}

// What was kept aside is found under other names, and without what is gone.
func TestKept(t *testing.T) {
	dir, _ := fill(t, "files", 100)
	for from, to := range map[string]string{"made/13": "7", "log0": "8"} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "made/14")); err != nil {
		t.Fatal(err)
	}
	kept, err := Kept(dir)
	if err != nil || len(kept) != 99 || !kept[13] || kept[14] {
		t.Errorf("%d entries are found, 13: %v, 14: %v; expected all of 100 but 14; %v", len(kept), kept[13], kept[14], err)
	}
	if kept, err := Kept(filepath.Join(dir, "nothing")); err != nil || len(kept) > 0 {
		t.Errorf("without a directory: %v, %v", kept, err)
	}
}

func exec1(dir, statement string) error {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(statement)
	return err
}

// process starts a role of this program.
func process(t *testing.T, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), lab.RoleEnv(role, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewReader(out)
}

// The application is killed without warning and started again: what was
// acknowledged is there.
func TestServeAndDrive(t *testing.T) {
	for _, kind := range kinds {
		dir := t.TempDir()
		notes := filepath.Join(t.TempDir(), "notes")
		app, _ := process(t, serveRole, kind, dir)
		spec := DriveSpec{Addrs: []string{"127.0.0.1:1", "127.0.0.1:" + Port}, Notes: notes, Workers: 3, First: 1}
		drive, out := process(t, driveRole, spec.Args()...)
		if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("the driver said %q, %v", line, err)
		}
		app.Process.Kill()
		app.Wait()
		before := lines(t, notes)
		app, _ = process(t, serveRole, kind, dir)
		for deadline := 0; lines(t, notes) < before+100; deadline++ {
			if deadline > 1_000_000 {
				t.Fatal("the driver does not go on")
			}
		}
		drive.Process.Signal(unix.SIGTERM)
		var s Summary
		if err := json.NewDecoder(out).Decode(&s); err != nil {
			t.Fatal(err)
		}
		if err := drive.Wait(); err != nil {
			t.Fatal(err)
		}
		app.Process.Signal(unix.SIGTERM)
		if err := app.Wait(); err != nil {
			t.Errorf("the application ended with %v", err)
		}
		v, err := Check(kind, dir, notes)
		if err != nil || !v.OK() || v.Noted != s.Acked || v.Noted < before+100 || s.Gap == 0 || s.LastErr != "" {
			t.Errorf("%s: %v, %+v, %v", kind, v, s, err)
		}
	}
}

func lines(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}
