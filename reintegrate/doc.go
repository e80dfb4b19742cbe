// Package reintegrate brings a node that was away up to date, while the
// application writes: by what is noted that it lacks, by times, or by comparing
// everything.
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
// the zone, blocks that differ are sent, holes as holes; a hole of many zones at once,
// without a question. After its data an object
// gets its attributes, the modification time last (SyncAttrs); directories get
// theirs when all names are settled. SyncEnd empties the holding area.
//
// # Modes
//
//	        directories sent          files compared by hash
//	Full    all                       all
//	Scan    all                       those that SECOND does not vouch for, or that were
//	                                  changed after Since by either host's ctime
//	Delta   those that are noted      the zones that are noted; and of what a directory
//	                                  that is sent names, what SECOND does not vouch for
//
// In a delta and a scan the answer to a list says of each entry whether SECOND had
// the object, and whether it is as on PRIM by type, size, mtime, mode, owner and xattrs.
// Since attributes are sent last, those that are equal say that a copy was
// complete. What SECOND made new is passed as in a full pass, and so on below it
// for a directory. A file that a pass makes has permissions that no file has
// (stubMode) until it is complete: notes tell what was changed of an object that
// SECOND had, so a pass after one that was cut off must know what SECOND never had.
//
// A delta begins with the notes: every noted object is looked at once, for what it
// is and how long (see loader). Names first, from the top down: so when a directory
// is sent, SECOND has it, and where PRIM has it, unless it was moved meanwhile; then
// it is tried again after the others. Then the files, for which the notes are asked
// again at their turn, as live operations go on noting. Nothing else is read, so a
// delta costs what is noted and what the lists name, whatever the size of the tree.
// An object that is gone by its turn is nothing.
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
//	passing   –                   outside its region     pending
//	                              forwarded
//	dirNamed  pending             –                      pending
//	dirListed forwarded           –                      pending
//	settled   forwarded           forwarded              forwarded
//
// What the table does not hold is pending, in a delta settled once the notes are
// read. While they are read all is pending; what is changed meanwhile is noted, and
// read last.
//
// A large file is made as long on SECOND as it is on PRIM at its start. Its region
// is what of that length is still to be copied: everything, or in a delta the zones
// that are noted. What is appended is forwarded, so that a file which grows faster
// than it can be copied comes to its end (R11), and a truncation cuts the region and
// is forwarded. The bytes of the region do not change on SECOND before the copy
// changes them, so hashes need no lock and no order. A file of which attributes
// alone are noted is passing with an empty region from the start.
//
// What a list names and the delta has not met is pending from before the list until
// the answer (named, dirNamed), then settled if SECOND has vouched for it. A change
// that was not forwarded until then is remembered as missed: such an object is
// passed by its notes, in a scan by hash.
//
// Changes of names. L: the directory is listed (dirListed or settled). N: it is
// not. X is the object, V what has the target name already.
//
//	operation          forwarded               besides
//	create in L        as it is                X is settled from birth; its attributes
//	                                           are sent again at the end, because what it
//	                                           inherits in L may differ there until then
//	create in N        –                       delta: X is pending
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
// deleted. In a delta nobody has looked at all names, so until all directories are
// listed every X is hidden. Then nothing is any more.
//
// Why moving directories on SECOND never makes a loop: the parent of a listed
// directory is, on SECOND, listed or the holding area. So what lies above a
// directory whose names are being set is listed, or the holding area; the listed
// are above it on PRIM too, where nothing can move into itself, and nothing that is
// still pending is above it.
//
// In a delta a directory without notes counts as listed while one above it may be
// pending, so it may be elsewhere on SECOND: below X even, when X is to be moved
// into it. Therefore, until all are listed, a directory with a pending one above it
// that is to take in a directory becomes pending itself (bar), and a directory is
// sent only when those above it were. What is above the topmost pending directory
// has no notes or was sent, hence is as on PRIM: it can always be sent, and the rest
// after it.
//
// In split brain SECOND may have deleted what has no notes of PRIM's. A change of
// that is forwarded and fails there, until the directory that SECOND has noted is
// sent; Failed has it passed again.
//
// An open file that has no name and may get one (O_TMPFILE) is not found by the
// walk; Source.Orphans names those that are left after it. RENAME_WHITEOUT makes
// an object that no operation describes: fs refuses it, as it does fallocate that
// shifts bytes (the kernel does not let either through FUSE to us).
//
// # Guarantees
//
// When Run returns nil, SECOND has every name, byte and attribute of PRIM, as of
// the same point of the stream, and nothing else. A pass ends only when every failure
// of an operation numbered before its end has been told of, and what was made pending
// by that has been passed without a failure. What failed on SECOND on behalf of the
// pass is in the answer to SyncEnd; what became different by live operations, Failed
// has been told when Options.Settle returns; whatever the pass has sent since asks for
// one more round. A failure that is older than the last time the whole object was sent
// is mended by that and does not count; what fails time after time ends the pass with
// an error. Nothing waits for the pass besides the stream
// itself; a live operation waits for at most one zone, one small file or the list
// of one directory.
//
// # Assumptions
//
// An operation is noted before Filter is asked. Notes know every object that
// SECOND may lack, or have otherwise than the names, attributes and zones that are
// not noted: new objects as Whole, with the names of their directory. Every object
// is found by its FileID on both hosts before a delta begins. Moves of directories
// between directories come one at a time, as the kernel has them.
//
// Filter is called under the locks of everything that op conflicts with
// (journal.Keys), the zone in case of a write, the rest of the file from its offset
// on in case of fallocate and truncation; Source takes the same locks. Run begins
// when every live operation that has not asked Filter has ended, or in a delta is
// noted and has its locks. The receiver
// treats SyncBegin, SyncDir and SyncEnd as barriers, and Target.Around stands
// before the ordinary applier. KindRelease may name an object that SECOND has
// dropped. SECOND's directory is written by nobody else.
//
// # Lock order
//
// locks of objects (Source's, or those of the caller of Filter) → room in the
// stream → the mutexes of queue, then table, meter and Pass, which are leaves and held
// for no more than a look: none is held while anything is awaited. Once, at the end
// of reading the notes, the table's is held over Notes.Get, Source.Stat and
// Source.Parent, for what was changed in the last moment before.
//
// # Memory
//
// About 40 bytes for each object of the tree on PRIM while the pass runs, in a delta
// for each that is noted, is named by a list or is made; 48 for each file that waits
// (a million at most, then the walk waits); some 100 for each object that is noted,
// until its turn; the list of the directory at hand on both hosts, one zone for each
// worker.
//
// # Interruption
//
// A pass that is cut off leaves SECOND inconsistent (the caller has noted that
// durably before SyncBegin, R9), with objects in the holding area. Nothing is to be
// cleaned up: the next pass finds them by their FileIDs there, and costs hashing
// what was copied before. Notes stay until a pass has ended, so a delta that was cut
// off is followed by a delta. But a full pass or a scan changes what is not noted
// (the mtime of a file that it writes to, until it sends its attributes): after one
// that was cut off comes a scan or a full pass, never a delta.
package reintegrate
