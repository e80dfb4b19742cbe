// Package journal carries the mutations of a replicated tree from the primary
// to the second host, in an order that both keep.
//
//	primary                                                second host
//	Submit ─▶ Seq, queue ─▶ writev ═══ 1…16 connections ═▶ reorder by Seq
//	  │                                                      │ ack: received
//	Wait ◀──────────────── watermarks ◀═════════════════════─┤
//	  │                                                      ├─▶ receive log ─ ack: durable
//	the caller does its half                                 ▼
//	LocalFailed ─▶ outcomes ◀══ results, ack: applied ═══ scheduler ─▶ Apply, side by side
//	                  └─▶ Mismatch
//
// # What it guarantees
//
//   - Operations reach Apply once each. Those with a key in common (Keys) reach
//     it in the order of their Seqs; others do not wait for each other.
//   - When Wait returns nil the second host has the operation: in memory with
//     AsyncSecond, in its receive log on disk with AsyncNone. However the link
//     then ends, Run applies it before it returns.
//   - When Run has returned, what is applied is operations 1 to Applied() and
//     nothing else: a prefix, in which every committed operation lies. (If the
//     receive log's disk fails, what it does not hold is not applied.)
//   - An operation that fails on one node only, or differently, is told to
//     Mismatch, at the latest when the stream ends; then also those whose end on
//     the peer is not known. One that fails alike is told to Alike. Failures of
//     operations that were started with Start are in their Result instead.
//   - When Wait or Result has returned nothing refers to the operation's Data.
//   - Memory is bounded on both ends: SenderOptions.QueueBytes of what is not
//     committed, ReceiverOptions.QueueBytes of what is not applied (each plus
//     one batch a connection). A slow second host slows the primary, up to
//     LockTimeout and SendTimeout, which end the stream.
//   - A frame that is wrong, of another version or of another epoch ends the
//     link with an error that names the field, and nothing else.
//
// # What the peer lacks
//
// Lacks keeps notes of what the peer may not have on its disk: of a file the
// zones, of a directory its list of names, of any object its attributes, or the
// whole of it. There is one for each module and node.
//
//	change ─ Note ─▶ notes of this generation ─ Rotate ─▶ old notes ─ Clear ─▶ gone
//	                 memory: look-ups                        ▲
//	                 Pebble: one key a note                  └ after a restart: all that was there
//
// It guarantees:
//
//   - A note that Note was asked to make durable is on disk when it returns, even
//     if another goroutine is making it. Any other survives the process when Note
//     returns. Notes reach the disk in the order in which they were made: a power
//     cut takes the newest ones, and what was cleared last may be back.
//   - Only the first touch of a zone, list or object since the last Rotate costs a
//     write, or a flush; those at one time share it.
//   - Clear takes notes from before the last Rotate only. One that was made again
//     since stays.
//   - While the peer is away (Unknow) a new object is born: it has no notes, as the
//     note of its directory leads to it. That knowledge is in memory only; after a
//     restart a change of such an object is noted like any other. Know turns it into
//     notes before the peer hears of a change.
//   - An error of the disk is final: every later call returns the first one. What
//     the peer lacks is then what the disk holds, or not known.
//
// The caller notes a change before it sends it or carries it out, does not rotate
// while a change is under way, and passes what it read in the notes of the other
// node (Page) to Merge.
//
// # What it assumes
//
// Who submits holds the locks of what the operation conflicts with, so that the
// order of Seqs is that of the effects, at least until Submit returns. Both ends
// agree on the epoch and the first Seq (the owners put them in Hello and
// Welcome). Peers are trusted with memory up to the bounds, not with more.
//
// # Locks
//
// Sender.mu protects everything in Sender below it; it is never held in a
// system call, while a caller's function runs or while somebody sleeps.
// Receiver.mu likewise. An outbox's lock comes before Receiver.mu: a watermark
// is read and put behind what was said before in one step. ReceiveLog.mu is
// taken alone. Lacks.mu comes after every lock of a caller and is not held while
// the store writes; Lacks.users is held by readers of the store.
//
// # What a crash leaves
//
// Of the stream, nothing on the primary. On the second host the data holds some
// of the operations it had received, those of one object in order (after a power
// cut names and attributes in order, and any of the bytes). With a receive log Each
// then gives all that were acked as durable, and reintegrate.Redo brings the data to
// their end, whatever part of them it holds: to apply names once more would not.
// Without one the second host is out of date, which its owner knows. Of the notes,
// all after a kill; after a power cut those that were durable, and perhaps more.
package journal
