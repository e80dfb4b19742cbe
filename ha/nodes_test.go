package ha

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/skfs/skfs/conf"
)

// What a node says of itself is what the others show of it: the configuration of the
// cluster, by which one sees that all have the same, and its modules.
func TestNodesTellTheirConfiguration(t *testing.T) {
	p := conf.Paths{Safe: filepath.Join(t.TempDir(), "s"), SafeVar: filepath.Join(t.TempDir(), "v")}
	c, err := p.ApplyCluster("cluster.xml", []byte(`<cluster><lans><lan name="default">
		<node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/></lan></lans></cluster>`), conf.Lock)
	if err != nil {
		t.Fatal(err)
	}
	want, err := p.ClusterInfo()
	if err != nil {
		t.Fatal(err)
	}
	here := NewNodes(p, "node1", func(text string) { t.Error(text) })
	there := NewNodes(conf.Paths{}, "node2", func(text string) { t.Error(text) })
	there.names, there.self = []string{"node1", "node2", "node3"}, "node2"
	there.view = memberView{Infos: []string{here.info(c), "", "[of another release]"}}
	all := there.List()
	if got := all[0].Cluster; got.Signature != want.Signature || !got.Locked || !got.Date.Truncate(time.Second).Equal(want.Date.Truncate(time.Second)) {
		t.Errorf("%+v, expected %+v", got, want)
	}
	for _, n := range all[1:] {
		if n.Cluster.Signature != "" {
			t.Errorf("%s: %+v", n.Name, n.Cluster)
		}
	}
}
