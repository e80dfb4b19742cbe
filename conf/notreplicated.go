package conf

import (
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// NotReplicated excludes a path and what is below it, or all paths that a
// regular expression matches as a whole. One of the two is set.
type NotReplicated struct {
	Path   string // relative and clean
	Regexp *regexp.Regexp
}

func (n NotReplicated) String() string {
	if n.Regexp != nil {
		return "regexpath " + n.Regexp.String()
	}
	return "path " + n.Path
}

// Excludes says whether the relative path rel, or a directory it lies in, is
// not replicated.
func (r *Replicated) Excludes(rel string) bool {
	for _, n := range r.NotReplicated {
		for p := rel; p != "." && p != "/" && p != ""; p = path.Dir(p) {
			if n.Regexp != nil && n.Regexp.MatchString(p) || n.Regexp == nil && n.Path == p {
				return true
			}
		}
	}
	return false
}

// Steady says that nothing below a directory becomes excluded, or ceases to be, when
// the directory moves from one relative path to another, whatever there is below it.
func (r *Replicated) Steady(from, to string) bool {
	for _, n := range r.NotReplicated {
		switch {
		case n.Regexp != nil && !byLastName(n.Regexp.String()):
			return false
		case n.Regexp == nil && (within(n.Path, from) || within(n.Path, to)):
			return false
		}
	}
	return true
}

// byLastName says of an expression as <notreplicated> has it that it is surely true
// or false of a path by the last component alone: anything, then what cannot match a
// slash.
func byLastName(re string) bool {
	rest, ok := strings.CutPrefix(re, "^(.*")
	if !ok || strings.Contains(rest, "|") {
		return false
	}
	rest = strings.TrimSuffix(rest, ")$")
	t, err := syntax.Parse(rest, syntax.POSIX)
	return err == nil && !matchesSlash(t)
}

func matchesSlash(t *syntax.Regexp) bool {
	switch t.Op {
	case syntax.OpLiteral:
		return slices.Contains(t.Rune, '/')
	case syntax.OpCharClass:
		for i := 0; i+1 < len(t.Rune); i += 2 {
			if t.Rune[i] <= '/' && '/' <= t.Rune[i+1] {
				return true
			}
		}
		return false
	case syntax.OpCapture, syntax.OpConcat, syntax.OpAlternate, syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		return slices.ContainsFunc(t.Sub, matchesSlash)
	case syntax.OpEmptyMatch:
		return false
	}
	return true
}
