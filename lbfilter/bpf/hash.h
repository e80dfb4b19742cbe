/* SPDX-License-Identifier: GPL-2.0-only */
/* The bucket of a client: jhash of the kernel over the words as they are on the
 * wire, its upper byte. hash.go is the same function. */
#pragma once
#include <linux/types.h>

static __always_inline __u32 rol(__u32 w, int s)
{
	return w << s | w >> (32 - s);
}

static __always_inline __u8 jhash_final(__u32 a, __u32 b, __u32 c)
{
	c ^= b; c -= rol(b, 14);
	a ^= c; a -= rol(c, 11);
	b ^= a; b -= rol(a, 25);
	c ^= b; c -= rol(b, 16);
	a ^= c; a -= rol(c, 4);
	b ^= a; b -= rol(a, 14);
	c ^= b; c -= rol(b, 24);
	return c >> 24;
}

/* hash4 is the bucket of one word, or of two. */
static __always_inline __u8 hash4(__u32 w, __u32 port, int with_port)
{
	__u32 a = 0xdeadbeef + (with_port ? 8 : 4) + seed;

	return jhash_final(a + w, with_port ? a + port : a, a);
}

/* hash6 is the bucket of four words, or of five. */
static __always_inline __u8 hash6(const __u32 *w, __u32 port, int with_port)
{
	__u32 a, b, c;

	a = b = c = 0xdeadbeef + (with_port ? 20 : 16) + seed;
	a += w[0]; b += w[1]; c += w[2];
	a -= c; a ^= rol(c, 4); c += b;
	b -= a; b ^= rol(a, 6); a += c;
	c -= b; c ^= rol(b, 8); b += a;
	a -= c; a ^= rol(c, 16); c += b;
	b -= a; b ^= rol(a, 19); a += c;
	c -= b; c ^= rol(b, 4); b += a;
	return jhash_final(a + w[3], with_port ? b + port : b, c);
}
