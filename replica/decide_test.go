package replica

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/journal"
)

// TestAbnormalDates: a second whose data has nothing to do with the primary's, of
// another time, is not synchronized unless it is told to be (§5.4).
func TestAbnormalDates(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t, conf.AsyncSecond)
	b.stop(true)
	a.wait(EventPeerLost)
	a.must(a.c.Alone(ctx, 1, AnyStream))
	s, err := loadState(filepath.Join(b.cfg.StateDir, "rfs.state"))
	b.must(err)
	if s.At == (journal.Time{}) {
		t.Fatal("the record has no date of the last synchronization")
	}
	s.Lineage = journal.Lineage{Current: journal.NewGeneration()}
	s.At.Sec -= 3600
	b.must(saveState(filepath.Join(b.cfg.StateDir, "rfs.state"), s))
	b.start()
	b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{}))
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-b.c.Events():
			t.Logf("%+v", e)
			if e.Kind == EventSynced {
				t.Fatal("it was synchronized")
			}
			if e.Level == "E" && strings.HasPrefix(e.Text, "Automatic synchronization cannot be applied due to an abnormal delta") {
				b.must(b.c.Follow(ctx, 1, a.cfg.Listen[0], FollowOptions{Full: true})) // second fullsync
				b.wait(EventSynced)
				return
			}
		case <-timeout:
			t.Fatal("the line of §5.4 was not logged")
		}
	}
}

func TestDatesDiffer(t *testing.T) {
	at := func(sec int64) journal.Time { return journal.Time{Sec: sec} }
	for _, x := range []struct {
		a, b journal.Time
		want bool
	}{
		{at(1000), at(1090), false}, {at(1000), at(1091), true}, {at(1091), at(1000), true}, {at(1000), journal.Time{}, false},
	} {
		if got := datesDiffer(x.a, x.b); got != x.want {
			t.Errorf("%v, %v: %v", x.a, x.b, got)
		}
	}
}
