package fs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// Stamp ties a tree to the record that speaks of it: another disk that is mounted
// there, or a backup that was restored behind skfs's back, has another stamp or
// none.
type Stamp struct {
	Instance   uint64 // random, of this pair of record and tree
	Checkpoint uint64 // the last one that is on the disk of the tree
}

// The stamp is an xattr of the root.
//
//	offset  size
//	0       1     version, 1
//	1       8     Instance, little endian
//	9       8     Checkpoint, little endian
//	17      8     inode number of the root, little endian
//	25      4     crc32c of the bytes before, little endian
//
// The inode number tells a copy of the tree from the tree.
const (
	stampXattr   = "trusted.skfs.stamp"
	stampVersion = 1
	stampLen     = 29
)

func encodeStamp(s Stamp, ino uint64) []byte {
	b := append(make([]byte, 0, stampLen), stampVersion)
	b = binary.LittleEndian.AppendUint64(b, s.Instance)
	b = binary.LittleEndian.AppendUint64(b, s.Checkpoint)
	b = binary.LittleEndian.AppendUint64(b, ino)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeStamp(b []byte, ino uint64) (s Stamp, ok bool) {
	if len(b) != stampLen || b[0] != stampVersion || binary.LittleEndian.Uint64(b[17:]) != ino ||
		binary.LittleEndian.Uint32(b[25:]) != crc32.Checksum(b[:25], castagnoli) {
		return s, false
	}
	return Stamp{binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint64(b[9:])}, true
}

// Stamp reads the stamp of the tree; zero if it has none that is its own.
func (t *Tree) Stamp() (Stamp, error) {
	var b [stampLen + 1]byte
	n, err := unix.Fgetxattr(t.root, stampXattr, b[:])
	switch err {
	case nil:
		s, _ := decodeStamp(b[:n], t.rootObject().ino)
		return s, nil
	case unix.ENODATA, unix.ERANGE:
		return Stamp{}, nil
	}
	return Stamp{}, fmt.Errorf("stamp of %s: %w", t.dir, err)
}

// SetStamp writes the stamp; the next Sync makes it durable.
func (t *Tree) SetStamp(s Stamp) error {
	if err := unix.Fsetxattr(t.root, stampXattr, encodeStamp(s, t.rootObject().ino), 0); err != nil {
		return fmt.Errorf("stamp of %s: %w", t.dir, err)
	}
	return nil
}
