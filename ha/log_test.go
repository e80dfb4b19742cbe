package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newLog(t *testing.T, path string) *Log {
	t.Helper()
	l, err := openLog(path, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a log?.db")
	l := newLog(t, path)
	ctx := context.Background()
	for i := range 20 {
		l.Write(Level(i%3), "heart", fmt.Sprint(i))
	}
	lines, err := l.Tail(ctx, 3, LevelInfo)
	if err != nil || len(lines) != 3 || lines[0].Text != "16" || lines[1].Text != "18" || lines[2].Text != "19" {
		t.Fatalf("%v %v", lines, err)
	}
	// What was written survives, and numbers go on.
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	l.Write(LevelEvent, "heart", "too late") // no effect, no panic
	l = newLog(t, path)
	l.Write(LevelEvent, "heart", "20")
	all, err := l.Tail(ctx, 100, LevelDebug)
	if err != nil || len(all) != 21 || all[20].Text != "20" || all[20].ID <= all[19].ID {
		t.Fatalf("%v %v", all, err)
	}
	var b strings.Builder
	if err := l.Save(ctx, &b, LevelEvent); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != 8 {
		t.Errorf("%d lines of level E saved, 8 expected\n%s", n, b.String())
	}
}

func TestLineForm(t *testing.T) {
	l := Line{Time: time.Date(2021, 8, 6, 8, 40, 20, 909224000, time.Local), Level: LevelEvent, Source: "reintegre", Text: "text"}
	if got, want := l.String(), "| 2021-08-06 08:40:20.909224 | reintegre | E | text"; got != want {
		t.Errorf("%q, wanted %q", got, want)
	}
}

func TestLogFollow(t *testing.T) {
	l := newLog(t, filepath.Join(t.TempDir(), "log.db"))
	l.Write(LevelEvent, "heart", "0")
	stop := errors.New("enough")
	next := 0
	err := l.Follow(context.Background(), 0, LevelEvent, func(line Line) error {
		if line.Text != fmt.Sprint(next) {
			t.Errorf("%q came, %d was next", line.Text, next)
		}
		if next++; next == 3000 {
			return stop
		}
		l.Write(LevelDebug, "heart", "not this")
		l.Write(LevelEvent, "heart", fmt.Sprint(next))
		return nil
	})
	if err != stop {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Follow(ctx, 1<<40, LevelEvent, func(Line) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("follow after the end of its context: %v", err)
	}
}

// A log that is damaged is put aside, and a new one begins.
func TestLogDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLog(t, path)
	l.Write(LevelEvent, "heart", "new")
	if lines, err := l.Tail(context.Background(), 10, LevelDebug); err != nil || len(lines) != 1 {
		t.Errorf("%v %v", lines, err)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
}

// A log that has no room, or cannot be opened for another reason that is not its own, is
// left as it is: the module is watched without it.
func TestLogWithoutDisk(t *testing.T) {
	for name, breaks := range map[string]func(t *testing.T, dir, path string){
		"full": func(t *testing.T, dir, path string) {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
				t.Skip("a small file system is needed:", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			l := newLog(t, path)
			l.Write(LevelEvent, "heart", "old")
			if err := l.close(); err != nil {
				t.Fatal(err)
			}
			fill, err := os.Create(filepath.Join(dir, "fill"))
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Close()
			for err == nil {
				_, err = fill.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		},
		"no file": func(t *testing.T, _, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log.db")
			breaks(t, dir, path)
			l := newLog(t, path)
			l.Write(LevelEvent, "heart", "new")
			lines, err := l.Tail(context.Background(), 10, LevelDebug)
			if err != nil || len(lines) != 1 || lines[0].Text != "new" {
				t.Errorf("%v %v", lines, err)
			}
			if _, err := os.Stat(path + ".damaged"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what is not damaged was put aside: %v", err)
			}
		})
	}
}

// A line stays one, whatever it is made of.
func TestLogLineBreaks(t *testing.T) {
	l := newLog(t, filepath.Join(t.TempDir(), "log.db"))
	l.Write(LevelEvent, "user", "first\nsecond\r\nthird\n")
	lines, err := l.Tail(context.Background(), 10, LevelDebug)
	if err != nil || len(lines) != 1 || lines[0].Text != "first; second; third" {
		t.Errorf("%q %v", lines, err)
	}
}

// When the writer is too slow the log drops debug lines first, and says so.
func TestLogOverflow(t *testing.T) {
	l := newLog(t, filepath.Join(t.TempDir(), "log.db"))
	tx, err := l.store.db.Begin() // the writer waits for this
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("INSERT INTO log (date, level, source, text) VALUES (0, 0, 'test', 'first')"); err != nil {
		t.Fatal(err)
	}
	for range storeQueue {
		l.Write(LevelDebug, "heart", "debug")
	}
	for i := range 100 {
		l.Write(LevelEvent, "heart", fmt.Sprint("event ", i))
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := l.store.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	l.Write(LevelEvent, "heart", "last")
	lines, err := l.Tail(context.Background(), 2*storeQueue, LevelEvent)
	if err != nil {
		t.Fatal(err)
	}
	events, said := 0, false
	for _, line := range lines {
		if strings.HasPrefix(line.Text, "event ") {
			events++
		}
		said = said || strings.HasSuffix(line.Text, "lines were lost: the log could not be written fast enough")
	}
	if events != 100 || !said {
		t.Errorf("%d of 100 events kept, loss told: %v", events, said)
	}
}

func TestResources(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resource.db")
	r, err := openResources(path, func(text string) { t.Error(text) })
	if err != nil {
		t.Fatal(err)
	}
	t0 := time.UnixMicro(1_000_000)
	r.set(t0, map[string]string{"a": "up", "b": "down"})
	if !r.fresh {
		t.Error("a change is not told")
	}
	r.fresh = false
	if r.set(t0.Add(1), map[string]string{"a": "up", "b": "down"}); r.fresh {
		t.Error("what is no change is told")
	}
	r.set(t0.Add(time.Second), map[string]string{"a": "down"})
	if err := r.store.close(); err != nil {
		t.Fatal(err)
	}
	if r, err = openResources(path, func(text string) { t.Error(text) }); err != nil {
		t.Fatal(err)
	}
	defer r.store.close()
	if got := r.list(); len(got) != 1 || got[0] != (Resource{"a", "down", t0.Add(time.Second), ""}) {
		t.Errorf("%v", got)
	}
	var n int
	if err := r.store.db.QueryRow("SELECT count(*) FROM history").Scan(&n); err != nil || n != 4 {
		t.Errorf("%d changes remembered, 4 expected: %v", n, err)
	}
}
