/* SPDX-License-Identifier: GPL-2.0-only */
/* What the filter is told by the daemon: constants, rules, the table, the lease;
 * and what it counts. layout.go is the other side of every structure here. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define BUCKETS 256
#define MAX_MEMBERS 32
#define MAX_GROUPS 32
#define MAX_RULES 256
#define NONE 0xff

/* Constants of a filter: set before it is loaded. */
const volatile __u8 self;            /* number of this member */
const volatile __u8 invisible;       /* vmac_invisible, otherwise vmac_directed */
const volatile __u8 virtual_mac[6];
const volatile __u32 seed;

struct mac {
	__u8 a[6];
} __attribute__((aligned(2)));

/* The virtual addresses, with their index in the keys of the rules. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} addresses4 SEC(".maps");

struct address6 {
	__u32 w[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct address6);
	__type(value, __u32);
} addresses6 SEC(".maps");

/* The rules by what they match. Port 0 is for all that have no key of their own. */
enum { DEFAULT_RULE = 0, PING_RULE = 1 };
enum { ON_ADDR = 0, ON_PORT = 1, ON_IPID = 2 };
#define PROTO_ARP 255

struct rule_key {
	__u8 addr;
	__u8 proto;
	__be16 port;
};

struct rule {
	__u8 index;
	__u8 group;
	__u8 filter;
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16 * MAX_RULES);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

/* The table: one value in one map, so that one pointer replaces all of it. */
struct group {
	__u8 owner[BUCKETS];
	__u8 prev[BUCKETS];
};

struct table {
	__u32 format;
	__u32 groups;
	__u64 epoch;
	__u64 version;
	struct mac macs[MAX_MEMBERS];
	struct group group[MAX_GROUPS];
};

struct table_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__uint(value_size, sizeof(struct table));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct table_map);
} tables SEC(".maps");

/* Until when the table holds: CLOCK_BOOTTIME in nanoseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lease SEC(".maps");

/* What the daemon needs to know to take the filter over or away: JSON. */
struct about_text {
	__u8 text[4096];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct about_text);
} about SEC(".maps");

/* Counts for each rule. HELD are accepted ones of a bucket that another member
 * owns; LEFT those of a bucket of this one that it left to prev; EXPIRED are
 * dropped ones for want of a lease. */
enum { ACCEPTED, DROPPED, FORWARDED, HELD, LEFT, EXPIRED, COUNTS };

struct counts {
	__u64 n[COUNTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct counts);
} stats SEC(".maps");

static __always_inline void count(__u32 rule, __u32 what)
{
	struct counts *c = bpf_map_lookup_elem(&stats, &rule);

	if (c)
		c->n[what]++;
}

static __always_inline struct table *current_table(void)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&tables, &zero);

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

/* Asking for the time costs a third of all that the filter does, so the answer is
 * kept for the tick: a lease ends up to a tick late. */
struct verdict_of_tick {
	__u64 tick;
	__u64 until;
	__u64 expired;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdict_of_tick);
} ticks SEC(".maps");

static __always_inline int expired(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&lease, &zero);
	struct verdict_of_tick *v = bpf_map_lookup_elem(&ticks, &zero);
	__u64 tick = bpf_jiffies64();

	if (!until || !v)
		return 1;
	if (v->tick != tick || v->until != *until) {
		v->until = *until;
		v->expired = bpf_ktime_get_boot_ns() >= v->until;
		v->tick = tick;
	}
	return v->expired != 0;
}
