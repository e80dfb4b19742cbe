package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
)

// within fails the test if f does not return in time.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s: not done after %v", what, d)
	}
}

// pairOn is pair on other ports.
func pairOn(t *testing.T, port int) (a, b *host) {
	t.Helper()
	ctx := context.Background()
	a = newHost(t, "a", fmt.Sprintf("127.0.0.1:%d", port), conf.AsyncSecond)
	b = newHost(t, "b", fmt.Sprintf("127.0.0.1:%d", port+1), conf.AsyncSecond)
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	return a, b
}

// slowPass returns a primary and a second that is being brought up to date, for
// about as many seconds.
func slowPass(t *testing.T, port int, seconds int) (a, b *host) {
	t.Helper()
	ctx := context.Background()
	a = newHost(t, "a", fmt.Sprintf("127.0.0.1:%d", port), conf.AsyncSecond)
	b = newHost(t, "b", fmt.Sprintf("127.0.0.1:%d", port+1), conf.AsyncSecond)
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.cfg.RFS.ReiAllowedBW = 8 << 10 // KB/s
	a.cfg.RFS.ZoneSize = 1 << 20
	noise := bytes.Repeat([]byte("0123456789abcdef"), seconds<<19)
	a.must(os.WriteFile(filepath.Join(a.dir, "large"), noise, 0o644))
	a.must(os.Mkdir(filepath.Join(a.dir, "group"), 0o755))
	a.must(os.Chown(filepath.Join(a.dir, "group"), 0, 4711))
	a.must(os.Chmod(filepath.Join(a.dir, "group"), 0o755|os.ModeSetgid))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventPeerJoined)
	b.wait(EventPeerJoined)
	return a, b
}

// TestAloneLeavesJoined says Alone when a second has joined meanwhile: its stream
// stays, or it could be promoted without what is changed from then on.
func TestAloneLeavesJoined(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26150)
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(os.WriteFile(filepath.Join(a.dir, "f"), []byte("answered"), 0o644))
	a.stop(false)
	if err := b.c.Promote(ctx, 2, NoForce); err != nil {
		t.Fatalf("the second of a healthy pair is refused: %v", err)
	}
	b.must(b.c.Alone(ctx, 2, AnyStream))
	if _, err := os.Stat(filepath.Join(b.dir, "f")); err != nil {
		t.Errorf("promoted without an answered change: %v", err)
	}
}

// TestAloneIsOfOneLoss lets a primary go on after a loss that is older than the
// stream: what waits since the stream was lost goes on waiting.
func TestAloneIsOfOneLoss(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26190)
	b.must(b.c.Outdate(ctx, 1))
	a.wait(EventPeerLost)
	for stream, want := range []bool{true, false} { // frozen
		a.must(a.c.Alone(ctx, 1, uint64(stream)))
		if st, err := a.c.Status(ctx); err != nil || st.Stream != 1 || st.Frozen != want {
			t.Errorf("after the loss of stream %d: %+v, %v; expected frozen %v", stream, st, err, want)
		}
	}
}

// TestOutdateEndsSynchronisation outdates a second in the middle of a pass: that
// pass must not make it up to date.
func TestOutdateEndsSynchronisation(t *testing.T) {
	ctx := context.Background()
	a, b := slowPass(t, 26110, 2)
	b.must(b.c.Outdate(ctx, 1))
	a.wait(EventPeerLost)
	if err := b.c.Promote(ctx, 2, NoForce); !errors.Is(err, ErrNotUptodate) && !errors.Is(err, ErrInconsistent) {
		t.Errorf("promote of an outdated second: %v", err)
	}
	a.cfg.RFS.ReiAllowedBW = 0
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	b.wait(EventSynced)
	settled(t, a, b)
}

// TestSecondLostInPass loses the second in the middle of a pass, while the file
// that is in work is written all the time: the primary goes on by itself, since
// the second cannot be promoted.
func TestSecondLostInPass(t *testing.T) {
	a, b := slowPass(t, 26120, 16)
	const writers = 16
	ctx, stop := context.WithCancel(context.Background())
	ended, count := make(chan error, writers), make(chan struct{})
	for w := range writers {
		go func() {
			f, err := os.OpenFile(filepath.Join(a.dir, "large"), os.O_WRONLY, 0)
			if err != nil {
				ended <- err
				return
			}
			defer f.Close()
			for off := int64(w); ; off = (off + 4099) % (128 << 20) {
				if _, err := f.WriteAt([]byte("changed"), off); err != nil {
					ended <- err
					return
				}
				select {
				case count <- struct{}{}:
				case <-ctx.Done():
					ended <- nil
					return
				}
			}
		}()
	}
	for range 2000 {
		<-count
	}
	b.stop(false)
	within(t, 5*time.Second, "writing after the loss of a second that was being copied", func() {
		for range 2000 {
			<-count
		}
	})
	stop()
	for range writers {
		a.must(<-ended)
	}
}

// TestStopNotYetAlone stops a primary that was never told that it may go on, while
// a change waits.
func TestStopNotYetAlone(t *testing.T) {
	ctx := context.Background()
	a := newHost(t, "a", "127.0.0.1:26130", conf.AsyncSecond)
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	done := make(chan error, 1)
	go func() { done <- os.Mkdir(filepath.Join(a.dir, "d"), 0o755) }()
	for {
		if s, err := a.c.Status(ctx); err != nil || s.Frozen {
			break
		}
	}
	select {
	case err := <-done:
		t.Fatalf("answered too early: %v", err)
	case <-time.After(100 * time.Millisecond): // let it get there
	}
	within(t, 5*time.Second, "demote", func() { a.must(a.c.Demote(ctx)) })
	if err := <-done; !errors.Is(err, syscall.EROFS) {
		t.Errorf("the change that waited: %v, expected %v", err, syscall.EROFS)
	}
	if s, err := a.c.Status(ctx); err != nil || s.Uptodate {
		t.Errorf("a primary that was never told Alone says that it is surely the newest: %+v %v", s, err)
	}
}

// TestInheritanceInPass makes files during a pass in a directory whose attributes
// the second does not have yet.
func TestInheritanceInPass(t *testing.T) {
	a, b := slowPass(t, 26140, 2)
	for end := time.Now().Add(5 * time.Second); ; { // until the second has the directory
		if _, err := os.Stat(filepath.Join(b.dir, "group")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the second does not get the directory")
		}
	}
	time.Sleep(300 * time.Millisecond)
	a.must(os.WriteFile(filepath.Join(a.dir, "group", "file"), nil, 0o644))
	a.must(os.Mkdir(filepath.Join(a.dir, "group", "dir"), 0o755))
	a.must(os.WriteFile(filepath.Join(a.dir, "group", "dir", "file"), nil, 0o644))
	b.wait(EventSynced)
	settled(t, a, b)
}

// TestMappedAtPromotion maps a file on the second, and looks again after it was
// changed and the second promoted.
func TestMappedAtPromotion(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26160)
	name := "mapped"
	a.must(os.WriteFile(filepath.Join(a.dir, name), bytes.Repeat([]byte{'1'}, 4096), 0o644))
	settled(t, a, b)
	f, err := os.Open(filepath.Join(b.dir, name))
	b.must(err)
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	b.must(err)
	if got := mapped(t, m); got != '1' {
		t.Fatalf("mapped %q", got)
	}
	for _, keep := range []bool{true, false} {
		if !keep {
			unix.Munmap(m)
			f.Close()
		}
		want := byte('2')
		if !keep {
			want = '3'
		}
		a.must(os.WriteFile(filepath.Join(a.dir, name), bytes.Repeat([]byte{want}, 4096), 0o644))
		settled(t, a, b)
		if !keep {
			continue
		}
		if got := mapped(t, m); got != want {
			t.Errorf("the mapping shows %q, expected %q", got, want)
		}
	}
	a.stop(false)
	b.wait(EventPeerLost)
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	if got, err := os.ReadFile(filepath.Join(b.dir, name)); err != nil || got[0] != '3' {
		t.Errorf("after promotion: %q %v, expected '3'", got[:1], err)
	}
}

// mapped reads the first byte of a mapping of a file that this process itself
// serves. A system call does it: a page fault in Go code keeps its processor, so that
// a garbage collection that begins meanwhile would wait for it, and stop the server
// that the fault waits for.
func mapped(t *testing.T, m []byte) byte {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	b := make([]byte, 1)
	if _, err := w.Write(m[:1]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(b); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// TestOpenedBeforeIdentified works through a directory that was opened on the
// second before any reintegration had given it its identity.
func TestOpenedBeforeIdentified(t *testing.T) {
	ctx := context.Background()
	prepare := func(dir string) {
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := newHost(t, "a", "127.0.0.1:26170", conf.AsyncSecond, prepare)
	b := newHost(t, "b", "127.0.0.1:26171", conf.AsyncSecond, prepare)
	early, err := os.Open(filepath.Join(b.dir, "sub"))
	b.must(err)
	defer early.Close()
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	a.must(a.c.Demote(ctx))
	b.must(b.c.Promote(ctx, 2, NoForce))
	b.must(b.c.Alone(ctx, 2, AnyStream))
	a.must(a.c.Follow(ctx, 2, b.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.must(unix.Mkdirat(int(early.Fd()), "made", 0o755))
	b.must(unix.Fchmod(int(early.Fd()), 0o700))
	settled(t, b, a)
	if s, err := b.c.Status(ctx); err != nil || !s.Synced {
		t.Errorf("the hosts are not in sync any more: %+v %v", s, err)
	}
}

// TestTimesAfterCleanRejoin stops the second in order just after a change, before
// the modification time could be sent, and lets it join again without a copy.
func TestTimesAfterCleanRejoin(t *testing.T) {
	ctx := context.Background()
	a, b := pairOn(t, 26180)
	a.must(os.Mkdir(filepath.Join(a.dir, "d"), 0o755))
	b.stop(true)
	a.wait(EventPeerLost)
	time.Sleep(timesInterval + timesInterval/2) // the next try to send it fails
	a.must(a.c.Alone(ctx, 1, AnyStream))
	b.start()
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	b.wait(EventSynced)
	settled(t, a, b)
}

// TestNamedLater gives a file that was born without a name one, on a pair.
func TestNamedLater(t *testing.T) {
	a, b := pairOn(t, 26182)
	fd, err := unix.Open(a.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	a.must(err)
	defer unix.Close(fd)
	for _, off := range []int64{0, 1<<20 - 3, 5 << 20} { // with a hole
		_, err := unix.Pwrite(fd, bytes.Repeat([]byte{byte(off>>16) + 1}, 1<<20+5), off)
		a.must(err)
	}
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // cap_net_bind_service
	for name, value := range map[string][]byte{"user.a": []byte("b"), "security.capability": capability} {
		a.must(unix.Fsetxattr(fd, name, value, 0))
	}
	a.must(unix.Fchmod(fd, 0o755))
	a.must(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(a.dir, "named"), unix.AT_SYMLINK_FOLLOW))
	settled(t, a, b)
	for _, name := range []string{"user.a", "security.capability"} {
		var x, y [64]byte
		n, err := unix.Getxattr(filepath.Join(a.dir, "named"), name, x[:])
		a.must(err)
		m, err := unix.Getxattr(filepath.Join(b.dir, "named"), name, y[:])
		if err != nil || !bytes.Equal(x[:n], y[:m]) {
			t.Errorf("%s: %q here, %q (%v) there", name, x[:n], y[:m], err)
		}
	}
}
