package rules

import "strings"

// Rule says what follows from a condition.
type Rule struct {
	Label   string
	If      Condition
	Then    Action      // "" if it assigns
	Assign  *Assignment // nil if it acts
	Product bool        // of skfs, not of the module
	Offset  int         // of the label in the text that was parsed
}

// Action is what a rule does with the module.
type Action string

// The actions, as the language spells them without "()".
const (
	Stop      Action = "stop"
	Wait      Action = "wait"
	Stopstart Action = "stopstart"
	Restart   Action = "restart"
	Swap      Action = "swap"
)

// Actions are all of them, the strongest first.
var Actions = []Action{Stop, Wait, Stopstart, Restart, Swap}

// Assignment gives a local resource a value.
type Assignment struct{ Resource, Value string }

// The values of a resource that the language has words for (§13.18.5).
const (
	Init    = "init"
	Up      = "up"
	Down    = "down"
	Unknown = "unknown"
)

// words are the values that need no quotes.
var words = []string{Init, Down, Up, Unknown}

// String is the rule as it can be written.
func (r Rule) String() string {
	s := r.Label + ": if (" + r.If.String() + ") then "
	if r.Assign != nil {
		return s + r.Assign.Resource + " = " + quote(r.Assign.Value) + ";"
	}
	return s + string(r.Then) + "();"
}

func quote(value string) string {
	for _, w := range words {
		if w == value {
			return value
		}
	}
	return `"` + value + `"`
}

// Condition is the condition of a rule.
type Condition interface {
	String() string
	eval(*evaluation) Truth
	level() int // how strongly it binds, for the parentheses of String
}

type (
	// Or holds if one of both does.
	Or struct{ A, B Condition }
	// And holds if both do.
	And struct{ A, B Condition }
	// Not holds if the other does not.
	Not struct{ Of Condition }
	// Same holds if both hold or none does.
	Same struct{ A, B Condition }
	// Compare holds if two values are equal, or with Differ if they are not.
	Compare struct {
		A, B   Operand
		Differ bool
	}
)

// Operand is one side of a comparison: a Resource, a Value or the Cluster.
type Operand interface{ String() string }

type (
	// Resource is one, any (ID "?") or all (ID "*") of a class.
	Resource struct {
		Remote    bool
		Class, ID string
	}
	// Value is a literal.
	Value string
	// Cluster is whether this node hears another one of the cluster.
	Cluster struct{}
)

func (r Resource) String() string {
	if r.Remote {
		return "remote." + r.Name()
	}
	return r.Name()
}

// Name is the resource's on its own node.
func (r Resource) Name() string { return r.Class + "." + r.ID }

// Wild says that it stands for more than one.
func (r Resource) Wild() bool { return r.ID == "?" || r.ID == "*" }

func (v Value) String() string { return quote(string(v)) }
func (Cluster) String() string { return "cluster()" }

func (c Or) level() int      { return 1 }
func (c And) level() int     { return 2 }
func (c Not) level() int     { return 3 }
func (c Same) level() int    { return 4 }
func (c Compare) level() int { return 5 }

// in prints c where only what binds at least as strongly as least may stand bare.
func in(c Condition, least int) string {
	if c.level() < least {
		return "(" + c.String() + ")"
	}
	return c.String()
}

func (c Or) String() string  { return in(c.A, 1) + " || " + in(c.B, 2) }
func (c And) String() string { return in(c.A, 2) + " && " + in(c.B, 3) }
func (c Not) String() string { return "!(" + c.Of.String() + ")" }
func (c Same) String() string {
	return "(" + c.A.String() + ") == (" + c.B.String() + ")"
}
func (c Compare) String() string {
	sign := " == "
	if c.Differ {
		sign = " != "
	}
	return c.A.String() + sign + c.B.String()
}

// Resources are those that the condition looks at, in its order, each once.
func Resources(c Condition) []Resource {
	var all []Resource
	seen := map[Resource]bool{}
	var walk func(Condition)
	walk = func(c Condition) {
		switch c := c.(type) {
		case Or:
			walk(c.A)
			walk(c.B)
		case And:
			walk(c.A)
			walk(c.B)
		case Same:
			walk(c.A)
			walk(c.B)
		case Not:
			walk(c.Of)
		case Compare:
			for _, o := range []Operand{c.A, c.B} {
				if r, ok := o.(Resource); ok && !seen[r] {
					seen[r] = true
					all = append(all, r)
				}
			}
		}
	}
	walk(c)
	return all
}

// Classes are the classes of resources that rules can speak of: those of
// docs/resources.md.
var Classes = []string{"ping", "intf", "ip", "tcp", "custom", "module", "splitbrain", "heartbeat", "heart", "rfs",
	"state", "proc", "usersetting", "connections"}

// assignable are the classes that a rule may assign: what skfs itself finds out
// would be overwritten at once, or be a lie.
func assignable(class string) bool {
	return class == "custom"
}

// splitResource cuts the name of a resource; ok is false if it is none.
func splitResource(word string) (r Resource, ok bool) {
	if rest, remote := strings.CutPrefix(word, "remote."); remote {
		word, r.Remote = rest, true
	} else {
		word = strings.TrimPrefix(word, "local.")
	}
	r.Class, r.ID, ok = strings.Cut(word, ".")
	return r, ok && r.Class != "" && r.ID != ""
}
