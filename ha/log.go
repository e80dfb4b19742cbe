package ha

import (
	"context"
	"io"
)

// Log is the log of one module, SAFEVAR/modules/AM/log.db. Writing never blocks.
type Log struct{}

// Write adds a line. When the writer cannot keep up, debug lines are dropped
// first, and a line says how many were.
func (l *Log) Write(level Level, source, text string) {}

// Tail returns the last n lines of a level up to max, oldest first.
func (l *Log) Tail(ctx context.Context, n int, max Level) ([]Line, error) { return nil, nil }

// Follow calls each with every line after the line of ID after, as they come,
// until ctx ends or each fails.
func (l *Log) Follow(ctx context.Context, after int64, max Level, each func(Line) error) error {
	return nil
}

// Save writes the lines to w in the guide's form.
func (l *Log) Save(ctx context.Context, w io.Writer, max Level) error { return nil }
