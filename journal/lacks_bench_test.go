package journal

import (
	"sync/atomic"
	"testing"
)

// BenchmarkLacks is the cost of marking, on the file system of the temporary
// directory.
func BenchmarkLacks(b *testing.B) {
	open := func(b *testing.B) *Lacks {
		l, err := OpenLacks(b.TempDir(), LacksOptions{ZoneSize: testZone})
		no(b, err)
		b.Cleanup(func() { no(b, l.Close()) })
		b.ReportAllocs()
		return l
	}
	touch := func(b *testing.B, l *Lacks, op *Op, durable bool) {
		if err := l.Note(op, durable); err != nil {
			b.Fatal(err)
		}
	}
	for name, durable := range map[string]bool{"durable": true, "not durable": false} {
		b.Run("first touch/"+name, func(b *testing.B) {
			l, op := open(b), write(1, 0)
			for b.Loop() {
				op.Off += 2 * testZone
				touch(b, l, op, durable)
			}
		})
		b.Run("first touch of many/"+name, func(b *testing.B) {
			l := open(b)
			var zone atomic.Int64
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				op := write(1, 0)
				for pb.Next() {
					op.Off = zone.Add(2) * testZone
					touch(b, l, op, durable)
				}
			})
		})
		b.Run("again/"+name, func(b *testing.B) {
			l := open(b)
			for z := range int64(1000) {
				no(b, l.Note(write(1, 3*z), false))
			}
			no(b, l.Sync())
			op := write(1, 999)
			for b.Loop() {
				touch(b, l, op, durable)
			}
		})
		b.Run("again of many/"+name, func(b *testing.B) {
			l := open(b)
			no(b, l.Note(write(1, 0), durable))
			b.RunParallel(func(pb *testing.PB) {
				op := write(1, 0)
				for pb.Next() {
					touch(b, l, op, durable)
				}
			})
		})
	}
}
