package ha

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// How the loop of a module (module.run) drives the data side.

// attach forwards the events of a replica.
func (m *module) attach(ctx context.Context, r Replica) {
	m.replica = r
	m.tasks.Go(func() {
		for {
			select {
			case e, ok := <-r.Events():
				if ctx.Err() != nil {
					return
				}
				if !ok {
					m.post(ctx, func() {
						if m.replica == r {
							m.replica = nil
							m.step(ctx, Gone{})
						}
					})
					return
				}
				m.post(ctx, func() {
					if m.replica == r {
						m.step(ctx, Told{e})
					}
				})
			case <-ctx.Done():
				return
			}
		}
	})
}

// callReplica makes one call to the data side.
func (m *module) callReplica(ctx context.Context, mc *moduleConf, r Replica, a Run) Done {
	t := a.Task
	d := Done{ID: a.ID}
	switch t.Kind {
	case TaskJoin:
		select {
		case <-time.After(joinWait):
		case <-ctx.Done():
		}
		return d
	case TaskStart:
		r, d.Err = m.startReplica(ctx, r, t)
		if d.Err != nil {
			return d
		}
		if d.Status, d.Err = r.Status(ctx); d.Err != nil {
			return d
		}
		// Attached by the loop, before anything is asked of it.
		if m.post(ctx, func() { m.attach(ctx, r) }) != nil {
			d.Err = ctx.Err()
		}
		return d
	case TaskStop:
		if r != nil {
			d.Err = r.Stop(ctx, t.Clean)
		}
		return d
	}
	if r == nil {
		d.Err = ErrNoReplica
		return d
	}
	switch t.Kind {
	case TaskPromote:
		d.Err = r.Promote(ctx, t.Epoch, t.Forced)
	case TaskAlone:
		d.Err = r.Alone(ctx, t.Epoch, t.Stream)
	case TaskCut:
		d.Err = r.Cut(ctx)
	case TaskAbandon:
		d.Err = r.Abandon(ctx)
	case TaskFollow:
		d.Err = r.Follow(ctx, t.Epoch, mc.flow, FollowOptions{Full: t.Full, Since: t.Since})
	case TaskOutdate:
		d.Err = r.Outdate(ctx, t.Epoch)
	case TaskDemote:
		d.Err = r.Demote(ctx)
	}
	if d.Err == nil {
		d.Status, d.Err = r.Status(ctx)
	}
	return d
}

// startReplica starts a new replica. One that is there already is left over from
// a start or stop that was interrupted: nothing was asked of it yet, it ends.
func (m *module) startReplica(ctx context.Context, r Replica, t Task) (Replica, error) {
	if r == nil {
		var err error
		if r, err = m.launch.Attach(ctx, m.name); err != nil && !errors.Is(err, ErrNoReplica) {
			return nil, err
		}
	}
	if r != nil {
		if err := r.Stop(ctx, false); err != nil && ctx.Err() == nil {
			m.log.Write(LevelInfo, "nfsadmin", fmt.Sprintf("Stop of an old replication process: %v", err))
		}
	}
	return m.launch.Start(ctx, m.name, StartOptions{Degraded: t.Degraded})
}

// configureReplica has the replica take up a new configuration.
func (m *module) configureReplica(ctx context.Context) {
	r := m.replica
	if r == nil {
		return
	}
	m.tasks.Go(func() {
		if err := r.Configure(ctx); err != nil && ctx.Err() == nil {
			m.log.Write(LevelEvent, "nfsadmin", fmt.Sprintf("The replication process could not take up the configuration: %v", err))
		}
	})
}

// askProgress asks the replica how far a synchronisation is.
func (m *module) askProgress(ctx context.Context) {
	joined := m.state.Data.Joined && m.replica != nil
	if !joined || m.state.Data.Synced {
		if m.prog != (ReplicaProgress{}) {
			m.prog = ReplicaProgress{}
			m.publish()
		}
	}
	if !joined && m.traffic.stop() {
		m.publish()
	}
	if !joined || m.asking || m.state.Data.Synced && !m.traffic.due(time.Now()) {
		return
	}
	m.asking = true
	r := m.replica
	m.tasks.Go(func() {
		st, err := r.Status(ctx)
		m.post(ctx, func() {
			m.asking = false
			if err == nil && m.replica == r {
				if m.prog = st.Progress; m.state.Data.Synced {
					m.prog = ReplicaProgress{}
				}
				m.traffic.took(time.Now(), &st)
				m.publish()
			}
		})
	})
}
