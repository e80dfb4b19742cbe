package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/replica"
)

// splitbrain lists and gives back what was kept aside of a node that had to give
// way after a split brain.
func (a *App) splitbrain() *cli.Command {
	return &cli.Command{
		Name: "splitbrain", Usage: "what this node alone had before it gave way after a split brain",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list what was kept aside, by date", Flags: []cli.Flag{flagM(), flagJSON()}, Action: a.asideList},
			{Name: "show", Usage: "list the objects of a date", ArgsUsage: "DATE", Flags: []cli.Flag{flagM(), flagJSON()}, Action: a.asideShow},
			{Name: "diff", Usage: "compare what was kept with what is there now", ArgsUsage: "DATE [PATH]", Flags: []cli.Flag{flagM()}, Action: a.asideDiff},
			{Name: "restore", Usage: "copy what was kept of PATH to the absolute path DEST", ArgsUsage: "DATE PATH DEST", Flags: []cli.Flag{flagM()}, Action: a.asideRestore},
			{Name: "purge", Usage: "delete what was kept at a date, or all", ArgsUsage: "DATE|all", Flags: []cli.Flag{flagM()}, Action: a.asidePurge},
		},
	}
}

// asides opens what was kept aside of a module: a running replica hands it out,
// otherwise it is in the replicated directories. The caller closes it.
func (a *App) asides(c *cli.Context, am string) (list []*replica.Quarantine, close func(), err error) {
	close = func() {
		for _, q := range list {
			q.Close()
		}
	}
	list, err = replica.NewClient(a.paths.ReplicaSocket(am)).Quarantines(c.Context)
	if err == nil || !noReplica(err) {
		return list, close, err
	}
	cluster, err := a.paths.LoadCluster()
	if err != nil {
		return nil, close, err
	}
	active, err := a.paths.Active(am, cluster)
	if err != nil {
		return nil, close, err
	}
	if active.Module.RFS == nil {
		return nil, close, fmt.Errorf("module %s replicates nothing", am)
	}
	for _, r := range active.Module.RFS.Replicated {
		q, err := replica.OpenQuarantine(r.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return list, close, err
		}
		list = append(list, q)
	}
	return list, close, nil
}

// withAsides calls f with the quarantines of the module named date; all for "".
func (a *App) withAsides(c *cli.Context, date string, f func(am string, list []*replica.Aside) error) error {
	am, err := module(c)
	if err != nil {
		return err
	}
	areas, done, err := a.asides(c, am)
	defer done()
	if err != nil {
		return err
	}
	var list []*replica.Aside
	var dates []string
	for _, q := range areas {
		asides, err := q.List()
		if err != nil {
			return err
		}
		for _, s := range asides {
			defer s.Close()
			dates = append(dates, s.Name)
			if date == "" || s.Name == date {
				list = append(list, s)
			}
		}
	}
	if date != "" && len(list) == 0 {
		if len(dates) == 0 {
			return fmt.Errorf("%s: %w: module %s has none on this node", date, replica.ErrNoAside, am)
		}
		return fmt.Errorf("%s: %w; there is %s", date, replica.ErrNoAside, strings.Join(dates, ", "))
	}
	return f(am, list)
}

func (a *App) asideList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return a.withAsides(c, "", func(am string, list []*replica.Aside) error {
		if c.Bool("json") {
			return a.printJSON(asidesJSON(list))
		}
		if len(list) == 0 {
			a.printf("Nothing of module %s was kept aside on this node\n", am)
			return nil
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "Date\tDirectory\tObjects\tSize\tReplaced by\tState")
		for _, s := range list {
			state := "complete"
			switch {
			case !s.Begun:
				state = "interrupted before anything was replaced"
			case s.Open:
				state = "the reintegration has not ended"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", s.Name, s.Dir, len(s.Entries), byteText(s.Bytes), s.Peer, state)
		}
		return w.Flush()
	})
}

type asideJSON struct {
	Date, Dir, Peer string
	Epoch           uint64
	Bytes           int64
	Begun, Open     bool
	Entries         []entryJSON
}

type entryJSON struct {
	Name, Kind, Why, ID string
	Size                int64
	Mtime               time.Time
	Partial, Kept       bool
}

func asidesJSON(list []*replica.Aside) []asideJSON {
	all := []asideJSON{}
	for _, s := range list {
		j := asideJSON{Date: s.Name, Dir: s.Dir, Peer: s.Peer, Epoch: s.Epoch, Bytes: s.Bytes, Begun: s.Begun, Open: s.Open, Entries: []entryJSON{}}
		for n, e := range s.Entries {
			j.Entries = append(j.Entries, entryJSON{replica.EntryName(s, n), e.Kind, e.Why, e.ID, e.Size, time.Unix(e.Mtime, 0).UTC(), e.Partial, e.Kept})
		}
		all = append(all, j)
	}
	return all
}

// oneDate takes the arguments of a command on one date, of which there are n to m.
func oneDate(c *cli.Context, n, m int) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < n || len(args) > m {
		return nil, usage("splitbrain %s: expected %s", c.Command.Name, c.Command.ArgsUsage)
	}
	return args, nil
}

func (a *App) asideShow(c *cli.Context) error {
	args, err := oneDate(c, 1, 1)
	if err != nil {
		return err
	}
	return a.withAsides(c, args[0], func(_ string, list []*replica.Aside) error {
		if c.Bool("json") {
			return a.printJSON(asidesJSON(list))
		}
		for _, s := range list {
			a.printf("%s of %s\n", s.Name, s.Dir)
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "Path\tKind\tSize\tModified\tWhy")
			for n, e := range s.Entries {
				why := e.Why
				if e.Partial {
					why += ", only the zones that were changed"
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", replica.EntryName(s, n), e.Kind, e.Size,
					time.Unix(e.Mtime, 0).Local().Format("2006-01-02 15:04:05"), why)
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *App) asideDiff(c *cli.Context) error {
	args, err := oneDate(c, 1, 2)
	if err != nil {
		return err
	}
	return a.withAsides(c, args[0], func(_ string, list []*replica.Aside) error {
		if len(args) == 2 {
			s, err := holder(list, args[1])
			if err != nil {
				return err
			}
			return s.Diff(a.out, args[1])
		}
		for _, s := range list {
			if err := s.Diff(a.out, ""); err != nil {
				return err
			}
		}
		return nil
	})
}

// holder is the one of the quarantines of a date that has path.
func holder(list []*replica.Aside, path string) (*replica.Aside, error) {
	var found *replica.Aside
	var missing error
	for _, s := range list {
		err := s.Has(path)
		switch {
		case err != nil && missing == nil:
			missing = err
		case err == nil && found != nil:
			return nil, fmt.Errorf("%s was kept of %s and of %s: give the absolute path", path, found.Dir, s.Dir)
		case err == nil:
			found = s
		}
	}
	if found == nil {
		return nil, missing
	}
	return found, nil
}

func (a *App) asideRestore(c *cli.Context) error {
	args, err := oneDate(c, 3, 3)
	if err != nil {
		return err
	}
	return a.withAsides(c, args[0], func(_ string, list []*replica.Aside) error {
		s, err := holder(list, args[1])
		if err != nil {
			return err
		}
		remark, err := s.Restore(args[1], args[2])
		if remark != "" {
			a.warn([]string{remark})
		}
		return err
	})
}

func (a *App) asidePurge(c *cli.Context) error {
	args, err := oneDate(c, 1, 1)
	if err != nil {
		return err
	}
	date := args[0]
	if date == "all" {
		date = ""
	}
	return a.withAsides(c, date, func(am string, list []*replica.Aside) error {
		// A replica that is filling one has not written its manifest at first.
		if m, err := a.client.Module(c.Context, am); err == nil && m.State.Role == ha.RoleSecond && m.State.Colour != ha.Green {
			return fmt.Errorf("module %s is SECOND and not synchronized: wait for SECOND green", am)
		}
		for _, s := range list {
			if err := s.Purge(); err != nil {
				return err
			}
		}
		return nil
	})
}
