package replica

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// TestProgressOnBoth: how far a synchronisation is can be asked on either node, and
// what goes over the stream is counted.
func TestProgressOnBoth(t *testing.T) {
	ctx := context.Background()
	a := newHost(t, "a", "127.0.0.1:25601", conf.AsyncSecond)
	b := newHost(t, "b", "127.0.0.1:25602", conf.AsyncSecond)
	a.stop(false)
	a.cfg.RFS.ReiAllowedBW = 400 // KB/s: it takes some seconds
	a.start()
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	const files, size = 8, 200 << 10
	for i := range files {
		data := make([]byte, size)
		rand.Read(data)
		a.must(os.WriteFile(filepath.Join(a.dir, fmt.Sprint(i)), data, 0o644))
	}
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	seen := map[*host]bool{}
	for end := time.Now().Add(time.Minute); !seen[a] || !seen[b]; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no progress was seen: on the primary %v, on the second %v", seen[a], seen[b])
		}
		for _, h := range []*host{a, b} {
			s, err := h.c.Status(ctx)
			h.must(err)
			if p := s.Progress; p.BytesLeft > 0 && p.BytesDone+p.BytesLeft <= files*size {
				seen[h] = true
			}
		}
	}
	a.wait(EventSynced)
	b.wait(EventSynced)
	sa, err := a.c.Status(ctx)
	a.must(err)
	sb, err := b.c.Status(ctx)
	b.must(err)
	if sa.Progress != (Progress{}) || sb.Progress != (Progress{}) {
		t.Errorf("at the end: %+v, %+v", sa.Progress, sb.Progress)
	}
	if sa.Copied < files*size || sa.Sent < sa.Copied || sb.Received < sa.Copied || sa.Received == 0 || sb.Sent == 0 {
		t.Errorf("counted on the primary %+v, on the second %+v", sa, sb)
	}
}
