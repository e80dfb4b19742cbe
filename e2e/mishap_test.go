package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/e2e/pair"
)

// A mishap is something that happens to a pair. When do returns its cause is over; but
// a clock that was set stays as it is, until it is set again or its processes end.
type mishap struct {
	name string
	do   func(m *mixture, v *pair.Node) error
}

var mishaps = slices.Concat([]mishap{
	{"daemon killed", func(m *mixture, v *pair.Node) error { return v.KillDaemon() }},
	{"daemon paused", func(m *mixture, v *pair.Node) error { return m.signalled(v, skfsProcess("daemon")) }},
	{"daemon upgraded", (*mixture).upgrade},
	{"replica killed", func(m *mixture, v *pair.Node) error {
		role := "SECOND"
		if v == m.primary() {
			role = "PRIM"
		}
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == "replica killed" })
		return faults[i].do(m.chaos, v, role)
	}},
	{"replica paused", func(m *mixture, v *pair.Node) error { return m.signalled(v, skfsProcess("replica")) }},
	{"host paused", func(m *mixture, v *pair.Node) error {
		if err := v.Pause(); err != nil {
			return err
		}
		m.outage()
		return v.Resume()
	}},
	{"host killed", func(m *mixture, v *pair.Node) error { return m.off(v.Kill) }},
	{"power off", func(m *mixture, v *pair.Node) error { return m.off(v.PowerOff) }},
	{"power cut", func(m *mixture, v *pair.Node) error { return m.off(v.PowerCut) }},

	{"default cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "default") }},
	{"repli cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "repli") }},
	{"all networks cut", func(m *mixture, v *pair.Node) error { return m.cut(v, "default", "repli") }},
	{"default lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "default") }},
	{"repli lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "repli") }},
	{"all lost one way", func(m *mixture, v *pair.Node) error { return m.lost(v, v.Peer(), "default", "repli") }},

	{"disk of SAFEVAR full", func(m *mixture, v *pair.Node) error { return m.full(v, pair.SafeVar) }},
	{"disk of the data full", func(m *mixture, v *pair.Node) error { return m.full(v, dataDir) }},

	{"scripts are slow", func(m *mixture, v *pair.Node) error { return m.swap(v, "sleep 1") }},
	{"stop script fails", func(m *mixture, v *pair.Node) error { return m.swap(v, "test $1$2 != stopbefore") }},
	{"start script fails", (*mixture).startFails},
	{"scripts hang for a while", (*mixture).hangAWhile},
	{"stop script hangs", func(m *mixture, v *pair.Node) error { return m.swap(v, "test $1$2 != stopbefore || "+forEver) }},
	{"stop scripts hang when all is done", func(m *mixture, v *pair.Node) error {
		return m.swap(v, "test $1 = start || test $2 = before || "+forEver)
	}},
	{"stop script hangs, host killed", func(m *mixture, v *pair.Node) error {
		prim := m.primary()
		return m.hang(v, prim, "stop", func(context.Context) error { return m.off(prim.Kill) })
	}},
	{"start script hangs, host killed", func(m *mixture, v *pair.Node) error {
		next := m.primary().Peer()
		return m.hang(v, next, "start", func(context.Context) error { return m.off(next.Kill) })
	}},
	{"start script hangs, forcestop", func(m *mixture, v *pair.Node) error {
		next := m.primary().Peer()
		return m.hang(v, next, "start", func(ctx context.Context) error {
			m.outage()
			return next.Do(ctx, "forcestop")
		})
	}},
}, clockMishaps())

// apart are those during which both hosts may serve.
var apart = []string{"all networks cut", "all lost one way"}

// clockMishaps are those that there are here.
func clockMishaps() []mishap {
	if !lab.CanSetClock {
		return nil
	}
	return []mishap{
		{"clock set forward an hour", func(m *mixture, v *pair.Node) error { return m.setClock(v, time.Hour) }},
		{"clock set back an hour", func(m *mixture, v *pair.Node) error { return m.setClock(v, -time.Hour) }},
	}
}

// mixture is a pair to which mishaps happen.
type mixture struct {
	*chaos
	upgraded int
}

// skfsProcess is one of skfs that runs as what.
func skfsProcess(what string) func(lab.Process) bool {
	return func(p lab.Process) bool {
		return len(p.Args) > 1 && strings.HasPrefix(filepath.Base(p.Args[0]), "skfs") && p.Args[1] == what
	}
}

// toEach does something to the processes of a host that are so, of which there must be
// one, and returns them. One may end meanwhile.
func toEach(v *pair.Node, which func(lab.Process) bool, do func(lab.Process) error) ([]lab.Process, error) {
	all, err := v.Processes()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p lab.Process) bool { return !which(p) })
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no such process", v.Name())
	}
	for _, p := range all {
		if err := do(p); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
	return all, nil
}

// signalled stops processes of a host for a while.
func (m *mixture) signalled(v *pair.Node, which func(lab.Process) bool) error {
	stopped, err := toEach(v, which, func(p lab.Process) error { return unix.Kill(p.PID, unix.SIGSTOP) })
	if err != nil {
		return err
	}
	m.outage()
	for _, p := range stopped {
		if err := unix.Kill(p.PID, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// setClock sets the clock of what runs of skfs on a host.
func (m *mixture) setClock(v *pair.Node, by time.Duration) error {
	for _, what := range []string{"daemon", "replica"} {
		if _, err := toEach(v, skfsProcess(what), func(p lab.Process) error { return p.SetClock(by) }); err != nil {
			return err
		}
	}
	m.outage()
	return nil
}

// off switches a host off for a while, by some means.
func (m *mixture) off(by func() error) error {
	err := by()
	m.outage()
	return err
}

// lost loses frames for a while.
func (m *mixture) lost(from, to *pair.Node, networks ...string) error {
	for _, on := range []bool{true, false} {
		for _, network := range networks {
			if err := m.Lab.Drop(from.Host, to.Host, network, on); err != nil {
				return err
			}
		}
		if on {
			m.outage()
		}
	}
	return nil
}

// cut pulls cables of a host for a while.
func (m *mixture) cut(v *pair.Node, networks ...string) error {
	for _, network := range networks {
		if err := v.LinkDown(network); err != nil {
			return err
		}
	}
	m.outage()
	for _, network := range networks {
		if err := v.LinkUp(network); err != nil {
			return err
		}
	}
	return nil
}

// full fills the disk at a path of the host for a while.
func (m *mixture) full(v *pair.Node, path string) error {
	dir, err := v.Backing(path)
	if err != nil {
		return err
	}
	free, err := lab.Fill(dir)
	if err != nil {
		return err
	}
	m.outage()
	return free()
}

// upgrade puts another binary in the place of the node's and starts its daemon again.
func (m *mixture) upgrade(v *pair.Node) error {
	m.upgraded++
	to := fmt.Sprintf("%s.%d", skfs, m.upgraded)
	in, err := os.Open(skfs)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(m.t.Context(), patience)
	defer stop()
	return v.Upgrade(ctx, to)
}

// The scripts of the module run what is in trouble before and after their work. Its
// arguments are start, stop or force, and before or after. When it fails before, the
// script ends without its work.
const trouble = "/run/trouble"

// withTrouble wraps the commands of a start and a stop script.
func withTrouble(start, stop string) (string, string) {
	const hook = `trouble() { test ! -e ` + trouble + ` || sh ` + trouble + ` "$@"; }
when=%s
trouble $when before || exit 1
(%s
)
code=$?
trouble $when after
exit $code`
	return fmt.Sprintf(hook, "start", start), fmt.Sprintf(hook, `stop; test "$1" != force || when=force`, stop)
}

// forEver is a command that does not end while anybody waits for it.
const forEver = "sleep 1000000"

// troubled does something while scripts of the hosts have trouble.
func (m *mixture) troubled(hosts []*pair.Node, commands string, do func(ctx context.Context) error) error {
	for _, n := range hosts {
		if err := os.WriteFile(n.Path(trouble), []byte(commands+"\n"), 0o755); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(m.t.Context(), patience)
	defer stop()
	return errors.Join(do(ctx), m.calm())
}

// calm ends the trouble on both hosts.
func (m *mixture) calm() error {
	for _, n := range m.Nodes {
		if !n.On() {
			continue // its /run went with it
		}
		if err := os.Remove(n.Path(trouble)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// swap swaps the hosts while their scripts have trouble.
func (m *mixture) swap(v *pair.Node, commands string) error {
	next := m.primary().Peer()
	return m.troubled(m.Nodes[:], commands, func(ctx context.Context) error {
		mark, err := next.Mark(ctx)
		if err == nil {
			err = v.Do(ctx, "swap")
		}
		if err == nil {
			err = next.AwaitLog(ctx, mark, "Begin of Swap", "Script start_prim", "Local state")
		}
		return err
	})
}

// hangAWhile swaps the hosts while each of their scripts hangs until the fault is over.
func (m *mixture) hangAWhile(v *pair.Node) error {
	next := m.primary().Peer()
	return m.troubled(m.Nodes[:], "while test -e "+trouble+"; do sleep 0.05; done", func(ctx context.Context) error {
		mark, err := next.Mark(ctx)
		if err == nil {
			err = v.Do(ctx, "swap")
		}
		if err == nil {
			err = next.AwaitLog(ctx, mark, "Begin of Swap")
		}
		m.outage()
		if err == nil {
			err = m.calm()
		}
		if err == nil {
			err = next.AwaitLog(ctx, mark, "Script start_prim", "Local state")
		}
		return err
	})
}

// hang swaps the hosts, and does something once the script of a kind hangs on one of
// them, for ever.
func (m *mixture) hang(v, on *pair.Node, kind string, do func(ctx context.Context) error) error {
	return m.troubled([]*pair.Node{on}, "test $1$2 != "+kind+"before || "+forEver, func(ctx context.Context) error {
		mark, err := on.Mark(ctx)
		if err == nil {
			err = v.Do(ctx, "swap")
		}
		if err == nil {
			err = on.AwaitLog(ctx, mark, "Script "+kind+"_prim")
		}
		if err == nil {
			err = do(ctx)
		}
		return err
	})
}

// startFails swaps the hosts, and the next primary's start script cannot do its work:
// it gives up there, as the guide wants scripts to (§9.4), and works the next time.
func (m *mixture) startFails(v *pair.Node) error {
	next := m.primary().Peer()
	const once = `test $1$2 != startbefore || { rm ` + trouble + `; "$SAFE/safekit" stopstart -i userplug -m "$SAFEMODULE"; exit 1; }`
	return m.troubled([]*pair.Node{next}, once, func(ctx context.Context) error {
		mark, err := next.Mark(ctx)
		if err == nil {
			err = v.Do(ctx, "swap")
		}
		if err == nil {
			err = next.AwaitLog(ctx, mark, "Script start_prim", "Action stopstart called by userplug")
		}
		return err
	})
}
