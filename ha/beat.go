package ha

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A heartbeat on the wire, big endian, one UDP datagram with a seal (seal.go) behind:
//
//	offset  size  field
//	0       4     magic "SKHB"
//	4       2     version, 4
//	6       2     length, without the seal
//	8       8     incarnation of the sender: random, new after each boot of its host
//	16      8     sequence: nanoseconds of CLOCK_BOOTTIME, grows within an incarnation
//	24      8     incarnation last heard from the receiver on this heartbeat, 0: none
//	32      1     role
//	33      1     colour
//	34      2     flags, see the flag constants
//	36      8     epoch
//	44      8     seen
//	52      8     drop: epoch
//	60      4     drop: number
//	64      8     outdated: epoch
//	72      4     outdated: number
//	76      8     released
//	84      8     swap asked of epoch
//	92      8     epoch of the data
//	100     8     rank of the data, signed
//	108     8     full copy demanded
//	116     8     full copy done
//	124     8     external synchronisation: since, ns since 1970, signed
//	132     8     sequence last heard from the receiver on this heartbeat, 0: none
//	140     8     signature of the module's configuration, 0: not known
//	148     1+n   module: length, bytes
//	…       1+n   node: length, bytes
//	…       1+n   external synchronisation: its uid
const (
	beatMagic   = "SKHB"
	beatVersion = 4
	beatFixed   = 148
	beatMax     = beatFixed + 3*256 // with the seal below the 1232 bytes that no network splits
)

const (
	flagPrimary uint16 = 1 << iota
	flagEstablished
	flagUnprotected
	flagOpen
	flagDegraded
	flagSwapping
	flagFresh
	flagReady
	flagCandidate
	flagUptodate
	flagWantSecond
	flagHeld
	flagsEnd
)

// flags pairs each flag with its field.
func (b *Beat) flags() []*bool {
	return []*bool{&b.Primary, &b.Established, &b.Unprotected, &b.Open, &b.Degraded, &b.Swapping, &b.Fresh,
		&b.Ready, &b.Candidate, &b.Uptodate, &b.WantSecond, &b.Held}
}

// message is a heartbeat.
type message struct {
	Module, Node string
	Incarnation  uint64
	Seq          uint64
	Heard        uint64
	Echo         uint64 // the newest Seq of the receiver that the sender has heard here
	Config       uint64 // beginning of conf.Active.Signature
	Beat         Beat
}

// size is that of the datagram without its seal.
func (m *message) size() int {
	return beatFixed + 1 + len(m.Module) + 1 + len(m.Node) + 1 + len(m.Beat.SyncUID)
}

func (m *message) encode() []byte {
	b := make([]byte, 0, m.size()+sealSize)
	be := binary.BigEndian
	b = append(b, beatMagic...)
	b = be.AppendUint16(b, beatVersion)
	b = be.AppendUint16(b, uint16(m.size()))
	b = be.AppendUint64(b, m.Incarnation)
	b = be.AppendUint64(b, m.Seq)
	b = be.AppendUint64(b, m.Heard)
	b = append(b, byte(m.Beat.Role), byte(m.Beat.Colour))
	var flags uint16
	for i, f := range m.Beat.flags() {
		if *f {
			flags |= 1 << i
		}
	}
	b = be.AppendUint16(b, flags)
	b = be.AppendUint64(b, m.Beat.Epoch)
	b = be.AppendUint64(b, m.Beat.Seen)
	b = be.AppendUint64(b, m.Beat.Drop.Epoch)
	b = be.AppendUint32(b, m.Beat.Drop.N)
	b = be.AppendUint64(b, m.Beat.Outdated.Epoch)
	b = be.AppendUint32(b, m.Beat.Outdated.N)
	b = be.AppendUint64(b, m.Beat.Released)
	b = be.AppendUint64(b, m.Beat.SwapAsk)
	b = be.AppendUint64(b, m.Beat.DataEpoch)
	b = be.AppendUint64(b, uint64(int64(m.Beat.Rank)))
	b = be.AppendUint64(b, m.Beat.Full)
	b = be.AppendUint64(b, m.Beat.FullDone)
	b = be.AppendUint64(b, uint64(m.Beat.SyncSince))
	b = be.AppendUint64(b, m.Echo)
	b = be.AppendUint64(b, m.Config)
	for _, s := range []string{m.Module, m.Node, m.Beat.SyncUID} {
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

var errBeat = errors.New("bad heartbeat")

func decodeMessage(b []byte) (message, error) {
	var m message
	bad := func(format string, args ...any) (message, error) {
		return message{}, fmt.Errorf("%w: %s", errBeat, fmt.Sprintf(format, args...))
	}
	be := binary.BigEndian
	switch {
	case len(b) < beatFixed+3:
		return bad("%d bytes, at least %d expected", len(b), beatFixed+3)
	case string(b[:4]) != beatMagic:
		return bad("magic %q", b[:4])
	case be.Uint16(b[4:]) != beatVersion:
		return bad("version %d, this node speaks %d", be.Uint16(b[4:]), beatVersion)
	case int(be.Uint16(b[6:])) != len(b):
		return bad("%d bytes, its length field says %d", len(b), be.Uint16(b[6:]))
	}
	m.Incarnation, m.Seq, m.Heard = be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint64(b[24:])
	v := &m.Beat
	v.Known = true
	v.Role, v.Colour = Role(b[32]), Colour(b[33])
	flags := be.Uint16(b[34:])
	switch {
	case v.Role >= roleEnd:
		return bad("role %d", b[32])
	case v.Colour >= colourEnd:
		return bad("colour %d", b[33])
	case flags >= flagsEnd:
		return bad("flags %#x", flags)
	}
	for i, f := range v.flags() {
		*f = flags&(1<<i) != 0
	}
	v.Epoch, v.Seen = be.Uint64(b[36:]), be.Uint64(b[44:])
	v.Drop = Drop{be.Uint64(b[52:]), be.Uint32(b[60:])}
	v.Outdated = Drop{be.Uint64(b[64:]), be.Uint32(b[72:])}
	v.Released, v.SwapAsk, v.DataEpoch = be.Uint64(b[76:]), be.Uint64(b[84:]), be.Uint64(b[92:])
	v.Rank = int(int64(be.Uint64(b[100:])))
	v.Full, v.FullDone, v.SyncSince = be.Uint64(b[108:]), be.Uint64(b[116:]), int64(be.Uint64(b[124:]))
	m.Echo, m.Config = be.Uint64(b[132:]), be.Uint64(b[140:])
	r := bytes.NewBuffer(b[beatFixed:])
	for _, s := range []*string{&m.Module, &m.Node, &v.SyncUID} {
		n, err := r.ReadByte()
		if err != nil || r.Len() < int(n) {
			return bad("a name is cut off")
		}
		*s = string(r.Next(int(n)))
	}
	if r.Len() > 0 {
		return bad("%d bytes after the strings", r.Len())
	}
	return m, nil
}
