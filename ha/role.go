package ha

import "fmt"

// Role is the state of a module on one node (guide §5.2). The guide's word is
// "state"; here State is the whole value the automaton works on.
type Role uint8

// The roles of a module. RoleUnknown is what is known of a peer that is silent.
const (
	RoleUnknown Role = iota
	RoleStop         // stopped, ready to be started
	RoleWait         // started, waiting for a resource or for the peer
	RoleAlone        // primary without a secondary that could take over
	RolePrim         // primary, the peer is an up to date secondary
	RoleSecond       // secondary of the peer
	RoleUp           // farm and light modules
	roleEnd
)

var roleNames = [...]string{"UNKNOWN", "STOP", "WAIT", "ALONE", "PRIM", "SECOND", "UP"}

func (r Role) String() string {
	if r < roleEnd {
		return roleNames[r]
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// MarshalText makes a role read as its name in JSON.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (r *Role) UnmarshalText(b []byte) error {
	v, err := ParseRole(string(b))
	*r = v
	return err
}

// ParseRole reads the name of a role.
func ParseRole(name string) (Role, error) {
	for i, n := range roleNames {
		if n == name {
			return Role(i), nil
		}
	}
	return RoleUnknown, fmt.Errorf("no module state %q: it is one of %v", name, roleNames[1:])
}

// Colour says how settled a role is.
type Colour uint8

// The colours of a role.
const (
	Grey    Colour = iota // nothing is known
	Red                   // blocked, or stopped
	Magenta               // on the way
	Green                 // stable
	colourEnd
)

var colourNames = [...]string{"grey", "red", "magenta", "green"}

func (c Colour) String() string {
	if c < colourEnd {
		return colourNames[c]
	}
	return fmt.Sprintf("colour(%d)", uint8(c))
}

// MarshalText makes a colour read as its name in JSON.
func (c Colour) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (c *Colour) UnmarshalText(b []byte) error {
	for i, n := range colourNames {
		if n == string(b) {
			*c = Colour(i)
			return nil
		}
	}
	return fmt.Errorf("no colour %q: it is one of %v", b, colourNames)
}
