package fs

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// The identity of an object is kept in one xattr.
//
//	offset  size
//	0       1     version, 1
//	1       16    FileID
//	17      8     inode number it was given to, little endian
//	25      4     crc32c of the bytes before, little endian
//
// A value whose inode number is not the object's came with a copy made behind
// skfs's back (cp -a, rsync -X, a restored backup): the copy has no identity yet.
const (
	idXattr    = "trusted.skfs.id"
	idLen      = 29
	idVersion  = 1
	hiddenAttr = "trusted.skfs." // xattrs that applications do not see
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoID says that an object has no valid identity.
var errNoID = errors.New("object has no skfs identity")

func encodeID(id journal.FileID, ino uint64) [idLen]byte {
	var b [idLen]byte
	b[0] = idVersion
	copy(b[1:], id[:])
	binary.LittleEndian.PutUint64(b[17:], ino)
	binary.LittleEndian.PutUint32(b[25:], crc32.Checksum(b[:25], castagnoli))
	return b
}

func decodeID(b []byte, ino uint64) (journal.FileID, error) {
	var id journal.FileID
	if len(b) != idLen || b[0] != idVersion ||
		binary.LittleEndian.Uint32(b[25:]) != crc32.Checksum(b[:25], castagnoli) ||
		binary.LittleEndian.Uint64(b[17:]) != ino {
		return id, errNoID
	}
	copy(id[:], b[1:])
	if id.IsZero() {
		return id, errNoID
	}
	return id, nil
}

// readID reads the identity of the object at path, which ends in the object
// itself (see procPath) or is a name in a directory.
func readID(path string, ino uint64) (journal.FileID, error) {
	var b [idLen + 1]byte
	n, err := unix.Lgetxattr(path, idXattr, b[:])
	switch err {
	case nil:
		return decodeID(b[:n], ino)
	case unix.ENODATA, unix.ERANGE:
		return journal.FileID{}, errNoID
	}
	return journal.FileID{}, err
}

// readIDFd is readID of an O_PATH descriptor: the magic link must be followed.
func readIDFd(fd int, ino uint64) (journal.FileID, error) {
	var b [idLen + 1]byte
	n, err := unix.Getxattr(procPath(fd), idXattr, b[:])
	switch err {
	case nil:
		return decodeID(b[:n], ino)
	case unix.ENODATA, unix.ERANGE:
		return journal.FileID{}, errNoID
	}
	return journal.FileID{}, err
}

// writeID gives the object open as fd (O_PATH will do) an identity.
func writeID(fd int, id journal.FileID, ino uint64) error {
	b := encodeID(id, ino)
	return unix.Setxattr(procPath(fd), idXattr, b[:], 0)
}

func isHiddenAttr(name string) bool { return strings.HasPrefix(name, hiddenAttr) }
