package replica

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/skfs/skfs/conf"
)

// What may change while a module runs is in force for the next second: the network, and
// when a change is answered. An address that cannot be had changes nothing.
func TestConfigure(t *testing.T) {
	const former, latter = "127.0.0.1:25607", "127.0.0.1:25608"
	ctx := context.Background()
	a := newHost(t, "a", former, conf.AsyncSecond)
	a.stop(true)
	rfs := *a.cfg.RFS
	rfs.Async, rfs.NbRei, rfs.ZoneSize = conf.AsyncNone, 1, 1<<30
	d := Dynamic{RFS: &rfs}
	a.cfg.Reload = func() (Dynamic, error) { return d, nil }
	a.start()
	b := newHost(t, "b", "127.0.0.1:25609", conf.AsyncSecond)
	a.must(a.c.Promote(ctx, 1, ForcePrim))
	a.must(a.c.Alone(ctx, 1, AnyStream))

	taken, err := net.Listen("tcp", latter)
	if err != nil {
		t.Fatal(err)
	}
	d.Listen = []string{latter}
	if err := a.c.Configure(ctx); err == nil {
		t.Error("an address that is taken was accepted")
	}
	if c, err := net.Dial("tcp", former); err != nil {
		t.Errorf("the former address is not listened on any more: %v", err)
	} else {
		c.Close()
	}
	taken.Close()

	a.must(a.c.Configure(ctx))
	a.must(a.c.Configure(ctx)) // the same once more
	b.must(b.c.Follow(ctx, 1, latter, FollowOptions{}))
	a.wait(EventSynced)
	b.wait(EventSynced)
	if _, err := os.Stat(filepath.Join(b.cfg.StateDir, "receive.log")); err != nil {
		t.Errorf("the second keeps no log, which async=\"none\" is made of: %v", err)
	}
	if c, err := net.Dial("tcp", former); err == nil {
		c.Close()
		t.Error("the former address is listened on still")
	}
	if err := b.c.Configure(ctx); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a replica without Reload: %v", err)
	}
	settled(t, a, b)
}
