// Package ledger finds out whether anything acknowledged gets lost. A [Serve]r,
// the application of a module, keeps numbered entries in the replicated
// directory and answers when an entry is stored; a [Drive]r on another host asks
// for entries without end, goes to whichever host answers, notes every
// acknowledged number on a disk outside of the hosts, and measures the longest
// time without an answer. [Check] then wants every noted entry.
//
//	client host                         host that is primary
//	 Drive ── "12 0\n" ──────────────────▶ Serve ──▶ store in /replicated
//	   │   ◀──────────────── "12\n" ──────┘
//	   ▼
//	 notes: 12                             Check: is 12 in the store?
//
// An entry that was asked for and not answered may be there or not; it is never
// asked for again.
//
// The stores: [OpenSQL] is an SQLite database, one transaction an entry.
// [OpenFiles] appends to plain files, and makes, renames and links others, all
// without fsync: with a mirror an answered system call has to survive the host.
package ledger
