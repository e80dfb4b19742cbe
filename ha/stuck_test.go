package ha

import "testing"

// A replicated directory that does not answer (checktime) has its module stopped and
// started; the other node takes over.
func TestStuckDirectory(t *testing.T) {
	p := newPair(t, true)
	p.up()
	n := len(p.lines(0))
	p.data.mu.Lock()
	r := p.data.nodes[0].proc
	p.data.mu.Unlock()
	r.events <- ReplicaEvent{Kind: ReplicaStuck, Epoch: 1, Text: "The replicated directory /replicated has not answered for 3m40s"}
	p.logged(0, n, "The replicated directory /replicated has not answered for 3m40s", "Action stopstart called by nfsadmin")
	p.want("SECOND green", "PRIM green")
}

// A primary whose disk has failed steps down (R13); the other node takes over.
func TestFailedDisk(t *testing.T) {
	p := newPair(t, true)
	p.up()
	n := len(p.lines(0))
	p.data.mu.Lock()
	r := p.data.nodes[0].proc
	p.data.mu.Unlock()
	r.events <- ReplicaEvent{Kind: ReplicaFailed, Epoch: 1, Text: "fsync failed on this node"}
	p.logged(0, n, "The replication process cannot go on: fsync failed on this node", "Action stopstart called by nfsadmin")
	p.want("SECOND green", "PRIM green")
}
