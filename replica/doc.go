// Package replica is the process that owns the data of one mirror module on one
// host: the FUSE mounts (fs), the stream to the other host (journal), the
// reintegration (reintegrate), the record of what the data is, and a control
// socket through which the supervisor of the module rules it.
//
//	           control socket
//	                │ promote alone cut abandon follow outdate demote stop
//	                ▼
//	 idle ──promote──▶ primary ──demote──▶ idle
//	   │ ▲                │ frozen ⇄ alone ⇄ copying ⇄ in sync
//	follow└── promote ──┐
//	   ▼                │
//	 second: joining ⇄ syncing ⇄ in sync
//
// It outlives the daemon: nothing here depends on somebody listening, except
// that a primary that has lost its second while in sync is frozen until it is
// told Alone, until the second comes back, or until it is told Abandon because the
// peer has taken over: then what waits fails.
//
// # What is promised
//
// A mutation that an application was answered for is on the second host too
// (received or on its disk, by async) if the state record there says that it may
// be promoted; or the record there says durably that it may not. The three steps
// of a join keep it so:
//
//  1. The primary welcomes the second, and makes the second's notes its own.
//  2. The second records "syncing", and says so: only then does the primary carry
//     out, without the second, what waited.
//  3. When the pass has ended the primary records "connected" (it is not surely
//     the newest any more), and then has the second record "second": it may be
//     promoted.
//
// A second that has ended in order and a primary that has not changed anything
// since need no pass: both know the epoch and the number of the last operation.
// This is what makes a swap cheap. Otherwise what is copied is decided from the
// records of both (decide.go), and is what both have noted of each other (notes.go)
// wherever that is known to be enough. While both are in sync, checkpoints keep the
// notes few (checkpoint.go), but for what has ended differently on the two hosts. Such a
// call puts the second in sync back to step 2 over the same stream (mend.go). The
// primary knows of it up to three seconds later, since success is not reported; until
// then the second is in doubt by itself (doubt.go): when the stream ends, it is not
// consistent. A call that failed on the primary alone is not in doubt there: for up to
// that long a second may be promoted with a change of which the application was told
// that it failed, as after any write that was cut off.
//
// # What a crash leaves
//
// The backing directories, plain, after the stale mount is cleared at the next
// start; rfs.state as last recorded; the notes, those of changes in sync as far as a
// kill leaves them; the index of identities as of the last checkpoint; with
// async="none" a receive log, which the next start replays.
package replica
