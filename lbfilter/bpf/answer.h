/* SPDX-License-Identifier: GPL-2.0-only */
/* What the filter sends: answers to ARP and to neighbour solicitations, and frames
 * on to another member. The Ethernet source is always the MAC of this host: a
 * switch must learn neither the virtual MAC nor a client's at the wrong port. */
#pragma once
#include <linux/pkt_cls.h>
#include "packet.h"

/* my_mac is that of the interface, from the table. */
static __always_inline int my_mac(__u8 *mac)
{
	struct table *t = current_table();

	if (!t || self >= MAX_MEMBERS)
		return 0;
	copy_mac(mac, t->macs[self].a);
	return 1;
}

/* resolved is the MAC that the virtual addresses are resolved to. */
static __always_inline void resolved(__u8 *to, const __u8 *mine)
{
	if (invisible)
		copy_mac(to, virtual_mac);
	else
		copy_mac(to, mine);
}

static __always_inline int answer_arp(struct __sk_buff *skb, struct packet *p)
{
	struct arp *a = &p->arp;
	__u8 mine[6];

	if (!my_mac(mine))
		return TC_ACT_SHOT;
	copy_mac(a->eth.h_dest, a->sha);
	copy_mac(a->eth.h_source, mine);
	a->op = bpf_htons(2);
	copy_mac(a->tha, a->sha);
	__builtin_memcpy(a->tpa, &p->client[0], 4);
	resolved(a->sha, mine);
	__builtin_memcpy(a->spa, &p->service[0], 4);
	if (bpf_skb_store_bytes(skb, 0, &a->eth, BYTES(*a), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* An advertisement with the option that holds the MAC, RFC 4861 4.4. */
struct advertisement {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmp_header icmp;
	struct address6 target;
	__u8 option, length, mac[6];
} __attribute__((packed, aligned(4)));

static __always_inline int answer_ns(struct __sk_buff *skb, struct packet *p)
{
	struct advertisement na = {};
	__be32 pseudo[2] = { bpf_htonl(32), bpf_htonl(IPPROTO_ICMPV6) };
	__u8 mine[6];
	__s64 sum;
	/* Somebody who looks whether the address is free has none yet: RFC 4861 7.2.4. */
	int probe = !(p->client[0] | p->client[1] | p->client[2] | p->client[3]);

	if (!my_mac(mine))
		return TC_ACT_SHOT;
	copy_mac(na.eth.h_dest, p->mac.a);
	copy_mac(na.eth.h_source, mine);
	na.eth.h_proto = bpf_htons(ETH_P_IPV6);
	na.ip.version = 6;
	na.ip.payload_len = bpf_htons(32);
	na.ip.nexthdr = IPPROTO_ICMPV6;
	na.ip.hop_limit = 255;
	__builtin_memcpy(&na.ip.saddr, p->service, 16);
	__builtin_memcpy(&na.ip.daddr, p->client, 16);
	na.icmp.type = 136;
	na.icmp.rest = bpf_htonl(0x60000000); /* solicited, override */
	if (probe) {
		na.icmp.rest = bpf_htonl(0x20000000);
		na.ip.daddr.in6_u.u6_addr8[0] = 0xff; /* all nodes */
		na.ip.daddr.in6_u.u6_addr8[1] = 0x02;
		na.ip.daddr.in6_u.u6_addr8[15] = 0x01;
		na.eth.h_dest[0] = na.eth.h_dest[1] = 0x33;
		na.eth.h_dest[2] = na.eth.h_dest[3] = na.eth.h_dest[4] = 0;
		na.eth.h_dest[5] = 0x01;
	}
	__builtin_memcpy(&na.target, p->service, 16);
	na.option = 2;
	na.length = 1;
	resolved(na.mac, mine);

	sum = bpf_csum_diff(0, 0, (__be32 *)&na.ip.saddr, 32, 0);
	sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
	sum = bpf_csum_diff(0, 0, (__be32 *)&na.icmp, 32, sum);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	na.icmp.checksum = ~sum;

	if (bpf_skb_change_tail(skb, BYTES(na), 0) || bpf_skb_store_bytes(skb, 0, &na.eth, BYTES(na), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int answer(struct __sk_buff *skb, struct packet *p)
{
	return p->family == V4 ? answer_arp(skb, p) : answer_ns(skb, p);
}

/* older takes one off the TTL, and tells whether the packet may go on. */
static __always_inline int older(struct __sk_buff *skb, struct packet *p)
{
	if (p->family == V6) {
		__u8 left = p->f6.ip.hop_limit - 1;

		return p->f6.ip.hop_limit > 1 && !bpf_skb_store_bytes(skb, L3 + 7, &left, 1, 0);
	}
	__u8 left = p->f4.ip.ttl - 1;
	__be16 was = bpf_htons(p->f4.ip.ttl << 8 | p->f4.ip.protocol);
	__be16 now = bpf_htons(left << 8 | p->f4.ip.protocol);

	return p->f4.ip.ttl > 1 && !bpf_l3_csum_replace(skb, L3 + 10, was, now, 2) &&
	       !bpf_skb_store_bytes(skb, L3 + 8, &left, 1, 0);
}

static __always_inline int send_on(struct __sk_buff *skb, __u8 to)
{
	struct table *t = current_table();
	__u8 macs[12];

	if (!t || to >= MAX_MEMBERS)
		return TC_ACT_SHOT;
	copy_mac(macs, t->macs[to].a);
	if (!(macs[0] | macs[1] | macs[2] | macs[3] | macs[4] | macs[5]))
		return TC_ACT_SHOT; /* nobody there */
	if (!my_mac(macs + 6) || bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}
