// Package netvip sets virtual IP addresses on an interface of this host: it finds
// the interface, asks whether another host has the address, announces it, watches
// it, and takes it away. It knows nothing of modules.
//
//	            Add, Adopt                       Renew (the loop of the HA)
//	                │                                   │
//	  choose ─▶ probe, or DAD ─▶ RTM_NEWADDR, valid_lft = lease ─▶ the kernel takes
//	interface   ARP, NDP         IFA_PROTO = ours       ▲          it away by itself
//	                                                    │          when nobody renews
//	  announcer ──▶ gratuitous ARP, unsolicited NA ─▶ the link
//	  burst, refresh, defence        ▲                  │ claims of others
//	                                 └──── listen ◀─────┘
//	  watchLoop ◀── the kernel: address gone, DAD failed, link back, MAC changed
//	                │
//	                └──▶ Events ──▶ who holds the address decides
//
// # What it guarantees
//
//   - An address that was set has a lifetime from the first moment. If nobody
//     renews it for Bound(lease), it is gone, whatever became of the process.
//   - Renew never brings back an address that is gone. A process that was stopped
//     in the very call of the kernel, between the two looks at the clock, sets it
//     for as long as it takes to remove it again, which is the next thing it does.
//   - The lease is counted by CLOCK_BOOTTIME, so a host that was suspended does
//     not go on with an address that its peer has taken meanwhile.
//   - Add asks before it sets, unless it is told not to; ErrInUse names the MAC.
//   - What others on the link claim later is told as a Conflict, once a second at
//     most, and answered with an announcement once in ten seconds (RFC 5227
//     §2.4(c)), half a second later: an owner that gives way has time to. It gives
//     up no address: that is for the owner to decide.
//   - An address that was taken without asking is announced again as soon as the
//     host that still answered for it does not any more, until Bound(lease).
//   - With NeedCarrier an address is removed when its link loses its carrier.
//   - An address that somebody else set on this host is neither renewed nor
//     removed (ErrForeign), and the host's own addresses stay when a virtual one
//     goes.
//   - Remove(true) resets the TCP connections to the address while the reset can
//     still reach the clients.
//
// # What it assumes
//
// CAP_NET_ADMIN and CAP_NET_RAW. The namespace is that of the thread that calls
// New, Add and Adopt; later calls and all goroutines use the sockets opened there.
// Ethernet for probing, announcing and hearing; on other links (loopback, NOARP,
// InfiniBand) an address is only set, renewed and removed. One holder of an
// address in a namespace: two daemons there see each other's addresses as left
// over, and must know their own by their configuration. No network manager removes
// addresses that it did not set (systemd-networkd: KeepConfiguration or
// ManageForeignAddresses). Resetting needs CONFIG_INET_DIAG_DESTROY, which
// distributions set; without it Remove says so.
//
// Kernels before 5.18 do not keep IFA_PROTO. IPv4 addresses are then known by
// their label; IPv6 ones are not listed by Left, but Adopt and Drop take them.
//
// Add turns on promote_secondaries of the interface for IPv4 and leaves it on:
// without it the kernel removes the host's own addresses together with a virtual
// address that was there before them.
//
// # Locks
//
// Held.op, then Manager.mu, then Held.mu. Held.op is held in requests to the
// kernel, so that a renewal cannot pass a removal; the other two never are, nor
// while anything waits. Each Held owns two goroutines, the announcer and listen.
// Remove and Release wait for the first, so that nothing is announced any more; the
// Manager, which owns watchLoop too, waits for the rest in Close. Events never block:
// what nobody takes is lost.
//
// # What a crash leaves
//
// The addresses, each until its lease runs out, and nothing else: no file, no
// process. Left finds them; Adopt holds one on without a moment in which it is
// not there, Drop removes it. Connections go on meanwhile. The kernel sends no
// announcement by itself, so neighbours that were to be refreshed are not.
package netvip
