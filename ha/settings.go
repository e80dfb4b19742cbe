package ha

import "github.com/skfs/skfs/conf"

// Settings are what commands change of the configuration while the module runs
// (§9.4). failover counts until it is set otherwise; the others end when the module
// is stopped, so that no forgotten maintenance leaves an application unwatched.
type Settings struct {
	Failover   string `json:",omitempty"` // on, off; "": as configured
	CheckerOff bool   `json:",omitempty"`
	ErrdOff    bool   `json:",omitempty"`
}

// failover says whether a second takes over by itself.
func (s *State) failover() bool {
	if s.Settings.Failover != "" {
		return s.Settings.Failover == "on"
	}
	return s.Conf.Failover
}

// setsClass says that the command enables or disables a class of processes.
func (c Command) setsClass() bool {
	return c.Name == "errd" && len(c.Args) == 2 && (c.Args[0] == "enable" || c.Args[0] == "disable")
}

// mayReset says why a setting cannot be changed now, or returns "".
func (s *State) mayReset(c Command) string {
	if c.setsClass() {
		switch err := conf.CheckName(c.Args[1]); {
		case err != nil:
			return "class: " + err.Error()
		case s.Role == RoleStop:
			return "the module is stopped"
		}
		return ""
	}
	values := map[string][2]string{"failover": {"on", "off"}, "checker": {"on", "off"}, "errd": {"resume", "suspend"}}[c.Name]
	switch {
	case len(c.Args) != 1 || c.Args[0] != values[0] && c.Args[0] != values[1]:
		if c.Name == "errd" {
			return "expected suspend, resume, or enable or disable with the name of a class"
		}
		return "expected " + values[0] + " or " + values[1]
	case c.Name == "failover" && !s.Conf.mirror():
		return "only a mirror module has failover"
	case s.Role == RoleStop:
		return "the module is stopped"
	case c.Name != "errd" && s.Colour == Magenta:
		return "the module is " + s.Role.String() + " " + s.Colour.String() + "; try again when it is stable"
	}
	return ""
}

// reset takes a setting that mayReset let pass.
func (m *machine) reset(c Command) {
	switch c.Name {
	case "failover":
		m.Settings.Failover = c.Args[0]
	case "checker":
		m.Settings.CheckerOff = c.Args[0] == "off"
	case "errd":
		if c.setsClass() {
			m.setClass(c.Args[1], c.Args[0] == "enable")
			return
		}
		m.Settings.ErrdOff = c.Args[0] == "suspend"
	}
}

func onoff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// settingResources shows the settings.
func (s *State) settingResources(r map[string]string) {
	r["usersetting.checker"] = onoff(!s.Settings.CheckerOff)
	r["usersetting.errd"] = onoff(!s.Settings.ErrdOff)
	if s.Conf.mirror() {
		r["usersetting.failover"] = onoff(s.failover())
	}
}
