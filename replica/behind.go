package replica

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/skfs/skfs/journal"
)

// behindPatience is how long a second waits with its first join for the look at
// what was changed while skfs did not run.
const behindPatience = time.Second

// lookBehind finds what was changed in the trees between the last record and the
// start of this process, while nobody took notes, and notes it: on SECOND it is
// replaced, on the primary it is copied. It reads every name and attribute, beside
// everything else; what is found late makes the second join again.
func (r *Replica) lookBehind(ctx context.Context, from, to time.Time) {
	defer close(r.looked)
	if !r.notes.on.Load() || !from.Before(to) {
		return
	}
	found := 0
	for _, f := range r.trees {
		t := f.Tree()
		err := t.ChangedBetween(ctx, from, to, func(id journal.FileID) error {
			found++
			return r.notes.Add(t.Num(), id, journal.Lack{Whole: true, Tail: journal.NoTail}, false)
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log("E", "nfsadmin", "%v", err)
		}
	}
	if found == 0 {
		return
	}
	if err := r.notes.Sync(); err != nil {
		r.suspect(false, err)
		return
	}
	r.mu.Lock()
	l, f := r.link, r.follow
	r.base, r.altered = State{}, true
	r.mu.Unlock()
	r.log("E", "nfsadmin", "%d files and directories were changed while skfs did not run: they are synchronized", found)
	if l != nil {
		l.sender.Close(errors.New("files were changed while skfs did not run"))
	}
	if f != nil {
		f.joinAgain()
	}
}

// lastRecord is when the record was written.
func lastRecord(path string) (time.Time, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}

// joinAgain ends the session, so that the next one tells the primary of new notes.
func (f *follower) joinAgain() {
	f.noted.Lock()
	defer f.noted.Unlock()
	if f.again != nil {
		f.again()
	}
}
