package lbfilter

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrNone: nothing is pinned in the directory.
	ErrNone = errors.New("no filter is there")
	// ErrOther: what is pinned is not what the configuration asks for, or its
	// interface is gone. Open replaces it.
	ErrOther = errors.New("the filter that is there is another one")
	// ErrStale: a table that comes before the one in effect.
	ErrStale = errors.New("the table is older than the one in effect")
)

// Filter is a filter in the kernel. Its methods may be called at the same time.
type Filter struct {
	config Config
	nl     *netlink.Handle // in the namespace of the interface
	note   note

	mu    sync.Mutex // guards what follows, and calls of the kernel that change anything
	coll  *ebpf.Collection
	hooks hooks
	table *Table // in effect; nil before the first
}

// keptMaps are those that go on when a filter is adopted.
var keptMaps = []string{"tables", "lease", "stats", "about"}

// Open puts a filter on the interface, in the network namespace of the calling
// thread. It drops all traffic of the virtual addresses until Apply and Renew were
// called. A filter that is pinned in the directory is dropped first.
func Open(config Config) (*Filter, error) {
	f, err := newFilter(config)
	if err != nil {
		return nil, err
	}
	if err := f.open(); err != nil {
		return nil, errors.Join(f.errorf("open", err), f.Close(true))
	}
	return f, nil
}

// Adopt takes over the filter that is pinned in the directory: what it does goes
// on without a gap, with the table and the lease that it had, and with the programs
// of this release. ErrNone and ErrOther leave what is there alone.
func Adopt(config Config) (*Filter, error) {
	f, err := newFilter(config)
	if err != nil {
		return nil, err
	}
	if err := f.adopt(); err != nil {
		return nil, errors.Join(f.errorf("adopt", err), f.Close(false))
	}
	return f, nil
}

func newFilter(config Config) (*Filter, error) {
	config, err := config.check()
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("filter on %s: netlink: %w", config.Interface, err)
	}
	return &Filter{config: config, nl: nl}, nil
}

func (f *Filter) errorf(what string, err error) error {
	return fmt.Errorf("%s the filter on %s: %w", what, f.config.Interface, err)
}

func (f *Filter) open() error {
	if err := Drop(f.config.Pins); err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	link, err := f.link()
	if err != nil {
		return err
	}
	if err := makePins(f.config.Pins); err != nil {
		return err
	}
	f.note = note{Format: Format, Signature: f.config.Policy.Signature(), Interface: f.config.Interface,
		Index: link.Attrs().Index, Mode: f.config.Policy.mode, Self: f.config.Self, MAC: f.config.VirtualMAC,
		Groups: f.config.Policy.solicited(), Clsact: f.config.Clsact}
	if f.coll, err = f.load(nil); err != nil {
		return err
	}
	for _, name := range keptMaps {
		if err := f.coll.Maps[name].Pin(f.pin(name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	// First what is to be undone is noted, then it is done.
	if err := f.write(); err != nil {
		return err
	}
	if err := f.note.listen(f.nl); err != nil {
		return err
	}
	return f.attach()
}

// attach puts the programs on the interface: by tcx, or by clsact where the kernel
// has none. What goes out first, so that no answer goes out without it.
func (f *Filter) attach() error {
	if !f.note.Clsact {
		h, err := attachTCX(f.note.Index, f.coll, f.config.Pins)
		if err == nil {
			f.hooks = h
			return nil
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	h, err := prepareClsact(f.nl, &f.note)
	if err != nil {
		return err
	}
	if err := f.write(); err != nil {
		return err
	}
	if err := h.add(f.coll); err != nil {
		return err
	}
	f.hooks = h
	return nil
}

func (f *Filter) adopt() error {
	n, about, err := readNote(f.config.Pins)
	if err != nil {
		return err
	}
	about.Close()
	link, err := f.link()
	if err != nil {
		return err
	}
	c := f.config
	switch {
	case n.Format != Format:
		return fmt.Errorf("it has format %d, this release %d: %w", n.Format, Format, ErrOther)
	case n.Signature != c.Policy.Signature() || n.Self != c.Self || n.Mode == Invisible && n.MAC != c.VirtualMAC:
		return fmt.Errorf("it was made for another configuration: %w", ErrOther)
	case n.Index != link.Attrs().Index:
		return fmt.Errorf("its interface %d is gone, %s is interface %d: %w", n.Index, c.Interface, link.Attrs().Index, ErrOther)
	}
	f.note = n
	kept := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range kept {
			m.Close()
		}
	}()
	for _, name := range keptMaps {
		if kept[name], err = ebpf.LoadPinnedMap(f.pin(name), nil); err != nil {
			return fmt.Errorf("pinned map %s: %w: %w", name, err, ErrOther)
		}
	}
	if f.coll, err = f.load(kept); err != nil {
		return fmt.Errorf("%w: %w", err, ErrOther)
	}
	if f.table, err = readTable(f.coll.Maps["tables"]); err != nil {
		return fmt.Errorf("%w: %w", err, ErrOther)
	}
	if n.Clsact {
		f.hooks = &clsactHooks{nl: f.nl, note: &f.note}
	} else if f.hooks, err = adoptTCX(n.Index, f.config.Pins); err != nil {
		return fmt.Errorf("%w: %w", err, ErrOther)
	}
	if err := f.hooks.check(); err != nil {
		return fmt.Errorf("%w: %w", err, ErrOther)
	}
	return f.hooks.replace(f.coll)
}

func (f *Filter) load(kept map[string]*ebpf.Map) (*ebpf.Collection, error) {
	return load(f.config.Policy, constants{f.config.Self, f.config.Policy.mode, f.config.VirtualMAC}, kept)
}

func (f *Filter) pin(name string) string { return filepath.Join(f.config.Pins, name) }

// Apply puts a table into effect: a packet is treated by the old one or by the
// new one, and when Apply returns none is treated by the old one any more. The
// table is not kept.
func (f *Filter) Apply(t Table) error {
	if err := t.check(f.config.Policy); err != nil {
		return f.errorf("set the table of", err)
	}
	mac, err := f.MAC()
	if err != nil {
		return f.errorf("set the table of", err)
	}
	t.MACs[f.config.Self] = mac
	t.Groups = append([]Ownership(nil), t.Groups...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.table != nil && f.table.Later(&t) {
		return f.errorf("set the table of", fmt.Errorf("%d.%d after %d.%d: %w", t.Epoch, t.Version, f.table.Epoch, f.table.Version, ErrStale))
	}
	return f.put(&t)
}

// put replaces the table in effect. The caller holds mu.
func (f *Filter) put(t *Table) error {
	inner, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: tableSize, MaxEntries: 1})
	if err != nil {
		return f.errorf("make a table for", err)
	}
	defer inner.Close() // tables holds it
	if err := inner.Put(uint32(0), t.kernelBytes()); err != nil {
		return f.errorf("fill a table for", err)
	}
	if err := f.coll.Maps["tables"].Put(uint32(0), inner); err != nil {
		return f.errorf("set the table of", err)
	}
	f.table = t
	return nil
}

// readTable is the table in effect, or nil.
func readTable(tables *ebpf.Map) (*Table, error) {
	var inner *ebpf.Map
	err := tables.Lookup(uint32(0), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the table: %w", err)
	}
	defer inner.Close()
	b, err := inner.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	return tableOf(b)
}

// Table is a copy of the table in effect; nil when there is none.
func (f *Filter) Table() *Table {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.table == nil {
		return nil
	}
	t := *f.table
	t.Groups = append([]Ownership(nil), t.Groups...)
	return &t
}

// Boottime is CLOCK_BOOTTIME, which goes on while the machine is suspended.
func Boottime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // a kernel since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// Renew lets the filter work until then, by Boottime; after it all traffic of the
// virtual addresses is dropped. The caller adds the lease to the time at which it
// knew that it may go on, not to the time of the call: a process that was stopped
// between the two gives nothing that has not run out. A time that has passed ends
// the lease at once.
func (f *Filter) Renew(until time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.coll.Maps["lease"].Put(uint32(0), uint64(max(0, until))); err != nil {
		return f.errorf("renew the lease of", err)
	}
	return nil
}

// Check tells whether the filter is still on its interface, and puts back what
// others may have taken away or changed beside it: the virtual MAC in the
// interface's filter, the multicast groups, the interface's own MAC. After an error that is ErrOther the filter must be opened
// again.
func (f *Filter) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	link, err := f.link()
	if err != nil {
		return f.errorf("check", err)
	}
	if link.Attrs().Index != f.note.Index {
		return f.errorf("check", fmt.Errorf("interface %d is gone, %s is interface %d: %w", f.note.Index, f.config.Interface, link.Attrs().Index, ErrOther))
	}
	if err := f.hooks.check(); err != nil {
		return f.errorf("check", fmt.Errorf("%w: %w", err, ErrOther))
	}
	if err := f.note.listen(f.nl); err != nil {
		return f.errorf("check", err)
	}
	if mac := MAC(link.Attrs().HardwareAddr); f.table != nil && f.table.MACs[f.config.Self] != mac {
		t := *f.table
		t.MACs[f.config.Self] = mac
		return f.put(&t)
	}
	return nil
}

// Close ends the use of the filter. With detach it is taken off the interface and
// nothing of it is left; otherwise it goes on until its lease runs out, for Adopt
// or Drop.
func (f *Filter) Close(detach bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hooks != nil {
		f.hooks.close()
	}
	if f.coll != nil {
		f.coll.Close()
		f.coll = &ebpf.Collection{}
	}
	var err error
	if detach {
		if err = drop(f.config.Pins, f.nl); errors.Is(err, ErrNone) {
			err = nil
		}
	}
	f.nl.Close()
	return err
}
