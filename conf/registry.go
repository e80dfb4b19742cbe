package conf

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ErrNotInstalled says that there is no module of that name on this node.
var ErrNotInstalled = errors.New("module is not installed")

// ErrNotConfigured says that the module has no active configuration.
var ErrNotConfigured = errors.New("module is not configured")

// Installed is a module of this node.
type Installed struct {
	Name string
	ID   int // decides its ports; the same on all nodes of the module
}

// Installed returns the modules of this node, sorted by name.
func (p Paths) Installed() ([]Installed, error) {
	ms, err := p.readIDs()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ms, func(a, b Installed) int { return cmp.Compare(a.Name, b.Name) })
	return ms, nil
}

// ModuleID returns the id of module am, or ErrNotInstalled.
func (p Paths) ModuleID(am string) (int, error) {
	ms, err := p.readIDs()
	if err != nil {
		return 0, err
	}
	names := make([]string, len(ms))
	for i, m := range ms {
		if m.Name == am {
			return m.ID, nil
		}
		names[i] = m.Name
	}
	if n := Nearest(am, names); n != "" {
		return 0, fmt.Errorf("%s: %w; did you mean %s?", am, ErrNotInstalled, n)
	}
	return 0, fmt.Errorf("%s: %w", am, ErrNotInstalled)
}

// setID gives am an id and notes it; id 0 takes the lowest free one. A module
// that has an id keeps it unless another is asked for. Caller holds p.lock.
func (p Paths) setID(am string, id int) (int, error) {
	ms, err := p.readIDs()
	if err != nil {
		return 0, err
	}
	used := map[int]string{}
	at := -1
	for i, m := range ms {
		if m.Name == am {
			at = i
		} else {
			used[m.ID] = m.Name
		}
	}
	switch {
	case id < 0 || id > MaxID:
		return 0, fmt.Errorf("module id %d: expected 1 to %d", id, MaxID)
	case id != 0 && used[id] != "":
		return 0, fmt.Errorf("module id %d belongs to module %s", id, used[id])
	case id == 0 && at >= 0:
		return ms[at].ID, nil
	case id == 0:
		for id = 1; used[id] != ""; id++ {
		}
		if id > MaxID {
			return 0, fmt.Errorf("no module id is free: %d modules are installed", len(ms))
		}
	}
	if at >= 0 {
		ms[at].ID = id
	} else {
		ms = append(ms, Installed{am, id})
	}
	return id, p.writeIDs(ms)
}

// dropID forgets am. Caller holds p.lock.
func (p Paths) dropID(am string) error {
	ms, err := p.readIDs()
	if err != nil {
		return err
	}
	return p.writeIDs(slices.DeleteFunc(ms, func(m Installed) bool { return m.Name == am }))
}

// The file of ids, SAFEVAR/modules.ids, is text:
//
//	line 1     skfs modules 1        name and version of the format
//	lines      <id> <name>           sorted by id
//	last line  crc32c <8 hex digits> of all bytes before this line

const idsHeader = "skfs modules 1\n"

func encodeIDs(ms []Installed) []byte {
	ms = slices.Clone(ms)
	slices.SortFunc(ms, func(a, b Installed) int { return cmp.Compare(a.ID, b.ID) })
	var b bytes.Buffer
	b.WriteString(idsHeader)
	for _, m := range ms {
		fmt.Fprintf(&b, "%d %s\n", m.ID, m.Name)
	}
	return seal(b.Bytes())
}

func decodeIDs(data []byte) ([]Installed, error) {
	body, err := unseal(data, idsHeader)
	if err != nil {
		return nil, err
	}
	var ms []Installed
	names, ids := map[string]bool{}, map[int]bool{}
	for sc, line := bufio.NewScanner(bytes.NewReader(body)), 2; sc.Scan(); line++ {
		idText, name, _ := strings.Cut(sc.Text(), " ")
		id, err := strconv.Atoi(idText)
		if err != nil || id < 1 || id > MaxID || !validName.MatchString(name) || names[name] || ids[id] {
			return nil, fmt.Errorf("line %d: expected an id and a name, each once; got %q", line, sc.Text())
		}
		names[name], ids[id] = true, true
		ms = append(ms, Installed{name, id})
	}
	return ms, nil
}

func (p Paths) readIDs() ([]Installed, error) {
	data, err := os.ReadFile(p.ModuleIDs())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ms, err := decodeIDs(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.ModuleIDs(), err)
	}
	return ms, nil
}

func (p Paths) writeIDs(ms []Installed) error {
	return writeFile(p.ModuleIDs(), encodeIDs(ms), 0o644)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the line with the checksum.
func seal(b []byte) []byte {
	return fmt.Appendf(b, "crc32c %08x\n", crc32.Checksum(b, castagnoli))
}

// unseal checks header and checksum and returns what is between them.
func unseal(data []byte, header string) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(header)) {
		first, _, _ := bytes.Cut(data, []byte("\n"))
		return nil, fmt.Errorf("line 1: expected %q, got %q", strings.TrimSpace(header), first)
	}
	i := bytes.LastIndex(data, []byte("crc32c "))
	if i < len(header) || string(seal(slices.Clone(data[:i]))) != string(data) {
		return nil, errors.New("checksum does not match: the file was damaged or edited")
	}
	return data[len(header):i], nil
}
