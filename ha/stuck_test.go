package ha

import "testing"

// A primary whose replicated directory does not answer (checktime), or whose disk has
// failed (R13), has its module stopped and started; the other node takes over.
func TestReplicaGivesUp(t *testing.T) {
	for _, c := range []struct {
		kind       ReplicaEventKind
		text, line string
	}{
		{ReplicaStuck, "The replicated directory /replicated has not answered for 3m40s", "The replicated directory /replicated has not answered for 3m40s"},
		{ReplicaFailed, "fsync failed on this node", "The replication process cannot go on: fsync failed on this node"},
	} {
		t.Run(c.text, func(t *testing.T) {
			p := newPair(t, true)
			p.up()
			n := len(p.lines(0))
			p.data.mu.Lock()
			r := p.data.nodes[0].proc
			p.data.mu.Unlock()
			r.events <- ReplicaEvent{Kind: c.kind, Epoch: 1, Text: c.text}
			p.logged(0, n, c.line, "Action stopstart called by nfsadmin")
			p.want("SECOND green", "PRIM green")
		})
	}
}
