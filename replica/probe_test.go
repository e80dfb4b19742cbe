package replica

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestProbe: a mount that does not answer in time is told of, once.
func TestProbe(t *testing.T) {
	for want, last := range map[string]func(hang chan struct{}) error{
		"has not answered for 3m40s": func(hang chan struct{}) error {
			<-hang
			return nil
		},
		"transport endpoint is not connected": func(chan struct{}) error { return unix.ENOTCONN },
	} {
		synctest.Test(t, func(t *testing.T) {
			hang, asked := make(chan struct{}), 0
			var said []string
			start := time.Now()
			p := prober{dir: "/d", every: 120 * time.Second, limit: 220 * time.Second,
				ask: func(string) error {
					if asked++; asked < 3 {
						time.Sleep(200 * time.Second) // slow, but in time
						return nil
					}
					return last(hang)
				},
				stuck: func(text string) { said = append(said, text) }}
			p.run(context.Background())
			if len(said) != 1 || !strings.Contains(said[0], want) {
				t.Errorf("said %q, want %q", said, want)
			}
			if d := time.Since(start); d < 520*time.Second || d > 1000*time.Second {
				t.Errorf("after %v", d)
			}
			close(hang)
		})
	}
	synctest.Test(t, func(t *testing.T) { // the end of the replica
		ctx, cancel := context.WithCancel(context.Background())
		p := prober{every: time.Second, limit: time.Second, ask: func(string) error { return nil }, stuck: func(text string) { t.Error(text) }}
		var wg sync.WaitGroup
		wg.Go(func() { p.run(ctx) })
		time.Sleep(10 * time.Second)
		cancel()
		wg.Wait()
	})
}
