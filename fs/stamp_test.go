package fs

import (
	"encoding/hex"
	"os"
	"testing"
)

func TestStampFormat(t *testing.T) {
	const golden = "01efcdab896745230107000000000000000200000000000000ab6e01f3"
	s := Stamp{Instance: 0x0123456789abcdef, Checkpoint: 7}
	b := encodeStamp(s, 2)
	if got := hex.EncodeToString(b); got != golden {
		t.Errorf("encoded as %s, expected %s", got, golden)
	}
	if got, ok := decodeStamp(b, 2); !ok || got != s {
		t.Errorf("decoded as %v, %v", got, ok)
	}
	if _, ok := decodeStamp(b, 3); ok {
		t.Error("the stamp of another inode is accepted: a copy of the tree would be taken for it")
	}
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 1
		if _, ok := decodeStamp(bad, 2); ok {
			t.Errorf("a stamp with byte %d changed is accepted", i)
		}
	}
}

// A tree keeps its stamp; one without it, or a copy with another's, has none.
func TestStamp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: trusted xattrs")
	}
	dir := t.TempDir()
	for round, want := range []Stamp{{}, {Instance: 5, Checkpoint: 9}} {
		tree, err := OpenTree(dir, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tree.Stamp(); err != nil || got != want {
			t.Errorf("round %d: stamp %v, %v, expected %v", round, got, err, want)
		}
		if err := tree.SetStamp(Stamp{Instance: 5, Checkpoint: 9}); err != nil {
			t.Fatal(err)
		}
		if err := tree.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
