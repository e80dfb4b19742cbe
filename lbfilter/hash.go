package lbfilter

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Buckets is the number of parts in which the clients of a group are divided
// (§13.5.7.4).
const Buckets = 256

// Seed begins every hash. It is part of the format: members with another seed, or
// another Format, would see other buckets, so both are in Policy.Signature.
const Seed uint32 = 0x5afe7f5e

// The bucket of a client is the upper byte of the kernel's jhash over the words
// below, as they are on the wire. bpf/hash.h is the same function.
//
//	on_addr, IPv4   address                     4 bytes
//	on_port, IPv4   address, port, 0, 0         8 bytes
//	on_addr, IPv6   address                    16 bytes
//	on_port, IPv6   address, port, 0, 0        20 bytes
//	on_ipid, IPv4   identification, 0, 0        4 bytes

// addressBucket is the bucket of a client address.
func addressBucket(client netip.Addr) uint8 {
	return bucket(client.Unmap().AsSlice())
}

// portBucket is the bucket of a client address and port.
func portBucket(client netip.AddrPort) uint8 {
	return bucket(append(binary.BigEndian.AppendUint16(client.Addr().Unmap().AsSlice(), client.Port()), 0, 0))
}

// ipidBucket is the bucket of an IPv4 identification.
func ipidBucket(id uint16) uint8 {
	return bucket(append(binary.BigEndian.AppendUint16(nil, id), 0, 0))
}

func bucket(key []byte) uint8 { return uint8(jhash(key, Seed) >> 24) }

// jhash is jhash of the kernel's linux/jhash.h (Bob Jenkins' lookup3) as a little
// endian machine computes it, for keys whose length is a multiple of 4.
func jhash(key []byte, seed uint32) uint32 {
	word := func(i int) uint32 {
		if 4*i >= len(key) {
			return 0
		}
		return binary.LittleEndian.Uint32(key[4*i:])
	}
	rol := bits.RotateLeft32
	a := 0xdeadbeef + uint32(len(key)) + seed
	b, c := a, a
	for ; len(key) > 12; key = key[12:] {
		a, b, c = a+word(0), b+word(1), c+word(2)
		a -= c
		a ^= rol(c, 4)
		c += b
		b -= a
		b ^= rol(a, 6)
		a += c
		c -= b
		c ^= rol(b, 8)
		b += a
		a -= c
		a ^= rol(c, 16)
		c += b
		b -= a
		b ^= rol(a, 19)
		a += c
		c -= b
		c ^= rol(b, 4)
		b += a
	}
	a, b, c = a+word(0), b+word(1), c+word(2)
	c ^= b
	c -= rol(b, 14)
	a ^= c
	a -= rol(c, 11)
	b ^= a
	b -= rol(a, 25)
	c ^= b
	c -= rol(b, 16)
	a ^= c
	a -= rol(c, 4)
	b ^= a
	b -= rol(a, 14)
	c ^= b
	c -= rol(b, 24)
	return c
}
