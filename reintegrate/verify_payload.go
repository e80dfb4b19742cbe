package reintegrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// The Data of KindSyncList, a question of a verification, and of its answers; see
// payload.go.
//
//	Flags     question                              answer
//	Page      name8: names of directory ID that     more 1 (1: there are some left), have…
//	          come after this one; nothing: all     in the order of names
//	Names     name8…: names of directory ID         have…, one for each
//	Objects   id 16…                                have…, one for each; no name
//
//	have      there 1; if that is 1: id 16, mode 4, uid 4, gid 4, rdev 4, size 8,
//	          mtime 12, xattrs 16, name8, target16
//
// A directory that is not there is the errno ENOENT. xattrs is a hash of all
// xattrs, zeros if there are none, ones if they cannot be read.
const (
	listPage uint32 = iota
	listNames
	listObjects
)

// maxListed bounds what one question of Names or Objects asks for.
const maxListed = 1024

// have is what SECOND has under a name or an identity.
type have struct {
	Entry
	there  bool
	xattrs blockHash
}

var unreadable = blockHash(bytes.Repeat([]byte{0xff}, hashLen))

// hashXattrs makes one hash of all xattrs of an object.
func hashXattrs(list []Xattr) (sum blockHash) {
	if len(list) == 0 {
		return sum
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	var n [8]byte
	for _, x := range list {
		for _, b := range [...][]byte{[]byte(x.Name), x.Value} {
			h.Write(binary.LittleEndian.AppendUint64(n[:0], uint64(len(b))))
			h.Write(b)
		}
	}
	copy(sum[:], h.Sum(nil))
	return sum
}

// haveOf adds the xattrs to an entry.
func haveOf(r Reader, e *Entry) have {
	h := have{Entry: *e, there: true}
	if e.ID.IsZero() {
		return h // another object than any of PRIM's, whatever its attributes
	}
	switch xs, err := r.Xattrs(e.ID); {
	case errors.Is(err, syscall.ENOENT):
		h.there = false
	case err != nil:
		h.xattrs = unreadable
	default:
		h.xattrs = hashXattrs(xs)
	}
	return h
}

func appendHave(b []byte, h *have) []byte {
	if !h.there {
		return append(b, 0)
	}
	le := binary.LittleEndian
	b = append(append(b, 1), h.ID[:]...)
	for _, v := range [...]uint32{h.Mode, h.UID, h.GID, h.Rdev} {
		b = le.AppendUint32(b, v)
	}
	b = appendTime(le.AppendUint64(b, uint64(h.Size)), h.Mtime)
	b = appendName(append(b, h.xattrs[:]...), h.Name)
	return append(le.AppendUint16(b, uint16(len(h.Target))), h.Target...)
}

func (d *decoder) have() have {
	h := have{}
	switch d.u8() {
	case 0:
		return h
	case 1:
		h.there = true
	default:
		d.fail("what is there", "0 or 1")
		return h
	}
	h.Entry = Entry{ID: d.id(), Mode: d.u32(), UID: d.u32(), GID: d.u32(), Rdev: d.u32(), Size: d.size(), Mtime: d.time()}
	copy(h.xattrs[:], d.take(hashLen, "hash of xattrs"))
	h.Name = string(d.take(int(d.u8()), "name"))
	h.Target = d.target()
	if d.err == nil && (!knownType(h.Mode) || strings.ContainsAny(h.Name, "/\x00")) {
		d.fail("what is there", "a file type and a name")
	}
	return h
}

// parsePage is the answer to a question of Page.
func parsePage(b []byte) (list []have, more bool, err error) {
	d := decoder{b: b}
	more = d.u8() != 0
	for d.more() {
		h := d.have()
		if d.err == nil && (!h.there || h.Name == "" || len(list) > 0 && list[len(list)-1].Name >= h.Name) {
			d.fail("page of names", "names in order")
		}
		list = append(list, h)
	}
	if more && len(list) == 0 {
		d.fail("page of names", "a name, if more are to come")
	}
	return list, more, d.err
}

// parseHaves is the answer to a question of n names or objects.
func parseHaves(b []byte, n int) ([]have, error) {
	d := decoder{b: b}
	list := make([]have, n)
	for i := range list {
		list[i] = d.have()
	}
	if d.more() {
		d.fail("answer", "nothing after the last object that was asked for")
	}
	return list, d.err
}

func parseNames(b []byte) (names []string, err error) {
	d := decoder{b: b}
	for d.more() {
		names = append(names, d.name())
	}
	if len(names) > maxListed {
		d.fail("names", "at most 1024")
	}
	return names, d.err
}

func parseIDs(b []byte) (ids []journal.FileID, err error) {
	d := decoder{b: b}
	for d.more() {
		ids = append(ids, d.id())
	}
	if len(ids) > maxListed {
		d.fail("identities", "at most 1024")
	}
	return ids, d.err
}
