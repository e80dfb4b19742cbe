package conf

// The tags of <check> (guide §13.10–13.17).
func checkTags() *tag {
	interval := attr{name: "interval", kind: number, def: "10", lo: 1, hi: maxSeconds}
	timeout := attr{name: "timeout", kind: number, def: "5", lo: 1, hi: maxSeconds}
	ident := attr{name: "ident", must: true}
	pre := attr{name: "when", kind: oneOf, def: string(WhenPre), values: []string{string(WhenPre)}}
	application := []string{string(WhenPre), string(WhenPrim), string(WhenSecond), string(WhenBoth)}
	to := func(attrs ...attr) child { return child{&tag{name: "to", attrs: attrs}, 1, 1} }

	tcp := &tag{name: "tcp", attrs: []attr{ident, {name: "when", kind: oneOf, must: true, values: application}}, children: []child{
		to(attr{name: "addr", must: true}, attr{name: "port", kind: number, must: true, lo: 1, hi: 65535}, interval, timeout)}}
	ping := &tag{name: "ping", attrs: []attr{ident, pre}, children: []child{to(attr{name: "addr", must: true}, interval, timeout)}}
	// intf is what the product's own generated configuration has (§15.10).
	intf := &tag{name: "intf", attrs: []attr{ident, pre, {name: "intf"}}, children: []child{to(attr{name: "local_addr", must: true})}}
	ip := &tag{name: "ip", attrs: []attr{ident, {name: "when", kind: oneOf, def: string(WhenPrim), values: application}},
		children: []child{to(attr{name: "addr", must: true}, interval)}}
	custom := &tag{name: "custom", attrs: []attr{ident, {name: "when", kind: oneOf, must: true, values: application},
		{name: "exec", must: true}, {name: "arg"}}}
	// There is no web service to ask at another port, or with TLS.
	server := to(attr{name: "addr", must: true}, attr{name: "port", kind: number, def: "9010", lo: 1, hi: 65535, later: []string{"*"}}, interval, timeout,
		attr{name: "secure", kind: onOff, def: "off", later: []string{"on"}})
	server.min = 0
	module := &tag{name: "module", attrs: []attr{{name: "ident"}, pre, {name: "name", kind: name, must: true}}, children: []child{server}}
	splitbrain := &tag{name: "splitbrain", modes: inMirror, attrs: []attr{{name: "ident", def: "witness"}, pre,
		{name: "exec", kind: oneOf, def: "ping", values: []string{"ping"}}, {name: "arg", must: true}}}
	return &tag{name: "check", children: []child{
		{tcp, 0, 0}, {ping, 0, 0}, {intf, 0, 0}, {ip, 0, 0}, {custom, 0, 0}, {module, 0, 0}, {splitbrain, 0, 1}}}
}
