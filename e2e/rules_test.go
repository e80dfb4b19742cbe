package e2e

import (
	"testing"
)

// §4.4.7, with a resource that a command sets: a rule of the module's own takes the
// primary to WAIT, the other host serves, and when the resource is up again the host
// comes back. A script of the application sets a resource too, and each host knows what
// the other found out (§13.18): a rule on that acts there.
func TestFailoverRules(t *testing.T) {
	c := application
	c.StartPrim += "; " + skfs + " set -r custom.app -v up -i start_prim"
	c.Service = `
    <failover period="500" handle_time="1000">
      <![CDATA[
        customid_failure: if (custom.id == down) then wait();
        far: if (remote.custom.id == down) then custom.far = down;
      ]]>
    </failover>`
	p := newPair(t, c)
	s := begin(t, p)
	within(t, patience, p.Start)
	s.logged(0, "Resource custom.app set to up by start_prim")
	s.says(0, "custom.id == down is undetermined", "rules", "explain")

	s.mark(0)
	s.mark(1)
	s.do(0, "set", "-r", "custom.id", "-v", "down", "-i", "customscript")
	s.await("WAIT", "ALONE")
	s.logged(0, "Resource custom.id set to down by customscript", "Action wait from failover rule customid_failure",
		"Transition WAIT_TR from failover rule customid_failure", "Script stop_prim", "Local state WAIT red")
	s.logged(1, "Reason of failover: remote stop", "Script start_prim", "Resource custom.app set to up by start_prim", "Local state ALONE green")
	s.logged(1, "Resource custom.far set to down by failover rule far")
	s.runs(false, true)
	s.says(0, "it keeps the module in WAIT", "rules", "explain")
	s.says(1, "remote.custom.id", "state", "-v")

	s.mark(0)
	s.do(0, "set", "-r", "custom.id", "-v", "up", "-i", "customscript")
	s.await("SECOND", "PRIM")
	s.logged(0, "Resource custom.id set to up by customscript", "Transition WAKEUP from failover rule Implicit_WAKEUP",
		"Reintegration ended (synchronize)", "Local state SECOND green")
	s.runs(false, true)
	same(t, p)
	s.says(0, "wait from rule customid_failure because custom.id is down", "rules", "dry-run")
	s.says(0, "customscript", "history", "-r", "custom.id")
}
