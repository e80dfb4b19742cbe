package reintegrate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skfs/skfs/journal"
)

// dirRef is a directory whose names are to be sent.
type dirRef struct {
	id   journal.FileID
	tree uint8
}

// fileRef is an object, no directory, whose data and attributes are to be sent.
type fileRef struct {
	id     journal.FileID
	size   int64 // bytes to be passed, as it was when it was found, for the progress
	length int64 // bytes of all, likewise
	tree   uint8
	part   part
	fresh  bool // SECOND has just made it: there is nothing to compare with
	again  bool // it did not end as it should: hashes may lie, everything is sent
}

// part is how much of an object is to be passed.
type part uint8

const (
	partAll   part = iota
	partNoted      // of its data what is noted when its turn comes
	partAttrs      // of its data nothing
)

// maxFiles bounds the files that wait for their turn before the walk does (about
// 48 bytes each).
const maxFiles = 1 << 20

// queue is what is left to do. What is in work is counted until it is done, so
// that "nothing left" is one moment. It never blocks who adds to it: Filter does,
// under the locks of live operations. The walk alone holds back when many files
// wait.
type queue struct {
	mu    sync.Mutex // a leaf
	cond  sync.Cond
	dirs  fifo[dirRef]
	asked fifo[*asked] // lists that wait for their answers
	after fifo[dirRef] // directories to be tried again when nothing else is to be listed
	files fifo[fileRef]
	busy  struct{ dirs, files int }

	// Rounds of after since a directory could be listed, and why not; waiting: for
	// the next one.
	rounds  int
	futile  error
	waiting *time.Timer
	err     error // the first; everybody leaves
	over    bool
}

var errOver = errors.New("the pass is over")

func newQueue() *queue {
	q := &queue{}
	q.cond.L = &q.mu
	return q
}

// fail ends the pass.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil && !q.over {
		q.err = err
	}
	q.cond.Broadcast()
}

func (q *queue) addDir(d dirRef) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dirs.push(d)
	q.cond.Broadcast()
}

func (q *queue) addFile(f fileRef) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.files.push(f)
	q.cond.Broadcast()
}

// takeDir waits for a directory, for the files found so far to become few, and for
// most lists to be answered.
func (q *queue) takeDir() (dirRef, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		q.retry()
		if err := q.ended(); err != nil {
			return dirRef{}, err
		}
		if q.dirs.len() > 0 && q.files.len() <= maxFiles && q.asked.len() <= walkAhead {
			break
		}
		q.cond.Wait()
	}
	q.busy.dirs++
	return q.dirs.pop(), nil
}

// What could not be listed is tried again at once when another directory could be,
// else after a while: what failed on SECOND is only about to be known. After so
// many rounds to no avail the pass has failed.
const (
	maxRounds     = 100
	roundInterval = 10 * time.Millisecond
)

// retry begins another round of what could not be listed before. mu is held.
func (q *queue) retry() {
	if q.after.len() == 0 || q.dirs.len() > 0 || q.busy.dirs > 0 || q.waiting != nil || q.err != nil || q.over {
		return
	}
	if q.rounds++; q.rounds > maxRounds {
		q.err = q.futile
		q.cond.Broadcast()
		return
	}
	if q.rounds == 1 {
		q.dirs, q.after = q.after, q.dirs
		return
	}
	q.waiting = time.AfterFunc(roundInterval, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.waiting = nil
		for q.after.len() > 0 {
			q.dirs.push(q.after.pop())
		}
		q.cond.Broadcast()
	})
}

// later takes a directory that could not be listed yet.
func (q *queue) later(d dirRef, why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.after.push(d)
	q.futile = why
	q.cond.Broadcast()
}

// listed says that SECOND could make the names of a directory.
func (q *queue) listed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rounds = 0
}

// answerTo hands a list that takeDir has led to over to who waits for its answers:
// he ends the work.
func (q *queue) answerTo(l *asked) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked.push(l)
	q.cond.Broadcast()
}

// addAsked is answerTo for names that no list has led to.
func (q *queue) addAsked(l *asked) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy.dirs++
	q.asked.push(l)
	q.cond.Broadcast()
}

// takeAsked waits for a list that has been sent.
func (q *queue) takeAsked() (*asked, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && !q.over && q.asked.len() == 0 {
		q.cond.Wait()
	}
	if err := q.ended(); err != nil {
		return nil, err
	}
	return q.asked.pop(), nil
}

// doneDir ends the work on a directory that takeDir returned.
func (q *queue) doneDir() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy.dirs--
	q.cond.Broadcast()
}

// A batch is bounded in files, so that the workers share what there is and one
// question and its answer stay small, and in bytes; a file larger than that is a
// batch of its own.
const maxBatch = 256

// takeFiles waits for files and returns a batch, in b's memory.
func (q *queue) takeFiles(b []fileRef, bytes int64, workers int) ([]fileRef, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && !q.over && q.files.len() == 0 {
		q.cond.Wait()
	}
	if err := q.ended(); err != nil {
		return nil, err
	}
	share := min(maxBatch, max(16, q.files.len()/workers))
	b = append(b[:0], q.files.pop())
	for sum := b[0].size; len(b) < share && q.files.len() > 0 && b[0].tree == q.files.peek().tree; {
		if sum += q.files.peek().size; sum > bytes {
			break
		}
		b = append(b, q.files.pop())
	}
	q.busy.files++
	return b, nil
}

// doneFiles ends the work on a batch.
func (q *queue) doneFiles() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy.files--
	q.cond.Broadcast()
}

func (q *queue) ended() error {
	if q.err == nil && q.over {
		return errOver
	}
	return q.err
}

func (q *queue) walked() bool { return q.dirs.len() == 0 && q.after.len() == 0 && q.busy.dirs == 0 }

// waitWalked returns when no directory is left.
func (q *queue) waitWalked() error { return q.waitFor(q.walked) }

func (q *queue) idle() bool { return q.walked() && q.files.len() == 0 && q.busy.files == 0 }

// waitIdle returns when nothing is left.
func (q *queue) waitIdle() error { return q.waitFor(q.idle) }

func (q *queue) waitFor(cond func() bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && !cond() {
		q.cond.Wait()
	}
	return q.err
}

// finish ends the pass if nothing is left and all has been vouched for, which is
// asked when nobody is at work; false: something was added.
func (q *queue) finish(vouched func() bool) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = q.err == nil && q.idle() && vouched()
	q.cond.Broadcast()
	return q.over, q.err
}

// again adds what ended differently on the two hosts. False: the pass is over.
func (q *queue) again(dirs []dirRef, files []fileRef) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over || q.err != nil {
		return false
	}
	for _, d := range dirs {
		q.dirs.push(d)
	}
	for _, f := range files {
		q.files.push(f)
	}
	q.cond.Broadcast()
	return true
}

// watch ends the pass when ctx does.
func (q *queue) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { q.fail(context.Cause(ctx)) })
}

// fifo is a queue whose memory is given back as it empties.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) peek() *T { return &f.items[f.head] }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

func (f *fifo[T]) pop() T {
	v := f.items[f.head]
	f.head++
	if f.head >= 1024 && f.head*2 >= len(f.items) {
		f.items = append([]T(nil), f.items[f.head:]...)
		f.head = 0
	}
	return v
}
