package conf

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Schedule says when something is due.
type Schedule interface {
	// Next is the first moment after t, in the local time zone of t.
	Next(t time.Time) time.Time
}

// ParseSchedule reads the five fields of a crontab (minute, hour, day of the
// month, month, day of the week), or @hourly, @daily, @weekly, @monthly, @every 4h.
func ParseSchedule(s string) (Schedule, error) {
	if strings.Contains(s, "TZ=") { // it would be taken, or panic
		return nil, errors.New("a time zone cannot be set: times are local")
	}
	sched, err := cron.ParseStandard(s)
	switch {
	case err == nil && sched.Next(time.Now()).IsZero():
		return nil, errors.New("there is no such day")
	case err == nil:
		return sched, nil
	case strings.HasPrefix(strings.TrimSpace(s), "/"):
		return nil, errors.New(`that is for schtasks.exe: expected a time as in a crontab, such as "1 0 * * *"`)
	}
	return nil, fmt.Errorf(`%v: expected a time as in a crontab, such as "1 0 * * *"`, err)
}
