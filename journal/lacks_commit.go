package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Notes reach the store in batches, numbered from 1, one at a time and in that
// order; what comes while one is being written goes into the next. So a number
// says of everything before it too whether it is there.
type noteBatches struct {
	pending *pebble.Batch // batch number next; nil while it is empty
	next    uint64
	applied uint64 // batches up to it survive the process
	synced  uint64 // and up to it the power; at most applied
	wanted  uint64 // batches up to it are to be synced
	writing bool   // somebody is in write
}

// batch is the one that is being filled. l.mu is held.
func (l *Lacks) batch() *pebble.Batch {
	if l.b.pending == nil {
		l.b.pending = l.db.NewBatch()
	}
	return l.b.pending
}

// settle returns when batch n survives the process, or, if durable, the power.
// l.mu is held, and let go of meanwhile.
func (l *Lacks) settle(n uint64, durable bool) error {
	if durable {
		l.b.wanted = max(l.b.wanted, n)
	}
	for {
		if err := l.failed(); err != nil {
			return err
		}
		if n <= l.b.synced || !durable && n <= l.b.applied {
			return nil
		}
		if l.b.writing {
			l.wake.Wait()
		} else {
			l.write()
		}
	}
}

// write writes the pending batch, and flushes if somebody wants that of anything
// up to it. l.mu is held, and let go of meanwhile.
func (l *Lacks) write() {
	batch, n, sync := l.batch(), l.b.next, l.b.wanted > l.b.synced
	l.b.pending, l.b.writing = nil, true
	l.b.next++
	l.mu.Unlock()

	err := l.apply(batch, sync)

	l.mu.Lock()
	l.b.writing = false
	if err != nil {
		l.fail(err)
	} else if l.b.applied = n; sync {
		l.b.synced = n
	}
	l.wake.Broadcast()
}

// apply hands a batch to the store. Only one is in it at a time.
func (l *Lacks) apply(batch *pebble.Batch, sync bool) error {
	if batch.Empty() { // a flush of what is there takes a record in the log
		if err := batch.LogData(nil, nil); err != nil {
			return err
		}
	}
	l.lazy.Store(!sync)
	defer l.lazy.Store(false)
	if err := l.db.Apply(batch, pebble.Sync); err != nil {
		return err
	}
	if err := l.failed(); err != nil { // Pebble is not told of errors of its log, see storeFS
		return err
	}
	return batch.Close()
}

// errLacksClosed is what calls after Close return.
var errLacksClosed = errors.New("what the peer lacks: the notes are closed")

// failed is the first error of the store, after which nothing that it said is
// worth anything.
func (l *Lacks) failed() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

// fail sets the first error. It takes no lock: Pebble calls it with its own.
func (l *Lacks) fail(err error) {
	if l.err.Load() == nil {
		err = fmt.Errorf("what the peer lacks: %s: %w", l.dir, err)
		l.err.CompareAndSwap(nil, &err)
	}
}
