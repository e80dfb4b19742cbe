package pair

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/skfs/skfs/e2e/lab"
)

// Config is the module that both hosts run.
type Config struct {
	Dirs      []string          // replicated directories, default /replicated
	Lans      [2]string         // of the heartbeats, the second also of the data; default "default" and "repli"
	Async     string            // default "second"
	TimeoutMs int               // of the heartbeats, default 2500
	StartPrim string            // shell commands of the script start_prim
	StopPrim  string            // shell commands of the script stop_prim, which is called twice: $1 is force the second time
	Own       string            // what ends with it is not replicated; "": everything is
	Attrs     string            // more attributes of <service>, such as boot="on"
	RFS       string            // more attributes of <rfs>, such as nbremconn="2"
	Service   string            // more tags of <service>, such as <vip>
	Programs  map[string]string // more files of the module's bin, by name
	MaxLoop   int               // automatic restarts before the module stops, default 1000
	StopSecs  int               // how long a stop script may take, called nicely and with force, default 30
}

func (c Config) withDefaults() Config {
	if c.Dirs == nil {
		c.Dirs = []string{"/replicated"}
	}
	if c.Lans[0] == "" {
		c.Lans = [2]string{"default", "repli"}
	}
	if c.Async == "" {
		c.Async = "second"
	}
	if c.MaxLoop == 0 {
		c.MaxLoop = 1000 // hosts are killed far more often here than anywhere else
	}
	if c.StopSecs == 0 {
		c.StopSecs = 30
	}
	if c.TimeoutMs == 0 {
		c.TimeoutMs = 2500
	}
	return c
}

// Files are those of the module that are not as in the template, of which it has the
// scripts where the configuration says nothing of them.
func (c Config) Files() map[string]string {
	files := map[string]string{"conf/userconfig.xml": c.withDefaults().userconfig()}
	for name, commands := range map[string]string{"bin/start_prim": c.StartPrim, "bin/stop_prim": c.StopPrim} {
		if commands != "" {
			files[name] = script(commands)
		}
	}
	for name, content := range c.Programs {
		files["bin/"+name] = content
	}
	return files
}

// userconfig is the module's userconfig.xml.
func (c Config) userconfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE safe>
<safe>
  <service mode="mirror" defaultprim="alone" maxloop="%d" loop_interval="24" failover="on" %s>
    <heart pulse="%d" timeout="%d">
      <heartbeat name=%q/>
      <heartbeat name=%q ident="flow"/>
    </heart>
    <rfs async=%q acl="on" %s>
`, c.MaxLoop, c.Attrs, c.TimeoutMs/5, c.TimeoutMs, c.Lans[0], c.Lans[1], c.Async, c.RFS)
	for _, d := range c.Dirs {
		fmt.Fprintf(&b, "      <replicated dir=%q mode=\"read_only\">\n", d)
		if c.Own != "" {
			fmt.Fprintf(&b, "        <notreplicated regexpath=\".*%s\"/>\n", regexp.QuoteMeta(c.Own))
		}
		b.WriteString("      </replicated>\n")
	}
	fmt.Fprintf(&b, `    </rfs>
%s
    <user nicestoptimeout="%d" forcestoptimeout="%[2]d" logging="userlog"/>
  </service>
</safe>
`, c.Service, c.StopSecs)
	return b.String()
}

func script(commands string) string { return "#!/bin/sh\n" + commands + "\n" }

// clusterXML names the hosts on both networks, and those that are for two of them.
func clusterXML(nodes []*lab.Host, two []TwoLan) string {
	var b strings.Builder
	b.WriteString("<cluster>\n  <lans>\n")
	lan := func(name, network, more string, nodes ...*lab.Host) {
		fmt.Fprintf(&b, "    <lan name=%q%s>\n", name, more)
		for _, n := range nodes {
			fmt.Fprintf(&b, "      <node name=%q addr=%q/>\n", n.Name(), n.Addr(network))
		}
		b.WriteString("    </lan>\n")
	}
	for _, network := range []string{"default", "repli"} {
		lan(network, network, "", nodes...)
	}
	for _, l := range two {
		lan(l.Name, l.Network, ` console="off"`, nodes[l.Hosts[0]], nodes[l.Hosts[1]])
	}
	b.WriteString("  </lans>\n</cluster>\n")
	return b.String()
}
