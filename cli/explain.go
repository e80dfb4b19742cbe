package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
)

// explain says why a module is as it is: its last episodes, each with the evidence, the
// rule, the work that was done and the gap that was measured.
func (a *App) explain() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say what the last changes of state came from",
		Description: "Of all modules without -m. An episode is what lies between two stable states.",
		Flags: []cli.Flag{
			flagM(), flagJSON(),
			&cli.IntFlag{Name: "s", Value: 5, Usage: "the last `NB` episodes"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Int("s") < 1 {
				return usage("-s %d: expected the number of episodes", c.Int("s"))
			}
			var names []string
			if am := c.String("m"); am != "" {
				names = []string{am}
			} else {
				ms, err := a.client.Modules(c.Context)
				if err != nil {
					return err
				}
				for _, m := range ms {
					if m.Configured {
						names = append(names, m.Name)
					}
				}
			}
			type module struct {
				Module   string
				Episodes []ha.Episode
			}
			var all []module
			for _, am := range names {
				// Episodes have few transitions; one that is cut off is not shown.
				n := 16 * c.Int("s")
				ts, err := a.client.Transitions(c.Context, am, n)
				if err != nil {
					return err
				}
				es := ha.Episodes(ts)
				if len(es) > c.Int("s") {
					es = es[len(es)-c.Int("s"):]
				}
				all = append(all, module{am, es})
			}
			if c.Bool("json") {
				return a.printJSON(all)
			}
			for _, m := range all {
				a.printf("Module %s\n", m.Module)
				for _, e := range m.Episodes {
					printEpisode(a.out, e)
				}
				if len(m.Episodes) == 0 {
					a.printf("  nothing has changed since it was installed\n")
				}
			}
			return nil
		},
	}
}

func printEpisode(w io.Writer, e ha.Episode) {
	first := e.Transitions[0]
	for i, t := range e.Transitions {
		stamp := t.Time.Local().Format("2006-01-02 15:04:05.000")
		if i > 0 {
			stamp = fmt.Sprintf("%23s", "+"+spanText(t.Time.Sub(first.Time)))
		}
		fmt.Fprintf(w, "\n  %s  %s -> %s\n", stamp, t.From, t.To)
		line := func(what, text string) {
			fmt.Fprintf(w, "  %23s    %-8s %s\n", "", what, text)
		}
		line("because", t.Cause.Event)
		for _, h := range t.Cause.Heartbeats {
			state := "heard"
			if !h.Up {
				state = "lost"
			}
			line("", fmt.Sprintf("heartbeat %s %s, silent for %s (timeout %s)", h.Ident, state, spanText(h.For), spanText(h.Timeout)))
		}
		if t.Cause.Rule != "" {
			line("rule", t.Cause.Rule)
		}
		for _, r := range t.Cause.Readings {
			line("", r.Name+" = "+r.Value)
		}
		var work []string
		for _, task := range t.Cause.Tasks {
			text := task.Name + " " + spanText(task.Took)
			if task.Fault != "" {
				text += " (" + task.Fault + ")"
			}
			work = append(work, text)
		}
		if len(work) > 0 && i > 0 {
			line("done", strings.Join(work, ", "))
		}
		for j, said := range t.Cause.Said {
			what := ""
			if j == 0 {
				what = "log"
			}
			line(what, said)
		}
	}
	if e.Gap > 0 {
		from := "the command or event"
		if len(first.Cause.Heartbeats) > 0 {
			from = "the last heartbeat"
		}
		fmt.Fprintf(w, "  %23s    %-8s %s from %s to the end of the start scripts\n", "", "gap", spanText(e.Gap), from)
	}
}

// spanText shows a duration to people: milliseconds are enough.
func spanText(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
