// Package cli is the command line of skfs: every command of the binary, in the
// syntax of the guide (§9), and the processes daemon and replica.
//
//	argv ──normalise──▶ urfave/cli ──▶ command ──▶ web.Client ──▶ daemon
//	                                          ├──▶ conf (files; when no daemon runs)
//	                                          └──▶ replica.Client (rfsdiff, splitbrain)
//
//	skfs daemon  = ha.Supervisor + web.Server + launcher
//	skfs replica = replica.Run
//
// # Guarantees
//
//   - Flags may stand anywhere, -m AM in particular. Called as safekit, or under
//     any name, the binary behaves the same.
//   - Exit codes: those of the guide where it names them (state -lq), else 0 for
//     success and 1 for failure; 2 for a command line that is wrong. A wrong
//     command or flag is answered with the nearest valid one.
//   - Output for people goes to standard output, errors go to standard error and
//     start with "Error: ". With --json the output of reading commands is JSON.
//   - The end of the daemon, by SIGTERM or by force, leaves replicas and
//     applications running (R1). So does a restart of the unit; when systemd stops it
//     for good, or goes down, modules are stopped (shutdown --unit, systemd.go).
//   - Applications do not see what systemd tells the daemon in its environment.
//
// # Assumptions
//
// The caller is root. SAFE and SAFEVAR name the installation; SAFEMODULE stands
// for -m, as in scripts.
//
// # What a crash leaves
//
// The daemon holds flock on SAFEVAR/skfs.lock while it lives: the kernel drops
// it with the process. A socket that is left is replaced by the next daemon.
// Commands that change files without a daemon hold the same lock.
package cli
