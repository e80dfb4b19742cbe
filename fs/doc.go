// Package fs is the FUSE layer over a replicated directory.
//
//	kernel ── FS (fuse*.go) ── Gate ── stream to the second host
//	             │               │
//	             └── Tree ◀──────┘ then here        second host: stream ── FS.Apply ── Tree
//	                  │
//	            backing directory, below the mount
//
// A Tree is a backing directory, worked on by identity: objects are FileIDs
// (identity.go) reached by kernel file handles (handle.go), names are names in a
// directory with a FileID. The code that changes it (exec.go) is the same for a
// request of the kernel and for an operation that came over the stream. FS
// translates requests into operations and takes them through the Gate, which
// decides where they have to go before they may be carried out here.
//
// # Guarantees
//
//   - Nothing changes in the backing directory while the mount is writable except
//     through an operation that passed the Gate (R2), save for objects without a
//     name (deleted or O_TMPFILE), which are nobody else's business until they get
//     one, for other file systems mounted inside the directory, and for what is
//     excluded from replication (private.go), which belong to this host.
//   - A mutation is carried out here only after the second host has it (R3), and
//     answered only then (R4).
//   - Operations on the same object get their numbers in the order in which they
//     are carried out: its lock is held from before the one until after the other.
//   - The number of descriptors is bounded by the cache of each tree and by what
//     applications have open.
//
// # Assumptions
//
// The backing file system gives file handles and trusted xattrs (ext4, XFS,
// btrfs, tmpfs); /proc is mounted; the process is root in the initial user
// namespace, with umask 0; nobody else changes the backing directory. The kernel
// checks permissions (default_permissions) and keeps POSIX, BSD and OFD locks
// itself: one kernel serves all users of a mount, so locks need no daemon.
//
// syncfs(2) never reaches a FUSE daemon; what it promises holds for what was
// fsynced, and for the rest once the backing file system has flushed it.
//
// # Locks
//
// Order: Tree.moving, if anything is excluded; object.lock (a directory before what it holds; several directories in
// the order of identities), Gate.mu (shared), then the leaves object.mu,
// fdCache.mu, Tree.mu in this order. Only Tree.moving, object.lock and the shared
// Gate.mu are held over a wait for the network.
//
// # What a crash leaves
//
// The plain backing directory, and a dead mount over it that ClearStale removes.
// An object whose creation was cut off may lack its identity or owner; the
// operation was not answered, and the second host has it whole. A private file that
// was about to take the place of a replicated one may be left there under a name that
// begins with .skfs-, until this host is brought up to date.
package fs
