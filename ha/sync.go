package ha

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// SyncMode is the kind of a SyncPolicy.
type SyncMode uint8

// The modes of synchronisation (guide §13.6.4.8, 13.6.4.9). SyncDate is not shown
// as a mode of its own: it lasts for one synchronisation.
const (
	SyncDefault  SyncMode = iota // what is known to differ
	SyncFull                     // all files
	SyncExternal                 // what was changed since the copy that an administrator carried over
	SyncDate                     // what was changed since a date
)

// SyncPolicy says what the next synchronisation copies. It is durable, counts until
// a synchronisation that began with it has ended, and is the default again then.
type SyncPolicy struct {
	Mode  SyncMode `json:",omitempty"`
	Role  string   `json:",omitempty"` // external: prim or second, what this node is in it
	UID   string   `json:",omitempty"` // external: names the copy, the same on both nodes
	Since int64    `json:",omitempty"` // external prim, date: ns since 1970
	Asked uint64   `json:",omitempty"` // full: ns since 1970, tells one demand from another
}

// externalGrace is by how much an external synchronisation begins earlier than the
// copy was announced: times of files are taken from a clock that lags a little, and
// that may have been set since.
const externalGrace = time.Minute

var validUID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,24}$`)

func (p SyncPolicy) String() string {
	switch p.Mode {
	case SyncFull:
		return "full"
	case SyncExternal:
		return fmt.Sprintf("external %s %s", p.Role, p.UID)
	case SyncDate:
		return "files changed since " + time.Unix(0, p.Since).UTC().Format(time.RFC3339)
	}
	return "default"
}

// parseSync reads the arguments of rfssync, as the guide spells them.
func parseSync(args []string, now time.Time) (p SyncPolicy, keep bool, err error) {
	switch {
	case len(args) == 1 && args[0] == "full":
		return SyncPolicy{Mode: SyncFull, Asked: uint64(now.UnixNano())}, false, nil
	case len(args) == 3 && (args[0] == "external" || args[0] == "-d"):
		role, uid := args[1], args[2]
		if role != "prim" && role != "second" {
			return p, false, fmt.Errorf("role %q: expected prim or second", role)
		}
		if !validUID.MatchString(uid) {
			return p, false, fmt.Errorf("uid %q: expected 1 to 24 letters, digits, dots, hyphens and underscores", uid)
		}
		p = SyncPolicy{Mode: SyncExternal, Role: role, UID: uid}
		if role == "prim" {
			p.Since = now.Add(-externalGrace).UnixNano()
		}
		return p, args[0] == "-d", nil
	}
	return p, false, fmt.Errorf("arguments %q: expected \"full\", \"external prim|second UID\" or \"-d prim|second UID\"", strings.Join(args, " "))
}

// parseDate reads the argument of secondforce.
func parseDate(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Unix() < 0 {
		return t, fmt.Errorf("date %q: expected a time since 1970 such as 2016-03-01T12:00:00Z", s)
	}
	return t.UTC(), nil
}

// mayRfssync says why rfssync args is not accepted now, or returns "".
func (s *State) mayRfssync(args []string) string {
	p, keep, err := parseSync(args, time.Time{})
	switch {
	case err != nil:
		return err.Error()
	case !s.Conf.HasData:
		return "the module replicates nothing"
	case s.Data.Joined && !s.Data.Synced:
		return "a synchronization is under way"
	case keep && (s.Sync.Mode != SyncExternal || s.Sync.Role != p.Role || s.Sync.UID != p.UID):
		return fmt.Sprintf("the policy is %s; give the command \"rfssync external %s %s\" first", s.Sync, p.Role, p.UID)
	case p.Mode == SyncFull:
	case p.Role == "prim" && s.Role != RoleStop && !(s.Role == RoleAlone && s.Colour == Green):
		return fmt.Sprintf("the module is %s %s: the primary of an external synchronization is STOP or ALONE green", s.Role, s.Colour)
	case p.Role == "second" && s.Role != RoleStop && s.Role != RoleWait:
		return fmt.Sprintf("the module is %s: the second of an external synchronization is STOP or WAIT", s.Role)
	}
	return ""
}

// setSync takes a policy that mayRfssync let pass. The date of a copy that is
// announced again stays: an earlier one is never wrong.
func (m *machine) setSync(args []string) {
	p, keep, err := parseSync(args, m.now)
	if err != nil {
		return
	}
	if old := m.Sync; old.Mode == SyncExternal && old.Role == p.Role && old.UID == p.UID {
		p = old
	}
	m.Sync = p
	if keep {
		m.info("nfsadmin", "Changes between the copy and the start are always found; there is nothing to disable")
		return
	}
	m.say("nfsadmin", "Synchronization policy set to "+p.String())
}

// paired notices that other directories, or with another node, are replicated than
// before: what is known of the peer's data says nothing of that.
func (m *machine) paired() {
	old := m.Pairing
	m.Pairing = m.Conf.Pairing
	if old == m.Pairing || old == "" || m.Pairing == "" {
		return
	}
	m.Sync = SyncPolicy{Mode: SyncFull, Asked: uint64(m.now.UnixNano())}
	m.say("nfsadmin", "Synchronization policy set to full: other directories, or with another node, are replicated")
}

// cannotSync says why this node cannot follow p with its policy, or returns "".
func (m *machine) cannotSync(p Beat) string {
	switch {
	case m.Sync.Mode != SyncExternal:
	case m.Sync.Role != "second":
		return fmt.Sprintf("External synchronization %s cannot be applied: this node is set to be its primary", m.Sync.UID)
	case p.SyncUID == "":
		return fmt.Sprintf("External synchronization %s cannot be applied: none is set on %s", m.Sync.UID, m.Conf.Peer)
	case p.SyncUID != m.Sync.UID:
		return fmt.Sprintf("External synchronization %s cannot be applied: %s has %s", m.Sync.UID, m.Conf.Peer, p.SyncUID)
	}
	return ""
}

// syncTask is the Follow that the policies of both nodes ask for.
func (m *machine) syncTask() Task {
	t := Task{Kind: TaskFollow, Epoch: m.Epoch}
	switch m.Sync.Mode {
	case SyncDate:
		t.Since = time.Unix(0, m.Sync.Since).UTC()
	case SyncExternal:
		t.Since = time.Unix(0, m.Peer.SyncSince).UTC()
	}
	if m.Sync.Mode == SyncFull || m.Peer.Full != 0 {
		t.Full, t.Since = true, time.Time{}
	}
	m.SyncUsed, m.FullFor, m.FullDid = m.Sync, m.Peer.Full, 0
	m.SyncWith = FollowOptions{Full: t.Full, Since: t.Since}
	return t
}

// syncEnded: this second has what its primary has, after a synchronisation that was
// asked for how. Only the one that its policy led to meets it: the replica joins
// again by itself, and what it says may be late.
func (m *machine) syncEnded(how FollowOptions) {
	if how.Full != m.SyncWith.Full || !how.Since.Equal(m.SyncWith.Since) {
		return
	}
	if how.Full {
		m.FullDid = m.FullFor
	}
	if m.Sync == m.SyncUsed { // else it was set since, for the next time
		m.Sync = SyncPolicy{}
	}
	m.SyncUsed = SyncPolicy{}
}

// syncServed: the second of this primary is synchronised. A full copy that was
// demanded is done when the second says so: the synchronisation that has just
// ended may have begun before it heard.
func (m *machine) syncServed() {
	if m.Sync.Mode == SyncExternal {
		m.Sync = SyncPolicy{}
	}
}

// demanded is the full copy that this primary demands, 0: none.
func (s *State) demanded() uint64 {
	if s.Reign && s.Sync.Mode == SyncFull {
		return s.Sync.Asked
	}
	return 0
}

// syncResources are the resources of §13.6.4.9.
func (s *State) syncResources(r map[string]string) {
	mode, role, uid := "default", "default", "default"
	applies := true
	switch s.Sync.Mode {
	case SyncFull:
		mode = "full"
	case SyncExternal:
		mode, role, uid = "external", s.Sync.Role, s.Sync.UID
		applies = s.Peer.SyncUID == uid && s.Peer.Known
	}
	r["usersetting.rfssyncmode"], r["usersetting.rfssyncrole"], r["usersetting.rfssyncuid"] = mode, role, uid
	r["rfs.rfssync"] = updown(applies)
}

func updown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
