package lbfilter

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func section(t *testing.T, object []byte, name string) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Section(name)
	if s == nil {
		t.Fatalf("the object has no section %s", name)
	}
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// TestObjectSource: the object that is committed was made from the files beside it.
func TestObjectSource(t *testing.T) {
	headers, err := filepath.Glob("bpf/*.h")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(headers)
	h := sha256.New()
	for _, name := range append([]string{"bpf/build.sh", "bpf/filter.c"}, headers...) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	if got, want := text(section(t, object, "source")), hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("bpf/filter.o was made of other sources (%s, now %s): go generate ./lbfilter", got, want)
	}
}

// TestObjectCompiler compiles the filter again: the same compiler makes the same
// programs, maps and constants. Another one may not, and is not compared.
func TestObjectCompiler(t *testing.T) {
	out := filepath.Join(t.TempDir(), "filter.o")
	if _, err := exec.LookPath("clang"); err != nil {
		t.Skip("clang is not installed (apt-get install clang llvm libbpf-dev)")
	}
	if _, err := exec.LookPath("llvm-strip"); err != nil {
		t.Skip("llvm-strip is not installed (apt-get install llvm)")
	}
	if _, err := os.Stat("/usr/include/bpf/bpf_helpers.h"); err != nil {
		t.Skip("bpf_helpers.h is not installed (apt-get install libbpf-dev)")
	}
	if message, err := exec.Command("bpf/build.sh", out).CombinedOutput(); err != nil {
		t.Fatalf("bpf/build.sh: %v\n%s", err, message)
	}
	made, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if then, now := text(section(t, object, "compiler")), text(section(t, made, "compiler")); then != now {
		t.Skipf("the object was made by clang %s, here is %s: it compiles, and is not compared", then, now)
	}
	for _, name := range []string{"tc", ".maps", ".rodata", "license"} {
		if !bytes.Equal(section(t, object, name), section(t, made, name)) {
			t.Errorf("section %s differs from what is committed: go generate ./lbfilter", name)
		}
	}
}
