package replica

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// prober asks a mount now and then whether it answers (checktime, checkintv, §13.6.3).
type prober struct {
	dir   string
	every time.Duration
	limit time.Duration
	ask   func(dir string) error
	stuck func(text string)
}

// probeMounts has all mounts asked until ctx ends.
func (r *Replica) probeMounts(ctx context.Context) {
	rfs := r.cfg.RFS
	if rfs.CheckInterval <= 0 || rfs.CheckTime <= 0 {
		return
	}
	for _, f := range r.trees {
		p := prober{dir: f.Tree().Dir(), every: rfs.CheckInterval, limit: rfs.CheckTime, ask: statfs,
			stuck: func(text string) { r.events.send(Event{Kind: EventStuck, Epoch: r.epoch(), Text: text}) }}
		r.wg.Go(func() { p.run(ctx) })
	}
}

// statfs goes through the mount to this process and its backing file system.
func statfs(dir string) error {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st)
}

// run asks until ctx ends, or once the mount has not answered in time. Who is asked in
// vain is left behind: its call ends with the mount.
func (p *prober) run(ctx context.Context) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		answer := make(chan error, 1)
		go func() { answer <- p.ask(p.dir) }()
		late := time.NewTimer(p.limit)
		select {
		case err := <-answer:
			late.Stop()
			if err != nil && ctx.Err() == nil {
				p.stuck(fmt.Sprintf("The replicated directory %s cannot be used: %v", p.dir, err))
				return
			}
		case <-late.C:
			p.stuck(fmt.Sprintf("The replicated directory %s has not answered for %v", p.dir, p.limit))
			return
		case <-ctx.Done():
			late.Stop()
			return
		}
	}
}
