package replica

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
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

	Instance uint64   // random; in the stamps of the trees that this record speaks of
	Boot     [16]byte // boot id of the kernel when the reign or the following began
	journal.Standing
}

// Consistent says whether the data is a state that the application has written.
func (s State) Consistent() bool { return s.Role != RoleSyncing }

// Uptodate says whether the data is surely the newest, after a start.
func (s State) Uptodate() bool { return s.Role == RoleAlone && !s.Strange }

// Rank orders data of the same epoch: the greater may be primary when both hosts
// are there and neither is sure. booted: the host has booted since the reign or the
// following that the record tells of. A primary that lost its power while connected
// may have lost what was not flushed; a second whose host went on has it, and so has
// one that logs what it receives (async="none").
func (s State) Rank(booted, logs bool) int {
	switch s.Role {
	case RoleAlone:
		return 6
	case RoleConnected, RoleSecond:
		if s.Strange { // its disk has failed, or it is another one
			return 0
		}
	}
	switch s.Role {
	case RoleConnected:
		if booted {
			return 2
		}
		return 5
	case RoleClean: // flushed
		return 4
	case RoleSecond:
		if booted && !logs {
			return 1
		}
		return 3
	case RoleSyncing:
		return -1
	}
	return 0
}

// The file is replaced by write, fsync, rename, fsync of the directory. Numbers
// are little endian.
//
//	offset  size
//	0       8     "skfsrfs\x00"
//	8       1     version, 2
//	9       1     Role
//	10      8     Epoch
//	18      8     Seq
//	26      8     Instance
//	34      8     Current
//	42      8     Base
//	50      32    History, four generations, the latest first
//	82      1     flags: 1 Shared, 2 Lost, 4 Strange, 8 Loose
//	83      8     Checkpoint
//	91      8     Noted
//	99      8     At, seconds since 1970
//	107     4     At, nanoseconds
//	111     16    Boot
//	127     4     crc32c of the bytes before
//
// Version 1 ended behind Seq with the checksum. It knows no generation, so its host
// is brought up to date as one that was never part of a pair.
const (
	stateMagic   = "skfsrfs\x00"
	stateVersion = 2
	stateLen     = 131
	stateLenV1   = 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errState says that a state file cannot be relied upon.
var errState = errors.New("not a state file of skfs")

func (s State) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, stateLen)
	b = append(b, stateMagic...)
	b = append(b, stateVersion, byte(s.Role))
	b = le.AppendUint64(b, uint64(s.Epoch))
	b = le.AppendUint64(b, uint64(s.Seq))
	b = le.AppendUint64(b, s.Instance)
	b = le.AppendUint64(b, uint64(s.Current))
	b = le.AppendUint64(b, uint64(s.Base))
	for _, g := range s.History {
		b = le.AppendUint64(b, uint64(g))
	}
	var flags byte
	for bit, f := range s.flags() {
		if *f {
			flags |= 1 << bit
		}
	}
	b = append(b, flags)
	b = le.AppendUint64(b, s.Checkpoint)
	b = le.AppendUint64(b, s.Noted)
	b = le.AppendUint64(b, uint64(s.At.Sec))
	b = le.AppendUint32(b, s.At.Nsec)
	b = append(b, s.Boot[:]...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// flags are the fields behind the flags of the format, from the lowest bit on.
func (s *State) flags() [4]*bool {
	return [...]*bool{&s.Shared, &s.Lost, &s.Strange, &s.Loose}
}

func decodeState(b []byte) (State, error) {
	le := binary.LittleEndian
	if len(b) <= len(stateMagic) {
		return State{}, fmt.Errorf("%w: %d bytes, expected %d", errState, len(b), stateLen)
	}
	if string(b[:8]) != stateMagic {
		return State{}, fmt.Errorf("%w: it begins with %q, expected %q", errState, b[:8], stateMagic)
	}
	size := stateLen
	switch b[8] {
	case 1:
		size = stateLenV1
	case stateVersion:
	default:
		return State{}, fmt.Errorf("%w: version %d, expected at most %d", errState, b[8], stateVersion)
	}
	s := State{}
	switch {
	case len(b) != size:
		return s, fmt.Errorf("%w: %d bytes, expected %d in version %d", errState, len(b), size, b[8])
	case le.Uint32(b[size-4:]) != crc32.Checksum(b[:size-4], castagnoli):
		return s, fmt.Errorf("%w: the checksum is wrong", errState)
	case Role(b[9]) >= roleEnd:
		return s, fmt.Errorf("%w: role %d, expected less than %d", errState, b[9], roleEnd)
	case b[8] == stateVersion && b[82]>>len(s.flags()) != 0:
		return s, fmt.Errorf("%w: flags %#x, expected at most %d of them", errState, b[82], len(s.flags()))
	}
	s.Role, s.Epoch, s.Seq = Role(b[9]), journal.Epoch(le.Uint64(b[10:])), journal.Seq(le.Uint64(b[18:]))
	if b[8] == 1 {
		return s, nil
	}
	s.Instance = le.Uint64(b[26:])
	s.Current, s.Base = journal.Generation(le.Uint64(b[34:])), journal.Generation(le.Uint64(b[42:]))
	for i := range s.History {
		s.History[i] = journal.Generation(le.Uint64(b[50+8*i:]))
	}
	for bit, f := range s.flags() {
		*f = b[82]>>bit&1 == 1
	}
	s.Checkpoint, s.Noted = le.Uint64(b[83:]), le.Uint64(b[91:])
	s.At = journal.Time{Sec: int64(le.Uint64(b[99:])), Nsec: le.Uint32(b[107:])}
	copy(s.Boot[:], b[111:])
	return s, nil
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

// bootID names this boot of the kernel.
func bootID() (id [16]byte, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return id, err
	}
	if n, err := hex.Decode(id[:], bytes.ReplaceAll(bytes.TrimSpace(b), []byte("-"), nil)); err != nil || n != len(id) {
		return id, fmt.Errorf("%s: %q: expected a UUID", path, b)
	}
	return id, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
