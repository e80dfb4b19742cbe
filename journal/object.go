package journal

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strings"
)

// Entry is a name in a directory and what is needed to make the object it names.
type Entry struct {
	Name   string
	ID     FileID // zero: the object has no valid identity
	Mode   uint32 // with the S_IFMT bits
	UID    uint32
	GID    uint32
	Rdev   uint32
	Nlink  uint32
	Size   int64 // bytes
	Mtime  Time
	Ctime  Time   // of this host; it does not travel
	Target string // of a symlink
	Xattrs uint64 // stands for all xattrs that Attrs has, see SumXattrs
}

// SumXattrs is what an Entry says of xattrs: equal ones have equal sums, 0 is none.
func SumXattrs(list []Xattr) uint64 {
	if len(list) == 0 {
		return 0
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	h := fnv.New64a()
	for i := range list {
		var n [8]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(list[i].Name)))
		binary.LittleEndian.PutUint32(n[4:], uint32(len(list[i].Value)))
		h.Write(n[:])
		h.Write([]byte(list[i].Name))
		h.Write(list[i].Value)
	}
	return max(h.Sum64(), 1)
}

// Type is the S_IFMT part of Mode.
func (e *Entry) Type() uint32 { return e.Mode & 0o170000 }

// Attrs is everything that an object carries besides its names and data. The
// xattrs are all that there are, ACLs and security.* included, without skfs's own.
type Attrs struct {
	Mode   uint32 // with the S_IFMT bits
	UID    uint32
	GID    uint32
	Size   int64 // bytes, of a regular file
	Atime  Time
	Mtime  Time
	Xattrs []Xattr
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Range is the bytes [Off, End) of a file.
type Range struct{ Off, End int64 }
