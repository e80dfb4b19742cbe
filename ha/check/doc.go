// Package check looks after what an application needs: TCP services, hosts that
// answer a ping, network interfaces, addresses, other modules, and what a program
// of the module finds out (guide §13.10–13.17). It finds out, and tells; what
// follows from it is decided by the failover rules.
//
//	               Switch(which parts run)
//	                      │
//	                      ▼                    one goroutine each
//	conf.Checker ──New──▶ Set ──▶ Checker.Run ──▶ probe ──▶ decide.go ──▶ Report
//	                      │                                                 │
//	                      └── init when it starts and when it has ended ──▶ Sink
//
// The probes are thin (tcp.go, ping.go, netlink.go, othermodule.go, program.go).
// What their results mean for the resource is in decide.go, which is pure.
//
// # What it guarantees
//
//   - A checker works while its part of the module runs: Switch starts it after the
//     start scripts, and ends it before the stop scripts, as When says. After Switch
//     has returned nothing that an ended checker still finds out is told.
//   - The resource is init until the first result, and again when the checker has
//     ended: no value stays that nobody renews.
//   - No checker can hold up another, nor who calls Switch: each is a goroutine of
//     its own, every probe ends with its context, and resolving a name counts to the
//     time of the probe.
//   - A carrier that goes and an address that is removed are told by the kernel
//     (netlink), not found at the next look; the look every ten seconds is the floor.
//   - A program that ends is noticed at once (waitid, no polling) and started again, after a
//     pause. With its part of the module it ends with its whole process group:
//     SIGTERM, and SIGKILL a second later.
//
// # What it assumes
//
// CAP_NET_RAW for ping. The network namespace is that of the process. Programs
// do not leave their process group.
//
// # Locks
//
// A Set belongs to the goroutine that calls its methods, which also runs what Sink
// is given; there is no lock. The goroutines of checkers end with the context of
// the Set, and its owner waits for them (spawn).
//
// # What a crash leaves
//
// A program of a custom checker, which Sweep ends: it is found by the file that names
// its process group and its start time. What it told while there was nobody to
// listen is lost, so it is not taken over.
package check
