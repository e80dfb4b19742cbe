// Package conf reads, checks and applies what an administrator writes: cluster.xml,
// userconfig.xml and .safe packages.
//
//	cluster.xml ────────ParseCluster───────▶ Cluster ─┐
//	                                                  ▼
//	userconfig.xml ──▶ document ──▶ ParseUserConfig ─▶ Module
//	                   (scan.go, checked against the
//	                    tables in table_*.go)
//
//	AM.safe ──Install──▶ SAFE/modules/AM ──Apply──▶ SAFE/private/modules/AM
//	        ◀──Package── (current: edited here)     (active: what runs)
//
// # Guarantees
//
//   - A file is accepted as a whole or not at all. Every mistake in it is
//     reported, each with file:line:column, what was expected and the nearest
//     name that exists. Nothing is ignored in silence: what the guide defines
//     and this version does not do yet is refused by name.
//   - Defaults are those of the guide.
//   - Apply and ApplyCluster replace the active configuration in one rename, so
//     a crash leaves the old one or the new one, and an aborted copy is removed
//     by the next call.
//   - A package cannot write outside the module that it is installed as.
//
// # Assumptions
//
// The caller is root, and SAFE and SAFEVAR belong to root: contents of these
// trees are trusted as far as the administrator who put them there is.
//
// # Locks
//
// Changes of the set of modules and of active configurations are serialised
// between processes by flock on SAFEVAR/conf.lock (lock.go). It is the only
// lock; parsing takes none and has no global state.
package conf
