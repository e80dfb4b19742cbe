// Package lbfilter shares virtual IP addresses among the members of a farm: a
// filter in the kernel of each member decides, frame by frame, whether this member
// takes it (§1.4.2, §13.5.7). It knows nothing of modules.
package lbfilter
