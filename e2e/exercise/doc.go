// Package exercise does random things to a directory and knows what must come
// out. It works on any file system, by ordinary system calls.
//
// [File] hits one file, as fsx does, and compares every read with a shadow in
// memory: reads, writes, appends, truncations, holes, preallocation, zeroed
// ranges, copy_file_range, shared maps read and written, direct I/O, syncs,
// reopening.
//
// [Names] works on names and attributes, as fsstress does, but against a model
// that predicts the error of every call: files, directories, symlinks, fifos,
// hard links, renames with and without NOREPLACE and EXCHANGE, files unlinked
// while open, O_TMPFILE and its linking, modes, owners, times, extended
// attributes, ACLs and their inheritance. Every so often the whole tree is
// compared with the model, and that st_ino never changes.
//
// All randomness comes from the seed. A [*Divergence] carries it with the
// operations that led there. What the file system does not support (found by
// trying once, at the start) is left out and listed in the result, so that the
// caller can insist.
package exercise
