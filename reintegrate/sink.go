package reintegrate

import (
	"io"

	"github.com/skfs/skfs/journal"
)

// Sink is one replicated directory of SECOND, as a Target changes it. Everything
// is named by FileID, names by the FileID of their directory. Errors are, or
// wrap, a syscall.Errno.
//
// Calls that change names come one at a time and never beside another operation
// (SyncBegin, SyncDir and SyncEnd are barriers in the stream); those of
// SinkObjects come side by side for different objects, and Open beside anything.
type Sink interface {
	SinkNames
	SinkObjects
}

// SinkNames changes the names. The holding area is a directory in the root of
// the tree, hidden from applications, on the same file system: what is held has
// lost its name here and may be wanted by another.
type SinkNames interface {
	Tree() uint8

	// Begin prepares Find for every object of the tree that has a valid FileID,
	// those left in the holding area by an interrupted pass included. The root
	// has journal.RootID(Tree()). It is not called before a delta, which must not
	// look through the tree: then Find knows all of that by itself.
	Begin() error

	// Quarantine says at the beginning of a pass what DropHeld is to do with what
	// only this host has: keep it aside (true), or delete it.
	Quarantine(keep bool) error

	// List returns the names in a directory, with FileIDs where there are valid
	// ones, Nlink, Rdev, Target, and what a certificate compares: Mode, UID, GID, Size,
	// Mtime, Ctime, Xattrs. The same things are left out as by Source.WithDir.
	List(dir journal.FileID) ([]Entry, error)
	// Lookup is List for one name; ENOENT if there is none.
	Lookup(dir journal.FileID, name string) (Entry, error)

	// Create makes the object that e describes, with the FileID e.ID: an empty
	// file, an empty directory, a symlink, a node.
	Create(dir journal.FileID, e *Entry) error
	// Place makes name in dir a name of an object that Find knows. A directory
	// moves here; of anything else one held name moves here, and if it has none
	// it gets one more name. No such name is in dir when this is called.
	Place(id, dir journal.FileID, name string) error
	// Identify gives the object at name, which has no valid FileID, this one.
	Identify(dir journal.FileID, name string, id journal.FileID) error
	// Disown takes a FileID from the object that has it.
	Disown(id journal.FileID) error
	// Hold moves a name, whatever it names, full directories included, to the
	// holding area. What has a FileID is still found by it there.
	Hold(dir journal.FileID, name string) error
	// Keep gives a file that has no name (KindTmpfile) one in the holding area.
	Keep(id journal.FileID) error
	// DropHeld deletes, or moves to the quarantine, what is in the holding area, at most about max names of it,
	// without leaving the tree, and returns how many it deleted; more: some are
	// left. With the last goes the area itself. The times of the root are
	// afterwards what they were before.
	DropHeld(max int) (dropped int, more bool, err error)
}

// SinkObjects reads and changes objects that have a FileID.
type SinkObjects interface {
	// Find describes an object as Lookup does, wherever it is, without Name;
	// ENOENT if there is none.
	Find(id journal.FileID) (Entry, error)
	// Open opens a regular file for reading.
	Open(id journal.FileID) (SinkFile, error)
	// Punch makes a range of a regular file a hole, as far as it lies within the
	// file; the size stays.
	Punch(id journal.FileID, off, n int64) error
	// SetAttrs makes all attributes exactly these, in an order in which none
	// undoes another: size of a regular file, owner, xattrs (others than these
	// and trusted.skfs.* are removed), mode, times last.
	SetAttrs(id journal.FileID, a *Attrs) error
}

// SinkFile is an open file of SECOND.
type SinkFile interface {
	File
	io.Closer
}
