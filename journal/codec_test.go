package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// fullOp has every field set, to a value that shows in a dump.
func fullOp() *Op {
	return &Op{
		Seq: 0x0102030405060708, Kind: KindRename, Tree: 3,
		ID: FileID{0xa0, 15: 0xaf}, Parent: FileID{0xb0, 15: 0xbf}, Parent2: FileID{0xc0, 15: 0xcf}, ID2: FileID{0xd0, 15: 0xdf},
		Name: "from", Name2: "to", Flags: 0x11, Valid: 0x22, Mode: 0o100644, UID: 0x44, GID: 0x55, Rdev: 0x66,
		Off: -2, Len: 0x88, Atime: Time{-1, 0x99}, Mtime: Time{0xaa, 0xbb}, Data: []byte("payload"),
	}
}

var testHello = Hello{Module: "mirror", Node: "node2", Epoch: 7, Session: [16]byte{1, 15: 2}, Conn: 1, Conns: 3, Payload: []byte("who")}

// frames are one of each type, by name.
func frames() map[string][]byte {
	op := fullOp()
	return map[string][]byte{
		"op":      append(appendOpHead(nil, 9, flagLazy, op, dataCRC(op.Data)), op.Data...),
		"ack":     appendAck(nil, 9, ack{3, 2, 1}),
		"result":  appendResult(nil, 9, &Result{Seq: op.Seq, Errno: syscall.ENOSPC, Data: []byte("why")}, op),
		"answer":  appendResult(nil, 9, &Result{Seq: 4, Data: []byte("hashes")}, nil),
		"hello":   appendHello(nil, &testHello),
		"welcome": appendWelcome(nil, &Welcome{Accepted: true, Epoch: 9, Payload: []byte("come")}),
		"refusal": appendWelcome(nil, &Welcome{Reason: "not the primary"}),
	}
}

func TestGolden(t *testing.T) {
	for name, frame := range frames() {
		golden(t, "frame-"+name, frame)
	}
	golden(t, "segment", append(appendSegmentHeader(nil, 5, 77), appendRecordHeader(nil, 5, 1234)...))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	dump := hex.Dump(got)
	if *update {
		if err := os.WriteFile(path, []byte(dump), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), dump); diff != "" {
		t.Errorf("%s is another format now; if that is meant, count its version up:\n%s", name, diff)
	}
}

// reencode decodes a frame and encodes what came out.
func reencode(frame []byte) ([]byte, error) {
	if len(frame) < headerSize {
		return nil, ErrFrame
	}
	h, err := parseHeader(frame)
	if err != nil {
		return nil, err
	}
	switch h.typ {
	case frameOp:
		var op Op
		if err := decodeOp(&h, frame, &op); err != nil {
			return nil, err
		}
		return append(appendOpHead(nil, h.epoch, h.flags, &op, dataCRC(op.Data)), op.Data...), nil
	case frameAck:
		a, err := decodeAck(&h, frame)
		return appendAck(nil, h.epoch, a), err
	case frameResult:
		r, op, err := decodeResult(&h, frame)
		return appendResult(nil, h.epoch, &r, op), err
	case frameHello:
		o, err := decodeHello(&h, frame)
		return appendHello(nil, &o), err
	default:
		w, err := decodeWelcome(&h, frame)
		return appendWelcome(nil, &w), err
	}
}

func TestRoundTrip(t *testing.T) {
	for name, frame := range frames() {
		again, err := reencode(frame)
		if err != nil || !bytes.Equal(again, frame) {
			t.Errorf("%s: %v\n%s\nbecame\n%s", name, err, hex.Dump(frame), hex.Dump(again))
		}
	}
	var op Op
	h, _ := parseHeader(frames()["op"])
	if err := decodeOp(&h, frames()["op"], &op); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*fullOp(), op); diff != "" {
		t.Errorf("an operation came back changed:\n%s", diff)
	}
}

// TestEveryBit flips each bit of each frame: all of them matter.
func TestEveryBit(t *testing.T) {
	for name, frame := range frames() {
		for bit := range len(frame) * 8 {
			bad := bytes.Clone(frame)
			bad[bit/8] ^= 1 << (bit % 8)
			if _, err := reencode(bad); !errors.Is(err, ErrFrame) {
				t.Fatalf("%s with bit %d of byte %d flipped: %v", name, bit%8, bit/8, err)
			}
		}
		for n := range len(frame) {
			if _, err := reencode(frame[:n]); !errors.Is(err, ErrFrame) {
				t.Fatalf("%s cut to %d of %d bytes: %v", name, n, len(frame), err)
			}
		}
	}
}

func TestBadFrameNamesField(t *testing.T) {
	seal := func(b []byte) []byte {
		h := header{payloadLen: int(b[12])}
		return append(sealFrame(bytes.Clone(b[:len(b)-h.payloadLen]), 0, h.payloadLen, dataCRC(b[len(b)-h.payloadLen:])), b[len(b)-h.payloadLen:]...)
	}
	for _, c := range []struct {
		frame string
		at    int
		value byte
		field string
	}{
		{"op", 0, 'x', "magic"},
		{"op", 4, 9, "version"},
		{"op", 5, 77, "type"},
		{"op", 6, 4, "flags"},
		{"ack", 6, 1, "flags"},
		{"op", 7, 1, "reserved"},
		{"op", 11, 1, "length of fields"},
		{"op", 15, 1, "length of payload"},
		{"ack", 24, 1, "seq"},
		{"op", headerSize, 0, "kind"},
		{"op", headerSize, byte(kindEnd), "kind"},
		{"op", headerSize + 2, 200, "lengths of names"},
		{"op", headerSize + 6, 1, "reserved"},
		{"hello", headerSize + 16, 3, "conn"},
		{"hello", headerSize + 18, 99, "conns"},
		{"hello", headerSize + 20, 99, "module"},
		{"welcome", headerSize, 2, "accepted"},
		{"refusal", headerSize + 2, 99, "reason"},
	} {
		bad := bytes.Clone(frames()[c.frame])
		bad[c.at] = c.value
		if c.at >= headerSize {
			bad = seal(bad)
		}
		if _, err := reencode(bad); !errors.Is(err, ErrFrame) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s with byte %d = %d: got %v, expected it to name %q", c.frame, c.at, c.value, err, c.field)
		}
	}
}

// FuzzFrame: no bytes make the decoder panic, and what it accepts has one
// encoding.
func FuzzFrame(f *testing.F) {
	for _, frame := range frames() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		// Without right checksums a fuzzer never gets past them.
		if len(frame) >= headerSize {
			if h, err := parseHeader(frame); err == nil && h.size() == len(frame) {
				n := headerSize + h.fieldsLen
				frame = append(sealFrame(bytes.Clone(frame[:n]), 0, h.payloadLen, dataCRC(frame[n:])), frame[n:]...)
			}
		}
		again, err := reencode(frame)
		if err == nil && !bytes.Equal(again, frame) {
			t.Fatalf("%x became %x", frame, again)
		}
	})
}

// FuzzSegment: no bytes make the log's parser panic or count a bad frame.
func FuzzSegment(f *testing.F) {
	op := frames()["op"]
	seg := appendSegmentHeader(nil, 5, 77)
	seg = append(appendRecordHeader(seg, 5, 2*len(op)), op...)
	f.Add(append(seg, op...))
	f.Add(append(seg, op[:50]...))
	f.Add(append(append(seg, op...), appendRecordHeader(nil, 4, 10)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		serial, _, err := parseSegmentHeader(b)
		if err != nil {
			serial = 5
		}
		parseRecords(b, serial, func(_ Epoch, op *Op) error {
			if op.Seq == 0 || op.Kind == KindInvalid {
				t.Fatalf("bad operation %+v", op)
			}
			return nil
		})
	})
}
