package lbfilter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of the programs in the object, and of their pinned links.
const (
	ingress = "skfs_ingress"
	egress  = "skfs_egress"
)

// hooks are the places where the programs are attached.
type hooks interface {
	// check tells whether both programs are attached.
	check() error
	// replace puts the programs of another collection in the place of those that are
	// there, without a moment with none.
	replace(*ebpf.Collection) error
	// close lets go of descriptors; what is attached stays.
	close()
}

// tcxHooks are two links, which are pinned.
type tcxHooks struct {
	index int
	links map[string]link.Link
}

// attachTCX attaches both programs. What was attached before an error stays
// pinned, for detachTCX.
func attachTCX(index int, coll *ebpf.Collection, pins string) (*tcxHooks, error) {
	h := &tcxHooks{index: index, links: map[string]link.Link{}}
	for _, at := range []struct {
		name   string
		attach ebpf.AttachType
		anchor link.Anchor
	}{
		// The last to see what goes out, the first to see what comes in.
		{egress, ebpf.AttachTCXEgress, link.Tail()},
		{ingress, ebpf.AttachTCXIngress, link.Head()},
	} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: coll.Programs[at.name], Attach: at.attach, Anchor: at.anchor})
		if err == nil {
			h.links[at.name] = l
			err = l.Pin(filepath.Join(pins, at.name))
		}
		if err != nil {
			h.close()
			return nil, fmt.Errorf("attach %s by tcx: %w", at.name, err)
		}
	}
	return h, nil
}

func adoptTCX(index int, pins string) (*tcxHooks, error) {
	h := &tcxHooks{index: index, links: map[string]link.Link{}}
	for _, name := range []string{egress, ingress} {
		l, err := link.LoadPinnedLink(filepath.Join(pins, name), nil)
		if err != nil {
			h.close()
			return nil, fmt.Errorf("pinned link %s: %w", name, err)
		}
		h.links[name] = l
	}
	return h, nil
}

func (h *tcxHooks) check() error {
	for name, l := range h.links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("link of %s: %w", name, err)
		}
		if t := info.TCX(); t == nil || int(t.Ifindex) != h.index {
			return fmt.Errorf("link of %s is no longer on interface %d", name, h.index)
		}
	}
	return nil
}

func (h *tcxHooks) replace(coll *ebpf.Collection) error {
	for _, name := range []string{egress, ingress} {
		if err := h.links[name].Update(coll.Programs[name]); err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
	}
	return nil
}

func (h *tcxHooks) close() {
	for _, l := range h.links {
		l.Close()
	}
}

// detachTCX takes both programs off the interface at once: it does not wait until
// the last descriptor is closed.
func detachTCX(pins string) error {
	var all error
	for _, name := range []string{ingress, egress} {
		l, err := link.LoadPinnedLink(filepath.Join(pins, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			if d, ok := l.(interface{ Detach() error }); ok {
				// The interface may be gone.
				if e := d.Detach(); e != nil && !errors.Is(e, unix.ENOLINK) && !errors.Is(e, unix.ENODEV) {
					err = e
				}
			}
			err = errors.Join(err, l.Unpin(), l.Close())
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("detach %s: %w", name, err))
		}
	}
	return all
}

// clsactHooks are two cls_bpf filters of a clsact queueing discipline. They have
// no links: the kernel keeps them until they are deleted or the interface goes.
type clsactHooks struct {
	nl   *netlink.Handle
	note *note
}

// firstPriority is where a free priority is looked for: behind what is there by
// default, so that administrators can put something before it.
const firstPriority = 0x5afe

// clsactQdisc is the discipline on the interface.
func clsactQdisc(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

// prepareClsact makes the discipline if there is none, and takes a priority that
// is free: both are noted.
func prepareClsact(nl *netlink.Handle, n *note) (*clsactHooks, error) {
	h := &clsactHooks{nl, n}
	n.Clsact = true
	switch err := nl.QdiscAdd(clsactQdisc(n.Index)); {
	case err == nil:
		n.MadeQdisc = true
	case !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("clsact queueing discipline: %w", err)
	}
	taken, ours, others := map[uint16]bool{}, 0, 0
	for _, parent := range parents {
		filters, err := h.list(parent)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			taken[f.Attrs().Priority] = true
			if b, ok := f.(*netlink.BpfFilter); ok && (b.Name == ingress || b.Name == egress) {
				ours++
			} else {
				others++
			}
		}
	}
	// One that is there for another filter of skfs goes with the last of them.
	n.MadeQdisc = n.MadeQdisc || ours > 0 && others == 0
	for n.Priority = firstPriority; taken[n.Priority]; n.Priority++ {
	}
	return h, nil
}

// parents are the two sides of the discipline.
var parents = map[string]uint32{egress: netlink.HANDLE_MIN_EGRESS, ingress: netlink.HANDLE_MIN_INGRESS}

func (h *clsactHooks) list(parent uint32) ([]netlink.Filter, error) {
	all, err := h.nl.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: h.note.Index}}, parent)
	if err != nil {
		return nil, fmt.Errorf("list filters of clsact: %w", err)
	}
	return all, nil
}

func (h *clsactHooks) filter(name string) *netlink.BpfFilter {
	return &netlink.BpfFilter{Name: name, DirectAction: true, FilterAttrs: netlink.FilterAttrs{LinkIndex: h.note.Index,
		Parent: parents[name], Handle: 1, Priority: h.note.Priority, Protocol: unix.ETH_P_ALL}}
}

func (h *clsactHooks) add(coll *ebpf.Collection) error {
	for _, name := range []string{egress, ingress} {
		f := h.filter(name)
		f.Fd = coll.Programs[name].FD()
		if err := h.nl.FilterAdd(f); err != nil {
			return fmt.Errorf("attach %s by clsact: %w", name, err)
		}
	}
	return nil
}

func (h *clsactHooks) check() error {
	for name, parent := range parents {
		found := false
		filters, err := h.list(parent)
		if err != nil {
			return err
		}
		for _, f := range filters {
			b, ok := f.(*netlink.BpfFilter)
			found = found || ok && b.Priority == h.note.Priority && b.Name == name
		}
		if !found {
			return fmt.Errorf("%s is no longer on interface %d", name, h.note.Index)
		}
	}
	return nil
}

func (h *clsactHooks) replace(coll *ebpf.Collection) error {
	for _, name := range []string{egress, ingress} {
		f := h.filter(name)
		f.Fd = coll.Programs[name].FD()
		if err := h.nl.FilterReplace(f); err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
	}
	return nil
}

func (h *clsactHooks) close() {}

// detachClsact deletes the filters, and the discipline if it was made for them and
// nobody else has begun to use it.
func (n *note) detachClsact(nl *netlink.Handle) error {
	if !n.Clsact {
		return nil
	}
	if _, err := nl.LinkByIndex(n.Index); err != nil {
		return nil // it went with the interface
	}
	h := &clsactHooks{nl, n}
	left := 0
	for _, name := range []string{ingress, egress} {
		if n.Priority != 0 {
			if err := nl.FilterDel(h.filter(name)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("detach %s: %w", name, err)
			}
		}
		filters, err := h.list(parents[name])
		if err != nil {
			return err
		}
		left += len(filters)
	}
	if n.MadeQdisc && left == 0 {
		if err := nl.QdiscDel(clsactQdisc(n.Index)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("remove the clsact queueing discipline: %w", err)
		}
	}
	return nil
}
