package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"syscall"
)

// Everything that travels between two nodes, and everything in a receive log, is
// a frame. All numbers are little-endian.
//
//	frame                                     op fields
//	 0  4  magic "skfs"                         0  1  kind
//	 4  1  version (1)                          1  1  tree
//	 5  1  type                                 2  2  length of name
//	 6  1  flags                                4  2  length of name2
//	 7  1  0                                    6  2  0
//	 8  4  length of the fields (≤ 132 KiB)     8 16  id
//	12  4  length of the payload (≤ 16 MiB)    24 16  parent
//	16  8  epoch                               40 16  parent2
//	24  8  seq (op and result, else 0)         56 16  id2
//	32  4  crc32c of the payload               72  4  flags
//	36  4  crc32c of bytes 0–35 and fields     76  4  valid
//	40     fields, by type                     80  4  mode
//	       payload                             84  4  uid
//	                                           88  4  gid
//	ack fields                                 92  4  rdev
//	 0  8  received                            96  8  off
//	 8  8  durable                            104  8  len
//	16  8  applied                            112  8  atime, seconds
//	                                          120  8  mtime, seconds
//	result fields                             128  4  atime, nanoseconds
//	 0  4  errno                              132  4  mtime, nanoseconds
//	 4     op fields of what failed,          136     name, name2
//	       or nothing
//	                                          hello fields
//	welcome fields                              0 16  session
//	 0  1  1 accepted, 0 refused               16  2  conn
//	 1  1  0                                   18  2  conns
//	 2  2  length of reason                    20  2  length of module
//	 4     reason                              22  2  length of node
//	                                           24     module, node
//
// The payload is the data of an operation or result, the payload of a hello or
// welcome. There is one encoding of each value: what decodes, encodes to the
// same bytes.
const (
	codecVersion = 1
	headerSize   = 40
	opFixed      = 136
	ackFixed     = 24
	resultFixed  = 4
	helloFixed   = 24
	welcomeFixed = 4

	// MaxData is the most bytes that one frame carries besides its header.
	MaxData = 16 << 20
	// MaxName is the longest name, and the longest text of a handshake.
	MaxName = 1<<16 - 1

	maxFields = resultFixed + opFixed + 2*MaxName
)

const magic = "skfs"

type frameType uint8

const (
	frameOp frameType = 1 + iota
	frameAck
	frameResult
	frameHello
	frameWelcome
	frameEnd
)

func (t frameType) String() string {
	names := [...]string{"invalid", "op", "ack", "result", "hello", "welcome"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// flagLazy on an op says that nobody waits for its ack, which may come with a
// later one.
const flagLazy = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFrame is what every error about a frame wraps. Such an error names the
// field and ends the connection.
var ErrFrame = errors.New("bad frame")

func badField(field string, got, want any) error {
	return fmt.Errorf("%w: %s is %v, expected %v", ErrFrame, field, got, want)
}

// VersionError is a frame of another version of the protocol.
type VersionError struct{ Got, Want uint8 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("bad frame: version is %d, expected %d: run the same version of skfs on both nodes", e.Got, e.Want)
}

// Unwrap makes it an ErrFrame.
func (e *VersionError) Unwrap() error { return ErrFrame }

// header is the fixed part of a frame.
type header struct {
	typ        frameType
	flags      uint8
	fieldsLen  int
	payloadLen int
	epoch      Epoch
	seq        Seq
	payloadCRC uint32
	headerCRC  uint32
}

// size is the length of the whole frame.
func (h *header) size() int { return headerSize + h.fieldsLen + h.payloadLen }

// parseHeader reads the first headerSize bytes of b, which must be there. It
// checks all that can be checked before the rest of the frame is there.
func parseHeader(b []byte) (header, error) {
	h := header{
		typ:        frameType(b[5]),
		flags:      b[6],
		fieldsLen:  int(binary.LittleEndian.Uint32(b[8:])),
		payloadLen: int(binary.LittleEndian.Uint32(b[12:])),
		epoch:      Epoch(binary.LittleEndian.Uint64(b[16:])),
		seq:        Seq(binary.LittleEndian.Uint64(b[24:])),
		payloadCRC: binary.LittleEndian.Uint32(b[32:]),
		headerCRC:  binary.LittleEndian.Uint32(b[36:]),
	}
	switch {
	case string(b[:4]) != magic:
		return h, badField("magic", fmt.Sprintf("%q", b[:4]), fmt.Sprintf("%q", magic))
	case b[4] != codecVersion:
		return h, &VersionError{Got: b[4], Want: codecVersion}
	case h.typ == 0 || h.typ >= frameEnd:
		return h, badField("type", b[5], "1 to 5")
	case h.flags&^flagLazy != 0 || h.flags != 0 && h.typ != frameOp:
		return h, badField("flags", h.flags, "known flags of a frame of type "+h.typ.String())
	case b[7] != 0:
		return h, badField("reserved byte", b[7], 0)
	case h.fieldsLen > maxFields:
		return h, badField("length of fields", h.fieldsLen, fmt.Sprintf("at most %d", maxFields))
	case h.payloadLen > MaxData:
		return h, badField("length of payload", h.payloadLen, fmt.Sprintf("at most %d", MaxData))
	case h.seq != 0 != (h.typ == frameOp || h.typ == frameResult):
		return h, badField("seq", h.seq, "a number for op and result, 0 for others")
	}
	return h, nil
}

// split checks the checksums of a whole frame of header h and returns its parts.
func (h *header) split(frame []byte) (fields, payload []byte, err error) {
	if len(frame) != h.size() {
		return nil, nil, badField("length of frame", len(frame), h.size())
	}
	fields = frame[headerSize : headerSize+h.fieldsLen]
	payload = frame[headerSize+h.fieldsLen:]
	if c := crc32.Update(crc32.Checksum(frame[:36], castagnoli), castagnoli, fields); c != h.headerCRC {
		return nil, nil, badField("checksum of header", fmt.Sprintf("%08x", h.headerCRC), fmt.Sprintf("%08x", c))
	}
	if c := crc32.Checksum(payload, castagnoli); c != h.payloadCRC {
		return nil, nil, badField("checksum of payload", fmt.Sprintf("%08x", h.payloadCRC), fmt.Sprintf("%08x", c))
	}
	return fields, payload, nil
}

// beginFrame appends a header whose lengths and checksum sealFrame fills in when
// the fields are there.
func beginFrame(b []byte, t frameType, flags uint8, epoch Epoch, seq Seq) []byte {
	b = append(b, magic...)
	b = append(b, codecVersion, byte(t), flags, 0)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(seq))
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
}

// sealFrame completes the frame that starts at b[at:] and ends, but for its
// payload, at the end of b.
func sealFrame(b []byte, at, payloadLen int, payloadCRC uint32) []byte {
	f := b[at:]
	binary.LittleEndian.PutUint32(f[8:], uint32(len(f)-headerSize))
	binary.LittleEndian.PutUint32(f[12:], uint32(payloadLen))
	binary.LittleEndian.PutUint32(f[32:], payloadCRC)
	crc := crc32.Checksum(f[:36], castagnoli)
	binary.LittleEndian.PutUint32(f[36:], crc32.Update(crc, castagnoli, f[headerSize:]))
	return b
}

// checkOp says what about op cannot be encoded.
func checkOp(op *Op) error {
	switch {
	case op.Kind == KindInvalid || op.Kind >= kindEnd:
		return fmt.Errorf("operation of kind %s: expected one of the kinds of package journal", op.Kind)
	case len(op.Data) > MaxData:
		return fmt.Errorf("%s with %d bytes of data: at most %d travel in one operation", op.Kind, len(op.Data), MaxData)
	case len(op.Name) > MaxName || len(op.Name2) > MaxName:
		return fmt.Errorf("%s with a name of %d bytes: at most %d", op.Kind, max(len(op.Name), len(op.Name2)), MaxName)
	}
	return nil
}

// opFrameSize is the length of the frame of op.
func opFrameSize(op *Op) int {
	return headerSize + opFixed + len(op.Name) + len(op.Name2) + len(op.Data)
}

// dataCRC is the checksum of the payload, which a caller computes outside its
// locks.
func dataCRC(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// appendOpHead appends the frame of op except its payload, which must follow.
func appendOpHead(b []byte, epoch Epoch, flags uint8, op *Op, crc uint32) []byte {
	at := len(b)
	b = beginFrame(b, frameOp, flags, epoch, op.Seq)
	b = appendOpFields(b, op)
	return sealFrame(b, at, len(op.Data), crc)
}

func appendOpFields(b []byte, op *Op) []byte {
	le := binary.LittleEndian
	b = append(b, byte(op.Kind), op.Tree)
	b = le.AppendUint16(b, uint16(len(op.Name)))
	b = le.AppendUint16(b, uint16(len(op.Name2)))
	b = append(b, 0, 0)
	b = append(b, op.ID[:]...)
	b = append(b, op.Parent[:]...)
	b = append(b, op.Parent2[:]...)
	b = append(b, op.ID2[:]...)
	b = le.AppendUint32(b, op.Flags)
	b = le.AppendUint32(b, op.Valid)
	b = le.AppendUint32(b, op.Mode)
	b = le.AppendUint32(b, op.UID)
	b = le.AppendUint32(b, op.GID)
	b = le.AppendUint32(b, op.Rdev)
	b = le.AppendUint64(b, uint64(op.Off))
	b = le.AppendUint64(b, uint64(op.Len))
	b = le.AppendUint64(b, uint64(op.Atime.Sec))
	b = le.AppendUint64(b, uint64(op.Mtime.Sec))
	b = le.AppendUint32(b, op.Atime.Nsec)
	b = le.AppendUint32(b, op.Mtime.Nsec)
	b = append(b, op.Name...)
	return append(b, op.Name2...)
}

// parseOpFields fills op, except Seq and Data.
func parseOpFields(f []byte, op *Op) error {
	if len(f) < opFixed {
		return badField("length of op fields", len(f), fmt.Sprintf("at least %d", opFixed))
	}
	le := binary.LittleEndian
	n, n2 := int(le.Uint16(f[2:])), int(le.Uint16(f[4:]))
	switch {
	case f[0] == 0 || Kind(f[0]) >= kindEnd:
		return badField("kind", f[0], fmt.Sprintf("1 to %d", kindEnd-1))
	case len(f) != opFixed+n+n2:
		return badField("lengths of names", fmt.Sprintf("%d and %d", n, n2), fmt.Sprintf("%d together", len(f)-opFixed))
	case f[6] != 0 || f[7] != 0:
		return badField("reserved bytes of op", f[6:8], "0")
	}
	op.Kind, op.Tree = Kind(f[0]), f[1]
	copy(op.ID[:], f[8:])
	copy(op.Parent[:], f[24:])
	copy(op.Parent2[:], f[40:])
	copy(op.ID2[:], f[56:])
	op.Flags, op.Valid = le.Uint32(f[72:]), le.Uint32(f[76:])
	op.Mode, op.UID, op.GID, op.Rdev = le.Uint32(f[80:]), le.Uint32(f[84:]), le.Uint32(f[88:]), le.Uint32(f[92:])
	op.Off, op.Len = int64(le.Uint64(f[96:])), int64(le.Uint64(f[104:]))
	op.Atime = Time{int64(le.Uint64(f[112:])), le.Uint32(f[128:])}
	op.Mtime = Time{int64(le.Uint64(f[120:])), le.Uint32(f[132:])}
	op.Name = string(f[opFixed : opFixed+n])
	op.Name2 = string(f[opFixed+n:])
	return nil
}

// decodeOp fills op from a whole frame. op.Data is part of frame.
func decodeOp(h *header, frame []byte, op *Op) error {
	if h.typ != frameOp {
		return badField("type", h.typ, frameOp)
	}
	fields, payload, err := h.split(frame)
	if err != nil {
		return err
	}
	op.Seq, op.Data = h.seq, payload
	return parseOpFields(fields, op)
}

// ack is how far the second host is.
type ack struct{ received, durable, applied Seq }

func appendAck(b []byte, epoch Epoch, a ack) []byte {
	at := len(b)
	b = beginFrame(b, frameAck, 0, epoch, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.received))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.durable))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.applied))
	return sealFrame(b, at, 0, 0)
}

func decodeAck(h *header, frame []byte) (ack, error) {
	fields, payload, err := h.split(frame)
	if err != nil {
		return ack{}, err
	}
	if len(fields) != ackFixed || len(payload) != 0 {
		return ack{}, badField("length of ack", len(fields)+len(payload), ackFixed)
	}
	le := binary.LittleEndian
	return ack{Seq(le.Uint64(fields)), Seq(le.Uint64(fields[8:])), Seq(le.Uint64(fields[16:]))}, nil
}

// appendResult appends a result. op, which may be nil, is what failed; its Data
// does not travel back.
func appendResult(b []byte, epoch Epoch, r *Result, op *Op) []byte {
	at := len(b)
	b = beginFrame(b, frameResult, 0, epoch, r.Seq)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Errno))
	if op != nil {
		b = appendOpFields(b, op)
	}
	b = sealFrame(b, at, len(r.Data), dataCRC(r.Data))
	return append(b, r.Data...)
}

// decodeResult returns a result with its own copy of Data, and what failed if
// the frame says so.
func decodeResult(h *header, frame []byte) (Result, *Op, error) {
	fields, payload, err := h.split(frame)
	if err != nil {
		return Result{}, nil, err
	}
	if len(fields) < resultFixed {
		return Result{}, nil, badField("length of result fields", len(fields), fmt.Sprintf("at least %d", resultFixed))
	}
	r := Result{Seq: h.seq, Errno: syscall.Errno(binary.LittleEndian.Uint32(fields))}
	if len(payload) > 0 {
		r.Data = append([]byte(nil), payload...)
	}
	if len(fields) == resultFixed {
		return r, nil, nil
	}
	op := &Op{Seq: h.seq}
	if err := parseOpFields(fields[resultFixed:], op); err != nil {
		return Result{}, nil, err
	}
	return r, op, nil
}

func appendHello(b []byte, o *Hello) []byte {
	at := len(b)
	b = beginFrame(b, frameHello, 0, o.Epoch, 0)
	b = append(b, o.Session[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(o.Conn))
	b = binary.LittleEndian.AppendUint16(b, uint16(o.Conns))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(o.Module)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(o.Node)))
	b = append(b, o.Module...)
	b = append(b, o.Node...)
	b = sealFrame(b, at, len(o.Payload), dataCRC(o.Payload))
	return append(b, o.Payload...)
}

func decodeHello(h *header, frame []byte) (Hello, error) {
	if h.typ != frameHello {
		return Hello{}, badField("type", h.typ, frameHello)
	}
	f, payload, err := h.split(frame)
	if err != nil {
		return Hello{}, err
	}
	if len(f) < helloFixed {
		return Hello{}, badField("length of hello fields", len(f), fmt.Sprintf("at least %d", helloFixed))
	}
	le := binary.LittleEndian
	o := Hello{Epoch: h.epoch, Conn: int(le.Uint16(f[16:])), Conns: int(le.Uint16(f[18:])), Payload: payload}
	copy(o.Session[:], f)
	n, n2 := int(le.Uint16(f[20:])), int(le.Uint16(f[22:]))
	switch {
	case len(f) != helloFixed+n+n2:
		return Hello{}, badField("lengths of module and node", fmt.Sprintf("%d and %d", n, n2), fmt.Sprintf("%d together", len(f)-helloFixed))
	case o.Conns < 1 || o.Conns > MaxConns:
		return Hello{}, badField("conns", o.Conns, fmt.Sprintf("1 to %d", MaxConns))
	case o.Conn >= o.Conns:
		return Hello{}, badField("conn", o.Conn, fmt.Sprintf("less than %d", o.Conns))
	}
	o.Module, o.Node = string(f[helloFixed:helloFixed+n]), string(f[helloFixed+n:])
	return o, nil
}

func appendWelcome(b []byte, w *Welcome) []byte {
	at := len(b)
	b = beginFrame(b, frameWelcome, 0, w.Epoch, 0)
	var accepted byte
	if w.Accepted {
		accepted = 1
	}
	b = append(b, accepted, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(w.Reason)))
	b = append(b, w.Reason...)
	b = sealFrame(b, at, len(w.Payload), dataCRC(w.Payload))
	return append(b, w.Payload...)
}

func decodeWelcome(h *header, frame []byte) (Welcome, error) {
	if h.typ != frameWelcome {
		return Welcome{}, badField("type", h.typ, frameWelcome)
	}
	f, payload, err := h.split(frame)
	if err != nil {
		return Welcome{}, err
	}
	if len(f) < welcomeFixed {
		return Welcome{}, badField("length of welcome fields", len(f), fmt.Sprintf("at least %d", welcomeFixed))
	}
	switch n := int(binary.LittleEndian.Uint16(f[2:])); {
	case f[0] > 1:
		return Welcome{}, badField("accepted", f[0], "0 or 1")
	case f[1] != 0:
		return Welcome{}, badField("reserved byte of welcome", f[1], 0)
	case len(f) != welcomeFixed+n:
		return Welcome{}, badField("length of reason", n, len(f)-welcomeFixed)
	}
	return Welcome{Accepted: f[0] == 1, Reason: string(f[welcomeFixed:]), Epoch: h.epoch, Payload: payload}, nil
}
