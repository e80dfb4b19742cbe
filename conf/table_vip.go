package conf

// The <vip> (guide §13.5). What a farm has in it is in table_farm.go.
func vipTags() *tag {
	arp := []attr{
		{name: "check", kind: onOff, def: "on"},
		{name: "arpreroute", kind: onOff, def: "off"},
		{name: "arpinterval", kind: number, def: "60", lo: 1, hi: maxSeconds},
		{name: "arpelapse", kind: number, def: "1200", lo: 0, hi: maxSeconds},
		{name: "name"},
	}
	netif := &tag{name: "interface", attrs: arp, children: []child{
		{&tag{name: "real_interface", modes: inMirror, children: []child{{virtualAddrTag("one_side_alias", "alias"), 1, 0}}}, 0, 1},
		{virtualInterfaceTags(), 0, 1},
	}}
	return &tag{name: "vip", modes: inMirror | inFarm, attrs: []attr{{name: "tcpreset", kind: onOff, def: "on"}}, children: []child{
		{&tag{name: "interface_list", children: []child{{netif, 1, 0}}}, 1, 1},
		{loadbalancingTags(), 0, 1},
	}}
}

// virtualAddrTag is <virtual_addr> where it is, and not elsewhere.
func virtualAddrTag(where, elsewhere string) *tag {
	return &tag{name: "virtual_addr", attrs: []attr{
		{name: "addr", must: true},
		{name: "where", kind: oneOf, def: where, values: []string{where, elsewhere}},
		{name: "check", kind: onOff, def: "on"},
		{name: "connections", kind: onOff, def: "off"},
		{name: "netmask"},
	}}
}
