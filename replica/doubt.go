package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// An operation that fails on the second in sync may have been carried out and answered
// on the primary, which finds out within seconds and mends it (mend.go). Until the
// second has heard how the operation ended there, it is in doubt; and a second in doubt
// that loses its primary is not consistent (R5, R9):
//
//	primary                                        second
//	                                               op fails: in doubt
//	ends here (or fails alike) ◀── result ──────── (before the result is sent)
//	failed alike: alike, seqs ───────────────────▶ no doubt any more
//	differs: mend, pass ─────────────────────────▶ record: not consistent
//	                     SyncEnd ────────────────▶ no doubt about what was before
//
// The doubt is in memory: it costs nothing where nothing fails. A second that dies
// with it has the record of one that was in sync, which is promoted by nobody but an
// administrator.

// markAlike is Op.Flags of the KindMark that tells the second which operations have
// failed here as they did there. Data is their numbers, up to alikeAtOnce:
//
//	offset  size  field
//	8×k     8     Seq of the k-th, little endian
const markAlike = 5

// certain says whether an error follows from names and kinds of objects, which are the
// same on both hosts, rather than from what a host is (its disk, limits, file system):
// such an operation fails alike on the primary, or something before it did not, which
// is then in doubt.
func certain(e syscall.Errno) bool {
	switch e {
	case syscall.EEXIST, syscall.ENOENT, syscall.ENOTEMPTY, syscall.ENOTDIR, syscall.EISDIR, syscall.ENODATA:
		return true
	}
	return false
}

// doubts are the operations of a session that failed here, and may not have failed on
// the primary.
type doubts struct {
	mu  sync.Mutex
	ops map[journal.Seq]journal.Op // without Data
}

// ended takes how an operation has ended here, before the primary hears of it.
func (d *doubts) ended(op *journal.Op, e syscall.Errno) {
	switch {
	case op.Kind == journal.KindSyncEnd && e == 0: // what failed before it has been passed again, or the pass goes on
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.ops)
	case e == 0 || certain(e) || reintegrate.Own(op):
	case op.Kind == journal.KindFsync || op.Kind == journal.KindRelease || op.Kind == journal.KindMark: // change nothing
	default:
		bare := *op
		bare.Data = nil
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.ops == nil {
			d.ops = map[journal.Seq]journal.Op{}
		}
		d.ops[op.Seq] = bare
	}
}

// alike takes what the primary says with markAlike.
func (d *doubts) alike(data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; len(data) >= 8; data = data[8:] {
		delete(d.ops, journal.Seq(binary.LittleEndian.Uint64(data)))
	}
}

// first is one of the operations in doubt, and how many there are.
func (d *doubts) first() (op journal.Op, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op = range d.ops {
		break
	}
	return op, len(d.ops)
}

// endInDoubt records what doubts are left when the stream has ended and everything is
// applied: before anybody can promote this host. The notes tell of what is in doubt
// on both hosts, so the copy to come is no larger than usual.
func (f *follower) endInDoubt() error {
	op, n := f.doubts.first()
	if n == 0 {
		return nil
	}
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Role != RoleSecond && r.state.Role != RoleOutdated {
		return nil // it says so already
	}
	s, err := r.secure()
	if err != nil {
		return err
	}
	s.Role, s.Seq = RoleSyncing, 0
	r.synced = false
	if err := r.record(s); err != nil {
		return err
	}
	r.log("E", "nfsadmin", "the primary was lost before it could say whether what failed here failed there too (%s of %s, %d operations in all): the data of this node may lack it", op.Kind, op.ID, n)
	return nil
}

// verdicts are the primary's end: what it has to tell of operations in doubt, and
// what it still has to do about those that differ.
type verdicts struct {
	saying sync.Mutex // held while it is told
	mu     sync.Mutex
	same   []journal.Seq // failed alike, to be told
	more   chan struct{} // one when same has something
	differ int           // that nobody has seen to yet
}

func newVerdicts() *verdicts { return &verdicts{more: make(chan struct{}, 1)} }

// alike takes what failed on both hosts in the same way.
func (v *verdicts) alike(op *journal.Op, e syscall.Errno) {
	if certain(e) || reintegrate.Own(op) {
		return
	}
	v.mu.Lock()
	v.same = append(v.same, op.Seq)
	v.mu.Unlock()
	select {
	case v.more <- struct{}{}:
	default:
	}
}

// differs counts what is in primaryLink.wrong (1) or was taken from there and seen to (-1).
func (v *verdicts) differs(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.differ += n
}

// open says whether something differs that is noted nowhere but in the notes of
// changes in sync: these must be kept, and the second is not as this host.
func (v *verdicts) open() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.differ > 0
}

// alikeAtOnce bounds the numbers in one operation.
const alikeAtOnce = 4096

// say tells the second of all that failed alike, and whether there was any.
func (v *verdicts) say(post func(*journal.Op) error) (said bool, err error) {
	v.saying.Lock()
	defer v.saying.Unlock()
	for {
		v.mu.Lock()
		n := min(len(v.same), alikeAtOnce)
		var data []byte
		for _, seq := range v.same[:n] {
			data = binary.LittleEndian.AppendUint64(data, uint64(seq))
		}
		v.same = v.same[n:]
		v.mu.Unlock()
		if n == 0 {
			return said, nil
		}
		said = true
		if err := post(&journal.Op{Kind: journal.KindMark, Flags: markAlike, Data: data}); err != nil {
			return said, fmt.Errorf("what failed on both nodes: %w", err)
		}
	}
}

// sayAlike tells the second behind l what failed alike, until done is closed or the
// stream ends.
func (l *primaryLink) sayAlike(done <-chan struct{}) {
	for {
		select {
		case <-l.verdicts.more:
			if _, err := l.verdicts.say(l.sender.Post); err != nil {
				return // the stream has ended, and tells why itself
			}
		case <-done:
			return
		}
	}
}

// end returns when the second behind l has applied everything and both hosts know how
// it ended: the last of it. Nothing is under way here. It is an error if the hosts
// differ.
func (l *primaryLink) end(ctx context.Context) (journal.Seq, error) {
	for {
		seq, err := l.sender.Drain(ctx)
		if err != nil {
			return 0, err
		}
		if l.verdicts.open() {
			return 0, errors.New("the nodes differ after an operation that failed on one of them")
		}
		switch said, err := l.verdicts.say(l.sender.Post); {
		case err != nil:
			return 0, err
		case !said:
			return seq, nil
		}
	}
}
