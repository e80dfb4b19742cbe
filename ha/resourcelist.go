package ha

import (
	"slices"
	"strings"
)

// ResourceKind is what docs/resources.md says of resources with one name, or one
// pattern of names.
type ResourceKind struct {
	Name    string   // class.ident; an ident in capitals stands for a name of the configuration
	Values  []string // what it can be; a word in capitals stands for what Meaning says
	Setter  string   // who sets it, as "by" in the log; "": the automaton
	Meaning string
	Guide   string // section
}

var upDown = []string{"init", "up", "down"}

// ResourceKinds are the resources of modules, the only list of them.
var ResourceKinds = []ResourceKind{
	{"state.local", []string{"stop", "wait", "alone", "prim", "second", "up"}, "", "the state of the module on this node", "5.2, 6.2"},
	{"state.remote", []string{"unknown", "stop", "wait", "alone", "prim", "second"}, "", "the state on the other node, unknown while it is silent (mirror)", "7.13"},
	{"heart.stopstartloop", []string{"SECONDS"}, "", "when the counter of maxloop was reset, in seconds since 1970; each restart that counts is an entry of its history", "13.2.3"},
	{"heartbeat.IDENT", upDown, "heart", "whether the other node is heard on this heartbeat", "13.3.3"},
	{"rfs.uptodate", upDown, "", "the data here is the newest", "5.5"},
	{"rfs.degraded", []string{"up", "down"}, "nfsadmin", "up: the primary goes on without its replication process", "5.6"},
	{"rfs.synced", []string{"up", "down"}, "", "the data was the other node's not longer ago than syncdelta; with syncdelta only", "13.6.4.4"},
	{"rfs.syncat", []string{"up", "down"}, "", "it is time to bring the data up to date; with syncat only. The command set may set it to up", "13.6.4.10"},
	{"rfs.rfssync", []string{"up", "down"}, "", "the synchronization policy can be applied", "13.6.4.9"},
	{"rfs.rep_bandwidth", []string{"KBPS"}, "", "what replication sends, KB/s (primary)", "13.6.4.7"},
	{"rfs.rei_bandwidth", []string{"KBPS"}, "", "what reintegration sends, KB/s (primary)", "13.6.4.7"},
	{"rfs.netout_bandwidth", []string{"KBPS"}, "", "what is sent to the other node, KB/s", "13.6.4.7"},
	{"rfs.netin_bandwidth", []string{"KBPS"}, "", "what is received from the other node, KB/s", "13.6.4.7"},
	{"usersetting.boot", []string{"on", "off", "auto", "ignore"}, "", "whether the module starts with its node", "13.2.3"},
	{"usersetting.checker", []string{"on", "off"}, "", "whether the checkers run (command checker)", "9.4"},
	{"usersetting.errd", []string{"on", "off"}, "", "whether processes are watched (command errd)", "9.4"},
	{"usersetting.failover", []string{"on", "off"}, "", "whether a second takes over by itself (command failover; mirror)", "9.4"},
	{"usersetting.rfssyncmode", []string{"default", "full", "external"}, "", "what the next synchronization copies", "13.6.4.9"},
	{"usersetting.rfssyncrole", []string{"default", "prim", "second"}, "", "the part of this node in an external synchronization", "13.6.4.9"},
	{"usersetting.rfssyncuid", []string{"default", "UID"}, "", "the name of an external synchronization", "13.6.4.9"},
	{"connections.ADDR", []string{"NUMBER"}, "", "connections to a virtual address with connections=\"on\", counted every 10 s", "13.5.5.2"},
	{"ip.ADDR", upDown, "ipcheck", "the address is on this host: a virtual one with check=\"on\", or that of an <ip> checker", "13.14"},
	{"tcp.IDENT", upDown, "tcpcheck", "a TCP service accepts connections", "13.11"},
	{"ping.IDENT", upDown, "pingcheck", "a host answers ICMP echo requests", "13.12"},
	{"intf.IDENT", upDown, "intfcheck", "a network interface has a carrier; that of <interface check=\"on\"> is named for its network", "13.13"},
	{"module.IDENT", upDown, "modulecheck", "another module serves; named NAME_ADDR without an ident", "13.16"},
	{"splitbrain.IDENT", upDown, "splitbraincheck", "the witness can be reached", "13.17"},
	{"splitbrain.uptodate", upDown, "splitbraincheck", "down: this node lost the other one and the witness", "13.17"},
	{"custom.IDENT", []string{"init", "up", "down", "TEXT"}, "the -i of the command", "what a custom checker, a script, a rule or an administrator sets", "13.15, 13.18.4"},
	{"proc.NAME", upDown, "errd", "the processes of a <proc> are there as they should", "13.9.3"},
	{"GROUP", []string{"PERCENT"}, "", "of a farm, named as the group (FarmProto by default): the share of the virtual address that this node serves", "4.3.5"},
}

// kindOf is the kind of a resource; false: it is not listed.
func kindOf(name string) (ResourceKind, bool) {
	class, _, dotted := strings.Cut(name, ".")
	var found ResourceKind
	for _, k := range ResourceKinds {
		kclass, ident, kdotted := strings.Cut(k.Name, ".")
		switch {
		case k.Name == name:
			return k, true
		case kdotted && dotted && kclass == class && ident == strings.ToUpper(ident), !kdotted && !dotted:
			found = k
		}
	}
	return found, found.Name != ""
}

// allows says that the kind can have a value.
func (k ResourceKind) allows(value string) bool {
	return slices.Contains(k.Values, value) || slices.ContainsFunc(k.Values, func(v string) bool { return v == strings.ToUpper(v) })
}
