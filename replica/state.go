package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/skfs/skfs/journal"
)

// Role is what this host was to its data when the record was written.
type Role uint8

// The roles, as far as they matter for what may happen after a crash.
const (
	RoleNone      Role = iota // never part of a pair
	RoleSyncing               // being brought up to date: inconsistent (R9)
	RoleOutdated              // the primary has gone on without this host
	RoleSecond                // in sync with a primary that may have gone on since
	RoleConnected             // primary with a second that may have taken over since
	RoleAlone                 // primary without a second: surely the newest
	RoleClean                 // ended in order at Seq; another went on from there
	roleEnd
)

var roleNames = [...]string{"none", "syncing", "outdated", "second", "primary-connected", "primary-alone", "clean"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// State is what a host durably knows of its data.
type State struct {
	Role  Role
	Epoch journal.Epoch // of the primary whose operations the data holds
	Seq   journal.Seq   // with RoleClean: the last of them; else all up to it are in the data, on disk
}

// Consistent says whether the data is a state that the application has written.
func (s State) Consistent() bool { return s.Role != RoleSyncing }

// Uptodate says whether the data is surely the newest, after a start.
func (s State) Uptodate() bool { return s.Role == RoleAlone }

// Rank orders data of the same epoch: the greater may be primary when both hosts
// are there and neither is sure.
func (s State) Rank() int {
	switch s.Role {
	case RoleAlone:
		return 4
	case RoleConnected:
		return 3
	case RoleClean:
		return 2
	case RoleSecond:
		return 1
	case RoleSyncing:
		return -1
	}
	return 0
}

// The file is replaced by write, fsync, rename, fsync of the directory.
//
//	offset  size
//	0       8     "skfsrfs\x00"
//	8       1     version, 1
//	9       1     Role
//	10      8     Epoch, little endian
//	18      8     Seq, little endian
//	26      4     crc32c of the bytes before, little endian
const (
	stateMagic   = "skfsrfs\x00"
	stateVersion = 1
	stateLen     = 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errState says that a state file cannot be relied upon.
var errState = errors.New("not a state file of skfs")

func (s State) encode() []byte {
	b := make([]byte, stateLen)
	copy(b, stateMagic)
	b[8], b[9] = stateVersion, byte(s.Role)
	binary.LittleEndian.PutUint64(b[10:], uint64(s.Epoch))
	binary.LittleEndian.PutUint64(b[18:], uint64(s.Seq))
	binary.LittleEndian.PutUint32(b[26:], crc32.Checksum(b[:26], castagnoli))
	return b
}

func decodeState(b []byte) (State, error) {
	switch {
	case len(b) != stateLen:
		return State{}, fmt.Errorf("%w: %d bytes, expected %d", errState, len(b), stateLen)
	case string(b[:8]) != stateMagic:
		return State{}, fmt.Errorf("%w: it begins with %q", errState, b[:8])
	case b[8] != stateVersion:
		return State{}, fmt.Errorf("%w: version %d, expected %d", errState, b[8], stateVersion)
	case binary.LittleEndian.Uint32(b[26:]) != crc32.Checksum(b[:26], castagnoli):
		return State{}, fmt.Errorf("%w: the checksum is wrong", errState)
	case Role(b[9]) >= roleEnd:
		return State{}, fmt.Errorf("%w: role %d", errState, b[9])
	}
	return State{Role: Role(b[9]), Epoch: journal.Epoch(binary.LittleEndian.Uint64(b[10:])),
		Seq: journal.Seq(binary.LittleEndian.Uint64(b[18:]))}, nil
}

// loadState reads the record; RoleNone if there is none. A damaged one is an
// error: guessing could make old data primary.
func loadState(path string) (State, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	s, err := decodeState(b)
	if err != nil {
		return s, fmt.Errorf("%s: %w: if the data of this host is to be discarded, remove the file and start with `second fullsync`", path, err)
	}
	return s, nil
}

// saveState makes s durable.
func saveState(path string, s State) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(s.encode())
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("record the state of the data: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
