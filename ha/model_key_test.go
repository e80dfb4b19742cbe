package ha

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"reflect"
	"time"
	"unsafe"
)

// key identifies a world up to the numbers of tasks and what follows from the rest.
// It is 64 bits wide: of a few million worlds, two have the same key with a
// probability of less than one in a million.
func (w *world) key() uint64 {
	buf := make([]byte, 0, 4096)
	buf = worldCode.append(buf, unsafe.Pointer(w))
	for i := range w.n {
		n := &w.n[i]
		s := n.s
		for k := range n.tasks {
			t := &n.tasks[k]
			who := byte('x')
			switch t.run.ID {
			case s.CurID:
				who = 'c'
			case s.Alone:
				who = 'a'
			case s.Yield:
				who = 'y'
			case s.AddressID:
				who = 'v'
			case s.WitnessID:
				who = 'w'
			}
			buf = append(buf, who, bit(t.done), bit(t.old), byte(t.res.Missing), bit(t.res.Err != nil))
			if t.res.Err != nil {
				buf = append(buf, t.res.Err.Error()...)
			}
			buf = taskCode.append(buf, unsafe.Pointer(&t.run.Task))
		}
		s.TaskID, s.CurID, s.Alone, s.Yield, s.AddressID, s.WitnessID = 0, min(s.CurID, 1), min(s.Alone, 1), min(s.Yield, 1), min(s.AddressID, 1), min(s.WitnessID, 1)
		buf = stateCode.append(append(buf, '|'), unsafe.Pointer(&s))
		buf = nodeCode.append(append(buf, '|'), unsafe.Pointer(n))
	}
	return hash(buf)
}

// hash mixes eight bytes at a time, by multiplication as wyhash does.
func hash(b []byte) uint64 {
	const p0, p1 = 0xa0761d6478bd642f, 0xe7037ed1a0b428db
	h := uint64(len(b)) ^ p0
	for ; len(b) >= 8; b = b[8:] {
		hi, lo := bits.Mul64(h^binary.LittleEndian.Uint64(b), p1)
		h = hi ^ lo ^ h<<1
	}
	for _, c := range b {
		hi, lo := bits.Mul64(h^uint64(c), p0)
		h = hi ^ lo
	}
	hi, lo := bits.Mul64(h, p0)
	return hi ^ lo
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// A code says how values of a type are written, so that equal values are written
// equally. It is made from the type once: a field that State gets is part of the key
// without being named here.
type code []codeOp

type codeOp struct {
	off, size uintptr
	kind      reflect.Kind // Uint8: size bytes; String; Slice; Int64: a time
	elem      code
	typ       reflect.Type // of a map
}

var (
	stateCode = codeOf(reflect.TypeFor[State](), "Conf")
	taskCode  = codeOf(reflect.TypeFor[Task]())
	nodeCode  = codeOf(reflect.TypeFor[mnode](), "s", "say", "tasks")
	worldCode = codeOf(reflect.TypeFor[world](), "n", "step", "bad")
)

func codeOf(t reflect.Type, leaveOut ...string) code {
	var c code
	var add func(t reflect.Type, off uintptr, leaveOut ...string)
	add = func(t reflect.Type, off uintptr, leaveOut ...string) {
		switch {
		case t == reflect.TypeFor[time.Time]():
			c = append(c, codeOp{off: off, kind: reflect.Int64})
			return
		}
		switch t.Kind() {
		case reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				left := false
				for _, name := range leaveOut {
					left = left || f.Name == name
				}
				if !left {
					add(f.Type, off+f.Offset)
				}
			}
		case reflect.Array:
			for i := range t.Len() {
				add(t.Elem(), off+uintptr(i)*t.Elem().Size())
			}
		case reflect.Map:
			c = append(c, codeOp{off: off, kind: reflect.Map, typ: t})
		case reflect.String:
			c = append(c, codeOp{off: off, kind: reflect.String})
		case reflect.Slice:
			c = append(c, codeOp{off: off, size: t.Elem().Size(), kind: reflect.Slice, elem: codeOf(t.Elem())})
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			if n := len(c); n > 0 && c[n-1].kind == reflect.Uint8 && c[n-1].off+c[n-1].size == off {
				c[n-1].size += t.Size()
				return
			}
			c = append(c, codeOp{off: off, size: t.Size(), kind: reflect.Uint8})
		default:
			panic("a " + t.Kind().String() + " cannot be part of a key: " + t.String())
		}
	}
	add(t, 0, leaveOut...)
	return c
}

// sliceHeader is how the compiler lays out a slice.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func (c code) append(buf []byte, p unsafe.Pointer) []byte {
	for _, op := range c {
		at := unsafe.Add(p, op.off)
		switch op.kind {
		case reflect.Uint8:
			buf = append(buf, unsafe.Slice((*byte)(at), op.size)...)
		case reflect.String:
			s := *(*string)(at)
			buf = append(binary.LittleEndian.AppendUint32(buf, uint32(len(s))), s...)
		case reflect.Map:
			buf = fmt.Appendf(buf, "%v", reflect.NewAt(op.typ, at).Elem()) // in the order of the keys
		case reflect.Int64:
			buf = binary.LittleEndian.AppendUint64(buf, uint64((*time.Time)(at).UnixNano()))
		case reflect.Slice:
			h := (*sliceHeader)(at)
			buf = binary.LittleEndian.AppendUint32(buf, uint32(h.len))
			for i := range h.len {
				buf = op.elem.append(buf, unsafe.Add(h.data, uintptr(i)*op.size))
			}
		}
	}
	return buf
}
