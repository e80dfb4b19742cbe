package ha

import (
	"strings"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha/rules"
)

// Fired is an action that rules would have led to.
type Fired struct {
	Time   time.Time
	Action string // an action, wakeup, or "NAME = VALUE" of a rule that assigns
	Rule   string
	Cause  []rules.Reading
}

// DryRun plays a recorded history (Supervisor.History, from its beginning) through
// failover rules: what they would have done, and when. It is pure, and carries nothing
// out: what the rules would have changed is not in the history, except that a module
// counts as held in WAIT from a wait to the wakeup after it.
func DryRun(f conf.Failover, history []Change) []Fired {
	d := dryRun{machine: &failoverMachine{set: f.Rules, period: f.Period, handle: f.HandleTime}, local: map[string]string{}, assigned: map[string]string{}}
	for i := 0; i < len(history); {
		at := history[i].Time
		for !d.again.IsZero() && !d.again.After(at) {
			d.judge(d.again)
		}
		// What has one time came in one step.
		for ; i < len(history) && history[i].Time.Equal(at); i++ {
			d.change(history[i])
		}
		d.judge(at)
	}
	if !d.again.IsZero() && len(history) > 0 { // the last word, if nothing changed since
		d.judge(d.again)
	}
	return d.fired
}

type dryRun struct {
	machine  *failoverMachine
	local    map[string]string
	remote   map[string]string // nil: unknown
	assigned map[string]string // by rules; the history does not know
	held     string
	again    time.Time
	fired    []Fired
}

func (d *dryRun) change(c Change) {
	name, remote := strings.CutPrefix(c.Name, RemoteGone+".")
	switch {
	case c.Name == RemoteGone:
		d.remote = nil
	case remote:
		if d.remote == nil {
			d.remote = map[string]string{}
		}
		put(d.remote, name, c.Value)
	default:
		put(d.local, name, c.Value)
		delete(d.assigned, name)
	}
}

func put(m map[string]string, name, value string) {
	if value == "" {
		delete(m, name)
		return
	}
	m[name] = value
}

// facts are those of module.ruleFacts, as far as the history has them.
func (d *dryRun) facts() rules.Facts {
	f := rules.Facts{Local: map[string]string{}, Cluster: rules.Up}
	beats, up := 0, 0
	for name, value := range d.local {
		f.Local[name] = value
		if strings.HasPrefix(name, "heartbeat.") {
			beats++
			if value != rules.Down {
				up++
			}
		}
	}
	for name, value := range d.assigned {
		f.Local[name] = value
	}
	if beats > 0 && up == 0 {
		f.Cluster = rules.Down
	}
	if d.remote["state.local"] != "stop" {
		f.Remote = d.remote
	}
	return f
}

func (d *dryRun) judge(now time.Time) {
	d.again = time.Time{}
	for range maxJudgements {
		role := d.local["state.local"]
		s := situation{Running: role != "" && role != "stop", Waiting: role == "wait" || d.held != "", Held: d.held,
			Unwatched: d.local["usersetting.checker"] == "off"}
		if !s.Running {
			d.held = ""
		}
		r := d.machine.judge(d.facts(), s, now)
		for _, x := range r.Assign {
			d.assigned[x.Rule.Assign.Resource] = x.Rule.Assign.Value
			d.fired = append(d.fired, Fired{now, x.Rule.Assign.Resource + " = " + x.Rule.Assign.Value, x.Rule.Label, x.Evidence()})
		}
		if r.Event != (Ruled{}) {
			d.fired = append(d.fired, Fired{now, r.Event.Action, r.Event.Rule, r.Cause})
			d.machine.accepted(r.Event.Rule)
			switch r.Event.Action {
			case "wait":
				d.held = r.Event.Rule
			case "wakeup":
				d.held = ""
			}
			continue // what it leads to
		}
		d.again = r.Again
		if len(r.Assign) == 0 {
			return
		}
	}
}
