package lbfilter

// MaxMembers is how many members a farm has at most.
const MaxMembers = 32

// Number is the number of a member: below MaxMembers, the same on every member
// for as long as the table lives.
type Number uint8

// None is nobody.
const None Number = 0xff

// Member is a node that takes part in the farm now.
type Member struct {
	Number Number
	Name   string // as in <host name="…">
	// Draining: it gets no new connections and keeps those that it has, unless
	// nobody else could take them.
	Draining bool
}

// MAC is the hardware address of a member's interface; zero for one that is not
// there.
type MAC [6]byte
