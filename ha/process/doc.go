// Package process reads the processes of this host from /proc, selects among them as
// the guide's errd, kill and processtree do, and signals them.
//
// A process is named by its number and the moment it began (ID), so that a number
// which was given to another process is never taken for the old one: Open returns a
// pidfd of exactly that process, and Signal goes through one.
//
// It reads two small files a process, and keeps nothing between calls. What ends
// while it is looked at is left out; a list is no snapshot.
package process
