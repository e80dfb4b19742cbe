package ha

import (
	"fmt"
	"time"
)

// Level is how much a line of the module log matters.
type Level uint8

// The levels of a line.
const (
	LevelEvent Level = iota // E
	LevelInfo               // I
	LevelDebug              // D
)

func (l Level) String() string {
	switch l {
	case LevelEvent:
		return "E"
	case LevelInfo:
		return "I"
	}
	return "D"
}

// MarshalText makes a level read as its letter in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (l *Level) UnmarshalText(b []byte) error {
	switch string(b) {
	case "E":
		*l = LevelEvent
	case "I":
		*l = LevelInfo
	case "D":
		*l = LevelDebug
	default:
		return fmt.Errorf("no log level %q: it is one of E, I, D", b)
	}
	return nil
}

// Line is one line of the module log.
type Line struct {
	ID     int64 // grows by the line; where Follow goes on
	Time   time.Time
	Level  Level
	Source string // heart, nfsadmin, reintegre, …
	Text   string
}

// String is the line as the guide shows it (§5.4).
func (l Line) String() string {
	return fmt.Sprintf("| %s | %s | %s | %s", l.Time.Format("2006-01-02 15:04:05.000000"), l.Source, l.Level, l.Text)
}
