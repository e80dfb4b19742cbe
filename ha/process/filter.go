package process

import "regexp"

// Filter selects processes. What is not set selects all.
type Filter struct {
	Name      string         // of the command; the kernel keeps NameMax bytes of it, and so many are compared
	NameRegex *regexp.Regexp // finds a match in the name
	ArgRegex  *regexp.Regexp // …in the command line
}

// Match says whether the process is selected.
func (f Filter) Match(p Process) bool {
	name := f.Name
	if len(name) > NameMax {
		name = name[:NameMax]
	}
	return (name == "" || name == p.Name) &&
		(f.NameRegex == nil || f.NameRegex.MatchString(p.Name)) &&
		(f.ArgRegex == nil || f.ArgRegex.MatchString(p.CommandLine()))
}

// Select returns those of all that match.
func (f Filter) Select(all []Process) []Process {
	var some []Process
	for _, p := range all {
		if f.Match(p) {
			some = append(some, p)
		}
	}
	return some
}
