package journal

import "errors"

// ReceiveLog placeholder until receivelog is written below.
type ReceiveLog struct{}

func (l *ReceiveLog) append(batch []*inbound, applied Seq) error {
	return errors.New("the receive log is not written yet")
}
