package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Verdict is what Check found.
type Verdict struct {
	Noted   int      // acknowledged entries
	Found   int      // entries in the store
	Missing []uint64 // noted and not found
}

// OK says that nothing acknowledged is missing.
func (v Verdict) OK() bool { return len(v.Missing) == 0 }

func (v Verdict) String() string {
	return fmt.Sprintf("%d entries acknowledged, %d found, %d missing %v", v.Noted, v.Found, len(v.Missing), v.Missing[:min(10, len(v.Missing))])
}

// Check compares the store of a kind in dir with the notes of what was
// acknowledged. The error says that the store or the notes cannot be read, or
// that the store is damaged.
func Check(kind, dir, notes string) (Verdict, error) {
	var v Verdict
	store, err := Open(kind, dir)
	if err != nil {
		return v, err
	}
	defer store.Close()
	found, err := store.All()
	if err != nil {
		return v, err
	}
	return compare(found, notes)
}

// compare looks in what was found for everything that was noted.
func compare(found map[uint64]bool, notes string) (Verdict, error) {
	v := Verdict{Found: len(found)}
	f, err := os.Open(notes)
	if err != nil {
		return v, fmt.Errorf("ledger: notes: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var id uint64
		if _, err := fmt.Sscan(lines.Text(), &id); err != nil {
			return v, fmt.Errorf("ledger: notes: %q: %w", lines.Text(), err)
		}
		v.Noted++
		if !found[id] {
			v.Missing = append(v.Missing, id)
		}
	}
	return v, lines.Err()
}

// Kept finds the entries that whole files of a store of plain files have, wherever they
// are below dir and whatever their names; there may be no dir.
func Kept(dir string) (map[uint64]bool, error) {
	kept := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for ; len(data) >= recordLen; data = data[recordLen:] {
			if id := binary.LittleEndian.Uint64(data); string(data[:recordLen]) == string(record(id)) {
				kept[id] = true
			}
		}
		return err
	})
	return kept, err
}
