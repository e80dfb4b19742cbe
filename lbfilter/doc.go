// Package lbfilter shares virtual IP addresses among the members of a farm: a
// filter in the kernel of each member decides, frame by frame, whether this member
// takes it (§1.4.2, §13.5.7). It knows nothing of modules.
//
//	Policy ── rules, groups, powers ─┐
//	                                 ▼
//	members ─▶ Policy.Next ─▶ Table ─▶ Filter.Apply ─▶ the kernel, one pointer
//	              Assign       │            Filter.Renew ─▶ the lease
//	                           │
//	  frame ─▶ rule ─▶ bucket ─┴▶ owner, prev ─▶ accept │ drop │ send on │ answer
//	           (bpf/packet.h, hash.h, decide.h, answer.h)
//
// # What it guarantees
//
//   - Every frame for a virtual address is taken by one member where all have one
//     table: the owner of its bucket. The bucket is that of the client's address, its
//     address and port, or the IPv4 identification, by the rule that matches. An echo
//     request in vmac_invisible mode is answered by all (§4.3.7).
//   - Connections stay where they are while buckets move. The opening of one goes to
//     the owner; a later segment is taken by whoever has the connection. An owner that
//     does not know it leaves it to the one who had the bucket, until that one has
//     none left (Held, Ownership.Settle). An ICMP error goes where the flow goes that
//     it quotes; fragments go by address, all of a packet to one member.
//   - A table takes effect at once: no packet sees parts of two. Apply refuses one
//     that is older than that in effect.
//   - A member that is not renewed (Renew) drops all traffic of the addresses, a tick
//     of the kernel after the lease at the latest, also when its daemon is stopped or
//     dead, or the machine was suspended.
//   - What one member sends on another never sends on again, except an owner to the
//     one who had the bucket. Frames sent on have the sender's MAC as source.
//   - Nobody learns the virtual MAC at a port, nor a member's MAC for an address in
//     vmac_invisible mode: ARP and neighbour solicitations are answered by the filter,
//     and what the kernel asks in the name of an address is rewritten.
//   - The share of each member is exact, moves are minimal and the result does not
//     depend on the order in which members are seen (Assign). Go and the kernel find
//     the same bucket (Policy.Who).
//
// # What it assumes of who uses it
//
//   - IPv4 addresses are on the interface with a /32, IPv6 ones on lo with nodad: on
//     the interface the kernel would answer solicitations itself, and ask in their
//     name. net.ipv4.conf.IF.arp_announce is 2, so that the kernel asks in the name of
//     the host's own address: otherwise, in vmac_directed mode, clients learn the MAC
//     of a member that is not the one to answer them.
//   - All members have the same Policy.Signature, and tables with one (Epoch, Version)
//     are alike. Where members' tables differ, for as long as a change takes to reach
//     all, a frame of a bucket that moves may be lost. It should be the loser of a
//     bucket that hears first: a SYN that two members answer breaks the connection,
//     one that nobody answers is sent again.
//   - The members' MACs in the table are those of the interfaces that have the
//     addresses.
//   - CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN for the bpffs (MountBPFFS); Linux 5.9, and
//     6.6 for tcx: before it the filter is attached by clsact.
//
// Packets of the host to its own virtual address do not pass the filter: they stay
// on the host.
//
// # Locks
//
// Filter.mu alone. It is held in calls of the kernel; replacing a table waits until
// no packet is under the old one, which takes milliseconds.
//
// # What a crash leaves
//
// The filter, at work until its lease runs out, and in Config.Pins all that is needed
// to adopt or to drop it: pinned links and maps, and a note in the map about. With
// them the virtual MAC in the address filter of the interface, joined multicast
// groups, and with clsact its queueing discipline. Drop takes all of it away; a
// reboot does too.
//
// # Tests
//
// Assignment, tables and rules by rapid; the programs by test runs in the kernel
// against a model in Go (TestKernel; -packets N for more); both modes, both families
// and both ways of attaching with real traffic between namespaces. The object in bpf
// is compared with its sources, and compiled again where the same clang is there.
package lbfilter
