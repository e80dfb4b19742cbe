package conf

import (
	"cmp"
	"os"
	"path/filepath"
)

// Paths knows where every file of an installation lies. Both roots can be set,
// so that several nodes can live on one machine.
type Paths struct {
	Safe    string // SAFE: programs, modules and their configurations
	SafeVar string // SAFEVAR: what changes while skfs runs
}

// FromEnv takes the roots from SAFE and SAFEVAR of the environment.
func FromEnv() Paths {
	return Paths{
		Safe:    filepath.Clean(cmp.Or(os.Getenv("SAFE"), "/opt/skfs")),
		SafeVar: filepath.Clean(cmp.Or(os.Getenv("SAFEVAR"), "/var/lib/skfs")),
	}
}

// Of the node.

func (p Paths) SafeBin() string        { return filepath.Join(p.Safe, "private/bin") }         // special commands: SAFEBIN
func (p Paths) Templates() string      { return filepath.Join(p.Safe, "Application_Modules") } // .safe packages
func (p Paths) Modules() string        { return filepath.Join(p.Safe, "modules") }
func (p Paths) ActiveModules() string  { return filepath.Join(p.Safe, "private/modules") }
func (p Paths) ModuleVars() string     { return filepath.Join(p.SafeVar, "modules") }
func (p Paths) Cluster() string        { return filepath.Join(p.SafeVar, "cluster") }
func (p Paths) ClusterFile() string    { return filepath.Join(p.SafeVar, "cluster/cluster.xml") }
func (p Paths) ClusterKeyFile() string { return filepath.Join(p.SafeVar, "cluster/cluster.key") } // not there: nothing is signed
func (p Paths) ClusterZip() string     { return filepath.Join(p.SafeVar, "cluster/cluster.zip") } // for the other nodes
func (p Paths) ClusterLock() string    { return filepath.Join(p.SafeVar, "cluster/locked") }      // exists: cluster config is refused
func (p Paths) DaemonSocket() string   { return filepath.Join(p.SafeVar, "skfs.sock") }
func (p Paths) DaemonLock() string     { return filepath.Join(p.SafeVar, "skfs.lock") } // held by the daemon
func (p Paths) ModuleIDs() string      { return filepath.Join(p.SafeVar, "modules.ids") }
func (p Paths) CommandLog() string     { return filepath.Join(p.SafeVar, "log.db") } // of the commands that were run
func (p Paths) configLock() string     { return filepath.Join(p.SafeVar, "conf.lock") }

// Of module am.

func (p Paths) ModuleDir(am string) string { return filepath.Join(p.Modules(), am) }       // current configuration
func (p Paths) ActiveDir(am string) string { return filepath.Join(p.ActiveModules(), am) } // active configuration
func (p Paths) ActiveConfig(am string) string {
	return filepath.Join(p.ActiveDir(am), "conf/userconfig.xml")
}
func (p Paths) ActiveInfo(am string) string    { return filepath.Join(p.ActiveDir(am), "active") }
func (p Paths) UserBin(am string) string       { return filepath.Join(p.ActiveDir(am), "bin") } // SAFEUSERBIN
func (p Paths) UserVar(am string) string       { return filepath.Join(p.ModuleVars(), am) }     // SAFEUSERVAR
func (p Paths) UserLog(am string) string       { return filepath.Join(p.UserVar(am), "userlog.ulog") }
func (p Paths) ReplicaSocket(am string) string { return filepath.Join(p.UserVar(am), "replica.sock") }
func (p Paths) ReplicaLog(am string) string    { return filepath.Join(p.UserVar(am), "replica.log") }
func (p Paths) HAState(am string) string       { return filepath.Join(p.UserVar(am), "ha.state") }
func (p Paths) LogDB(am string) string         { return filepath.Join(p.UserVar(am), "log.db") }
func (p Paths) ResourceDB(am string) string    { return filepath.Join(p.UserVar(am), "resource.db") }

// ScriptEnv returns the variables that every script and special command of
// module am gets (guide §14.3), as name=value. With am "" only those of the node.
func (p Paths) ScriptEnv(am string) []string {
	env := []string{"SAFE=" + p.Safe, "SAFEVAR=" + p.SafeVar, "SAFEBIN=" + p.SafeBin()}
	if am != "" {
		env = append(env, "SAFEMODULE="+am, "SAFEUSERBIN="+p.UserBin(am), "SAFEUSERVAR="+p.UserVar(am))
	}
	return env
}
