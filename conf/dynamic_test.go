package conf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStaticChanges(t *testing.T) {
	c, err := ParseCluster("c", strings.NewReader(twoNodes))
	if err != nil {
		t.Fatal(err)
	}
	const base = `<safe><service mode="mirror"><heart><heartbeat name="default"/></heart>
		<rfs><replicated dir="/d"><tocheck path="a"/></replicated></rfs><user/></service></safe>`
	parse := func(src string) *Module {
		m, err := ParseUserConfig("u", strings.NewReader(src), c)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, tc := range []struct {
		from, to string
		want     []string
	}{
		{"", "", nil},
		{`mode="mirror"`, `mode="mirror" boot="on" maxloop="9" loop_interval="1"`, nil},
		{`<heartbeat name="default"/>`, `<heartbeat name="repli"/>`, nil},
		{`<rfs>`, `<rfs async="none" nbrei="9" reitimeout="9" reidetail="on"><flow name="repli"/>`, nil},
		{`<user/>`, ``, nil},
		{`<user/>`, `<user/><check><ping ident="r"><to addr="10.0.0.9"/></ping></check>`, nil},
		{`<rfs>`, `<rfs nbremconn="2">`, []string{"rfs"}},
		{`"/d"`, `"/e"`, []string{"rfs"}},
		{`<user/>`, `<user/><errd polltimer="3"><proc name="x" class="prim"/></errd>`, nil},
		{`<user/>`, `<user/><vhost><virtualhostname name="v" envfile="e"/></vhost>`, []string{"vhost"}},
		{`path="a"`, `path="b"`, []string{"rfs"}},
		{`<user/>`, `<user/><failover>  </failover>`, nil},
		{`<user/>`, `<user/><failover>a: if (tcp.x == down) then stop();</failover>`, []string{"failover rules"}},
		{`<user/>`, `<user/><failover handle_time="5000"/>`, []string{"failover rules"}},
		{`mode="mirror"`, `mode="mirror" failover="off" boot_delay="3"`, []string{"failover", "boot_delay"}},
	} {
		got := StaticChanges(parse(base), parse(strings.Replace(base, tc.from, tc.to, 1)))
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s → %s: %s", tc.from, tc.to, d)
		}
	}
}
