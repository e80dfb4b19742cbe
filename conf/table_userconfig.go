package conf

// The tags of userconfig.xml (guide §13). Attributes that concern Windows, or
// the product's NFS transport, are accepted as that product accepts them on
// Linux: they have no effect.

const (
	maxSeconds = 7 * 24 * 3600
	maxMinutes = 100 * 366 * 24 * 60
)

func userconfigTags() *tag {
	macro := &tag{name: "macro", attrs: []attr{
		{name: "name", must: true},
		{name: "value", must: true},
	}}
	return &tag{name: "safe", children: []child{{macro, 0, 0}, {serviceTags(), 1, 1}}}
}

// §13.2
func serviceTags() *tag {
	return &tag{
		name: "service",
		attrs: []attr{
			{name: "mode", kind: oneOf, must: true, values: []string{"mirror", "farm", "light"}},
			{name: "boot", kind: oneOf, def: "ignore", values: []string{"on", "off", "auto", "ignore"}},
			{name: "boot_delay", kind: number, def: "0", hi: maxSeconds},
			{name: "failover", kind: onOff, def: "on", modes: inMirror},
			{name: "defaultprim", kind: name, def: "alone", modes: inMirror},
			{name: "maxloop", kind: number, def: "3", hi: 1000},
			{name: "loop_interval", kind: number, def: "24", hi: 24 * 366},
			{name: "automatic_reboot", kind: onOff, def: "off"},
		},
		children: []child{
			{heartTags(), 0, 1},
			{rfsTags(), 0, 1},
			{userTags(), 0, 1},
			{farmTags(), 0, 1},
			{vipTags(), 0, 1},
			{vhostTags(), 0, 1},
			{errdTags(), 0, 1},
			{failoverTags(), 0, 1},
			{checkTags(), 0, 1},
		},
	}
}

// §13.3
func heartTags() *tag {
	// <server> is the syntax before 7.2, read for compatibility.
	heartbeat := &tag{name: "heartbeat", attrs: []attr{
		{name: "name", kind: name},
		{name: "ident", kind: name},
		{name: "port", kind: number, lo: 1, hi: 65535},
		{name: "pulse", kind: number, lo: 10, hi: 600_000},
		{name: "timeout", kind: number, lo: 50, hi: 3_600_000},
		{name: "permanent_arp", kind: onOff, def: "on"},
	}, children: []child{{serverTag(), 0, 2}}}
	return &tag{name: "heart", modes: inMirror, attrs: []attr{
		{name: "port", kind: number, lo: 1, hi: 65535},
		{name: "pulse", kind: number, def: "700", lo: 10, hi: 600_000},
		{name: "timeout", kind: number, def: "30000", lo: 50, hi: 3_600_000},
		{name: "permanent_arp", kind: onOff, def: "on"},
	}, children: []child{{heartbeat, 1, 0}}}
}

func serverTag() *tag { return &tag{name: "server", attrs: []attr{{name: "addr", must: true}}} }

// §13.6
func rfsTags() *tag {
	replicated := &tag{name: "replicated", attrs: []attr{
		{name: "dir", must: true},
		{name: "mode", kind: oneOf, values: []string{"read_only"}},
	}, children: []child{
		{&tag{name: "notreplicated", attrs: []attr{{name: "path"}, {name: "regexpath"}}}, 0, 0},
		{&tag{name: "tocheck", attrs: []attr{{name: "path", must: true}}}, 0, 0},
	}}
	flow := &tag{name: "flow", attrs: []attr{{name: "name", kind: name}}, children: []child{{serverTag(), 0, 2}}}
	return &tag{
		name:  "rfs",
		modes: inMirror,
		attrs: []attr{
			{name: "acl", kind: onOff, def: "off"},
			{name: "async", kind: oneOf, def: "second", values: []string{"second", "none"}},
			{name: "sync", kind: oneOf, def: "write", values: []string{"write", "fsync"}, later: []string{"fsync"}},
			{name: "locktimeout", kind: number, def: "100", lo: 1, hi: maxSeconds},
			{name: "sendtimeout", kind: number, def: "30", lo: 1, hi: maxSeconds},
			{name: "nbrei", kind: number, def: "3", lo: 1, hi: 64},
			{name: "ruzone_blocksize", kind: number, lo: 4096, hi: 1 << 30},
			{name: "reipacketsize", kind: number, lo: 4096, hi: 1 << 30},
			{name: "reitimeout", kind: number, def: "150", lo: 1, hi: maxSeconds},
			{name: "reicommit", kind: number, def: "0", hi: 1 << 30},
			{name: "reidetail", kind: onOff, def: "off"},
			{name: "reiallowedbw", kind: number, lo: 1, hi: 1 << 40},
			{name: "nbremconn", kind: number, def: "1", lo: 1, hi: 64},
			{name: "checktime", kind: number, def: "220000", lo: 1, hi: maxSeconds * 1000},
			{name: "checkintv", kind: number, def: "120", lo: 1, hi: maxSeconds},
			{name: "namespacepolicy", kind: oneOf, def: "4", values: []string{"1", "3", "4"}},
			{name: "packetsize", kind: number, lo: 1024, hi: 1 << 30},
			{name: "mountoversuffix", later: []string{"*"}},
			{name: "scripts", kind: onOff, def: "off", later: []string{"on"}},
			{name: "syncdelta", kind: number, def: "0", hi: maxMinutes},
			{name: "syncat"},
			{name: "iotimeout", kind: number, hi: maxSeconds},
			{name: "roflags"},
			{name: "allocthreshold", kind: number, def: "0", hi: 1 << 40},
			{name: "nfsbox_options", kind: oneOf, def: "cross", values: []string{"cross", "nocross"}},
		},
		children: []child{{flow, 0, 1}, {replicated, 1, 0}},
	}
}

// §13.18
func failoverTags() *tag {
	return &tag{name: "failover", text: true, attrs: []attr{
		{name: "extends", kind: oneOf, def: "yes", values: []string{"yes", "no"}},
		{name: "period", kind: number, def: "5000", lo: 100, hi: 3_600_000},
		{name: "handle_time", kind: number, def: "15000", hi: 24 * 3_600_000},
	}}
}

// §13.7
func userTags() *tag {
	return &tag{name: "user", attrs: []attr{
		{name: "nicestoptimeout", kind: number, def: "300", lo: 1, hi: maxSeconds},
		{name: "forcestoptimeout", kind: number, def: "300", lo: 1, hi: maxSeconds},
		{name: "logging", kind: oneOf, def: "userlog", values: []string{"userlog", "none"}},
		{name: "userlogsize", kind: number, def: "2048", lo: 1, hi: 1 << 30},
	}, children: []child{{&tag{name: "var", attrs: []attr{
		{name: "name", must: true},
		{name: "value", must: true},
	}}, 0, 0}}}
}
