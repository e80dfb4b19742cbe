package reintegrate

import (
	"fmt"
	"sync"
	"time"
)

// Stats says what a pass did.
type Stats struct {
	Files    int64 // regular files passed
	Others   int64 // directories, symlinks, devices, …
	Sent     int64 // files of which bytes were sent
	Copied   int64 // bytes sent
	Compared int64 // bytes found equal
	Dropped  int64 // names that only SECOND had
	Listed   int64 // directories read on PRIM
	Opened   int64 // files read on PRIM
	Read     int64 // bytes of them
	Duration time.Duration
}

// Rate is in bytes of content, sent or found equal, a second.
func (s Stats) Rate() int64 { return perSecond(s.Copied+s.Compared, s.Duration) }

func (s Stats) String() string {
	return fmt.Sprintf("%d files, %d bytes (%d of %d files changed, %d bytes equal), %s, %d KB/s",
		s.Sent, s.Copied, s.Sent, s.Files, s.Compared, s.Duration.Round(time.Millisecond), s.Rate()/1024)
}

// Progress of a running pass.
type Progress struct {
	Walking              bool // directories are still being read: what is left grows
	FilesDone, FilesLeft int64
	BytesDone, BytesLeft int64         // of file content, sent or found equal
	Rate                 int64         // content bytes a second, lately
	Left                 time.Duration // estimate; 0: not known
}

// meter counts what a pass does. Bytes and files that Failed starts again count
// again, on both sides.
type meter struct {
	mu           sync.Mutex // a leaf
	start        time.Time
	stats        Stats
	files, bytes struct{ done, total int64 }
	samples      [rateSamples]sample // a ring, newest at next-1
	next         int
}

type sample struct {
	at   time.Time
	done int64
}

// The rate is that of the last rateSamples × rateEvery.
const (
	rateSamples = 16
	rateEvery   = 500 * time.Millisecond
)

func (m *meter) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.start = now
	m.samples[0], m.next = sample{at: now}, 1
}

// found counts a file that is to be passed.
func (m *meter) found(size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files.total++
	m.bytes.total += size
}

// resized says that a file which was counted with size a has size b.
func (m *meter) resized(a, b int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes.total += b - a
}

// listed and opened count directories and files that are read.
func (m *meter) listed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Listed++
}

func (m *meter) opened() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Opened++
}

// passed counts n bytes of content, which differ by d.
func (m *meter) passed(now time.Time, n int64, d *delta) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes.done += n
	m.stats.Copied += d.bytes()
	m.stats.Compared += d.compared
	m.stats.Read += d.read
	if last := m.samples[(m.next+rateSamples-1)%rateSamples]; now.Sub(last.at) >= rateEvery {
		m.samples[m.next%rateSamples] = sample{now, m.bytes.done}
		m.next++
	}
}

// done counts a file that was found; sent: bytes of it were.
func (m *meter) done(regular, sent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files.done++
	if regular {
		m.stats.Files++
	} else {
		m.stats.Others++
	}
	if sent {
		m.stats.Sent++
	}
}

// gone counts out a file that was found and is no more; left are the bytes of it
// not yet counted as done.
func (m *meter) gone(left int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files.total--
	m.bytes.total -= left
}

func (m *meter) other(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Others += n
}

func (m *meter) progress(now time.Time) Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Progress{
		FilesDone: m.files.done, FilesLeft: m.files.total - m.files.done,
		BytesDone: m.bytes.done, BytesLeft: m.bytes.total - m.bytes.done,
	}
	oldest := m.samples[0]
	if m.next > rateSamples {
		oldest = m.samples[m.next%rateSamples]
	}
	p.Rate = perSecond(p.BytesDone-oldest.done, now.Sub(oldest.at))
	if p.Rate > 0 {
		p.Left = time.Duration(float64(p.BytesLeft) / float64(p.Rate) * float64(time.Second))
	}
	return p
}

// result is what was done by now.
func (m *meter) result(now time.Time, dropped int64) Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Dropped, s.Duration = dropped, now.Sub(m.start)
	return s
}

func perSecond(n int64, d time.Duration) int64 {
	if n <= 0 || d <= 0 {
		return 0
	}
	return int64(float64(n) / d.Seconds())
}
