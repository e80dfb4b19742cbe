// Bench measures what replication costs: the same work on the native file system,
// on the thinnest possible FUSE daemon, on skfs without a second host and with
// one, in both async modes. It is `make bench`; its table is kept in
// docs/performance.md. Then it measures what a host costs that comes back, and what
// it costs to be ready for that.
//
//	host a                                             host b
//	─────────────────────────────────────────────      ─────────────────────────
//	/bench/native   a directory
//	/bench/floor    go-fuse loopback on another one
//	/bench/alone    replica, primary without a second
//	/bench/second   replica ── async="second" ─ TCP ─▶ replica of /bench/second
//	/bench/none     replica ── async="none" ─── TCP ─▶ replica of /bench/none
//	      ▲
//	      └ one job at a time: fio, files, tar, rm, SQLite, PostgreSQL
//
// The two hosts are namespaces of one machine (see e2e/lab) and share its disk
// and its processors: a pair pays here for both of its hosts. So figures are
// ratios to native and not promises in operations a second.
//
// Every target is there all the time. A round runs each job once on each target,
// one right after the other with the disk flushed in between, in an order that
// turns from job to job and from round to round. A ratio is taken inside a round,
// where noise of the machine hits both sides, and the median over the rounds is
// reported, with the lowest and highest.
//
// The replicas are processes of their own, this program again in another role,
// without daemon and heartbeats, which have no part in the data path. With
// -profile each measurement also leaves a CPU profile of each replica that it
// used.
//
// # Coming back
//
// A reintegration (refull, resmall, redelta) has two hosts and replicas of its own.
// It is timed from the moment at which the second joins to that at which it has
// recorded that it is in sync, with everything on its disk. The files are not in the
// page cache before. Right after it the limits are measured with the same files,
// below the mounts: reading them on the primary's disk and writing as many on the
// second's, with as many readers and writers as the pass has, and one TCP connection
// from host to host. Of a delta what is noted counts, zones of 8 MiB: next to nothing
// of them travels, and the limit is reading them on both hosts at once.
//
// What notes cost (notes) is measured on a mount and its gate alone: the same work,
// with notes and without. ALONE a note is on disk before the change; a peer in sync
// is one that takes everything and does nothing, over a connection in the same host.
//
// # Sharing an address
//
// Packets (sharing) go over a veth pair, on which the receiver's kernel does all
// its work before the sender goes on: so the sender's time is the cost. The same
// datagram is sent without a filter, with that of lbfilter, and with a rule set of
// nftables that decides alike, in which every other bucket is the host's own. TCP
// goes through a bridge to one of two members, in short turns of which the best
// counts. Ratios are taken inside a round.
//
// It needs root, fio and PostgreSQL's server, nftables; the work that
// lacks its program is left out and named.
package main
