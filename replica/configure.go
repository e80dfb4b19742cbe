package replica

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/journal"
)

// What of <rfs> may change while the module runs (guide §13.6.2: async, nbrei,
// reitimeout, reidetail and the network of the replication). The next stream to a
// second, the next verification and the next copy go by it.

// Dynamic is what Config.Reload reads.
type Dynamic struct {
	RFS    *conf.RFS
	Listen []string // as Config.Listen
}

// rfs is <rfs> as it is in force.
func (r *Replica) rfs() *conf.RFS { return r.tuned.Load() }

// Configure takes up what the active configuration says now. On error all is as before.
func (r *Replica) Configure(ctx context.Context) error {
	if r.cfg.Reload == nil {
		return errors.New("configure: this replica has no configuration to read again")
	}
	r.cmd.Lock()
	defer r.cmd.Unlock()
	d, err := r.cfg.Reload()
	if err != nil {
		return err
	}
	if !r.cfg.Degraded {
		if err := r.listen(ctx, d.Listen); err != nil {
			return err
		}
	}
	now := *r.rfs()
	now.Async, now.NbRei, now.ReiTimeout, now.ReiDetail, now.Flow = d.RFS.Async, d.RFS.NbRei, d.RFS.ReiTimeout, d.RFS.ReiDetail, d.RFS.Flow
	r.tuned.Store(&now)
	return nil
}

// listen waits for seconds on these addresses, and no others, until ctx ends. They are
// refused while this host is no primary. On error it goes on where it was. The caller
// holds cmd, or is the first.
func (r *Replica) listen(ctx context.Context, addrs []string) error {
	fresh := map[string]net.Listener{}
	for _, addr := range addrs {
		if r.listening[addr] != nil || fresh[addr] != nil {
			continue
		}
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			for _, l := range fresh {
				l.Close()
			}
			return fmt.Errorf("wait for the second node: %w", err)
		}
		fresh[addr] = ln
	}
	all := map[string]context.CancelFunc{}
	for _, addr := range addrs {
		if all[addr] = r.listening[addr]; fresh[addr] != nil {
			all[addr] = r.accept(ctx, fresh[addr])
		}
	}
	for addr, end := range r.listening {
		if all[addr] == nil {
			end()
		}
	}
	r.listening = all
	return nil
}

// accept admits the seconds that come to ln until it is told to end.
func (r *Replica) accept(ctx context.Context, ln net.Listener) (end context.CancelFunc) {
	own, end := context.WithCancel(ctx)
	l := journal.NewListener(ln)
	r.wg.Go(func() {
		defer end()
		defer l.Close()
		for {
			req, err := l.Accept(own)
			if err != nil {
				return
			}
			if err := r.admit(ctx, req); err != nil {
				r.log("I", "nfsadmin", "node %s: %v", req.Node, err)
			}
		}
	})
	return end
}
