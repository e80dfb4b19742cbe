package ha

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/skfs/skfs/conf"
)

// A datagram between daemons is what its codec made of it, and a seal, big endian:
//
//	offset  size  field
//	0       20×n  n signatures: 4 bytes key, 16 bytes tag
//	20×n    1     n, from 1 to sealMax
//
// The tag is the beginning of HMAC-SHA-256 with the key over all before the seal; key
// is conf.ClusterKey.ID. In a cluster without a key, key is 0 and the tag the
// beginning of SHA-256: a checksum. What a datagram is (heartbeat, membership…) and
// whom it is for stands in what is signed; that it is not from another time is for who
// opens it to know (heart.hear).
const (
	sealEntry = 4 + 16
	sealMax   = 2
	sealSize  = sealEntry*sealMax + 1 // at most
)

// seals are the keys that a node signs with and accepts: the one in force and, until
// the peer was heard with it, the one from before. Immutable.
type seals []sealKey

type sealKey struct {
	id  [4]byte
	key conf.ClusterKey
}

// newSeals is of a key, which may be the zero one.
func newSeals(key conf.ClusterKey) seals {
	k := sealKey{key: key}
	id, _ := hex.DecodeString(key.ID())
	copy(k.id[:], id)
	return seals{k}
}

// then is s after the key was changed to that of next.
func (s seals) then(next seals) seals {
	if len(s) == 0 || s[0] == next[0] {
		return next
	}
	return seals{next[0], s[0]}
}

func (k *sealKey) tag(b []byte) []byte {
	if k.key == (conf.ClusterKey{}) {
		sum := sha256.Sum256(b)
		return sum[:sealEntry-4]
	}
	mac := hmac.New(sha256.New, k.key[:])
	mac.Write(b)
	return mac.Sum(nil)[:sealEntry-4]
}

func (k *sealKey) name() string {
	if k.key == (conf.ClusterKey{}) {
		return "no cluster key"
	}
	return "cluster key " + k.key.ID()
}

// seal appends a seal to b, which it may write behind.
func (s seals) seal(b []byte) []byte {
	n := len(b)
	for i := range s {
		b = append(append(b, s[i].id[:]...), s[i].tag(b[:n])...)
	}
	return append(b, byte(len(s)))
}

// errSeal is wrapped by the errors of open.
var errSeal = errors.New("refused")

// open returns what is sealed in b, and with which of s: 0 is the key in force.
func (s seals) open(b []byte) (body []byte, with int, err error) {
	if len(b) == 0 {
		return nil, 0, fmt.Errorf("%w: it is empty", errSeal)
	}
	n := int(b[len(b)-1])
	at := len(b) - 1 - n*sealEntry
	if n < 1 || n > sealMax || at < 0 {
		return nil, 0, fmt.Errorf("%w: it has no seal", errSeal)
	}
	body = b[:at]
	signed := b[at : len(b)-1]
	for i := range s {
		for entry := signed; len(entry) > 0; entry = entry[sealEntry:] {
			if !bytes.Equal(entry[:4], s[i].id[:]) {
				continue
			}
			if !hmac.Equal(entry[4:sealEntry], s[i].tag(body)) {
				return nil, 0, fmt.Errorf("%w: the signature is wrong, or it was damaged on its way", errSeal)
			}
			return body, i, nil
		}
	}
	theirs := "no cluster key"
	if binary.BigEndian.Uint32(signed) != 0 {
		theirs = fmt.Sprintf("cluster key %x", signed[:4])
	}
	return nil, 0, fmt.Errorf("%w: its sender has %s, this node has %s: apply SAFEVAR/cluster/cluster.zip of one node on the others", errSeal, theirs, s[0].name())
}
