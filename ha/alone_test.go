package ha

import (
	"slices"
	"testing"
)

// A second joins, is in sync and is lost while the call is on its way that lets the
// primary go on alone after an earlier loss: that call says nothing of this one.
func TestAloneIsOfOneLoss(t *testing.T) {
	s := State{Conf: Conf{Node: "a", Peer: "b", HasData: true, Failover: true, Heartbeats: []string{"default"}}, Role: RoleAlone, Colour: Magenta,
		Epoch: 2, Seen: 2, Reign: true, Established: true, Live: PartPre, Links: []Link{LinkUp}, Drops: 1, Drop: Drop{2, 1},
		Data: Data{Running: true, Epoch: 2, Uptodate: true, Consistent: true, Frozen: true, Stream: 3}}
	s.Up = s.wants(RoleAlone)
	calls := func(events ...Event) (all []Run) {
		for _, e := range events {
			next, actions := Step(s, e, modelNow)
			s = next
			for _, a := range actions {
				if r, ok := a.(Run); ok && r.Task.Kind == TaskAlone {
					all = append(all, r)
				}
			}
		}
		return all
	}
	peer := Beat{Known: true, Role: RoleSecond, Epoch: 2, Seen: 2, HearsMe: true, Outdated: s.Drop}
	first := calls(Heard{peer})
	if len(first) != 1 || first[0].Task.Stream != 3 {
		t.Fatalf("%+v; expected a call for the loss of stream 3, which was conceded", first)
	}
	again := calls(Told{ReplicaEvent{Kind: PeerJoined, Epoch: 2, Stream: 4}}, Told{ReplicaEvent{Kind: Synced, Epoch: 2}},
		Told{ReplicaEvent{Kind: PeerLost, Epoch: 2, Stream: 4}}, Heard{peer}, Done{ID: first[0].ID})
	if len(again) != 0 || !s.Data.Frozen {
		t.Fatalf("%+v, frozen %v; expected that the loss of stream 4 waits for its own concession", again, s.Data.Frozen)
	}
	peer.Outdated = s.Drop
	second := calls(Heard{peer})
	if len(second) != 1 || second[0].Task.Stream != 4 {
		t.Fatalf("%+v; expected a call for the loss of stream 4", second)
	}
	if calls(Done{ID: second[0].ID}); s.Data.Frozen {
		t.Error("still frozen")
	}

	// A daemon that is started again repeats the call as it was.
	s.Data.Frozen, s.Alone, s.AloneOf = true, second[0].ID, 4
	adopted := calls(Adopted{Found: true, Status: ReplicaStatus{Epoch: 2, Stream: 5, Frozen: true, Uptodate: true, Consistent: true}})
	if !slices.ContainsFunc(adopted, func(r Run) bool { return r.ID == second[0].ID && r.Task.Stream == 4 }) {
		t.Errorf("%+v; expected the call under way, for stream 4", adopted)
	}
	if calls(Done{ID: second[0].ID}); !s.Data.Frozen {
		t.Error("the loss of stream 5 counts as conceded")
	}
}
