// Package lab makes several hosts out of one machine: each has network, mount,
// process, IPC and host-name namespaces of its own, and they are wired by
// bridges that live in a network namespace of the lab. It needs root, and no
// program besides the one that uses it (mkfs for loop disks apart).
//
//	the machine                                         (left alone)
//	──────────────────────────────────────────────────────────────────
//	lab namespace      bridge "default"            bridge "repli"
//	                    │p0     │p1   │p2           │p0    │p1    │p2
//	hosts              eth0    eth0  eth0          eth1   eth1   eth1
//	                  ┌─────────┐   ┌─────────┐   ┌─────────┐
//	                  │ node1   │   │ node2   │   │ client  │
//	                  │ holder  │   │ holder  │   │ holder  │  PID 1 of each
//	                  └─────────┘   └─────────┘   └─────────┘
//	disks      <lab>/node1/disks/…  <lab>/node2/disks/…
//
// A host sees the machine's files (its own programs, say) under a root of its
// own, in which every [Disk] is mounted at its path: two hosts have the same
// /srv/data, backed by different directories, and neither exists on the
// machine. What a host mounts, nobody else sees.
//
// # Faults
//
// [Host.PowerOff] cuts the host's cables and kills all its processes at once:
// the others hear nothing more. [Host.Kill] kills the processes only, so that
// the kernel still closes their connections. [Host.Boot] brings the host back
// with the same disks. [Host.LinkDown] pulls a cable, [Lab.Drop] loses the
// frames of one direction between two hosts, [Host.Pause] stops all processes of
// a host. Page cache survives all of these. [Host.PowerCut] is PowerOff without
// it: the disks that are file systems of their own lose what they had not
// written. Every boot has a boot id of its own. [Fill] leaves no room on a disk, and
// [Process.SetClock] sets the wall clock that one process sees.
//
// [Host.SaveDisk], [Host.RestoreDisk] and [Host.ReplaceDisk] do with such a disk,
// while the host is off, what administrators do to disks.
//
// # systemd
//
// A host may boot systemd (HostSpec.Systemd, [NoSystemd]), as a container does: it starts
// the units of the host, [Host.AwaitBooted] waits for them, and a shutdown or reboot that
// it carries out ends the host as on a machine ([Host.AwaitShutdown]). Nothing that it
// sets up reaches the machine; see systemd.go.
//
// # What is left when
//
// [Lab.Close] takes everything away and says what it could not. When the process
// that owns the lab is killed, each holder sees the end of its life pipe and
// exits, which kills its host, and the namespaces, bridges, mounts and loop
// devices go with the last process; only the lab's directory and the control groups of
// hosts with systemd stay, which [Sweep] removes (a lock on a file in the directory, gone
// with its owner, says that it is abandoned). A lab that was told to [Lab.Keep] lives on until [Sweep] is
// told to remove kept labs too.
//
// # Helper processes
//
// Holders are the current program executed again with an environment variable.
// A program that uses the lab calls [Main] first thing: in TestMain, or in the
// command that [Options.HelperArgs] selects.
//
// # Locks
//
// Lab.mu guards the list of hosts, Host.mu what belongs to one boot of a host;
// Lab.mu is taken first.
package lab
