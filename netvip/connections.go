package netvip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Layout of linux/inet_diag.h, in the order of the bytes:
//
//	inet_diag_req_v2       family, protocol, ext, pad: 1 each; states: 4; sockid: 48
//	inet_diag_msg          family, state, timer, retrans: 1 each; sockid: 48; 20 more
//	inet_diag_sockid       ports: 2+2, addresses: 16+16, interface: 4, cookie: 8
//	inet_diag_bc_op        code, yes: 1 each; no: 2
//	inet_diag_hostcond     family, prefix_len: 1 each; pad: 2; port: 4; addr
const (
	sizeSockID     = 48
	diagBytecode   = 1 // INET_DIAG_REQ_BYTECODE
	bytecodeSource = 7 // INET_DIAG_BC_S_COND
)

// States of include/net/tcp_states.h, as bits.
const (
	tcpEstablished = 1 << 1
	// What has a peer that can be told: not TIME_WAIT (6), CLOSE (7), LISTEN (10).
	tcpConnected = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 | 1<<12
)

// sockID is an inet_diag_sockid as the kernel gave it: it is only handed back.
type sockID struct {
	family byte
	id     [sizeSockID]byte
}

// rawData is a body of a netlink request.
type rawData []byte

func (r rawData) Len() int          { return len(r) }
func (r rawData) Serialize() []byte { return r }

func diagRequest(family byte, states uint32, id [sizeSockID]byte) rawData {
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, id[:]...)
}

// sockets lists the TCP sockets in one of the states whose own address is a. The
// kernel filters; for an IPv4 address it also finds those of IPv6 sockets that
// serve IPv4.
func (k *kernel) tcpSockets(a netip.Addr, states uint32) ([]sockID, error) {
	families := []byte{unix.AF_INET6}
	if a.Is4() {
		families = []byte{unix.AF_INET, unix.AF_INET6}
	}
	seen := make(map[sockID]bool)
	var all []sockID
	for _, family := range families {
		r := k.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		r.AddData(diagRequest(family, states, [sizeSockID]byte{}))
		r.AddData(nl.NewRtAttr(diagBytecode, sourceIs(a)))
		messages, err := r.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		// The table changes while it is listed. What is missed came or went meanwhile.
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("TCP connections of %s: %w", a, err)
		}
		for _, m := range messages {
			if len(m) < 4+sizeSockID {
				continue
			}
			s := sockID{family: m[0], id: [sizeSockID]byte(m[4:])}
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// sourceIs is a filter program of one instruction: the socket's own address is a.
// "yes" leads to its end, which accepts; "no" beyond, which refuses.
func sourceIs(a netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	addr := a.AsSlice()
	size := 4 + 8 + len(addr)
	b := []byte{bytecodeSource, byte(size)}
	b = binary.NativeEndian.AppendUint16(b, uint16(size+4))
	b = append(b, family, byte(a.BitLen()), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 1<<32-1) // any port
	return append(b, addr...)
}

// reset ends the connections of a: the peer gets RST, the application here
// ECONNABORTED. n is how many; the error, if any, says what was not.
func (k *kernel) reset(a netip.Addr) (n int, err error) {
	all, err := k.tcpSockets(a, tcpConnected)
	if err != nil {
		return 0, err
	}
	var first error
	for _, s := range all {
		r := k.request(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		r.AddData(diagRequest(s.family, 0, s.id))
		switch _, err := r.Execute(unix.NETLINK_INET_DIAG, 0); {
		case err == nil:
			n++
		case errors.Is(err, syscall.ENOENT): // it ended by itself
		case first == nil:
			first = err
		}
	}
	if errors.Is(first, syscall.EOPNOTSUPP) {
		return n, fmt.Errorf("connections of %s are not reset: this kernel lacks CONFIG_INET_DIAG_DESTROY: %w", a, first)
	}
	if first != nil {
		return n, fmt.Errorf("%d of %d connections of %s reset: %w", n, len(all), a, first)
	}
	return n, nil
}
