// Package pair is a lab with skfs in it: two hosts that mirror a module, and a
// client host beside them. It drives skfs as an administrator does, by its
// command line, and sees the data as applications do, through the mount, or
// below it on each host's disk.
//
//	node1 ── default ── node2 ── client
//	  └────── repli ──────┘
//
// Every host has SAFE=/opt/skfs and SAFEVAR=/var/lib/skfs and its own disks for
// them and for the replicated directories, at the same paths on both.
//
// Waiting is done on what skfs itself streams (waitstate, logview), with the
// deadline of the context. When something does not come, the error carries what
// both hosts have in their logs.
package pair
