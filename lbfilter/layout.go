package lbfilter

import (
	"encoding/binary"
	"fmt"
)

// Format is the version of everything that members must have alike: the hash, the
// way Assign decides, and the layout of the table, here and in bpf/table.h.
const Format = 1

// Layout of a table in the kernel, which is that of the machine:
//
//	0     4        Format
//	4     4        groups
//	8     8        epoch
//	16    8        version
//	24    32·6     MACs of the members
//	216   32·512   of each group 256 owners, then 256 prev
const (
	tableMACs   = 24
	tableGroups = tableMACs + MaxMembers*6
	tableSize   = tableGroups + (MaxGroups+1)*2*Buckets
)

// kernelBytes is t as the filter reads it.
func (t *Table) kernelBytes() []byte {
	b := make([]byte, tableSize)
	binary.NativeEndian.PutUint32(b, Format)
	binary.NativeEndian.PutUint32(b[4:], uint32(len(t.Groups)))
	binary.NativeEndian.PutUint64(b[8:], t.Epoch)
	binary.NativeEndian.PutUint64(b[16:], t.Version)
	for i, m := range t.MACs {
		copy(b[tableMACs+6*i:], m[:])
	}
	at := tableGroups
	for _, g := range t.Groups {
		for _, part := range []Owners{g.Owner, g.Prev} {
			for i, n := range part {
				b[at+i] = byte(n)
			}
			at += Buckets
		}
	}
	return b
}

// tableOf reads what kernelBytes made.
func tableOf(b []byte) (*Table, error) {
	if len(b) != tableSize {
		return nil, fmt.Errorf("a table of %d bytes, expected %d", len(b), tableSize)
	}
	if f := binary.NativeEndian.Uint32(b); f != Format {
		return nil, fmt.Errorf("a table of format %d, expected %d", f, Format)
	}
	groups := binary.NativeEndian.Uint32(b[4:])
	if groups > MaxGroups+1 {
		return nil, fmt.Errorf("a table of %d groups, expected %d at most", groups, MaxGroups+1)
	}
	t := &Table{Epoch: binary.NativeEndian.Uint64(b[8:]), Version: binary.NativeEndian.Uint64(b[16:]), Groups: make([]Ownership, groups)}
	for i := range t.MACs {
		copy(t.MACs[i][:], b[tableMACs+6*i:])
	}
	at := tableGroups
	for g := range t.Groups {
		for _, part := range []*Owners{&t.Groups[g].Owner, &t.Groups[g].Prev} {
			for i := range part {
				part[i] = Number(b[at+i])
			}
			at += Buckets
		}
	}
	return t, nil
}
