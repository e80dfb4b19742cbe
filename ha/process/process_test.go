package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const tail = " 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3"
	tests := []struct {
		stat string
		want Process
	}{
		{"12 (vi) S 3 12 9" + tail, Process{ID: ID{12, 4711}, Parent: 3, Session: 9, Name: "vi"}},
		{"12 (a) b (c)) R 3 12 9" + tail, Process{ID: ID{12, 4711}, Parent: 3, Session: 9, Name: "a) b (c)"}},
		{"12 (vi) Z 3 12 9" + tail, Process{ID: ID{12, 4711}, Parent: 3, Session: 9, Name: "vi", dead: true}},
		// The first thread has ended, a second has not.
		{"12 (vi) Z 3 12 9" + strings.Replace(tail, " 0 1 0 4711", " 0 2 0 4711", 1), Process{ID: ID{12, 4711}, Parent: 3, Session: 9, Name: "vi"}},
	}
	for _, c := range tests {
		got, err := parseStat([]byte(c.stat))
		if err != nil {
			t.Errorf("%s: %v", c.stat, err)
		}
		if got.ID != c.want.ID || got.Parent != c.want.Parent || got.Session != c.want.Session || got.Name != c.want.Name || got.dead != c.want.dead {
			t.Errorf("%s: %+v, expected %+v", c.stat, got, c.want)
		}
	}
	for _, bad := range []string{"", "12", "12 (vi) S 3", "x (vi) S 3 12 9" + tail, "12 (vi) S x 12 9" + tail} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b (c)) R 3 12 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

// start runs a program under a name and waits until the kernel calls it so.
func start(t *testing.T, name string, args ...string) (Process, *exec.Cmd) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(sleep, file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, args...)
	if err := cmd.Start(); err != nil { // returns after the exec
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, cmd
}

func TestList(t *testing.T) {
	p, cmd := start(t, "skfs-a-very-long-name", "1001")
	if p.Name != "skfs-a-very-lon" || p.Parent != os.Getpid() || len(p.Args) != 2 || p.Args[1] != "1001" {
		t.Errorf("%+v", p)
	}
	found := func(f Filter) bool {
		t.Helper()
		all, err := List()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(f.Select(all), func(o Process) bool { return o.ID == p.ID })
	}
	own := Filter{Name: "skfs-a-very-long-name", NameRegex: regexp.MustCompilePOSIX("^skfs-.*"), ArgRegex: regexp.MustCompilePOSIX(".*-name 1[0-9]+$")}
	if !found(own) {
		t.Error("it is not found")
	}
	for _, other := range []Filter{{Name: "skfs"}, {NameRegex: regexp.MustCompile("^very")}, {ArgRegex: regexp.MustCompile("name 2")}} {
		if found(other) {
			t.Errorf("%+v selects %v", other, p)
		}
	}
	// A zombie has ended, though its number is not free yet.
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000); err != nil {
		t.Fatal(err)
	}
	if found(own) {
		t.Error("a zombie is found")
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to a zombie: %v", err)
	}
	cmd.Wait()
}

func TestOpenKnowsTheProcess(t *testing.T) {
	p, _ := start(t, "other", "1000")
	before := ID{p.PID, p.Start - 1}
	if fd, err := before.Open(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a process that had this number before: %d, %v", fd, err)
	}
	if err := before.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to one that had this number before: %v", err)
	}
	if _, err := Read(p.PID); err != nil {
		t.Errorf("the wrong process was killed: %v", err)
	}
}

func TestTree(t *testing.T) {
	all := []Process{{ID: ID{PID: 1}}, {ID: ID{PID: 5}, Parent: 1}, {ID: ID{PID: 6}, Parent: 9}, {ID: ID{PID: 7}, Parent: 5}, {ID: ID{PID: 8}, Parent: 1}}
	var got []int
	for _, b := range Tree(all) {
		got = append(got, b.PID, b.Depth)
	}
	if want := []int{1, 0, 5, 1, 7, 2, 8, 1, 6, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
	if got := Ancestors(all, 7); !slices.Equal(got, []int{7, 5, 1}) {
		t.Errorf("ancestors of 7: %v", got)
	}
}

func TestVigil(t *testing.T) {
	p, cmd := start(t, "awaited", "1000")
	v, err := p.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	ended := make(chan error, 1)
	go func() { ended <- v.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it still runs: %v", err)
	default:
	}
	cmd.Process.Kill()
	if err := <-ended; err != nil { // a zombie, nobody has reaped it
		t.Fatal(err)
	}
	if err := v.Wait(); err != nil { // and it stays so
		t.Fatal(err)
	}
	if _, err := p.Watch(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("watch one that has ended: %v", err)
	}

	p, _ = start(t, "endless", "1000")
	if v, err = p.Watch(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- v.Wait() }()
	v.Close()
	if err := <-ended; err == nil {
		t.Error("Wait says that the process has ended; it was closed")
	}
}
