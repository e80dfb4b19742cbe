package lbfilter

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// note is what is pinned beside the filter, for those who find it: JSON in the map
// about.
type note struct {
	Format    int
	Signature string // of the policy
	Interface string
	Index     int // of the interface
	Mode      Mode
	Self      Number
	MAC       MAC      // the virtual one
	Groups    []string // multicast addresses that were joined
	Clsact    bool     // attached by clsact, not tcx
	Priority  uint16   // of the clsact filters
	MadeQdisc bool     // the queueing discipline was not there before, or for skfs only
}

// write puts the note into the map about.
func (f *Filter) write() error {
	text, err := json.Marshal(f.note)
	if err != nil {
		return err
	}
	about := f.coll.Maps["about"]
	if len(text) > int(about.ValueSize()) {
		return fmt.Errorf("the note on the filter has %d bytes, expected %d at most", len(text), about.ValueSize())
	}
	return about.Put(uint32(0), append(text, make([]byte, int(about.ValueSize())-len(text))...))
}

// readNote opens the map about in the directory.
func readNote(pins string) (n note, about *ebpf.Map, err error) {
	about, err = ebpf.LoadPinnedMap(filepath.Join(pins, "about"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil, ErrNone
	}
	if err != nil {
		return n, nil, fmt.Errorf("pinned map about: %w: %w", err, ErrOther)
	}
	text, err := about.LookupBytes(uint32(0))
	if err == nil {
		end := len(text)
		for end > 0 && text[end-1] == 0 {
			end--
		}
		err = json.Unmarshal(text[:end], &n)
	}
	if err != nil {
		about.Close()
		return n, nil, fmt.Errorf("note on the filter in %s: %w: %w", pins, err, ErrOther)
	}
	return n, about, nil
}

// Drop takes away the filter that is pinned in the directory, whoever made it, in
// the network namespace of the calling thread. ErrNone when nothing is there.
func Drop(pins string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("drop the filter in %s: netlink: %w", pins, err)
	}
	defer nl.Close()
	return drop(pins, nl)
}

func drop(pins string, nl *netlink.Handle) error {
	n, about, err := readNote(pins)
	switch {
	case errors.Is(err, ErrNone):
		if _, stat := os.Stat(pins); stat != nil {
			return err
		}
	case err == nil:
		about.Close()
		err = errors.Join(detachTCX(pins), n.detachClsact(nl), n.ignore(nl))
	}
	if err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, ErrOther) {
		return fmt.Errorf("drop the filter in %s: %w", pins, err)
	}
	// Without a readable note the links still end when their pins go.
	if removed := os.RemoveAll(pins); removed != nil {
		return fmt.Errorf("drop the filter in %s: %w", pins, removed)
	}
	if errors.Is(err, ErrOther) {
		return nil
	}
	return err
}
