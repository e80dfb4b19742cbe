package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/web"
)

// set gives a resource a value (§13.18.4).
func (a *App) set() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "give a resource of the module a value: what custom checkers and scripts do; rfs.syncat up: synchronize now",
		Flags: []cli.Flag{flagM(), flagBy(),
			&cli.StringFlag{Name: "r", Usage: "the `RESOURCE`, as class.name"},
			&cli.StringFlag{Name: "v", Usage: "its `VALUE`: up, down, init, or another word"},
			&cli.BoolFlag{Name: "n", Usage: "neither log nor history note it"},
			&cli.BoolFlag{Name: "l", Usage: "the history notes it even if the value is the same"}},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			if !c.IsSet("r") || !c.IsSet("v") {
				return usage("set: expected -r RESOURCE -v VALUE")
			}
			args := []string{c.String("r"), c.String("v")}
			switch {
			case c.Bool("n") && c.Bool("l"):
				return usage("set: expected -n or -l, not both")
			case c.Bool("n"):
				args = append(args, "nolog")
			case c.Bool("l"):
				args = append(args, "log")
			}
			return a.client.Do(c.Context, am, web.Command{Name: "set", Args: args, Identity: c.String("i")})
		},
	}
}

// history shows how resources changed. The guide has it in the console only (§3.4).
func (a *App) history() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "show how the module's resources changed; remote.… are the other node's",
		Flags: []cli.Flag{flagM(), flagJSON(),
			&cli.StringFlag{Name: "r", Usage: "only this `RESOURCE`"},
			&cli.IntFlag{Name: "s", Value: 300, Usage: "the last `NB` changes"},
			&cli.StringFlag{Name: "since", Usage: "from this `TIME` on: a date as for secondforce -d, or a duration such as 2h"}},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			if c.Int("s") < 1 {
				return usage("-s %d: expected the number of changes", c.Int("s"))
			}
			since, err := sinceTime(c.String("since"), time.Now())
			if err != nil {
				return err
			}
			var last []ha.Change
			if err := a.client.History(c.Context, am, c.String("r"), since, func(h ha.Change) error {
				if last = append(last, h); len(last) > 2*c.Int("s") {
					last = append(last[:0], last[len(last)-c.Int("s"):]...)
				}
				return nil
			}); err != nil {
				return err
			}
			last = last[max(len(last)-c.Int("s"), 0):]
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, h := range last {
				if c.Bool("json") {
					if err := a.printJSON(h); err != nil {
						return err
					}
					continue
				}
				value, by := h.Value, ""
				if value == "" {
					value = "(gone)"
				}
				if h.By != "" {
					by = "by " + h.By
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", timeText(h.Time), h.Name, value, by)
			}
			return w.Flush()
		},
	}
}
