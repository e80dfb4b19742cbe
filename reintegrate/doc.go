// Package reintegrate brings a node that was away up to date, while the
// application writes.
//
// The copy is one more writer into the ordered stream of package journal: it locks
// an object as a live operation does, reads it, numbers what it sends, unlocks. So
// the copy and live operations never pass each other, and one pass is enough.
//
//	PRIM                                                   SECOND
//	application                                            ordinary applier
//	    │ op, its locks held                                   ▲
//	    ▼                                                      │ other kinds
//	Pass.Filter ── op, parts of it ──▶ stream, in order ──▶ Target.Around
//	    │ take, put, keep ─────────▲   ▲                       │ Sync…, Punch
//	    ▼                          │   │                       ▼
//	  table ◀─── states ─── Pass.Run (walk, workers)         Target
//	                               │                           │
//	                               ▼                           ▼
//	                            Source                        Sink
//
// # The pass
//
// SyncBegin. Then the directories, breadth first: under the lock of its names the
// whole list of a directory is sent (SyncDir), and SECOND makes its names exactly
// these, with stubs for the objects it does not have. What has no place there goes
// to a holding area, never away at once: a later directory may want it, with all
// its data (a directory that was moved costs nothing). The files found are copied
// beside the walk by nbrei workers: SECOND is asked for hashes of blocks, many
// small files or one zone of a large one in a question; then, under the lock of
// the zone, blocks that differ are sent, holes as holes. After its data an object
// gets its attributes, the modification time last (SyncAttrs); directories get
// theirs when all names are settled. SyncEnd empties the holding area.
//
// # What is forwarded meanwhile
//
// An object is pending until its turn. Changes of what is pending are carried out
// on PRIM only, since they are in the pass to come; everything else is forwarded.
// The table says how far each object is:
//
//	state     names (directory)   data (file)            attributes, xattrs
//	pending   pending             pending                pending
//	named     –                   pending                pending
//	passing   –                   outside [frontier,     pending
//	                              end) forwarded
//	dirNamed  pending             –                      pending
//	dirListed forwarded           –                      pending
//	settled   forwarded           forwarded              forwarded
//
// A large file is made as long on SECOND as it is on PRIM at its start; that is its
// end. Only [frontier, end) is pending: what is appended is forwarded, so that a
// file which grows faster than it can be copied comes to its end (R11), and a
// truncation moves the end down and is forwarded. The pending bytes do not change
// on SECOND before the copy changes them, so hashes need no lock and no order.
//
// Changes of names. L: the directory is listed (dirListed or settled). N: it is
// not. X is the object, V what has the target name already.
//
//	operation          forwarded               besides
//	create in L        as it is                X is settled from birth; its attributes
//	                                           are sent again at the end, because what it
//	                                           inherits in L may differ there until then
//	create in N        –
//	tmpfile            as it is                X is settled from birth
//	link into L        as it is                X pending: put(X) instead, X is queued
//	link into N        –                       X born without a name in the pass: keep(X)
//	unlink from L      as it is                X hidden: take instead
//	rmdir in L         as it is                X not listed: take instead
//	unlink, rmdir in N –
//	rename L → L       as it is                V hidden or not listed: take(V) before
//	rename L → N       –                       take(X)
//	rename N → L       –                       put(X), which holds V; X is queued
//	rename N → N       –
//	exchange L ↔ L     as it is
//	exchange L ↔ N     –                       take(X), put(V) in its place
//	exchange N ↔ L     –                       put(X), which holds V
//	exchange N ↔ N     –
//
// take moves a name to the holding area, not away: the object may be found again
// under another name. It keeps its state, and what is settled goes on being
// forwarded there, by FileID. put makes one name as a list would. keep gives a file
// without a name one in the holding area. X is hidden if it may have another name
// in a directory that is pending: the last name that SECOND knows of it must not be
// deleted. When all directories are listed nothing is hidden any more.
//
// Why moving directories on SECOND never makes a loop: the parent of a listed
// directory is, on SECOND, listed or the holding area. So what lies above a
// directory whose names are being set is listed, or the holding area; the listed
// are above it on PRIM too, where nothing can move into itself, and nothing that is
// still pending is above it.
//
// An open file that has no name and may get one (O_TMPFILE) is not found by the
// walk; Source.Orphans names those that are left after it. RENAME_WHITEOUT makes
// an object that no operation describes: fs refuses it, as it does fallocate that
// shifts bytes (the kernel does not let either through FUSE to us).
//
// # Guarantees
//
// When Run returns nil, SECOND has every name, byte and attribute of PRIM, as of
// the same point of the stream, and nothing else. What failed on SECOND on behalf
// of the pass is in the answer to SyncEnd, and passed again; what fails time after
// time ends the pass with an error. Nothing waits for the pass besides the stream
// itself; a live operation waits for at most one zone, one small file or the list
// of one directory.
//
// # Assumptions
//
// Filter is called under the locks of everything that op conflicts with
// (journal.Keys), the zone in case of a write, the rest of the file from its offset
// on in case of fallocate and truncation; Source takes the same locks. Run begins
// when every live operation that has not asked Filter has ended. The receiver
// treats SyncBegin, SyncDir and SyncEnd as barriers, and Target.Around stands
// before the ordinary applier. KindRelease may name an object that SECOND has
// dropped. SECOND's directory is written by nobody else.
//
// # Lock order
//
// locks of objects (Source's, or those of the caller of Filter) → room in the
// stream → the mutexes of queue, table, meter and Pass, which are leaves and held
// for no more than a look: none is held while anything is awaited.
//
// # Memory
//
// About 40 bytes for each object of the tree on PRIM while the pass runs, 48 for
// each file that waits (a million at most, then the walk waits), the list of the
// directory at hand on both hosts, one zone for each worker.
//
// # Interruption
//
// A pass that is cut off leaves SECOND inconsistent (the caller has noted that
// durably before SyncBegin, R9), with objects in the holding area. Nothing is to be
// cleaned up: the next pass finds them by their FileIDs there, and costs hashing
// what was copied before.
package reintegrate
