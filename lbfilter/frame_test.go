package lbfilter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// frame is a random frame and what is known of it; frameOf builds the bytes.
type frame struct {
	query    Query
	kind     frameKind
	flags    byte // of a TCP segment
	later    bool // a fragment that is not the first
	headers  int  // IPv6 extension headers, or IPv4 options in words
	to       MAC
	from     MAC
	protocol uint8 // of the IP header
	hops     uint8
}

type frameKind int

const (
	plain    frameKind = iota // of a protocol, to the virtual address
	icmpErr                   // quotes the flow
	question                  // ARP request or neighbour solicitation
	probe                     // the same from somebody who has no address yet
	reply                     // ARP reply or advertisement
	claim                     // ARP in the name of the virtual address
	frameKinds
)

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

func randomAddr(r *rand.Rand, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
	}
	a := [16]byte{0: 0x20, 1: 0x01}
	binary.LittleEndian.PutUint64(a[2:], r.Uint64())
	binary.LittleEndian.PutUint64(a[8:], r.Uint64())
	return netip.AddrFrom16(a)
}

// randomFrame is for one of the addresses.
func randomFrame(r *rand.Rand, addrs []netip.Addr, ports []uint16, macs []MAC, to MAC) frame {
	service := addrs[r.IntN(len(addrs))]
	f := frame{kind: frameKind(r.IntN(int(frameKinds))), to: to, from: macs[r.IntN(len(macs))], hops: uint8(2 + r.IntN(250))}
	if r.IntN(3) > 0 {
		f.kind = plain
	}
	client := randomAddr(r, service.Is4())
	f.protocol = []uint8{6, 6, 6, 17, 17, 17, 47, 1}[r.IntN(8)]
	if f.protocol == 1 && service.Is6() {
		f.protocol = 58
	}
	f.flags = []byte{syn, syn | ack, ack, psh | ack, fin | ack, rst, 0}[r.IntN(7)]
	f.query = Query{Proto: Proto(f.protocol), IPID: uint16(r.Uint32())}
	clientPort, servicePort := uint16(0), uint16(0)
	switch f.kind {
	case plain, icmpErr:
		if f.kind == icmpErr {
			f.protocol = []uint8{6, 17}[r.IntN(2)]
			f.query.Proto, f.query.Error = Proto(f.protocol), true
		}
		f.headers = r.IntN(3)
		if f.protocol == 6 || f.protocol == 17 {
			clientPort, servicePort = uint16(r.Uint32()), ports[r.IntN(len(ports))]
			if servicePort == 0 {
				servicePort = uint16(1 + r.IntN(65535))
			}
		}
		if f.protocol == 1 || f.protocol == 58 {
			f.query.Echo = true
		}
		if f.kind == plain && r.IntN(6) == 0 {
			f.query.Fragment, f.query.Echo = true, false
			f.later = r.IntN(2) == 0
		}
	default:
		f.query.Proto = ARP
	}
	if f.kind == probe {
		client = netip.IPv4Unspecified()
		if service.Is6() {
			client = netip.IPv6Unspecified()
		}
	}
	if f.kind == claim && service.Is6() {
		f.kind = question
	}
	f.query.Client, f.query.Service = netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(service, servicePort)
	return f
}

// bytes of the frame.
func (f frame) bytes() []byte {
	b := append(append([]byte(nil), f.to[:]...), f.from[:]...)
	is4 := f.query.Service.Addr().Is4()
	switch {
	case is4 && f.query.Proto == ARP:
		return append(b, f.arp()...)
	case is4:
		return append(b, f.ipv4()...)
	}
	return append(b, f.ipv6()...)
}

func (f frame) arp() []byte {
	spa, tpa, op := f.query.Client.Addr().As4(), f.query.Service.Addr().As4(), byte(1)
	switch f.kind {
	case reply:
		op = 2
	case claim:
		spa = tpa
	}
	b := []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, f.from[:]...), spa[:]...)
	return append(append(b, 0, 0, 0, 0, 0, 0), tpa[:]...)
}

// transport is what is behind the IP header.
func (f frame) transport(client, service uint16) []byte {
	var b []byte
	switch f.protocol {
	case 6:
		b = binary.BigEndian.AppendUint16(nil, client)
		b = binary.BigEndian.AppendUint16(b, service)
		b = append(b, 1, 2, 3, 4, 5, 6, 7, 8, 5<<4, f.flags, 1, 0, 0, 0, 0, 0)
	case 17:
		b = binary.BigEndian.AppendUint16(nil, client)
		b = binary.BigEndian.AppendUint16(b, service)
		b = append(b, 0, 8, 0, 0)
	case 1:
		b = []byte{8, 0, 0, 0, 0, 1, 0, 1}
	case 58:
		b = []byte{128, 0, 0, 0, 0, 1, 0, 1}
	default:
		b = []byte{0, 80, 0, 80, 0, 0, 0, 0}
	}
	return append(b, "the data of the packet"...)
}

func header4(proto uint8, src, dst netip.Addr, id uint16, frag uint16, ttl uint8, options int, payload []byte) []byte {
	b := []byte{byte(0x45 + options), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+4*options+len(payload)))
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, frag)
	b = append(b, ttl, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	for range options {
		b = append(b, 1, 1, 1, 1)
	}
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// checksum of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (f frame) ipv4() []byte {
	client, service := f.query.Client, f.query.Service
	proto, payload, frag := f.protocol, f.transport(client.Port(), service.Port()), uint16(0)
	if f.kind == icmpErr {
		// What came from us: from the service to the client.
		quoted := header4(proto, service.Addr(), client.Addr(), 77, 0x4000, 3, f.headers, f.transport(service.Port(), client.Port())[:8])
		payload = append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, quoted...)
		router := netip.AddrFrom4([4]byte{10, 9, 8, 7})
		return append([]byte{8, 0}, header4(1, router, service.Addr(), 5, 0, f.hops, 0, payload)...)
	}
	if f.query.Fragment {
		frag = 0x2000
		if f.later {
			frag = 1234
		}
	}
	return append([]byte{8, 0}, header4(proto, client.Addr(), service.Addr(), f.query.IPID, frag, f.hops, f.headers, payload)...)
}

func header6(next uint8, src, dst netip.Addr, hops uint8, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, hops)
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
}

func (f frame) ipv6() []byte {
	client, service := f.query.Client, f.query.Service
	next, payload, hops := f.protocol, f.transport(client.Port(), service.Port()), f.hops
	dst := service.Addr()
	switch {
	case f.query.Proto == ARP:
		t := byte(135)
		if f.kind == reply {
			t = 136
		} else if f.kind == probe || f.hops%2 == 0 { // to all that may have it, or to the one thought to
			d, own := netip.MustParseAddr("ff02::1:ff00:0").As16(), dst.As16()
			copy(d[13:], own[13:])
			dst = netip.AddrFrom16(d)
		}
		next, hops = 58, 255
		target := service.Addr()
		if f.kind == reply {
			target = client.Addr()
		}
		payload = append([]byte{t, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
		payload = append(append(payload, 1, 1), f.from[:]...)
		if f.kind == probe {
			payload = payload[:24]
		}
	case f.kind == icmpErr:
		quoted := header6(f.protocol, service.Addr(), client.Addr(), 3, f.transport(service.Port(), client.Port())[:8])
		payload = append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, quoted...)
		return append([]byte{0x86, 0xdd}, header6(58, netip.MustParseAddr("2001:db8::1"), dst, hops, payload)...)
	default:
		if f.query.Fragment {
			offset := byte(1)
			if f.later {
				offset = 8
			}
			payload = append([]byte{next, 0, 0, offset, 0, 0, 0, 1}, payload...)
			next = 44
		}
		for range f.headers { // destination options
			payload = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
			next = 60
		}
	}
	return append([]byte{0x86, 0xdd}, header6(next, client.Addr(), dst, hops, payload)...)
}
