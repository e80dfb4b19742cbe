package fs

import (
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// bear brings a file that never had a name to the peer, which has never heard of
// it: everything but the name, which the caller gives it next. It goes through
// the gate in steps, so that a large file costs no memory; what has come of it
// there is let go if the name does not follow. The file is locked.
func (f *FS) bear(o *object) error {
	// A peer that comes later finds it by its name and its note.
	if alone, e := f.gate.unpeered(&journal.Op{Kind: journal.KindTmpfile, Tree: f.tree.num, ID: o.id}); alone {
		if e != 0 {
			return e
		}
		return nil
	}
	fd, err := o.open(unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	step := func(op *journal.Op) error {
		op.Tree, op.ID = f.tree.num, o.id
		tk, e := f.gate.enter(op)
		if e != 0 {
			return e
		}
		tk.done(nil)
		return nil
	}
	if err := step(&journal.Op{Kind: journal.KindTmpfile, Mode: st.Mode, UID: st.Uid, GID: st.Gid}); err != nil {
		return err
	}
	b := make([]byte, min(st.Size, maxWrite))
	err = dataRanges(fd, 0, st.Size, func(off, end int64) error {
		for off < end {
			n, err := unix.Pread(fd, b[:min(end-off, int64(len(b)))], off)
			if err != nil || n == 0 {
				return err
			}
			if err := step(&journal.Op{Kind: journal.KindWrite, Off: off, Data: b[:n]}); err != nil {
				return err
			}
			off += int64(n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A truncation takes file capabilities away, and an ACL changes the mode.
	if err := step(&journal.Op{Kind: journal.KindSetAttr, Valid: journal.SetSize, Off: st.Size}); err != nil {
		return err
	}
	xattrs, err := f.tree.xattrs(o)
	if err != nil {
		return err
	}
	for name, value := range xattrs {
		if err := step(&journal.Op{Kind: journal.KindSetXattr, Name: name, Data: value}); err != nil {
			return err
		}
	}
	if err := step(&journal.Op{Kind: journal.KindSetAttr, Valid: journal.SetMode, Mode: st.Mode}); err != nil {
		return err
	}
	if !o.flushed.Load() {
		return nil
	}
	// What was fsynced is on both disks before it has a name.
	return f.gate.fsync(&journal.Op{Kind: journal.KindFsync, Tree: f.tree.num, ID: o.id}, func() error { return nil })
}
