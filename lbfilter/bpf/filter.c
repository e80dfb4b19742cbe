// SPDX-License-Identifier: GPL-2.0-only
/* The farm filter of skfs: which of the members that have the same virtual
 * addresses takes a frame. One program looks at what comes in on an interface, one
 * at what goes out. What they do is told in doc.go of the package above.
 *
 *   ingress: parse -> find_rule -> bucket_of -> table -> place
 *            packet.h  decide.h                          |
 *                                  accept, drop, send_on, answer (answer.h)
 */
#include "answer.h"
#include "decide.h"
#include "packet.h"
#include "table.h"

SEC("tc")
int skfs_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 rule = DEFAULT_RULE;
	__u8 to = NONE;
	int action;

	parse(skb, &p);
	if (p.kind == FOREIGN)
		return TC_ACT_UNSPEC;
	if (p.kind == CLAIM) {
		/* That members say they have the address is no conflict. */
		struct table *t = current_table();

		return t && sent_on(t, p.mac.a) != NONE ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	}
	switch (decide(skb, &p, &rule, &to)) {
	case ACCEPT:
		count(rule, ACCEPTED);
		if (skb->pkt_type == PACKET_OTHERHOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return TC_ACT_UNSPEC;
	case ANSWER:
		count(rule, ACCEPTED);
		return answer(skb, &p);
	case FORWARD_AGAIN:
		if (!older(skb, &p))
			break;
		/* fallthrough */
	case FORWARD:
		action = send_on(skb, to);
		if (action == TC_ACT_SHOT)
			break;
		count(rule, FORWARDED);
		return action;
	}
	count(rule, DROPPED);
	return TC_ACT_SHOT;
}

/* The kernel asks for others in the name of a virtual address and tells its own
 * MAC with it: nobody may learn that the address is there. */
SEC("tc")
int skfs_egress(struct __sk_buff *skb)
{
	struct arp a = {};
	__u32 from;

	if (!invisible || skb->protocol != bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	if (bpf_skb_load_bytes(skb, 0, &a.eth, BYTES(a)) || a.ptype != bpf_htons(ETH_P_IP) || a.plen != 4)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&from, a.spa, 4);
	if (!bpf_map_lookup_elem(&addresses4, &from))
		return TC_ACT_UNSPEC;
	copy_mac(a.sha, virtual_mac);
	bpf_skb_store_bytes(skb, L3 + 8, a.sha, sizeof(a.sha), 0);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";

/* From what this object was made: object_test.go compares. */
char _compiler[] SEC("compiler") = __clang_version__;
char _source[] SEC("source") = SOURCE;
