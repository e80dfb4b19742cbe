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
//     the peer is not known. Failures of operations that were started with Start
//     are in their Result instead.
//   - When Wait or Result has returned nothing refers to the operation's Data.
//   - Memory is bounded on both ends: SenderOptions.QueueBytes of what is not
//     committed, ReceiverOptions.QueueBytes of what is not applied (each plus
//     one batch a connection). A slow second host slows the primary, up to
//     LockTimeout and SendTimeout, which end the stream.
//   - A frame that is wrong, of another version or of another epoch ends the
//     link with an error that names the field, and nothing else.
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
// taken alone.
//
// # What a crash leaves
//
// Of the stream, nothing on the primary. On the second host the data holds some
// of the operations it had received, those of one object in order (after a power
// cut names and attributes in order, and any of the bytes). With a receive log Each
// then gives all that were acked as durable, and reintegrate.Redo brings the data to
// their end, whatever part of them it holds: to apply names once more would not.
// Without one the second host is out of date, which its owner knows.
package journal
