package ha

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skfs/skfs/ha/process"
)

// What a module is in the middle of, SAFEVAR/modules/AM/ha.state:
//
//	line 1  "skfs ha.state 5 " and the crc32c of the rest, 8 hexadecimal digits
//	rest    JSON: Serial, Incarnation, Boot, StartAt, State
//
// Versions 1 to 4, which lack some fields whose zero value is right, are read.
// It is replaced atomically before anything that follows from it is done or said, and
// durably where a start of the host would make something else of it (State.lasting).
// Else it is ha.state.run that is replaced, in the same format: a daemon that is killed
// needs no flush of the disk to find it. Of the two the greater Serial counts, and
// ha.state.run only in the boot in which it was written.
type saved struct {
	Serial      uint64        // grows with every write
	Incarnation uint64        // of this node's heartbeats for the module
	Boot        string        // bootID when it was written
	StartAt     time.Duration // boottime at which it starts because its host did (boot_delay); 0: it does not, or has
	State       State
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	savedHeader  = "skfs ha.state 5 "
	savedHeader4 = "skfs ha.state 4 "
	savedHeader3 = "skfs ha.state 3 "
	savedHeader2 = "skfs ha.state 2 "
	savedHeader1 = "skfs ha.state 1 "
)

func encodeSaved(s saved) []byte {
	body, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		panic(err) // plain values only
	}
	body = append(body, '\n')
	return append(fmt.Appendf(nil, "%s%08x\n", savedHeader, crc32.Checksum(body, castagnoli)), body...)
}

func decodeSaved(data []byte) (saved, error) {
	var s saved
	head, body, ok := bytes.Cut(data, []byte("\n"))
	sum, known := "", false
	for _, header := range []string{savedHeader, savedHeader4, savedHeader3, savedHeader2, savedHeader1} {
		if !known {
			sum, known = strings.CutPrefix(string(head), header)
		}
	}
	switch {
	case !ok || !known:
		return s, fmt.Errorf("line 1 is %.40q, expected %q and a checksum: it was written by another version or is damaged", head, savedHeader)
	case sum != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)):
		return s, errors.New("the checksum in line 1 is not that of the rest: the file is damaged")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("after line 1: %w", err)
	}
	return s, s.State.check()
}

// check refuses values that no Step leaves behind.
func (s *State) check() error {
	if s.Role == RoleUnknown || s.Role >= roleEnd {
		return fmt.Errorf("role %d is out of range", s.Role)
	}
	for _, t := range append([]Task{s.Cur}, s.Plan...) {
		if int(t.Kind) >= len(taskNames) {
			return fmt.Errorf("task kind %d is out of range", t.Kind)
		}
	}
	return nil
}

// lasting is what is left of a state when its host was started again, in a form that can
// be compared. TaskID does not belong to it: adopt forgets what scripts have left.
func (s State) lasting() string {
	next, _ := Step(s, Adopted{Reboot: true}, time.Time{})
	next.Since, next.TaskID = time.Time{}, 0
	left, err := json.Marshal(next)
	if err != nil {
		panic(err) // plain values only
	}
	return fmt.Sprintf("%v %v %s", s.Role == RoleStop, s.Rebooted, left)
}

// runSaved is the path of ha.state.run.
func runSaved(path string) string { return path + ".run" }

// readNewest reads what counts of both files.
func readNewest(path, boot string) (saved, error) {
	s, err := readSaved(path)
	if err != nil {
		return s, err
	}
	run, err := readSaved(runSaved(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil && s.Boot != boot:
		return s, nil // of another boot, and never flushed
	case err != nil:
		return s, err
	case run.Boot == boot && s.Boot == boot && run.Serial > s.Serial:
		return run, nil
	}
	return s, nil
}

// readSaved returns fs.ErrNotExist if there is none.
func readSaved(path string) (saved, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return saved{}, err
	}
	s, err := decodeSaved(data)
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// replaceFile puts data at path in one step, which survives a power cut if it is durable.
func replaceFile(path string, data []byte, durable bool) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(path+".new")))
	}
	if !durable {
		return nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// bootID names the time between two starts of this host: the kernel's boot id,
// with the PID namespace and the start time of its first process, so that a
// container that is started again counts as a host that is.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", err
	}
	init, err := process.Read(1)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(id)) + " " + ns + " " + strconv.FormatUint(init.Start, 10), nil
}
