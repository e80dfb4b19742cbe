package replica

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skfs/skfs/conf"
)

// What the peer lacks is counted from the notes, by a client that takes no events.
func TestDiff(t *testing.T) {
	ctx := context.Background()
	a, b := newHost(t, "a", "127.0.0.1:19641", conf.AsyncSecond), newHost(t, "b", "127.0.0.1:19642", conf.AsyncSecond)
	c := NewClient(a.cfg.Socket)
	if _, err := c.Diff(ctx); err == nil || !strings.Contains(err.Error(), "not the primary") {
		t.Errorf("of a node that is no primary: %v", err)
	}
	a.must(a.c.Promote(ctx, 1, ForcePrimforce))
	a.must(a.c.Alone(ctx, 1, AnyStream))
	a.must(os.MkdirAll(a.dir+"/d/e", 0o755))
	a.must(os.WriteFile(a.dir+"/big", make([]byte, 20<<20), 0o644))
	a.must(os.WriteFile(a.dir+"/d/small", []byte("x"), 0o644))
	d, err := c.Diff(ctx)
	if err != nil || !d.All {
		t.Errorf("nobody was ever brought up to date: %+v %v", d, err)
	}
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	b.stop(true)
	a.wait(EventPeerLost)
	a.must(a.c.Alone(ctx, 1, AnyStream))

	f, err := os.OpenFile(a.dir+"/big", os.O_WRONLY, 0)
	a.must(err)
	_, err = f.WriteAt([]byte("here"), 9<<20) // the second of three zones
	a.must(errors.Join(err, f.Close()))
	a.must(os.WriteFile(a.dir+"/d/new", []byte("y"), 0o644))
	a.must(os.Chmod(a.dir+"/d/e", 0o700))
	d, err = c.Diff(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// What was written just before b left may not be on its disk: it is noted, too.
	if d.Files < 1 || d.Bytes < 8<<20 || d.Directories < 1 || d.Born != 1 || d.Attributes < 1 || d.All || d.Connected {
		t.Errorf("%s", cmp.Diff(Diff{}, d))
	}
}
