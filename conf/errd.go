package conf

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Errd is what detects that processes have ended (guide §13.9).
type Errd struct {
	PollTimer time.Duration
	Procs     []Proc
}

// Proc is processes of one kind, or a service of systemd, that are monitored.
type Proc struct {
	Name      string // of the command, or of the service; the resource is proc.Name
	Service   bool
	NameRegex *regexp.Regexp // instead of Name; nil: none
	ArgRegex  *regexp.Regexp // of the command line; nil: any
	Class     string         // when it is monitored: ErrdClasses, or as scripts say
	AtLeast   int            // -1: no bound
	AtMax     int
	// Action is one of ErrdActions, or a handler: a path, relative to bin of the module
	// or absolute.
	Action     string
	StartAfter int // polls
	At         Pos // of the action
}

// ErrdActions are the actions of a <proc> that are no handlers. swap is skfs's own.
var ErrdActions = []string{"restart", "stopstart", "stop", "swap", "noaction"}

// ErrdClasses are those that skfs itself enables and disables with the scripts of the
// same name.
var ErrdClasses = []string{"prim", "both", "pre", "second", "sec"}

// Handler says that the action is a handler.
func (p *Proc) Handler() bool { return !slices.Contains(ErrdActions, p.Action) }

func errdTags() *tag {
	proc := &tag{name: "proc", attrs: []attr{
		{name: "name", must: true},
		{name: "service", kind: oneOf, def: "no", values: []string{"no", "yes"}},
		{name: "nameregex"},
		{name: "argregex"},
		{name: "atleast", kind: number, def: "1", lo: -1, hi: 100_000},
		{name: "action", def: "stopstart"},
		{name: "class", must: true},
		{name: "start_after", kind: number, def: "0", hi: 100_000},
		{name: "atmax", kind: number, def: "-1", lo: -1, hi: 100_000},
	}}
	return &tag{name: "errd", attrs: []attr{{name: "polltimer", kind: number, def: "30", lo: 1, hi: maxSeconds}}, children: []child{{proc, 0, 0}}}
}

// maxProcName is how much of a command's name the kernel keeps.
const maxProcName = 15

// validProc is a name that is fit for a resource, too.
var validProc = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:%@/-]{0,62}$`)

func (s *scanner) errd(n *node, m *Module) *Errd {
	e := &Errd{PollTimer: n.dur("polltimer", time.Second)}
	if m.User == nil {
		s.addf(n.pos, "<errd> needs <user/>: processes are monitored between the scripts that start and stop them")
	}
	for _, c := range n.all("proc") {
		p := Proc{At: c.at("action"), Name: c.str("name"), Service: c.str("service") == "yes", AtLeast: int(c.num("atleast")), AtMax: int(c.num("atmax")),
			StartAfter: int(c.num("start_after")), Class: strings.TrimSpace(c.str("class")), Action: strings.TrimSpace(c.str("action"))}
		p.NameRegex, p.ArgRegex = s.pattern(c, "nameregex"), s.pattern(c, "argregex")
		switch {
		case !c.has("name"): // reported
		case !validProc.MatchString(p.Name):
			s.addf(c.at("name"), "name=%q: expected the name of a command or service, at most 63 letters, digits and '_.:%%@/-'", p.Name)
		case !p.Service && p.NameRegex == nil && len(p.Name) > maxProcName:
			m.Warnings.addf(c.at("name"), "name=%q: the kernel keeps %d characters of a command's name, so all commands that begin with %q count",
				p.Name, maxProcName, p.Name[:maxProcName])
		}
		if c.has("class") {
			if err := CheckName(p.Class); err != nil {
				s.addf(c.at("class"), "class: %v", err)
			}
		}
		if p.AtLeast >= 0 && p.AtMax >= 0 && p.AtMax < p.AtLeast {
			s.addf(c.at("atmax"), "atmax=%d is smaller than atleast=%d", p.AtMax, p.AtLeast)
		}
		if p.AtLeast < 0 && p.AtMax < 0 {
			m.Warnings.addf(c.pos, "proc %s has neither atleast nor atmax: nothing is an error", p.Name)
		}
		if p.Service {
			for _, a := range []string{"nameregex", "argregex"} {
				if c.has(a) {
					m.Warnings.addf(c.at(a), "%s means nothing for a service", a)
				}
			}
		}
		if p.Handler() {
			s.handler(c, &p, m)
		}
		if slices.ContainsFunc(e.Procs, func(o Proc) bool { return o.Name == p.Name }) {
			m.Warnings.addf(c.at("name"), "several <proc> are called %s: resource proc.%s is up when all of them are", p.Name, p.Name)
		}
		e.Procs = append(e.Procs, p)
	}
	return e
}

func (s *scanner) handler(c *node, p *Proc, m *Module) {
	if !filepath.IsAbs(p.Action) && !filepath.IsLocal(p.Action) || p.Action == "." {
		s.addf(c.at("action"), "action=%q: expected %s, or the path of a handler, relative to bin or absolute", p.Action, strings.Join(ErrdActions, ", "))
	}
	if slices.Contains(ErrdClasses, p.Class) {
		m.Warnings.addf(c.at("class"), "proc %s has a handler: give it a class of its own, so that the handler can disable and enable it", p.Name)
	}
}

// pattern reads a regular expression, which finds a match anywhere (regex(7)).
func (s *scanner) pattern(n *node, name string) *regexp.Regexp {
	if !n.has(name) {
		return nil
	}
	re, err := regexp.CompilePOSIX(n.str(name))
	if err != nil {
		s.addf(n.at(name), "%s=%q: %v", name, n.str(name), err)
	}
	return re
}

// checkHandlers says which handlers are not there: an action that is misspelt is one.
func (e *Errd) checkHandlers(bin string, ps *Problems) {
	for _, p := range e.Procs {
		if !p.Handler() {
			continue
		}
		file := p.Action
		if !filepath.IsAbs(file) {
			file = filepath.Join(bin, file)
		}
		if st, err := os.Stat(file); err != nil || !st.Mode().IsRegular() {
			near := ""
			if n := Nearest(p.Action, ErrdActions); n != "" {
				near = "; did you mean " + n + "?"
			}
			ps.addf(p.At, "action=%q of proc %s is neither one of %s nor an executable in bin of the module%s",
				p.Action, p.Name, strings.Join(ErrdActions, ", "), near)
		}
	}
}
