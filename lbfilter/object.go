package lbfilter

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

//go:generate bpf/build.sh

// object is what bpf/build.sh made of the files beside it.
//
//go:embed bpf/filter.o
var object []byte

// constants are those of bpf/table.h.
type constants struct {
	self Number
	mode Mode
	vmac MAC
}

// load brings the programs into the kernel, with the maps of kept in place of
// new ones, and the policy in their maps.
func load(p *Policy, c constants, kept map[string]*ebpf.Map) (*ebpf.Collection, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("the filter is compiled for little endian machines only")
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read the filter: %w", err)
	}
	invisible := uint8(0)
	if c.mode == Invisible {
		invisible = 1
	}
	for name, value := range map[string]any{"self": uint8(c.self), "invisible": invisible, "virtual_mac": c.vmac, "seed": Seed} {
		v := spec.Variables[name]
		if v == nil {
			return nil, fmt.Errorf("the filter has no constant %s", name)
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set %s of the filter: %w", name, err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: kept})
	if err != nil {
		return nil, fmt.Errorf("load the filter into the kernel (it needs Linux 5.9 or later, and CAP_BPF): %w", err)
	}
	if err := p.fill(coll); err != nil {
		coll.Close()
		return nil, err
	}
	return coll, nil
}

// fill puts the addresses and rules into the maps of the filter.
func (p *Policy) fill(coll *ebpf.Collection) error {
	for i, a := range p.addrs {
		m := coll.Maps["addresses4"]
		if a.Is6() {
			m = coll.Maps["addresses6"]
		}
		if err := m.Put(a.AsSlice(), uint32(i)); err != nil {
			return fmt.Errorf("give the filter the address %s: %w", a, err)
		}
	}
	for _, k := range p.keys() {
		index := p.byKey[k]
		r := p.rules[index]
		key := [4]byte{k.addr, uint8(k.proto)}
		binary.BigEndian.PutUint16(key[2:], k.port)
		if err := coll.Maps["rules"].Put(key, [4]byte{index, r.group, uint8(r.Filter)}); err != nil {
			return fmt.Errorf("give the filter the rule %s: %w", r.Rule, err)
		}
	}
	return nil
}
