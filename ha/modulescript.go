package ha

import (
	"context"
	"os"
	"path/filepath"

	"github.com/skfs/skfs/conf"
)

// runnerOf makes the runner of a script that sees the given hostname.
func (m *module) runnerOf(mc *moduleConf, hostname string) *runner {
	vars := m.paths.UserVar(m.name)
	r := &runner{dir: m.runDir(), bin: m.paths.UserBin(m.name), cwd: vars, hostname: hostname}
	if mc.logging {
		r.userlog = m.paths.UserLog(m.name)
	}
	r.env = append(os.Environ(), m.paths.ScriptEnv(m.name)...)
	if hostname != "" {
		r.env = append(r.env, "HOSTNAME="+hostname) // shells believe what they inherit
	}
	r.env = append(r.env, mc.env...)
	return r
}

// runDir is where scripts leave how they ended.
func (m *module) runDir() string { return filepath.Join(m.paths.UserVar(m.name), "run") }

// hasScript says that the module has a script, and its configuration that it is called.
func (m *module) hasScript(mc *moduleConf, name string) bool {
	r := runner{bin: m.paths.UserBin(m.name)}
	return mc.scripts && r.exists(name)
}

// runScript runs a script with the arguments and the environment of §14.3.
func (m *module) runScript(ctx context.Context, mc *moduleConf, a Run, kill <-chan struct{}) Done {
	t := a.Task
	r := m.runnerOf(mc, mc.hostname(t))
	if !m.hasScript(mc, t.Script) {
		return Done{ID: a.ID}
	}
	if t.Script == "prestart" {
		m.limitUserlog(mc)
	}
	s := script{key: taskKey(a.ID), name: t.Script, args: []string{t.From.String(), t.To.String(), t.Action}, kill: kill, fresh: a.ID > m.given}
	line := "Script " + t.Script
	if t.Force {
		s.args = append([]string{"force"}, s.args...)
		s.timeout = mc.forceStop
		line += " force"
	} else if !t.starts() && t.Part != 0 {
		s.timeout = mc.niceStop
	}
	exit, err := r.run(ctx, s, func() {
		level := LevelEvent
		if t.Force || t.Part == 0 {
			level = LevelInfo
		}
		m.log.Write(level, "userplug", line)
	})
	return Done{ID: a.ID, Err: err, Exit: exit}
}

// hostname is the one that the script of a task sees; "": the host's (§13.8). What
// starts and stops the primary's part belongs to the primary in every state.
func (mc *moduleConf) hostname(t Task) string {
	role := t.From
	if t.starts() {
		role = t.To
	}
	switch t.Part {
	case PartPrim:
		role = RolePrim
	case PartSecond:
		role = RoleSecond
	}
	return mc.hostnameIn(role)
}

// hostnameIn is the one that the application sees in a role.
func (mc *moduleConf) hostnameIn(role Role) string {
	if mc.vhost == nil {
		return ""
	}
	prim, second := role == RoleAlone || role == RolePrim, role == RoleSecond
	both := prim || second || role == RoleUp
	if map[conf.HostWhen]bool{conf.HostPrim: prim, conf.HostSecond: second, conf.HostBoth: both}[mc.vhost.When] {
		return mc.vhost.Name
	}
	return ""
}
