package echo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

// serveUDP says the name of the host to each datagram, from the address that it was sent
// to, until the process ends.
func serveUDP(name, port string) error {
	for _, family := range []struct {
		network      string
		level, info  int
		controlSpace int
	}{
		{"udp4", unix.IPPROTO_IP, unix.IP_PKTINFO, unix.CmsgSpace(unix.SizeofInet4Pktinfo)},
		{"udp6", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.CmsgSpace(unix.SizeofInet6Pktinfo)},
	} {
		p, err := net.ListenPacket(family.network, ":"+port)
		if err != nil {
			return err
		}
		c := p.(*net.UDPConn)
		raw, err := c.SyscallConn()
		if err == nil {
			var failed error
			err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), family.level, family.info, 1) })
			if err == nil {
				err = failed
			}
		}
		if err != nil {
			return fmt.Errorf("%s: ask for the address of arrival: %w", family.network, err)
		}
		go func() {
			data, control := make([]byte, 1500), make([]byte, family.controlSpace)
			for {
				_, n, _, from, err := c.ReadMsgUDP(data, control)
				if err != nil {
					continue // an ICMP error of an earlier answer
				}
				c.WriteMsgUDP([]byte(name), control[:n], from) // lost, if it cannot be sent
			}
		}()
	}
	return nil
}

// AskUDP has a host send n datagrams from ports of their own, and then as many from one
// port, and returns who answered the former and who the latter. Each is sent again until
// somebody does.
func AskUDP(ctx context.Context, h *lab.Host, addr string, n int) (manyPorts, onePort Asked, err error) {
	if manyPorts, err = asking(ctx, h, addr, n, askUDPRole); err == nil {
		onePort, err = asking(ctx, h, addr, -n, askUDPRole)
	}
	return manyPorts, onePort, err
}

// askUDP sends args[1] datagrams; if that is negative, from one port.
func askUDP(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	one := n < 0
	if one {
		n = -n
	}
	a := Asked{}
	var c net.Conn // connected: the kernel numbers its packets (their IPv4 identification)
	for range n {
		if c == nil || !one {
			if c != nil {
				c.Close()
			}
			if c, err = net.Dial("udp", args[0]); err != nil {
				return err
			}
		}
		name, err := exchange(c)
		if err != nil {
			return err
		}
		a[name]++
	}
	c.Close()
	return json.NewEncoder(os.Stdout).Encode(a)
}

func exchange(c net.Conn) (string, error) {
	buf := make([]byte, 1500)
	for late := time.Now().Add(patience); ; {
		if _, err := c.Write([]byte("who")); err != nil && time.Now().After(late) {
			return "", err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if time.Now().After(late) {
			return "", fmt.Errorf("datagrams of %s are not answered: %w", c.LocalAddr(), err)
		}
	}
}
