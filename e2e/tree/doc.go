// Package tree compares two directory trees in everything an application can
// see: names, types, content, modes, owners, modification times to the
// nanosecond, extended attributes and ACLs, targets of symlinks, device numbers,
// which names are links of one file, and where large holes are.
//
// Not compared: access and change times, inode numbers, link counts and sizes of
// directories (file systems count them differently), and the attributes
// trusted.skfs.*, which skfs keeps for itself.
//
// Both trees must be at rest. Symlinks are never followed, and objects are
// opened relative to their directory, so depth is limited by descriptors (two a
// level) and not by the length of paths.
package tree
