package conf

// The tags of cluster.xml (guide §12.1).

func clusterTags() *tag {
	node := &tag{name: "node", attrs: []attr{
		{name: "name", kind: name, must: true},
		{name: "addr", must: true},
		{name: "laddr"},
	}}
	lan := &tag{name: "lan", attrs: []attr{
		{name: "name", kind: name, must: true},
		{name: "framework", kind: onOff, def: "on"},
		{name: "console", kind: onOff, def: "on"},
		{name: "command", kind: onOff, def: "off"},
	}, children: []child{{node, 1, 0}}}
	lans := &tag{name: "lans", attrs: []attr{
		{name: "port", kind: number, def: "4800", lo: 1, hi: 65535},
		{name: "pulse", kind: number, lo: 10, hi: 600_000},
		{name: "mlost_count", kind: number, lo: 1, hi: 1000},
		{name: "slost_count", kind: number, lo: 1, hi: 1000},
	}, children: []child{{lan, 1, 0}}}
	return &tag{name: "cluster", children: []child{{lans, 1, 1}}}
}
