package conf

// The <vip> of a mirror module (guide §13.5). What a farm has in it is refused by
// name.
func vipTags() *tag {
	arp := []attr{
		{name: "check", kind: onOff, def: "on"},
		{name: "arpreroute", kind: onOff, def: "off"},
		{name: "arpinterval", kind: number, def: "60", lo: 1, hi: maxSeconds},
		{name: "arpelapse", kind: number, def: "1200", lo: 0, hi: maxSeconds},
		{name: "name"},
	}
	address := &tag{name: "virtual_addr", attrs: []attr{
		{name: "addr", must: true},
		{name: "where", kind: oneOf, def: "one_side_alias", values: []string{"one_side_alias", "alias"}, later: []string{"alias"}},
		{name: "check", kind: onOff, def: "on"},
		{name: "connections", kind: onOff, def: "off"},
		{name: "netmask"},
	}}
	later := func(name string) child { return child{&tag{name: name, modes: inFarm, later: true}, 0, 1} }
	netif := &tag{name: "interface", attrs: arp, children: []child{
		{&tag{name: "real_interface", children: []child{{address, 1, 0}}}, 0, 1},
		later("virtual_interface"),
	}}
	return &tag{name: "vip", modes: inMirror | inFarm, attrs: []attr{{name: "tcpreset", kind: onOff, def: "on"}}, children: []child{
		{&tag{name: "interface_list", children: []child{{netif, 1, 0}}}, 1, 1},
		later("loadbalancing_list"),
	}}
}
