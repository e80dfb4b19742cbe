package ha

import (
	"testing"
	"time"
)

func TestThroughput(t *testing.T) {
	var tp throughput
	at := time.Unix(1000, 0)
	for i, c := range []struct {
		after time.Duration
		count uint64
		rate  uint64
	}{
		{0, 5 << 20, 0},                  // what was sent before is not of now
		{time.Second, 6 << 20, 0},        // too early
		{2 * time.Second, 8 << 20, 1024}, // 3 MiB in 3 s
		{3 * time.Second, 8 << 20, 0},    // nothing
		{4 * time.Second, 40 << 10, 10},  // a new stream
		{-time.Hour, 80 << 10, 10},       // the clock was set back: begin again
		{3 * time.Second, 380 << 10, 100},
	} {
		at = at.Add(c.after)
		if tp.took(at, c.count); tp.rate != c.rate {
			t.Errorf("%d: %d KB/s, want %d", i, tp.rate, c.rate)
		}
	}
	if tp.due(at.Add(time.Second)) || !tp.due(at.Add(3*time.Second)) || !tp.due(at.Add(-time.Hour)) {
		t.Error("due at the wrong time")
	}
	if !tp.stop() || tp.stop() || tp.rate != 0 {
		t.Error("stop")
	}
}

func TestTraffic(t *testing.T) {
	var tr traffic
	at := time.Unix(1000, 0)
	tr.took(at, &ReplicaStatus{})
	tr.took(at.Add(3*time.Second), &ReplicaStatus{Sent: 3 << 20, Received: 30 << 10, Copied: 1 << 20})
	for primary, rep := range map[bool]string{true: "683", false: "0"} {
		r := map[string]string{}
		tr.resources(r, primary)
		for name, want := range map[string]string{"rfs.rep_bandwidth": rep, "rfs.rei_bandwidth": "341", "rfs.netout_bandwidth": "1024", "rfs.netin_bandwidth": "10"} {
			if r[name] != want {
				t.Errorf("%s (primary %v) is %q, want %q", name, primary, r[name], want)
			}
		}
	}
	if !tr.stop() || tr.stop() {
		t.Error("stop")
	}
}
