package ha

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// How resources get values from outside of the automaton: from checkers, scripts
// and commands (§13.18.4).

// An assignment gives a resource a value. The zero history notes changes.
type assignment struct {
	Name, Value, By string
	History         history
}

// assign gives a resource a value that by found out: to the log, the history and
// the readers. Nothing happens when it has the value already. It is for the loop's
// goroutine; see report.
func (m *module) assign(ctx context.Context, name, value, by string) {
	m.assigned(ctx, assignment{Name: name, Value: value, By: by})
}

func (m *module) assigned(_ context.Context, a assignment) {
	if a.By == "" {
		a.By = bySystem
	}
	if !m.res.put(Resource{Name: a.Name, Value: a.Value, Since: time.Now(), By: a.By}, a.History) {
		return
	}
	if a.History != historyNever {
		m.log.Write(assignLevel(a.Value), logSource(a.By), fmt.Sprintf("Resource %s set to %s by %s", a.Name, a.Value, a.By))
	}
	m.publish()
}

// assignLevel: the states that rules look at are events, init and figures are not.
func assignLevel(value string) Level {
	switch value {
	case "up", "down", "unknown":
		return LevelEvent
	}
	return LevelInfo
}

// logSource is the column of the log for a line about what by did: a program's name
// stands for itself, an administrator for heart.
func logSource(by string) string {
	if strings.ContainsAny(by, "/@ ") || by == "" {
		return "heart"
	}
	return by
}

// report is assign for any goroutine. The error is that of ctx.
func (m *module) report(ctx context.Context, name, value, by string) error {
	return m.post(ctx, func() { m.assign(ctx, name, value, by) })
}

// forgetResources takes away resources that were assigned and whose setter is not
// configured any more. Loop's goroutine.
func (m *module) forgetResources(names ...string) {
	for _, name := range names {
		if _, ok := m.res.values[name]; ok && !m.res.own[name] {
			m.res.forget(name)
		}
	}
	m.publish()
}

// bySystem is who gives a command without saying more.
const bySystem = "SYSTEM/root"

var (
	validResource = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}\.[A-Za-z0-9_][A-Za-z0-9_.:%@/-]{0,127}$`)
	validValue    = regexp.MustCompile(`^[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?$`)
)

// ownClasses are the resource classes that only skfs itself assigns.
var ownClasses = []string{"heart", "heartbeat", "rfs", "state", "usersetting", "connections"}

// assigns says that the command gives a value to a resource that is not the
// automaton's.
func (c Command) assigns() bool {
	return c.Name == "set" && len(c.Args) >= 2 && c.Args[0] != "rfs.syncat"
}

// mayAssign says why a set command is not accepted now, or returns "". Its
// arguments are name, value, and "nolog" or "log" if the history shall not follow
// the rule.
func (s *State) mayAssign(c Command) string {
	if len(c.Args) < 2 || len(c.Args) > 3 || len(c.Args) == 3 && c.Args[2] != "nolog" && c.Args[2] != "log" {
		return "expected a resource and its value"
	}
	name, value := c.Args[0], c.Args[1]
	class, _, _ := strings.Cut(name, ".")
	switch {
	case !validResource.MatchString(name):
		return fmt.Sprintf("resource %q: expected class.name, such as custom.disk", name)
	case !validValue.MatchString(value):
		return fmt.Sprintf("value %q: expected up, down, init, or another word of at most 128 characters", value)
	case name == "rfs.syncat" && value != "up":
		return "rfs.syncat can be set to up only"
	case name == "rfs.syncat" && !s.Conf.SyncAt:
		return "<rfs> has no syncat"
	case name == "rfs.syncat" && s.Role == RoleStop:
		return "the module is stopped"
	case name == "rfs.syncat":
	case class == "local" || class == "remote":
		return fmt.Sprintf("resource %q: a resource is set on its own node, and named without %s.", name, class)
	case slices.Contains(ownClasses, class):
		return fmt.Sprintf("resource %s is set by skfs itself (of rfs.…, only rfs.syncat can be set, to up)", name)
	}
	return ""
}

// assignAsked carries out a set command that mayAssign let pass.
func (m *module) assignAsked(ctx context.Context, c Command) {
	a := assignment{Name: c.Args[0], Value: c.Args[1], By: cmp.Or(c.Identity, c.By)}
	if len(c.Args) == 3 {
		a.History = historyNever
		if c.Args[2] == "log" {
			a.History = historyAlways
		}
	}
	m.assigned(ctx, a)
}
