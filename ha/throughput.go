package ha

import (
	"strconv"
	"time"
)

// throughputEvery is over how long a throughput is averaged (§13.6.4.7).
const throughputEvery = 3 * time.Second

// throughput makes a rate of a counter that is looked at now and then.
type throughput struct {
	at    time.Time // of count; zero: not counting
	count uint64    // bytes
	rate  uint64    // KB/s
}

// due says that the counter is to be looked at.
func (t *throughput) due(now time.Time) bool { return now.Sub(t.at).Abs() >= throughputEvery }

// took takes the counter as it is now. One that is smaller than before has begun
// again at 0.
func (t *throughput) took(now time.Time, count uint64) {
	ago := now.Sub(t.at)
	if !t.at.IsZero() && ago < throughputEvery && ago >= 0 {
		return
	}
	if !t.at.IsZero() && ago > 0 {
		from := t.count
		if count < from {
			from = 0
		}
		t.rate = uint64(float64(count-from) / ago.Seconds() / 1024)
	}
	t.at, t.count = now, count
}

// stop says that nothing is counted any more, and whether that is news.
func (t *throughput) stop() bool {
	news := t.rate != 0
	*t = throughput{}
	return news
}

// traffic is what goes over the stream between the two replicas.
type traffic struct{ out, in, copied throughput }

func (t *traffic) due(now time.Time) bool { return t.out.due(now) }

func (t *traffic) took(now time.Time, s *ReplicaStatus) {
	t.out.took(now, s.Sent)
	t.in.took(now, s.Received)
	t.copied.took(now, s.Copied)
}

func (t *traffic) stop() bool {
	out, in, copied := t.out.stop(), t.in.stop(), t.copied.stop()
	return out || in || copied
}

// resources are those of §13.6.4.7, in KB/s. What a primary sends and is not of a
// synchronisation is replication.
func (t *traffic) resources(r map[string]string, primary bool) {
	rep := uint64(0)
	if primary {
		rep = t.out.rate - min(t.copied.rate, t.out.rate)
	}
	for name, rate := range map[string]uint64{
		"rfs.rep_bandwidth": rep, "rfs.rei_bandwidth": t.copied.rate,
		"rfs.netout_bandwidth": t.out.rate, "rfs.netin_bandwidth": t.in.rate,
	} {
		r[name] = strconv.FormatUint(rate, 10)
	}
}
