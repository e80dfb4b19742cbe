package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/ha"
)

// watchState shows each change of a module: a line each, and on a terminal a bar
// for the synchronization that runs.
func (a *App) watchState(c *cli.Context, am string) error {
	if c.Bool("json") {
		return a.client.Watch(c.Context, am, func(s ha.ModuleState) error { return a.printJSON(s) })
	}
	w := watcher{out: a.out, am: am, now: time.Now, width: terminalWidth(a.out)}
	defer w.end()
	return a.client.Watch(c.Context, am, w.show)
}

// progressEvery is how often a line tells of nothing but progress, where there is
// no terminal.
const progressEvery = 5 * time.Second

// watcher shows states one after the other.
type watcher struct {
	out   io.Writer
	am    string
	now   func() time.Time
	width int // of the terminal, columns; 0: there is none

	last string    // what the last line said, without progress
	at   time.Time // when it was written
	runs bool      // a synchronization did at the last state
	bar  bool      // the cursor is behind a bar
}

func (w *watcher) show(s ha.ModuleState) error {
	p := s.Progress
	s.Progress = ha.ReplicaProgress{}
	now := w.now()
	line := fmt.Sprintf("%s %s%s", w.am, stateText(s.Role, s.Colour), details(s))
	running := p != ha.ReplicaProgress{}
	if line == w.last && !running && !w.bar {
		return nil // something changed that is not shown here
	}
	var b strings.Builder
	if w.bar {
		b.WriteString("\r\x1b[K")
		w.bar = false
	}
	stamp := now.Format("2006-01-02 15:04:05.000 ")
	switch {
	case line != w.last && w.width > 0:
		b.WriteString(stamp + line + "\n")
	case line != w.last, running && w.width == 0 && (!w.runs || now.Sub(w.at) >= progressEvery):
		s.Progress = p
		b.WriteString(stamp + w.am + " " + stateText(s.Role, s.Colour) + details(s) + "\n")
		w.at = now
	}
	w.last, w.runs = line, running
	if running && w.width > 0 {
		b.WriteString(progressBar(p, w.width-1))
		w.bar = true
	}
	_, err := io.WriteString(w.out, b.String())
	return err
}

// end leaves the cursor on a line of its own.
func (w *watcher) end() {
	if w.bar {
		fmt.Fprintln(w.out)
	}
}

// progressBar draws p in at most width columns.
func progressBar(p ha.ReplicaProgress, width int) string {
	done, total := p.BytesDone, p.BytesDone+p.BytesLeft
	if total == 0 {
		done, total = p.FilesDone, p.FilesDone+p.FilesLeft
	}
	part := 0.0
	if total > 0 {
		part = min(max(float64(done)/float64(total), 0), 1)
	}
	// Rounded down: 100% is the end.
	text := fmt.Sprintf(" %3d%% %s", int(part*100), progressText(p))
	cells := min(width-utf8.RuneCountInString(text)-2, 40)
	if cells < 5 {
		text = strings.TrimSpace(text)
		return text[:min(len(text), max(width, 0))]
	}
	full := int(part * float64(cells))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", cells-full) + "]" + text
}

// progressText says in words how far a synchronization is.
func progressText(p ha.ReplicaProgress) string {
	text := fmt.Sprintf("%d of %d files, %s of %s, %s/s", p.FilesDone, p.FilesDone+p.FilesLeft,
		byteText(p.BytesDone), byteText(p.BytesDone+p.BytesLeft), byteText(p.Rate))
	if p.Left > 0 {
		text += fmt.Sprintf(", %v left", p.Left.Round(time.Second))
	}
	return text
}

// terminalWidth is 0 if out is no terminal.
func terminalWidth(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	switch {
	case err != nil:
		return 0
	case size.Col == 0:
		return 80
	}
	return int(size.Col)
}
