package reintegrate

import (
	"io"

	"github.com/skfs/skfs/journal"
)

// Source is one replicated directory of PRIM, as a pass reads it. Its locks are
// those that live operations take: what f sees under them, and what it sends, is
// ordered with every live change of the same object. The methods are called
// concurrently. An error that matches os.ErrNotExist (ENOENT) means that the
// object has gone; an open file that has lost its last name counts as gone.
// Everything else ends the pass. An error of f is returned as it is. In a delta
// objects are asked for that no list has named: every object of the tree must be
// found by its FileID.
//
// WithDir, WithRange and WithObject may hold at most the locks of the one object
// they name: f waits for room in the stream.
type Source interface {
	Tree() uint8

	// WithDir calls f with all names in dir, in any order, while the names of dir
	// cannot change: "." and ".." , the holding area, what is not replicated and
	// the mount points of other file systems are left out. f keeps entries only
	// until it returns. Every entry has a FileID: the source gives one to an
	// object that is met for the first time.
	WithDir(dir journal.FileID, f func(entries []Entry) error) error

	// WithRange calls f while bytes [off, off+n) of a regular file, and its end
	// if that lies in the range, cannot change. n reaches math.MaxInt64-off.
	WithRange(id journal.FileID, off, n int64, f func(File) error) error

	// WithObject calls f while nothing of the object can change: data, size,
	// attributes, xattrs; of a directory also the names. file is nil if it is not
	// a regular file.
	WithObject(id journal.FileID, f func(a *Attrs, file File) error) error

	// Stat describes an object as Entry does, Name left empty. It takes no lock:
	// Filter calls it while the caller holds those of the object.
	Stat(id journal.FileID) (Entry, error)

	// Parent is the directory that a directory is in. Like Stat it takes no lock.
	Parent(dir journal.FileID) (journal.FileID, error)

	// Orphans lists the open files that have no name but may still get one
	// (O_TMPFILE): no directory leads the pass to them.
	Orphans() ([]journal.FileID, error)
}

// What a tree says of its objects.
type (
	Entry = journal.Entry
	Attrs = journal.Attrs
	Xattr = journal.Xattr
	Range = journal.Range
)

// File is the data of a regular file, read on the backing file system. FD
// implements it.
type File interface {
	io.ReaderAt
	Size() (int64, error)
	// DataRanges returns the parts of [off, off+n) that are not holes, in order,
	// without overlap, cut at the end of the file.
	DataRanges(off, n int64) ([]Range, error)
}
