package echo

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

// Overhearing listens on a host for what a station sends in the name of some addresses.
type Overhearing struct{ watching[Overheard] }

// Overheard is what was heard of a station.
type Overheard struct {
	Frames int
	Last   time.Time // of the last of them
}

// Overhear has a host listen on an interface for IP packets that have one of the
// addresses as source and come from this MAC. A TCP segment that was sent before does not
// count: a kernel repeats for many seconds what nobody acknowledges, and that its filter
// lets the acknowledgement through no more is what is looked for.
func Overhear(ctx context.Context, h *lab.Host, device string, mac net.HardwareAddr, addrs ...string) (*Overhearing, error) {
	w, err := startWorker(ctx, h, overhearing, append([]string{device, mac.String()}, addrs...)...)
	if err != nil {
		return nil, fmt.Errorf("overhear %s: %w", mac, err)
	}
	return &Overhearing{watching[Overheard]{w}}, nil
}

func overhear(args []string) error {
	dev, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(args[1])
	if err != nil {
		return err
	}
	from := map[netip.Addr]bool{}
	for _, a := range args[2:] {
		from[netip.MustParseAddr(a)] = true
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	}
	if err == nil { // by the kernel's time: this process may have to wait for its turn
		err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err != nil {
		return fmt.Errorf("packet socket on %s: %w", dev.Name, err)
	}
	over := untilTold().Done()
	fmt.Println("ready")
	var heard Overheard
	sent := map[segment]bool{}
	buf, control := make([]byte, 1<<16), make([]byte, 256)
	for wait := []unix.PollFd{{Fd: int32(s), Events: unix.POLLIN}}; ; {
		select {
		case <-over:
			return json.NewEncoder(os.Stdout).Encode(heard)
		default:
		}
		if n, err := unix.Poll(wait, 100); n == 0 || err != nil {
			continue
		}
		n, k, _, _, err := unix.Recvmsg(s, buf, control, 0)
		if err != nil {
			return fmt.Errorf("packet socket on %s: %w", dev.Name, err)
		}
		if f := buf[:n]; n <= 54 || string(f[6:12]) != string(mac) || !from[sourceOf(f[12:])] {
			continue
		} else if seg, tcp := segmentOf(f[12:]); !tcp || !sent[seg] {
			sent[seg] = tcp
			heard.Frames++
			heard.Last = arrival(control[:k])
		}
	}
}

// arrival is when the kernel got what came with this control message.
func arrival(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// sourceOf is the source of an IP packet after its Ethernet type.
func sourceOf(f []byte) netip.Addr {
	switch {
	case f[0] == 0x08 && f[1] == 0x00:
		return netip.AddrFrom4([4]byte(f[2+12:]))
	case f[0] == 0x86 && f[1] == 0xdd:
		return netip.AddrFrom16([16]byte(f[2+8:]))
	}
	return netip.Addr{}
}

// segment is where a TCP segment begins: ports and sequence number.
type segment [8]byte

// segmentOf is that of an IP packet after its Ethernet type, if it is one of TCP.
func segmentOf(f []byte) (s segment, ok bool) {
	const tcp = 6
	header, proto := 2+40, f[2+6] // an IPv6 header has one length
	if f[0] == 0x08 {
		header, proto = 2+int(f[2]&15)*4, f[2+9]
	}
	if proto != tcp || len(f) < header+len(s) {
		return s, false
	}
	copy(s[:], f[header:])
	return s, true
}
