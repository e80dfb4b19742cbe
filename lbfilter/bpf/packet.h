/* SPDX-License-Identifier: GPL-2.0-only */
/* What a frame is to the filter. Headers are copied to the stack: that works for
 * frames in pieces and for options of any length, and nothing of a frame that is
 * shared with others (a flooded one, a captured one) has to be copied first. */
#pragma once
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include "table.h"

#define L3 14 /* where the network header is */

enum { V4 = 4, V6 = 6 };

enum kind {
	FOREIGN,  /* not for a virtual address: as if there were no filter */
	FLOW,     /* for a virtual address, by rule and bucket */
	QUESTION, /* ARP request or neighbour solicitation for a virtual address */
	REPLY,    /* ARP reply or advertisement to a virtual address: all look at it */
	CLAIM,    /* ARP of somebody who says that he has a virtual address */
};

/* Headers as they came, each aligned. */
struct frame4 {
	__u8 pad[2];
	struct ethhdr eth;
	struct iphdr ip;
} __attribute__((packed, aligned(4)));

struct frame6 {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
} __attribute__((packed, aligned(4)));

struct arp {
	__u8 pad[2];
	struct ethhdr eth;
	__be16 htype, ptype;
	__u8 hlen, plen;
	__be16 op;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
} __attribute__((packed, aligned(4)));

#define BYTES(x) (sizeof(x) - 2) /* without pad */

struct icmp_header {
	__u8 type, code;
	__u16 checksum;
	__u32 rest;
};

struct packet {
	__u8 kind;
	__u8 family;
	__u8 proto;        /* of the rule */
	__u8 addr;         /* index of the virtual address */
	__u8 bits;         /* HAS_… */
	__be16 port;       /* of the service; 0 where it is not known */
	__be16 client_port;
	__be16 ipid;
	__u32 client[4];   /* IPv4 in [0] */
	__u32 service[4];
	struct mac mac;    /* where the frame comes from */
	struct tcphdr tcp; /* valid with HAS_TCP */
	union {
		struct frame4 f4;
		struct frame6 f6;
		struct arp arp;
	};
};

enum {
	HAS_PORTS = 1,
	HAS_TCP = 2,    /* a TCP header */
	QUOTES_TCP = 4, /* an ICMP error about a TCP segment of ours */
	HAS_IPID = 8,   /* a whole UDP packet over IPv4: it can go by identification */
	ECHO = 16,      /* an ICMP echo request */
};

/* same_mac compares the end first, where MACs of one maker differ. Both are at even
 * addresses. */
static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[2] == y[2] && x[1] == y[1] && x[0] == y[0];
}

static __always_inline void copy_mac(__u8 *to, const volatile __u8 *from)
{
	to[0] = from[0]; to[1] = from[1]; to[2] = from[2];
	to[3] = from[3]; to[4] = from[4]; to[5] = from[5];
}

/* reaches_us is false for a frame that is on this interface by chance only, since
 * it is in promiscuous mode or the switch floods: one for another host, to which it
 * goes too. */
static __always_inline int reaches_us(struct __sk_buff *skb, const __u8 *to)
{
	struct mac vmac;

	if (skb->pkt_type != PACKET_OTHERHOST)
		return 1;
	if (!invisible)
		return 0;
	copy_mac(vmac.a, virtual_mac);
	return same_mac(to, vmac.a);
}

/* ports reads what is behind the IP header of a packet that is whole. */
static __always_inline void ports(struct __sk_buff *skb, __u32 at, __u8 proto, struct packet *p)
{
	__be16 two[2];

	p->proto = proto;
	if (proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, at, &p->tcp, sizeof(p->tcp)))
			return;
		p->bits |= HAS_PORTS | HAS_TCP;
		p->client_port = p->tcp.source;
		p->port = p->tcp.dest;
	} else if (proto == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, at, two, sizeof(two)))
			return;
		p->bits |= p->family == V4 ? HAS_PORTS | HAS_IPID : HAS_PORTS;
		p->client_port = two[0];
		p->port = two[1];
	}
}

/* quoted_ports reads the beginning of the packet of ours that an error is about. */
static __always_inline void quoted_ports(struct __sk_buff *skb, __u32 at, __u8 proto, struct packet *p)
{
	__be16 two[2];

	p->proto = proto;
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return;
	if (bpf_skb_load_bytes(skb, at, two, sizeof(two)))
		return;
	p->port = two[0];
	p->client_port = two[1];
	p->bits |= proto == IPPROTO_TCP ? HAS_PORTS | QUOTES_TCP : HAS_PORTS;
}

static __always_inline void icmp4(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct icmp_header icmp;
	struct iphdr quoted;

	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
		return;
	if (icmp.type == 8) {
		p->bits |= ECHO;
		return;
	}
	if (icmp.type != 3 && icmp.type != 11 && icmp.type != 12)
		return;
	if (bpf_skb_load_bytes(skb, at + 8, &quoted, sizeof(quoted)) || quoted.saddr != p->service[0])
		return;
	p->client[0] = quoted.daddr;
	if (quoted.frag_off & bpf_htons(0x3fff))
		p->proto = quoted.protocol;
	else
		quoted_ports(skb, at + 8 + quoted.ihl * 4, quoted.protocol, p);
}

static __always_inline void ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = &p->f4.ip;
	__u32 *index, at;

	if (bpf_skb_load_bytes(skb, 0, &p->f4.eth, BYTES(p->f4)))
		return;
	index = bpf_map_lookup_elem(&addresses4, &ip->daddr);
	if (!index || !reaches_us(skb, p->f4.eth.h_dest))
		return;
	p->kind = FLOW;
	p->family = V4;
	p->addr = *index;
	p->proto = ip->protocol;
	p->client[0] = ip->saddr;
	p->service[0] = ip->daddr;
	p->ipid = ip->id;
	copy_mac(p->mac.a, p->f4.eth.h_source);
	if (ip->frag_off & bpf_htons(0x3fff))
		return; /* a fragment goes by address: only the first has ports */
	at = L3 + ip->ihl * 4;
	if (ip->protocol == IPPROTO_ICMP)
		icmp4(skb, at, p);
	else
		ports(skb, at, ip->protocol, p);
}

static __always_inline void icmp6(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct icmp_header icmp;
	struct ipv6hdr quoted;
	const __u32 *w;

	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
		return;
	if (icmp.type == 128) {
		p->bits |= ECHO;
		return;
	}
	if (icmp.type == 136) {
		p->kind = REPLY;
		p->proto = PROTO_ARP;
		return;
	}
	if (icmp.type < 1 || icmp.type > 4)
		return;
	if (bpf_skb_load_bytes(skb, at + 8, &quoted, sizeof(quoted)))
		return;
	w = quoted.saddr.in6_u.u6_addr32;
	if (w[0] != p->service[0] || w[1] != p->service[1] || w[2] != p->service[2] || w[3] != p->service[3])
		return;
	__builtin_memcpy(p->client, &quoted.daddr, 16);
	quoted_ports(skb, at + 8 + sizeof(quoted), quoted.nexthdr, p);
}

/* solicitation tells whether a packet that is not to a virtual address, or is, asks
 * for one. */
static __always_inline int solicitation(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip = &p->f6.ip;
	struct {
		struct icmp_header icmp;
		struct address6 target;
	} ns;
	__u32 *index;

	if (ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != 255)
		return 0;
	if (bpf_skb_load_bytes(skb, L3 + sizeof(*ip), &ns, sizeof(ns)) || ns.icmp.type != 135)
		return 0;
	index = bpf_map_lookup_elem(&addresses6, &ns.target);
	if (!index)
		return 0;
	p->kind = QUESTION;
	p->proto = PROTO_ARP;
	p->addr = *index;
	__builtin_memcpy(p->service, &ns.target, 16);
	return 1;
}

static __always_inline void ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip = &p->f6.ip;
	struct address6 to;
	__u32 *index, at = L3 + sizeof(*ip);
	__u8 next;

	if (bpf_skb_load_bytes(skb, 0, &p->f6.eth, BYTES(p->f6)))
		return;
	__builtin_memcpy(&to, &ip->daddr, 16);
	index = bpf_map_lookup_elem(&addresses6, &to);
	if ((!index && ip->daddr.in6_u.u6_addr8[0] != 0xff) || !reaches_us(skb, p->f6.eth.h_dest))
		return;
	p->family = V6;
	__builtin_memcpy(p->client, &ip->saddr, 16);
	copy_mac(p->mac.a, p->f6.eth.h_source);
	if (solicitation(skb, p) || !index)
		return;
	p->kind = FLOW;
	p->addr = *index;
	__builtin_memcpy(p->service, &to, 16);
	next = ip->nexthdr;
	for (int i = 0; i < 6; i++) { /* extension headers */
		__u8 head[2];

		if (next != 0 && next != 43 && next != 44 && next != 60)
			break;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			break;
		if (next == 44) { /* a fragment goes by address */
			p->proto = head[0];
			return;
		}
		next = head[0];
		at += (head[1] + 1) * 8;
	}
	p->proto = next;
	if (next == IPPROTO_ICMPV6)
		icmp6(skb, at, p);
	else
		ports(skb, at, next, p);
}

static __always_inline void arp(struct __sk_buff *skb, struct packet *p)
{
	struct arp *a = &p->arp;
	__u32 *index, from, to;

	if (bpf_skb_load_bytes(skb, 0, &a->eth, BYTES(*a)))
		return;
	if (a->ptype != bpf_htons(ETH_P_IP) || a->hlen != 6 || a->plen != 4 || !reaches_us(skb, a->eth.h_dest))
		return;
	__builtin_memcpy(&from, a->spa, 4);
	__builtin_memcpy(&to, a->tpa, 4);
	p->family = V4;
	p->proto = PROTO_ARP;
	copy_mac(p->mac.a, a->eth.h_source);
	index = bpf_map_lookup_elem(&addresses4, &from);
	if (index) {
		p->kind = CLAIM;
		p->addr = *index;
		return;
	}
	index = bpf_map_lookup_elem(&addresses4, &to);
	if (!index)
		return;
	p->kind = a->op == bpf_htons(1) ? QUESTION : REPLY;
	p->addr = *index;
	p->client[0] = from;
	p->service[0] = to;
}

static __always_inline void parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return; /* for an interface above this one */
	if (skb->protocol == bpf_htons(ETH_P_IP))
		ipv4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		ipv6(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		arp(skb, p);
}
