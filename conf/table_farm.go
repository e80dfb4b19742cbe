package conf

// The tags of a farm (guide §13.4, §13.5.4.1).

// Bounds of a farm: those of the membership and of the filter in the kernel.
const (
	maxFarmMembers = 32
	maxPower       = 1 << 20
	maxGroups      = 31
	maxRules       = 254
	maxFarmAddrs   = 16 // of an interface
)

func farmTags() *tag {
	// <node> is the syntax before 7.2, read for compatibility.
	node := &tag{name: "node", attrs: []attr{{name: "name", must: true}, {name: "addr", must: true}}}
	lan := &tag{name: "lan", attrs: []attr{{name: "name", kind: name}}, children: []child{{node, 0, maxFarmMembers}}}
	return &tag{name: "farm", modes: inFarm, attrs: []attr{
		{name: "port", kind: number, lo: 1, hi: 65535},
		{name: "pulse", kind: number, def: "500", lo: 10, hi: 600_000},
		{name: "mlost_count", kind: number, def: "5", lo: 2, hi: 1000},
		{name: "slost_count", kind: number, def: "5", lo: 2, hi: 1000},
		{name: "draintimeout", kind: number, def: "10", lo: 0, hi: maxSeconds},
	}, children: []child{{lan, 1, 0}}}
}

func virtualInterfaceTags() *tag {
	return &tag{name: "virtual_interface", modes: inFarm, attrs: []attr{
		{name: "type", kind: oneOf, def: string(Directed), values: []string{string(Directed), string(Invisible)}},
		{name: "addr"},
	}, children: []child{{virtualAddrTag("alias", "one_side_alias"), 1, maxFarmAddrs}}}
}

func loadbalancingTags() *tag {
	host := &tag{name: "host", attrs: []attr{
		{name: "name", kind: name, must: true},
		{name: "power", kind: number, def: "1", hi: maxPower},
	}}
	rule := &tag{name: "rule", attrs: []attr{
		{name: "virtual_addr", def: "*"},
		{name: "port", def: "*"},
		{name: "proto", kind: oneOf, must: true, values: []string{"tcp", "udp", "arp"}},
		{name: "filter", kind: oneOf, must: true, values: []string{"on_addr", "on_port", "on_ipid"}},
	}}
	group := &tag{name: "group", attrs: []attr{{name: "name", kind: name, must: true}}, children: []child{
		{&tag{name: "cluster", children: []child{{host, 1, maxFarmMembers}}}, 0, 1},
		{rule, 1, 0},
	}}
	return &tag{name: "loadbalancing_list", modes: inFarm, children: []child{{group, 1, maxGroups}}}
}
