/* SPDX-License-Identifier: GPL-2.0-only */
/* Who takes a packet. */
#pragma once
#include "hash.h"
#include "packet.h"

enum verdict {
	PASS,          /* on, untouched and uncounted */
	ACCEPT,        /* it is for this host */
	DROP,
	FORWARD,       /* to the member it is for */
	FORWARD_AGAIN, /* what a member sent on, to the one who had the bucket */
	ANSWER,        /* with the MAC of the virtual address */
};

#define AF_INET 2
#define AF_INET6 10

/* known tells whether this host has the connection of a segment: a socket that is
 * not listening, or a listening one that has given out a SYN cookie for it. */
static __always_inline int known(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int yes;

	if (p->family == V4) {
		tuple.ipv4.saddr = p->client[0];
		tuple.ipv4.daddr = p->service[0];
		tuple.ipv4.sport = p->client_port;
		tuple.ipv4.dport = p->port;
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, p->client, 16);
		__builtin_memcpy(tuple.ipv6.daddr, p->service, 16);
		tuple.ipv6.sport = p->client_port;
		tuple.ipv6.dport = p->port;
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	yes = sk->state != BPF_TCP_LISTEN;
	if (!yes && (p->bits & HAS_TCP)) {
		if (p->family == V4)
			yes = !bpf_tcp_check_syncookie(sk, &p->f4.ip, sizeof(p->f4.ip), &p->tcp, sizeof(p->tcp));
		else
			yes = !bpf_tcp_check_syncookie(sk, &p->f6.ip, sizeof(p->f6.ip), &p->tcp, sizeof(p->tcp));
	}
	bpf_sk_release(sk);
	return yes;
}

/* sent_on tells whether a member has sent the frame on, and which. */
static __always_inline __u8 sent_on(struct table *t, const __u8 *mac)
{
	for (__u32 i = 0; i < MAX_MEMBERS; i++) {
		if (same_mac(t->macs[i].a, mac) && i != self)
			return i;
	}
	return NONE;
}

/* find_rule is the most exact rule; NULL means the default. */
static __always_inline struct rule *find_rule(struct packet *p)
{
	struct rule_key key = { .addr = p->addr, .proto = p->proto, .port = p->port };
	struct rule *r = bpf_map_lookup_elem(&rules, &key);

	if (!r && key.port) {
		key.port = 0;
		r = bpf_map_lookup_elem(&rules, &key);
	}
	return r;
}

static __always_inline __u8 bucket_of(struct packet *p, __u8 filter)
{
	int with_port = filter == ON_PORT && (p->bits & HAS_PORTS);

	if (p->family == V6)
		return hash6(p->client, p->client_port, with_port);
	if (filter == ON_IPID && (p->bits & HAS_IPID))
		return hash4(p->ipid, 0, 0);
	return hash4(p->client[0], p->client_port, with_port);
}

/* place decides where a packet of a bucket goes. The opening of a connection goes
 * to the owner. Another segment goes to whoever has the connection; an owner that
 * has not leaves it to prev while that is set.
 *
 * A frame that a member sent on is not sent on again, but by an owner to prev, who
 * never sends on what comes from a member: so two hops are the most while members
 * have one table. While their tables differ the TTL, which the second hop takes one
 * off, ends what could go in a circle. */
static __always_inline int place(struct __sk_buff *skb, struct packet *p, struct table *t, __u32 rule,
				 __u8 owner, __u8 prev, __u8 *to)
{
	int mine = owner == self;
	int segment = p->bits & HAS_TCP ? !p->tcp.syn || p->tcp.ack : (p->bits & QUOTES_TCP) != 0;
	__u8 from;

	if (mine && (!segment || prev == NONE || prev == self))
		return ACCEPT;
	if (segment && known(skb, p)) {
		if (!mine)
			count(rule, HELD);
		return ACCEPT;
	}
	if (invisible) { /* whose it is has seen it too */
		if (mine)
			count(rule, LEFT);
		return DROP;
	}
	from = sent_on(t, p->mac.a);
	if (mine) {
		if (from == prev)
			return ACCEPT; /* prev does not know it either */
		count(rule, LEFT);
		*to = prev;
		return from == NONE ? FORWARD : FORWARD_AGAIN;
	}
	if (from != NONE) /* by a table that is not this one; or by the owner, to prev */
		return prev == self && !segment ? ACCEPT : DROP;
	*to = owner;
	return owner == NONE ? DROP : FORWARD;
}

/* decide is for a packet that is for a virtual address. */
static __always_inline int decide(struct __sk_buff *skb, struct packet *p, __u32 *number, __u8 *to)
{
	struct table *t = current_table();
	struct rule *r = find_rule(p);
	__u32 group = 0;
	__u8 filter = ON_ADDR, bucket;

	if (p->kind == FLOW && (p->bits & ECHO) && invisible) {
		*number = PING_RULE;
	} else if (r) {
		*number = r->index;
		group = r->group & (MAX_GROUPS - 1);
		filter = r->filter;
	}
	if (!t || expired()) {
		count(*number, EXPIRED);
		return DROP;
	}
	if (p->kind == REPLY)
		return ACCEPT;
	if (*number == PING_RULE)
		return ACCEPT; /* every member answers: guide, 4.3.7 */
	bucket = bucket_of(p, filter);
	if (p->kind == QUESTION)
		return t->group[group].owner[bucket] == self ? ANSWER : DROP;
	return place(skb, p, t, *number, t->group[group].owner[bucket], t->group[group].prev[bucket], to);
}
