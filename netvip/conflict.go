package netvip

import "time"

// defence decides what is done about claims of others. Virtual addresses belong
// to servers, so it is RFC 5227 §2.4(c): the address is defended indefinitely,
// but with one announcement in an interval at most, so that two hosts that both
// insist do not fill the link. Who gives way is not decided here.
type defence struct {
	defended, reported time.Duration // when last, of the same clock as now; see never
}

const (
	defendInterval = 10 * time.Second // DEFEND_INTERVAL of RFC 5227
	reportInterval = time.Second
	never          = -time.Hour
)

// claim is told of a conflicting claim. report bounds the events, whatever comes
// in from the link.
func (d *defence) claim(now time.Duration) (defend, report bool) {
	if defend = now-d.defended >= defendInterval; defend {
		d.defended = now
	}
	if report = defend || now-d.reported >= reportInterval; report {
		d.reported = now
	}
	return defend, report
}
