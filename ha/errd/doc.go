// Package errd detects that processes of an application, or services of systemd, have
// ended or are too many (guide §13.9).
//
//	Enable(classes) ──▶ ┌─────────┐ scan of /proc ──▶ counts ──▶ decide (pure) ──▶ Report
//	Configure       ──▶ │ Watcher │◀── the oldest of them end (pidfd)
//	                    └─────────┘◀── systemd says that a unit changed (D-Bus)
//	                         ▲──────── polltimer, the floor
//
// A Watch is one <proc>. Whether its class is monitored the caller says; what an alarm
// leads to is the caller's too.
//
// # Guarantees
//
//   - That there are fewer than atleast is noticed when the process ends, not at the
//     next poll. For that it is enough to hold pidfds of as many processes as atleast
//     says: when fewer are left, one of these has ended. Too many (atmax) are noticed
//     at the next poll.
//   - Looking takes a fifth of one processor at most, however often processes end: a
//     look at /proc is followed by a rest of four times its length (some milliseconds).
//   - A process that its start script leaves behind before it has its own name is no
//     alarm: a Watch whose processes were never seen is decided one poll after its
//     class was enabled, or when start_after says.
//   - An alarm that changes nothing is repeated every poll; noaction is told once.
//   - What cannot be known (systemd does not answer) is no alarm. It is said once.
//
// # Assumptions
//
// Processes are those of /proc: with their own PID namespace they are seen from outside.
// The name of a process is what the kernel keeps of it (process.NameMax bytes).
//
// # Goroutines and locks
//
// Run is one goroutine and waits for those it starts, one for each pidfd. Watcher.mu
// guards what others set and read; it is a leaf, and Report is called without it.
//
// Nothing is kept on disk: a new Watcher finds the processes by looking.
package errd
