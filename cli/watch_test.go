package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skfs/skfs/ha"
)

func TestProgressBar(t *testing.T) {
	p := ha.ReplicaProgress{FilesDone: 3, FilesLeft: 1, BytesDone: 3 << 20, BytesLeft: 1 << 20, Rate: 1 << 19, Left: 2 * time.Second}
	for _, c := range []struct {
		p     ha.ReplicaProgress
		width int
		want  string
	}{
		{p, 80, "[#############-----]  75% 3 of 4 files, 3.0 MiB of 4.0 MiB, 512.0 KiB/s, 2s left"},
		{p, 40, "75% 3 of 4 files, 3.0 MiB of 4.0 MiB, 51"},
		{p, 0, ""},
		{ha.ReplicaProgress{FilesDone: 1, FilesLeft: 3}, 79, "[##########------------------------------]  25% 1 of 4 files, 0 B of 0 B, 0 B/s"},
		{ha.ReplicaProgress{BytesDone: 999, BytesLeft: 1}, 30, "99% 0 of 0 files, 999 B of 100"},
		{ha.ReplicaProgress{BytesDone: 10, BytesLeft: -5}, 60, "[####################] 100% 0 of 0 files, 10 B of 5 B, 0 B/s"},
	} {
		got := progressBar(c.p, c.width)
		if len(got) > c.width {
			t.Errorf("%d columns for a terminal of %d: %q", len(got), c.width, got)
		}
		if got != c.want {
			t.Errorf("%+v in %d columns: %q, want %q", c.p, c.width, got, c.want)
		}
	}
}

func TestWatcher(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := func(c ha.Colour, done int64) ha.ModuleState {
		s := ha.ModuleState{Role: ha.RoleAlone, Colour: c}
		if done > 0 {
			s.Progress = ha.ReplicaProgress{FilesLeft: 1, BytesDone: done, BytesLeft: 100 - done, Rate: 10}
		}
		return s
	}
	steps := []struct {
		s     ha.ModuleState
		after time.Duration
	}{
		{state(ha.Green, 0), 0}, {state(ha.Green, 0), time.Second}, {state(ha.Green, 10), time.Second}, {state(ha.Green, 20), time.Second},
		{state(ha.Green, 70), 5 * time.Second}, {state(ha.Magenta, 80), 0}, {state(ha.Green, 0), time.Second},
	}
	run := func(width int) string {
		var b bytes.Buffer
		now := at
		w := watcher{out: &b, am: "m", width: width, now: func() time.Time { return now }}
		for _, s := range steps {
			now = now.Add(s.after)
			if err := w.show(s.s); err != nil {
				t.Fatal(err)
			}
		}
		w.end()
		return b.String()
	}
	// Into a file: progress now and then, changes at once, nothing twice.
	want := `2026-01-02 03:04:05.000 m ALONE (green)
2026-01-02 03:04:07.000 m ALONE (green)  synchronising: 0 of 1 files, 10 B of 100 B, 10 B/s
2026-01-02 03:04:13.000 m ALONE (green)  synchronising: 0 of 1 files, 70 B of 100 B, 10 B/s
2026-01-02 03:04:13.000 m ALONE (magenta)  synchronising: 0 of 1 files, 80 B of 100 B, 10 B/s
2026-01-02 03:04:14.000 m ALONE (green)
`
	if d := cmp.Diff(want, run(0)); d != "" {
		t.Error(d)
	}
	// On a terminal the bar is drawn over and over, in one line below the states.
	bar := func(done int64) string { return progressBar(state(ha.Green, done).Progress, 69) }
	want = "2026-01-02 03:04:05.000 m ALONE (green)\n" + bar(10) +
		"\r\x1b[K" + bar(20) + "\r\x1b[K" + bar(70) +
		"\r\x1b[K2026-01-02 03:04:13.000 m ALONE (magenta)\n" + bar(80) +
		"\r\x1b[K2026-01-02 03:04:14.000 m ALONE (green)\n"
	if d := cmp.Diff(want, run(70)); d != "" {
		t.Error(d)
	}
}
