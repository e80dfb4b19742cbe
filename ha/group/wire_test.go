package group

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var wireName = NewName("web", []string{"node1", "node2", "node3"})

func wireSample() Message {
	state := "a state"
	return Message{From: 1, State: &state, Rows: []Row{
		{Inc: 0x1122334455667788, Ctr: 7, Hears: 3, Epoch: Epoch{5, 0, 0x1122334455667788}, View: 3, Info: "one"},
		{Inc: 9, Ctr: 1 << 40, Hears: 7, Left: true, Epoch: Epoch{6, 1, 9}, View: 2},
		{},
	}}
}

// TestWireGolden holds the format: another one needs another version.
func TestWireGolden(t *testing.T) {
	file := filepath.Join("testdata", "message.hex")
	b := wireName.Encode(wireSample())
	if os.Getenv("GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != strings.TrimSpace(string(golden)) {
		t.Errorf("%s\nis not what %s says", got, file)
	}
	m, err := wireName.Decode(b)
	if err != nil || !reflect.DeepEqual(m, wireSample()) {
		t.Errorf("Decode: %+v, %v", m, err)
	}
}

func TestWireRefuses(t *testing.T) {
	whole := wireName.Encode(wireSample())
	for n := range whole {
		if m, err := wireName.Decode(whole[:n]); err == nil {
			t.Fatalf("the first %d bytes of %d are a message: %+v", n, len(whole), m)
		}
	}
	change := func(i int, v byte) []byte {
		b := append([]byte{}, whole...)
		b[i] = v
		return b
	}
	for _, c := range []struct {
		b    []byte
		says string
	}{
		{append(append([]byte{}, whole...), 0), "1 bytes after its end"},
		{change(0, 'X'), "magic"},
		{change(4, 2), "version 2, this node speaks 1"},
		{change(5, 3), "sender 3 of 3"},
		{change(5, 2), "nothing of its sender"},
		{change(7, 2), "flags 0x2"},
		{change(8, 0), "another list of members"},
		{change(13, 'W'), `of "Web", not of "web"`},
		{change(16+16, 2), "row 0 is not possible"},
		{change(16+20, 8), "row 0 is not possible"},
	} {
		if _, err := wireName.Decode(c.b); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%x: %v, expected %q", c.b, err, c.says)
		}
	}
	if _, err := NewName("web", []string{"node1", "node2", "node4"}).Decode(whole); err == nil {
		t.Error("a message of another list of members is taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(wireName.Encode(wireSample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wireName.Decode(b)
		if err != nil {
			return
		}
		again, err := wireName.Decode(wireName.Encode(m))
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v is read again as %+v, %v", m, again, err)
		}
		n, err := New(Config{Self: "node1", Members: []string{"node1", "node2", "node3"}, MLost: 3, SLost: 3, Decide: table}, 5, View{})
		if err != nil {
			t.Fatal(err)
		}
		n.Hear(m)
		n.Tick()
		n.Message()
	})
}
