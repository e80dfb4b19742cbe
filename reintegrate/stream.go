package reintegrate

import (
	"sync/atomic"

	"github.com/skfs/skfs/journal"
)

// Stream is PRIM's end of the ordered stream, as a pass uses it: *journal.Sender
// behind Over. An operation has its place in the order when Submit, Post or Start
// returns, which is then in op.Seq. All of them wait while the queue is full and return an error for ever
// once the stream is broken.
type Stream interface {
	// Submit queues op. op.Data stays untouched until Wait has returned for the
	// Seq or a later one.
	Submit(op *journal.Op) (journal.Seq, error)
	Wait(seq journal.Seq) error
	// Post queues a copy of op.
	Post(op *journal.Op) error
	// Start queues op, which is of an answered kind. op.Data stays untouched until
	// Result has returned.
	Start(op *journal.Op) (Answer, error)
}

// Over is the Stream of a journal.Sender.
func Over(s *journal.Sender) Stream { return senderStream{s} }

type senderStream struct{ *journal.Sender }

func (s senderStream) Start(op *journal.Op) (Answer, error) {
	a, err := s.Sender.Start(op)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// countedStream counts what a pass sends: the operations, but for the question
// whether all was well, and their bytes. It counts what has its place in the order
// already: what is counted before that question, the answer speaks of.
type countedStream struct {
	Stream
	n     *atomic.Int64
	bytes *atomic.Int64
}

func (s countedStream) Submit(op *journal.Op) (journal.Seq, error) {
	defer s.n.Add(1)
	s.bytes.Add(int64(len(op.Data)))
	return s.Stream.Submit(op)
}

func (s countedStream) Post(op *journal.Op) error {
	defer s.n.Add(1)
	s.bytes.Add(int64(len(op.Data)))
	return s.Stream.Post(op)
}

func (s countedStream) Start(op *journal.Op) (Answer, error) {
	if op.Kind != journal.KindSyncEnd {
		defer s.n.Add(1)
	}
	s.bytes.Add(int64(len(op.Data)))
	return s.Stream.Start(op)
}

// Answer is what SECOND is going to say to one operation.
type Answer interface {
	// Result waits. An error means that the stream broke.
	Result() (journal.Result, error)
}
