package journal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// FileID names an object (file, directory, symlink, …) for its whole life, the
// same on both hosts.
type FileID [16]byte

// NewFileID returns a random identity. Its first eight bytes serve as st_ino,
// so the values that mean something there (0 and the small ones of roots) are
// never returned.
func NewFileID() FileID {
	var id FileID
	for {
		rand.Read(id[:]) // never fails, see crypto/rand
		if id.Ino() > 1<<32 {
			return id
		}
	}
}

// RootID is the identity of the root of a replicated tree.
func RootID(tree uint8) FileID {
	var id FileID
	id[0], id[15] = 1, tree+1
	return id
}

// IsZero says whether id names nothing.
func (id FileID) IsZero() bool { return id == FileID{} }

// Ino is the inode number that applications see.
func (id FileID) Ino() uint64 { return binary.LittleEndian.Uint64(id[:8]) }

func (id FileID) String() string { return hex.EncodeToString(id[:]) }

// Seq numbers the operations of one epoch, from 1, without gaps.
type Seq uint64

// Epoch numbers the reigns of primaries of a module: every promotion takes a
// greater one. Frames of an older epoch are refused.
type Epoch uint64

// Time is a file time: seconds and nanoseconds since 1970.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Kind says what an operation does.
type Kind uint8

// The kinds of operation. The comment lists the fields of Op each one uses
// besides Seq, Kind, Tree and ID.
const (
	KindInvalid     Kind = iota
	KindCreate           // Parent Name Mode UID GID Rdev Data(symlink target): a new object of any type; mode is final (umask applied)
	KindTmpfile          // Mode UID GID: a new regular file without a name
	KindLink             // Parent Name: one more name of ID
	KindUnlink           // Parent Name: remove a name of ID, which is no directory
	KindRmdir            // Parent Name
	KindRename           // Parent Name Parent2 Name2 ID2 Flags(RENAME_*): ID moves; ID2 is what was at the target, zero if nothing
	KindWrite            // Off Data
	KindSetAttr          // Valid Mode UID GID Off(size) Atime Mtime
	KindSetXattr         // Name Data Flags(XATTR_*)
	KindRemoveXattr      // Name
	KindFallocate        // Flags(FALLOC_FL_*) Off Len
	KindFsync            // Flags(1: data only): always answered; see Sender.Start
	KindTimes            // Mtime: the modification time as the primary has it, sent when it has settled
	KindRelease          // ID is open nowhere any more (a file without names may go)

	// Reintegration (package reintegrate). Their Data is encoded there.
	KindSyncBegin // Data: the pass starts: forget what was left of an earlier one
	KindSyncDir   // Data Flags: the names of directory ID
	KindSyncHash  // Data: asks for hashes of ranges of files: always answered
	KindSyncAttrs // Data: all attributes and xattrs of ID
	KindSyncEnd   // Data: the pass is complete: drop what no name refers to: always answered
	KindPunch     // Off Len: the range becomes a hole; size unchanged

	KindMark       // Flags Data (of the owners of both ends): changes nothing; its ack says that all before it has arrived
	KindCheckpoint // Flags(Checkpoint*) Data (of the owners): a step of a checkpoint: always answered
	KindLacks      // Data: a cursor; asks for a page of what SECOND has noted: always answered
	KindSyncList   // Flags Data (of package reintegrate): asks what SECOND has: always answered
	kindEnd
)

var kindNames = [...]string{"invalid", "create", "tmpfile", "link", "unlink", "rmdir", "rename", "write", "setattr",
	"setxattr", "removexattr", "fallocate", "fsync", "times", "release", "syncbegin", "syncdir", "synchash", "syncattrs",
	"syncend", "punch", "mark", "checkpoint", "lacks", "synclist"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// FsyncDataOnly in Op.Flags of KindFsync is fdatasync.
const FsyncDataOnly uint32 = 1

// changes says whether operations of this kind change anything that a replay would
// have to do again.
func (k Kind) changes() bool {
	switch k {
	case KindFsync, KindSyncHash, KindMark, KindCheckpoint, KindLacks, KindSyncList:
		return false
	}
	return true
}

// copies says whether it is a question of a reintegration.
func (k Kind) copies() bool { return k >= KindSyncBegin && k <= KindPunch }

// Op.Flags of KindCheckpoint.
const (
	CheckpointBegin  uint32 = iota // comes after all before it and before all after it
	CheckpointFlush                // comes after the last CheckpointBegin, beside anything: what was before that is to be flushed
	CheckpointCopy                 // before a reintegration: SECOND records that it is not consistent
	CheckpointSynced               // SECOND records that its data is PRIM's
	CheckpointMend                 // as CheckpointCopy, of a SECOND in sync that has come to differ
)

// Bits of Op.Valid for KindSetAttr.
const (
	SetMode uint32 = 1 << iota
	SetUID
	SetGID
	SetSize // Off is the size
	SetAtime
	SetMtime
)

// Op is one mutation of a replicated tree, or one step of a reintegration. Which
// fields mean something depends on Kind.
type Op struct {
	Seq     Seq
	Kind    Kind
	Tree    uint8 // which <replicated> directory of the module, from 0
	ID      FileID
	Parent  FileID
	Parent2 FileID
	ID2     FileID
	Name    string
	Name2   string
	Flags   uint32
	Valid   uint32
	Mode    uint32 // with the S_IFMT bits
	UID     uint32
	GID     uint32
	Rdev    uint32
	Off     int64 // bytes
	Len     int64 // bytes
	Atime   Time
	Mtime   Time
	Data    []byte
}

// Answered says whether the receiver sends a Result for every operation of this
// kind, not only for those that fail.
func (k Kind) Answered() bool {
	switch k {
	case KindFsync, KindSyncHash, KindSyncDir, KindSyncEnd, KindCheckpoint, KindLacks, KindSyncList:
		return true
	}
	return false
}
