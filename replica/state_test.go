package replica

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/skfs/skfs/journal"
)

// stateGolden is the record of version 2, stateGoldenV1 that of version 1.
const (
	stateGolden = "736b6673726673000205070000000000000009000000000000000a0000000000000001000000000000000200000000000000030000000000000004000000000000000000000000000000" +
		"00000000000000000b0b000000000000000c000000000000000d000000000000000e0000000f000000000000000000000000000000"
	stateGoldenV1 = "736b667372667300010307000000000000000900000000000000347b1767"
)

var stateSample = State{Role: RoleAlone, Epoch: 7, Seq: 9, Instance: 10, Standing: journal.Standing{
	Lineage:    journal.Lineage{Current: 1, Base: 2, History: [4]journal.Generation{3, 4}, Shared: true},
	Checkpoint: 11, Noted: 12, At: journal.Time{Sec: 13, Nsec: 14}, Lost: true, Loose: true,
}, Boot: [16]byte{15}}

func TestStateFormat(t *testing.T) {
	b := stateSample.encode()
	if len(b) != stateLen {
		t.Errorf("%d bytes, expected %d", len(b), stateLen)
	}
	if got := hex.EncodeToString(b[:len(b)-4]); got != stateGolden {
		t.Errorf("encoded as\n%s, expected\n%s", got, stateGolden)
	}
	if got, err := decodeState(b); err != nil || got != stateSample {
		t.Errorf("decoded as %+v, %v", got, err)
	}
	v1, err := hex.DecodeString(stateGoldenV1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeState(v1); err != nil || got != (State{Role: RoleSecond, Epoch: 7, Seq: 9}) {
		t.Errorf("version 1: %+v, %v", got, err)
	}
}

// A record with any byte wrong, or cut short, is an error, not a guess.
func TestStateDamaged(t *testing.T) {
	b := stateSample.encode()
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if s, err := decodeState(bad); !errors.Is(err, errState) {
			t.Errorf("byte %d changed: %+v, %v", i, s, err)
		}
		if s, err := decodeState(b[:i]); !errors.Is(err, errState) {
			t.Errorf("%d bytes: %+v, %v", i, s, err)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(stateSample.encode())
	f.Add(State{}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			if !errors.Is(err, errState) {
				t.Fatal(err)
			}
			return
		}
		if b[8] == stateVersion && !bytes.Equal(s.encode(), b) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, s, s.encode())
		}
	})
}
