package conf

import "reflect"

// StaticChanges names what differs between two configurations of a module and
// can only change while it is stopped. The rest, which the guide calls dynamic,
// may change in ALONE and WAIT.
func StaticChanges(old, fresh *Module) []string {
	var changed []string
	differ := func(what string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			changed = append(changed, what)
		}
	}
	differ("mode", old.Mode, fresh.Mode)
	differ("failover", old.Failover, fresh.Failover)
	differ("defaultprim", old.DefaultPrim, fresh.DefaultPrim)
	differ("boot_delay", old.BootDelay, fresh.BootDelay)
	differ("failover rules", old.Rules.String(), fresh.Rules.String())
	differ("farm", old.Farm, fresh.Farm)
	differ("vip", old.VIP, fresh.VIP)
	differ("vhost", old.VHost, fresh.VHost)
	differ("rfs", staticRFS(old.RFS), staticRFS(fresh.RFS))
	return changed
}

// staticRFS is r without what is dynamic (§13.6.2), in a form that
// reflect.DeepEqual compares by meaning.
func staticRFS(r *RFS) any {
	if r == nil {
		return nil
	}
	s := *r
	s.Async, s.NbRei, s.ReiTimeout, s.ReiDetail, s.Flow = "", 0, 0, false, ""
	s.Replicated = nil
	type excluded struct{ path, regexp string }
	type dir struct {
		dir      string
		readOnly bool
		not      []excluded
		check    []string
	}
	var dirs []dir
	for _, d := range r.Replicated {
		e := dir{dir: d.Dir, readOnly: d.ReadOnly, check: d.ToCheck}
		for _, n := range d.NotReplicated {
			x := excluded{path: n.Path}
			if n.Regexp != nil {
				x.regexp = n.Regexp.String()
			}
			e.not = append(e.not, x)
		}
		dirs = append(dirs, e)
	}
	return []any{s, dirs}
}
