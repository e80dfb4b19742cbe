package journal

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// tcpPair returns both ends of a TCP connection over loopback.
func tcpPair(tb testing.TB, conns int) (primary, second *Link) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	var p, s []net.Conn
	for range conns {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		d, err := ln.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		p, s = append(p, c), append(s, d)
	}
	return NewLink(p...), NewLink(s...)
}

type applyFunc func(op *Op) Result

func (f applyFunc) Apply(op *Op) Result { return f(op) }

func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{0, 4096} {
		for _, committers := range []int{1, 4, 8} {
			for _, conns := range []int{1, 2} {
				b.Run(fmt.Sprintf("data=%d/committers=%d/conns=%d", size, committers, conns), func(b *testing.B) {
					benchCommit(b, size, committers, conns)
				})
			}
		}
	}
}

func benchCommit(b *testing.B, size, committers, conns int) {
	p, s := tcpPair(b, conns)
	var applied atomic.Int64
	r := NewReceiver(s, applyFunc(func(op *Op) Result { applied.Add(1); return Result{} }), ReceiverOptions{Epoch: 1})
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(context.Background()) })
	snd := NewSender(p, SenderOptions{Epoch: 1})
	data := make([]byte, size)
	b.ReportAllocs()
	b.ResetTimer()
	var clients sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for i := range committers {
		clients.Go(func() {
			op := Op{Kind: KindWrite, ID: FileID{1, byte(i)}, Data: data}
			for left.Add(-1) >= 0 {
				if err := snd.Commit(&op); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.StopTimer()
	st := snd.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(st.SentOps)/float64(st.Batches), "ops/batch")
	snd.Close(nil)
	wg.Wait()
	if applied.Load() != int64(b.N) {
		b.Fatalf("applied %d of %d", applied.Load(), b.N)
	}
}
