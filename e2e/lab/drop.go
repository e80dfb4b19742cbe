package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insn is one eBPF instruction.
type insn struct {
	op   uint8
	regs uint8 // source register in the high half, destination in the low
	off  int16 // of a jump, in instructions
	imm  int32
}

const (
	bpfMovReg = 0xbf
	bpfMovImm = 0xb7
	bpfLdAbsW = 0x20 // r0 = the big-endian word of the frame at imm; wants the context in r6
	bpfLdAbsH = 0x28
	bpfJneImm = 0x56 // compares 32 bits
	bpfExit   = 0x95

	tcActUnspec = -1 // go on
	tcActShot   = 2  // drop
)

// dropFrom is a traffic control program that drops the frames whose source is
// mac. It works on kernels without netem, nftables or any action module: the
// verdict is the program's own.
func dropFrom(mac net.HardwareAddr) []insn {
	hi, lo := binary.BigEndian.Uint32(mac[0:4]), binary.BigEndian.Uint16(mac[4:6])
	return []insn{
		{op: bpfMovReg, regs: 1<<4 | 6}, // r6 = r1, the frame
		{op: bpfLdAbsW, imm: 6},         // bytes 6 to 11 are the source address
		{op: bpfJneImm, imm: int32(hi), off: 4},
		{op: bpfLdAbsH, imm: 10},
		{op: bpfJneImm, imm: int32(lo), off: 2},
		{op: bpfMovImm, imm: tcActShot},
		{op: bpfExit},
		{op: bpfMovImm, imm: tcActUnspec},
		{op: bpfExit},
	}
}

// loadDropFrom loads the program and returns its descriptor.
func loadDropFrom(mac net.HardwareAddr) (int, error) {
	prog := dropFrom(mac)
	license := []byte("GPL\x00")
	log := make([]byte, 4096)
	var pin runtime.Pinner // the kernel gets addresses that Go does not see as pointers
	defer pin.Unpin()
	pin.Pin(&prog[0])
	pin.Pin(&license[0])
	pin.Pin(&log[0])
	// The first fields of union bpf_attr for BPF_PROG_LOAD, linux/bpf.h.
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
	}{
		progType:  unix.BPF_PROG_TYPE_SCHED_CLS,
		insnCount: uint32(len(prog)),
		insns:     uint64(uintptr(unsafe.Pointer(&prog[0]))),
		license:   uint64(uintptr(unsafe.Pointer(&license[0]))),
		logLevel:  1,
		logSize:   uint32(len(log)),
		logBuf:    uint64(uintptr(unsafe.Pointer(&log[0]))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, fmt.Errorf("load drop filter: %w: %s", errno, strings.TrimRight(string(log), "\x00\n"))
	}
	return int(fd), nil
}
