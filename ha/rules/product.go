package rules

// Product are the rules that skfs brings for its checkers (guide §13.18.5). Those of
// replication are not among them: they speak of what only the automaton knows (see
// Inner).
const Product = `
/* another module that this one depends on is not there */
module_failure:     if (module.? == down) then wait();
/* a network interface has no carrier */
interface_failure:  if (intf.? == down) then wait();
/* a host that has to be reachable is not */
ping_failure:       if (ping.? == down) then wait();
/* a service of the application does not accept connections */
tcp_failure:        if (tcp.? == down) then restart();
/* an address is not on this host any more */
ip_failure:         if (ip.? == down) then stopstart();
/* this node lost its peer, and its witness too */
splitbrain_failure: if (splitbrain.uptodate == down) then wait();
`

// Inner are rules that the automaton itself carries out, because what they depend on
// (generations of data, what the peer has promised) has no words in the language.
var Inner = []struct{ Label, Meaning string }{
	{"notuptodate_server", "the data here may not be the newest: wait for the other server"},
	{"degraded_server", "the other server is primary and replicates nothing (rfs.degraded): wait"},
	{"rfs_syncat_wait", "the data is brought up to date at scheduled times only (syncat): wait for the next one"},
	{"rfs_forceuptodate", "alone, and synchronized not longer ago than syncdelta: start as primary"},
}

// Extend puts the rules of a module on top of those of the product; a rule of the
// module replaces one of the product that has the same label. With extends false
// the module's are all there are.
func Extend(own []Rule, extends bool) Set {
	var s Set
	s = append(s, own...)
	if !extends {
		return s
	}
	product, err := Parse(Product, func(string, []string) string { return "" })
	if err != nil {
		panic(err) // a test holds it
	}
	for _, r := range product {
		r.Product = true
		if !s.has(r.Label) {
			s = append(s, r)
		}
	}
	return s
}

func (s Set) has(label string) bool {
	for _, r := range s {
		if r.Label == label {
			return true
		}
	}
	return false
}
