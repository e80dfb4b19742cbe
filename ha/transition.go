package ha

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Standing is what a module shows of itself: "PRIM green".
type Standing struct {
	Role   Role
	Colour Colour
}

func (s Standing) String() string { return s.Role.String() + " " + s.Colour.String() }

// stable says that nothing is under way.
func (s Standing) stable() bool { return s.Colour != Magenta }

// serves says that the application is up.
func (s Standing) serves() bool {
	return s.Colour == Green && (s.Role == RoleAlone || s.Role == RolePrim || s.Role == RoleUp)
}

// Transition is one change of the state of a module and what brought it about, as the
// driver saw it at that moment. SAFEVAR/modules/AM/log.db keeps the last transitionKeep.
type Transition struct {
	ID       int64
	Time     time.Time
	From, To Standing
	Cause    Cause
}

// Cause is the evidence for a transition.
type Cause struct {
	Event string    // what happened, in words
	Since time.Time // from when on that holds: of lost heartbeats the last one heard
	// Heartbeats are all networks at that moment, if the event is about them.
	Heartbeats []Silence     `json:",omitempty"`
	Rule       string        `json:",omitempty"` // that applied
	Readings   []RuleReading `json:",omitempty"` // what it rests on
	Tasks      []TaskEnd     `json:",omitempty"` // what was done since the transition before
	Said       []string      `json:",omitempty"` // to the log, with this transition
}

// Silence is how long nothing was heard on a network.
type Silence struct {
	Ident   string
	Up      bool // as the verdict is
	For     time.Duration
	Timeout time.Duration
}

// RuleReading is a resource that a rule has looked at.
type RuleReading struct{ Name, Value string }

// TaskEnd is a piece of work of the module: a script, a call to the replica.
type TaskEnd struct {
	Name  string
	Took  time.Duration
	Fault string `json:",omitempty"`
}

// An Episode is what lies between two stable states.
type Episode struct {
	Transitions []Transition
	// Gap is how long the application was away, as far as this node can tell: from what
	// was heard last of the node that served, or from the command, to the end of this
	// node's start scripts. 0: it was not away, or this node does not serve at the end.
	Gap time.Duration
}

const (
	transitionKeep  = 5_000
	transitionPurge = 100
)

const transitionSchema = `
CREATE TABLE IF NOT EXISTS transition (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	date INTEGER NOT NULL, -- microseconds since 1970
	origin TEXT NOT NULL,  -- Standing
	target TEXT NOT NULL,
	cause TEXT NOT NULL    -- Cause as JSON
)`

// observer gathers for the next transition what the loop of the module sees. The loop
// owns it.
type observer struct {
	began    map[uint64]time.Time // tasks under way
	names    map[uint64]string
	ended    []TaskEnd
	readings []RuleReading // of the rule that is being applied
	silences []Silence     // at the last verdict about a heartbeat
	puts     int           // since the last purge
}

// begins notes that a task was given out.
func (o *observer) begins(id uint64, name string, now time.Time) {
	if o.began == nil {
		o.began, o.names = map[uint64]time.Time{}, map[uint64]string{}
	}
	o.began[id], o.names[id] = now, name
}

// ends notes how a task ended.
func (o *observer) ends(d Done, now time.Time) (t TaskEnd, known bool) {
	began, known := o.began[d.ID]
	if !known {
		return t, false // given out by an earlier daemon
	}
	t = TaskEnd{Name: o.names[d.ID], Took: now.Sub(began)}
	switch {
	case d.Err != nil:
		t.Fault = d.Err.Error()
	case d.Exit != 0:
		t.Fault = fmt.Sprintf("exit code %d", d.Exit)
	}
	delete(o.began, d.ID)
	delete(o.names, d.ID)
	if o.ended = append(o.ended, t); len(o.ended) > 64 {
		o.ended = o.ended[1:]
	}
	return t, true
}

// saw is called after each step; a change of the standing goes to the log.
func (o *observer) saw(l *Log, before, after State, e Event, actions []Action, now time.Time) {
	if d, ok := e.(Done); ok {
		if t, known := o.ends(d, now); known && t.Fault != "" {
			l.Write(LevelDebug, "heart", fmt.Sprintf("Task %s ended after %v: %s", t.Name, t.Took.Round(time.Microsecond), t.Fault))
		} else if known {
			l.Write(LevelDebug, "heart", fmt.Sprintf("Task %s ended after %v", t.Name, t.Took.Round(time.Microsecond)))
		}
	}
	for _, a := range actions {
		if r, ok := a.(Run); ok {
			o.begins(r.ID, r.Task.name(), now)
			l.Write(LevelDebug, "heart", fmt.Sprintf("Task %s begins", r.Task.name()))
		}
	}
	from, to := Standing{before.Role, before.Colour}, Standing{after.Role, after.Colour}
	if from == to {
		return
	}
	c := o.cause(&before, e, now)
	for _, a := range actions {
		if s, ok := a.(Say); ok {
			c.Said = append(c.Said, s.Text)
		}
	}
	l.transition(Transition{Time: now, From: from, To: to, Cause: c}, &o.puts)
	o.ended = nil
}

// cause is the evidence that e is.
func (o *observer) cause(before *State, e Event, now time.Time) Cause {
	c := Cause{Since: now, Tasks: o.ended}
	switch e := e.(type) {
	case Asked:
		by := e.Command.By
		if by == "" {
			by = "SYSTEM/root"
		}
		c.Event = strings.Join(append([]string{"command", e.Command.Name}, e.Command.Args...), " ") + " of " + by
		if by == AtBoot {
			c.Event = "the host was started"
		}
	case Linked:
		verdict := "is heard"
		if e.Link == LinkDown {
			verdict = "is lost"
			c.Since = now
		}
		c.Event = fmt.Sprintf("heartbeat %s %s", before.Conf.Heartbeats[e.Index], verdict)
		c.Heartbeats = slices.Clone(o.silences)
		if e.Link == LinkDown && len(o.silences) > 0 {
			shortest := slices.MinFunc(o.silences, func(a, b Silence) int { return int(a.For - b.For) })
			c.Since = now.Add(-shortest.For) // the last sign of life on any network
		}
	case Heard:
		c.Event = fmt.Sprintf("%s says that it is %s", before.Conf.Peer, Standing{e.Beat.Role, e.Beat.Colour})
		if e.Beat.Released != before.Peer.Released && before.Peer.Known {
			c.Event += " and does not serve any more"
		}
		if e.Beat.Drop != before.Peer.Drop && before.Peer.Known {
			c.Event += " and goes on without this node"
		}
	case Done:
		c.Event = "work ended"
		if n := len(o.ended); n > 0 {
			c.Event = o.ended[n-1].Name + " ended"
			if f := o.ended[n-1].Fault; f != "" {
				c.Event = o.ended[n-1].Name + " failed: " + f
			}
		}
	case Told:
		c.Event = toldTexts[e.Event.Kind] + e.Event.Text
	case Gone:
		c.Event = "the replication process has ended"
	case AddressLost:
		how := "was removed"
		switch {
		case e.Expired:
			how = "ran out: this host did not run for longer than its lease"
		case e.CutOff:
			how = "was taken away: its interface has no carrier"
		}
		c.Event = fmt.Sprintf("virtual address %s %s", before.Conf.Addresses[e.Index].Name, how)
	case Adopted:
		c.Event = "the daemon was started again"
		if e.Reboot {
			c.Event = "the host was restarted"
		}
	case Ruled:
		c.Event = fmt.Sprintf("failover rule %s asks for %s", e.Rule, e.Action)
		c.Rule, c.Readings = e.Rule, o.readings
	case Checked:
		c.Event = "the checkers gave their first verdicts"
	case Due:
		c.Event = "a synchronization is due (" + e.By + ")"
	case Tick:
		c.Event = "time went on"
	case Reconfigured:
		c.Event = "the configuration was applied"
	default:
		c.Event = fmt.Sprintf("%T", e)
	}
	return c
}

var toldTexts = map[ReplicaEventKind]string{PeerLost: "the stream of replication is broken", PeerJoined: "the stream of replication is up",
	Synced: "both nodes have the same data", ReplicaFailed: "the replication process cannot go on: ", ReplicaLog: "the replication process says: ",
	ReplicaStuck: ""}

// transition keeps t.
func (l *Log) transition(t Transition, puts *int) {
	cause, err := json.Marshal(t.Cause)
	if err != nil {
		cause = []byte(`{}`) // no value of Cause has no JSON
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.ended {
		return
	}
	l.store.put("INSERT INTO transition (date, origin, target, cause) VALUES (?, ?, ?, ?)", t.Time.UnixMicro(), t.From.String(), t.To.String(), string(cause))
	if *puts++; *puts%transitionPurge == 1 { // the first of a daemon, too
		l.store.put("DELETE FROM transition WHERE id <= (SELECT max(id) FROM transition) - ?", transitionKeep)
	}
}

// Transitions returns the last n, oldest first.
func (l *Log) Transitions(ctx context.Context, n int) ([]Transition, error) {
	if err := l.store.flush(ctx); err != nil {
		return nil, err
	}
	all, err := query(ctx, l.store.db, "SELECT id, date, origin, target, cause FROM transition ORDER BY id DESC LIMIT ?", func(r *sql.Rows) (Transition, error) {
		var t Transition
		var date int64
		var from, to, cause string
		if err := r.Scan(&t.ID, &date, &from, &to, &cause); err != nil {
			return t, err
		}
		t.Time = time.UnixMicro(date)
		var err error
		if t.From, err = parseStanding(from); err == nil {
			t.To, err = parseStanding(to)
		}
		if err == nil {
			err = json.Unmarshal([]byte(cause), &t.Cause)
		}
		if err != nil {
			err = fmt.Errorf("transition %d: %w", t.ID, err)
		}
		return t, err
	}, n)
	slices.Reverse(all)
	return all, err
}

func parseStanding(text string) (Standing, error) {
	role, colour, _ := strings.Cut(text, " ")
	var s Standing
	err := s.Role.UnmarshalText([]byte(role))
	if err == nil {
		err = s.Colour.UnmarshalText([]byte(colour))
	}
	return s, err
}

// Episodes groups transitions, oldest first: each begins in a stable state, or with the
// first transition there is, and ends in the next one, or with the last.
func Episodes(all []Transition) []Episode {
	var out []Episode
	for i := 0; i < len(all); {
		n := i + 1
		for n < len(all) && !all[n-1].To.stable() {
			n++
		}
		e := Episode{Transitions: all[i:n]}
		first, last := all[i], all[n-1]
		away := slices.ContainsFunc(e.Transitions[1:], func(t Transition) bool {
			return slices.ContainsFunc(t.Cause.Tasks, func(t TaskEnd) bool { return strings.HasPrefix(t.Name, "start_") })
		})
		if last.To.serves() && (!first.From.serves() || away) {
			e.Gap = last.Time.Sub(first.Cause.Since)
		}
		out = append(out, e)
		i = n
	}
	return out
}
