package conf

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A tag describes one element of a file: what may stand in it.
type tag struct {
	name     string
	modes    modes // of the module, in which it may stand; 0: all
	attrs    []attr
	children []child
	later    bool // the guide defines it, this version does not do it
	text     bool // it holds text
}

// A child says how often a tag may stand in another.
type child struct {
	*tag
	min, max int // max 0: any number
}

// modes is a set of module modes.
type modes uint8

const (
	inMirror modes = 1 << iota
	inFarm
	inLight
)

var modeNames = map[string]modes{"mirror": inMirror, "farm": inFarm, "light": inLight}

func (m modes) String() string {
	var s []string
	for _, n := range []string{"mirror", "farm", "light"} {
		if m&modeNames[n] != 0 {
			s = append(s, n)
		}
	}
	return strings.Join(s, " or ")
}

// An attr describes one attribute of a tag.
type attr struct {
	name   string
	kind   kind
	def    string // value when it is absent; must be valid unless empty
	must   bool
	modes  modes    // of the module, in which it means something; 0: all
	values []string // kind oneOf
	lo, hi int64    // kind number
	later  []string // values that the guide defines and this version refuses; "*" is every value but def
}

// kind is the type of an attribute's value.
type kind uint8

const (
	text   kind = iota // anything
	name               // a logical name: letters, digits, . _ -
	onOff              // on or off
	oneOf              // one of attr.values
	number             // a decimal number between lo and hi
)

// validName is what a module, lan or node may be called. It is safe as a file
// name and as an argument.
var validName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

// CheckName says why s cannot be the name of a module, lan or node.
func CheckName(s string) error {
	if validName.MatchString(s) {
		return nil
	}
	return fmt.Errorf("%q is no valid name: expected 1 to 64 letters, digits, '.', '_' or '-', the first no '.' or '-'", s)
}

// check says what is wrong with value v of the attribute, or returns "".
func (a *attr) check(v string) string {
	switch a.kind {
	case name:
		if err := CheckName(v); err != nil {
			return err.Error()
		}
	case onOff:
		if v != "on" && v != "off" {
			return fmt.Sprintf("%s=%q: expected on or off", a.name, v)
		}
	case oneOf:
		if !slices.Contains(a.values, v) {
			return fmt.Sprintf("%s=%q is not known%s", a.name, v, suggest(v, a.values))
		}
	case number:
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return fmt.Sprintf("%s=%q: expected a number from %d to %d", a.name, v, a.lo, a.hi)
		}
		if n < a.lo || n > a.hi {
			return fmt.Sprintf("%s=%q is out of range: expected %d to %d", a.name, v, a.lo, a.hi)
		}
	}
	if a.refused(v) {
		return fmt.Sprintf("%s=%q is not supported by this version", a.name, v)
	}
	return ""
}

func (a *attr) refused(v string) bool {
	return slices.Contains(a.later, v) || slices.Contains(a.later, "*") && v != a.def
}

func (t *tag) attr(name string) *attr {
	for i := range t.attrs {
		if t.attrs[i].name == name {
			return &t.attrs[i]
		}
	}
	return nil
}

func (t *tag) attrNames() []string {
	s := make([]string, len(t.attrs))
	for i := range t.attrs {
		s[i] = t.attrs[i].name
	}
	return s
}

func (t *tag) child(name string) *child {
	for i := range t.children {
		if t.children[i].name == name {
			return &t.children[i]
		}
	}
	return nil
}

func (t *tag) childNames() []string {
	s := make([]string, len(t.children))
	for i := range t.children {
		s[i] = "<" + t.children[i].name + ">"
	}
	return s
}
